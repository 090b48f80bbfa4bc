"""A job that is asked to stop, whatever it is writing at that moment, ends well and goes on to the same bits."""

import os
import signal
import time

import pytest
from experiments import assert_same_bits, fempi, rounds_of, write
from victims import Job

from fempi.runfile import RunFile
from fempi.signals import ONCE, STATUS

ROUNDS = 12


@pytest.fixture
def begun(tmp_path):
    """Return a function that starts the experiment on two ranks, with a brake."""

    def start(brake, *options, **where):
        config = write("clipping", tmp_path, rounds=ROUNDS)
        return Job("run", config, "--output", tmp_path / "out", *options, ranks=2, brake=brake, **where)

    return start


@pytest.fixture
def goes_on(tmp_path, made_in_one_go):
    """Return a function that resumes what was stopped, alone, and compares it with the run made in one go."""

    def resume():
        ended = fempi("resume", tmp_path / "out/x/x.run", "--allow-plugins")
        assert ended.returncode == 0, ended.stderr
        assert list((tmp_path / "out/x").iterdir()) == [tmp_path / "out/x/x.h5"]
        assert_same_bits(tmp_path / "out/x/x.h5", made_in_one_go("clipping", rounds=ROUNDS))

    return resume


@pytest.mark.parametrize(
    ("brake", "rank", "kept"),
    [
        ("run.h5 1", 0, 0),
        ("round- 5", 1, 5),
        ("checkpoint.h5 5", 0, 5),
        ("checkpoint.h5 5", 1, 5),
        ("final- 1", 0, ROUNDS),
    ],
)
def test_a_signal_in_the_middle_of_a_file_waits_for_the_file(brake, rank, kept, begun, goes_on, tmp_path):
    with begun(brake) as job:
        assert job.reaches_brake(), job.said
        os.kill(job.ranks()[rank], signal.SIGTERM)
        time.sleep(0.2)
        job.release()
        assert job.end() == STATUS, job.said
        assert "Traceback" not in job.said
    folder = tmp_path / "out/x/x.run"
    assert list(folder.glob(".*.tmp")) == []
    # Root is in the next round meanwhile, and another rank may have begun the one after it, unasked.
    assert kept <= len(rounds_of(folder)) <= kept + 2
    with RunFile(folder) as run:
        assert run.status == ("complete" if kept == ROUNDS else "interrupted")
    goes_on()


def test_a_signal_while_a_record_is_packed_waits_for_the_record(begun, tmp_path, made_in_one_go):
    with begun("x.h5 1") as job:
        assert job.reaches_brake(), job.said
        os.kill(job.ranks()[0], signal.SIGTERM)
        time.sleep(0.2)
        job.release()
        assert job.end() == 0, job.said  # all there is to make is made
    assert list((tmp_path / "out/x").iterdir()) == [tmp_path / "out/x/x.h5"]
    assert_same_bits(tmp_path / "out/x/x.h5", made_in_one_go("clipping", rounds=ROUNDS))


@pytest.mark.parametrize("brake", ["x.h5 1", "checkpoint.h5 5"])
def test_a_second_signal_does_not_wait_for_the_file(brake, begun, goes_on, tmp_path):
    with begun(brake) as job:
        assert job.reaches_brake(), job.said
        root = job.ranks()[0]
        os.kill(root, signal.SIGTERM)
        time.sleep(ONCE + 0.5)
        os.kill(root, signal.SIGTERM)
        assert job.end(10) not in (0, STATUS), job.said
    folder = tmp_path / "out/x/x.run"
    assert not (tmp_path / "out/x/x.h5").exists()
    assert rounds_of(folder) == set(range(1, 1 + (5 if brake.startswith("checkpoint") else ROUNDS)))
    goes_on()


def test_rounds_after_the_last_checkpoint_are_made_again_with_the_same_bits(begun, goes_on, tmp_path):
    diary = tmp_path / "diary"
    with begun("round- 8", "--checkpoint-every", "5", env={"FEMPI_FAULTS_DIARY": str(diary)}) as job:
        assert job.reaches_brake(), job.said
        os.kill(job.ranks()[0], signal.SIGKILL)
        assert job.end(10) != 0
    folder = tmp_path / "out/x/x.run"
    assert rounds_of(folder) == set(range(1, 8))
    assert [line.rpartition("/")[2] for line in diary.read_text().splitlines()].count("checkpoint.h5") == 1
    goes_on()
    with RunFile(tmp_path / "out/x/x.h5") as run:
        assert list(run["launches/first_round"]) == [1, 6]
