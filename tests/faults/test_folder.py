"""What happens to a run's folder between two starts is noticed, said in one message, and never taken for the run."""

import os
import shutil

import pytest
from experiments import EXPERIMENTS, assert_same_bits, differences, fempi, rounds_of, write
from victims import Job

from fempi import checkpoint
from fempi.runfile import RunFile

ROUNDS = 12
KEPT = 6


@pytest.fixture(scope="session")
def killed(tmp_path_factory):
    """Return a function that returns where an experiment is, killed after half of its rounds."""
    places = {}

    def cut_short(name):
        if name not in places:
            place = places[name] = tmp_path_factory.mktemp("killed")
            config = write(name, place, rounds=ROUNDS)
            with Job("run", config, "--output", place / "out", ranks=2, brake=f"round- {KEPT + 1}") as job:
                assert job.reaches_brake(), job.said
                os.kill(job.ranks()[0], 9)
                assert job.end(10) != 0
            assert rounds_of(place / "out/x/x.run") == set(range(1, KEPT + 1))
        return places[name]

    return cut_short


@pytest.fixture
def folder(killed, tmp_path):
    """The folder of a run that was killed, for this test to spoil."""
    shutil.copytree(killed("clipping"), tmp_path, dirs_exist_ok=True)
    return tmp_path / "out/x/x.run"


def assert_refused(folder, *words):
    """Two ranks refuse to go on with a run, say why once, and touch nothing."""
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with Job("resume", folder, "--allow-plugins", ranks=2) as job:
        assert job.end() == 2, job.said
        for word in words:
            assert job.said.count(word) == 1, job.said
        assert "Traceback" not in job.said
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    assert list(folder.parent.iterdir()) == [folder]  # the lock of the dead has gone


@pytest.mark.parametrize("place", [0, 0.5, 1])
def test_a_checkpoint_with_a_flipped_bit_is_refused_and_what_the_message_says_works(
    place, folder, tmp_path, made_in_one_go
):
    whole = bytearray((folder / "checkpoint.h5").read_bytes())
    whole[int(place * (len(whole) - 1))] ^= 1
    (folder / "checkpoint.h5").write_bytes(whole)
    assert_refused(folder, "checkpoint.h5 is damaged", "fempi pack", "fempi run --force")
    check = fempi("check", folder)
    assert (check.returncode, "checkpoint.h5 is damaged" in check.stdout) == (1, True), check.stdout

    packed = fempi("pack", folder, "-o", tmp_path / "rounds.h5")
    assert packed.returncode == 0, packed.stderr
    with RunFile(tmp_path / "rounds.h5") as run:
        assert (run.status, run.rounds_completed) == ("interrupted", KEPT)
    assert differences(tmp_path / "rounds.h5", made_in_one_go("clipping", rounds=ROUNDS)) == []

    anew = fempi("run", tmp_path / "x.toml", "--output", tmp_path / "out", "--force")
    assert anew.returncode == 0, anew.stderr
    assert_same_bits(tmp_path / "out/x/x.h5", made_in_one_go("clipping", rounds=ROUNDS))


@pytest.mark.parametrize("round_", [1, 3, KEPT])
def test_a_missing_round_is_named(round_, folder):
    next(folder.glob(f"round-*-{round_:06d}.h5")).unlink()
    assert_refused(folder, f"lacks round {round_}")
    check = fempi("check", folder)
    assert check.returncode == 1, check.stdout
    assert f"round {round_} has no file" in check.stdout


def test_the_checkpoint_of_another_run_is_refused(folder, killed):
    shutil.copy(killed("private") / "out/x/x.run/checkpoint.h5", folder)
    assert_refused(folder, "is of another run")


def test_a_run_without_its_checkpoint_starts_anew_to_the_same_bits(folder, tmp_path, made_in_one_go):
    (folder / "checkpoint.h5").unlink()
    ended = fempi("resume", folder, "--allow-plugins")
    assert ended.returncode == 0, ended.stderr
    assert_same_bits(tmp_path / "out/x/x.h5", made_in_one_go("clipping", rounds=ROUNDS))


@pytest.mark.parametrize("forgets", ["rule", "attack"])
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_state_that_was_lost_would_be_seen(name, forgets, killed, tmp_path, made_in_one_go):
    """What the whole campaign rests on: without the state of the rule or the attack, the bits are others."""
    shutil.copytree(killed(name), tmp_path, dirs_exist_ok=True)
    folder, record, whole = tmp_path / "out/x/x.run", tmp_path / "out/x/x.h5", made_in_one_go(name, rounds=ROUNDS)
    with RunFile(folder) as run:
        run_id = run.run_id
    state = vars(checkpoint.load(folder, run_id))
    assert state[forgets]
    checkpoint.Checkpoint(**{**state, forgets: {}}).save(folder, run_id)
    ended = fempi("resume", folder, "--allow-plugins")
    assert ended.returncode == 0, ended.stderr
    assert {"rounds/trust", "checksums/results"} <= {*differences(record, whole)}
    with RunFile(record) as one, RunFile(whole) as other:
        same = (one["rounds/trust"][...] == other["rounds/trust"][...]).all(axis=1)
        assert same[:KEPT].all()
