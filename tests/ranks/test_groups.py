"""Several runs at once, each made by a group of ranks: the same bits, no group waits for another, all stop together."""

import os
import re
import shutil
import signal
import sys
from collections import Counter
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from launch import run_ranks, started
from records import round_file
from test_failure import SOON, wait_for
from test_resume import assert_same_results

from fempi import FempiError, RunFile, experiment, lock, sweep
from fempi.check import check
from fempi.runfile import lock_of
from fempi.signals import STATUS

SLOW = "FEMPI_TEST_SLOW"
"""Seconds that each client takes, in the environment"""
CONFIG = """
name = "g"
rounds = {rounds}
skip_invalid = {skip_invalid}

[data]
dataset = "synthetic"
size = 4
train_examples = 200
test_examples = 50
clients = 8
root_examples = 0

[model]
name = "mlp"
hidden = [4]

[train]
cohort = 8
local_epochs = 1

[attack]
name = "wait"
malicious = 8

[plugins]
files = ["wait.py"]
"""
# Each client has 25 examples; the trial at the start has 10.
PLUGIN = f"""
import os, time
from dataclasses import dataclass
from pathlib import Path
import fempi

@fempi.register("attack", "wait")
@dataclass(frozen=True, kw_only=True)
class Wait(fempi.Attack):
    records: int = 0
    memory: bool = True

    def poison_data(self, images, labels, num_classes, rng):
        if len(labels) > 10:
            time.sleep(float(os.environ.get("{SLOW}", "0")))
            end = time.monotonic() + 60
            while len(list(Path("out/g").glob("*.h5"))) < self.records:
                assert time.monotonic() < end, "the other groups wait for this round"
                time.sleep(0.02)
        if not self.memory:
            raise ValueError("it cannot work without its memory")
        return images, labels
"""
GRID = '\n[grid]\nseed = [1, 2, 3, 4, 5]\n"aggregator.name" = ["mean", "geometric_median"]\n'
FOUR = "\n[grid]\nseed = [1, 2, 3, 4]\n"


def write(folder, more="", rounds=3, skip_invalid="false"):
    (folder / "g.toml").write_text(CONFIG.format(rounds=rounds, skip_invalid=skip_invalid) + more)
    (folder / "wait.py").write_text(PLUGIN)


def command(group_size, *arguments):
    groups = [] if group_size is None else ["--group-size", str(group_size)]
    return [sys.executable, "-m", "fempi", "run", "g.toml", "--output", "out", *groups, *arguments]


def records(folder):
    return sorted((folder / "out/g").iterdir())


def name(seed):
    return f"g+seed={seed}"


def finished(output):
    """Which ranks have said that they have made which run."""
    lines = re.findall(
        r"^(\S+): (?:accuracy \S+  )?\d+:\d\d  (ranks? \S+) on \S+; run \d+ of \d+, about \d+:\d\d left\s*$",
        output,
        re.MULTILINE,
    )
    assert len(dict(lines)) == len(lines), output
    return dict(lines)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The records of the grid, one made after another, by their names."""
    folder = tmp_path_factory.mktemp("plain")
    write(folder, GRID)
    job = run_ranks(2, command(None), timeout=3 * SOON, cwd=folder)
    assert job.returncode == 0, job.output
    assert len(records(folder)) == 10
    return {path.name: path for path in records(folder)}


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    """The records of four longer runs, one made after another, by their names."""
    folder = tmp_path_factory.mktemp("four")
    write(folder, FOUR, rounds=12)
    job = run_ranks(2, command(None), timeout=3 * SOON, cwd=folder)
    assert job.returncode == 0, job.output
    return {path.name: path for path in records(folder)}


def assert_all_as(expected, folder):
    """All records are there and nothing else is, with the bits of those that were made one after another."""
    assert [path.name for path in records(folder)] == sorted(expected)
    for path in records(folder):
        assert_same_results(expected[path.name], path)


# What groups make


@pytest.mark.parametrize(
    ("ranks", "size", "groups", "level"),
    [
        (3, 1, ["rank 0", "rank 1", "rank 2"], None),
        (3, 2, ["ranks 0-1", "rank 2"], "serialized"),  # an MPI that lets one thread in at a time
        (4, 2, ["ranks 0-1", "ranks 2-3"], None),
    ],
)
def test_every_bit_is_that_of_runs_made_one_after_another(ranks, size, groups, level, plain, tmp_path):
    write(tmp_path, GRID)
    env = {"MPI4PY_RC_THREAD_LEVEL": level} if level else {}
    job = run_ranks(ranks, command(size), timeout=3 * SOON, cwd=tmp_path, env=env)
    assert job.returncode == 0, job.output
    assert_all_as(plain, tmp_path)
    assert job.output.count("will take about") == 10
    assert job.output.count("precision") == 1
    made = finished(job.output)
    for path in records(tmp_path):
        with RunFile(path) as run:
            assert run["launches/first_round"][...].tolist() == [1]
            first, _, last = made[path.stem].split()[1].partition("-")
            assert run["ranks/host"].shape == (1, int(last or first) - int(first) + 1)
    assert set(made.values()) == set(groups)
    told = dict(re.findall(r"^(ranks? \S+) on \S+: (\d+) runs?, at work \d+% of ", job.output, re.MULTILINE))
    assert {ranks: int(number) for ranks, number in told.items()} == Counter(made.values())


def test_groups_take_all_other_runs_while_the_first_ranks_are_inside_one_round(tmp_path):
    """The first run's round does not end before all other records are there; one of its ranks is the job's rank 0."""
    arms = ["\n[[arm]]\nname = 'long'\nset = { 'attack.records' = 6 }\n"]
    arms += [f"\n[[arm]]\nname = 'short-{i}'\nset = {{ 'seed' = {i} }}\n" for i in range(6)]
    write(tmp_path, "".join(arms), rounds=1)
    job = run_ranks(3, command(1), timeout=3 * SOON, cwd=tmp_path)
    assert job.returncode == 0, job.output
    made = finished(job.output)
    assert len(made) == 7
    assert list(made)[-1] == "long"
    assert Counter(made.values())[made["long"]] == 1
    assert re.search(r"^rank 0 on \S+: 1 run, at work", job.output, re.MULTILINE), job.output


def test_groups_without_a_run_do_no_harm(tmp_path):
    write(tmp_path, "\n[grid]\nseed = [1, 2]\n")
    job = run_ranks(3, command(1), timeout=2 * SOON, cwd=tmp_path)
    assert job.returncode == 0, job.output
    assert [path.name for path in records(tmp_path)] == ["g+seed=1.h5", "g+seed=2.h5"]
    assert job.output.count(": 0 runs, at work 0% of") == 1

    again = run_ranks(2, command(1), timeout=2 * SOON, cwd=tmp_path)
    assert again.returncode == 0, again.output
    assert again.output.count("is there already") == 2
    assert finished(again.output) == {}
    assert again.output.count("precision") == 1


def test_one_group_of_all_is_shown_as_if_there_were_none(tmp_path):
    write(tmp_path)
    job = run_ranks(2, command(2), timeout=2 * SOON, cwd=tmp_path)
    assert job.returncode == 0, job.output
    assert "g: round 3/3" in job.output
    assert "at work" not in job.output


# What is refused


def assert_refused(job, *said):
    assert job.returncode == 2, job.output
    for text in said:
        assert job.output.count(text) == 1, job.output
    assert job.output.count("fempi: ") == 1, job.output
    assert "Traceback" not in job.output


def test_a_group_larger_than_the_job_is_refused(tmp_path):
    write(tmp_path, FOUR)
    job = run_ranks(2, command(3), timeout=SOON, cwd=tmp_path)
    assert_refused(job, "fempi: --group-size 3 is more than there are: this job has 2 ranks")
    assert not (tmp_path / "out").exists()


def test_what_can_be_known_to_fail_is_refused_once_before_anything_is_written(tmp_path):
    write(tmp_path, "\n[grid]\nseed = [1, 2, 3]\n'attack.memory' = [true, false]\n")
    job = run_ranks(2, command(1), timeout=SOON, cwd=tmp_path)
    reason = "g+seed={}+memory=false: attack: it cannot work without its memory"
    assert_refused(job, *map(reason.format, (1, 2, 3)))
    assert not (tmp_path / "out").exists()


def test_what_a_plugin_cannot_do_is_skipped_where_the_file_allows_it(tmp_path):
    write(tmp_path, "\n[grid]\nseed = [1, 2]\n'attack.memory' = [true, false]\n", skip_invalid="true")
    job = run_ranks(2, command(1), timeout=2 * SOON, cwd=tmp_path)
    assert job.returncode == 0, job.output
    assert [path.name for path in records(tmp_path)] == ["g+seed=1+memory=true.h5", "g+seed=2+memory=true.h5"]
    for seed in (1, 2):
        assert job.output.count(f"g+seed={seed}+memory=false was skipped: attack: it cannot") == 2


def test_a_run_that_another_job_is_at_is_left_and_the_others_are_made(tmp_path):
    write(tmp_path, FOUR)
    held = lock.take(lock_of(tmp_path / "out/g/g+seed=2.run"))
    job = run_ranks(2, command(1), timeout=2 * SOON, cwd=tmp_path)
    assert job.returncode == STATUS, job.output
    assert sorted(finished(job.output)) == [name(1), name(3), name(4)]
    assert job.output.count(f"g+seed=2 is left to process {os.getpid()} on ") == 2  # at once, and under the results
    held.release()
    job = run_ranks(2, command(1), timeout=2 * SOON, cwd=tmp_path)
    assert job.returncode == 0, job.output
    assert list(finished(job.output)) == [name(2)]


def test_a_disk_must_have_room_for_the_folders_of_all_runs_that_are_made_at_once(tmp_path, monkeypatch, own_registry):
    write(tmp_path, FOUR, rounds=1)
    configs = experiment.load(tmp_path / "g.toml", overrides=(), arm=None)
    options = sweep.Options(output=tmp_path, data_root=tmp_path, device=torch.device("cpu"))
    folder = 1_000_000 + 20_000
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=4_000_000 + 2 * folder))
    plan = partial(sweep.plan, configs, [options.target_of(config) for config in configs], [1_000_000] * 4, options)
    assert plan(at_once=2) == [None] * 4
    with pytest.raises(FempiError, match=r"need 0.01 GB"):
        plan(at_once=3)
    with pytest.raises(FempiError, match=r"need 0.01 GB"):
        plan(at_once=100)


# Ends


@pytest.fixture
def begun(tmp_path):
    """Four longer runs on three ranks in two groups, at work on the first two of them."""
    write(tmp_path, FOUR, rounds=12)
    with started(3, command(2), tmp_path / "log", cwd=tmp_path, env={SLOW: "0.1"}) as job:
        for seed in (1, 2):
            wait_for(lambda seed=seed: round_file(tmp_path / f"out/g/{name(seed)}.run", 2).exists(), 2 * SOON)
        yield job


def interrupted(folder):
    """How many rounds each unfinished run has; all of them are whole."""
    found = {}
    for path in (folder / "out/g").glob("*.run"):
        verdict = check(path)
        assert verdict.problems == []
        assert verdict.status == "interrupted"
        found[path.stem] = verdict.committed
    return found


def assert_goes_on(folder, four, size):
    job = run_ranks(3 if size else 1, command(size), timeout=3 * SOON, cwd=folder)
    assert job.returncode == 0, job.output
    assert_all_as(four, folder)


@pytest.mark.parametrize(
    ("number", "receivers", "next_size"),
    [
        (signal.SIGINT, lambda job: [job.ranks()[2]], 1),
        (signal.SIGUSR1, lambda job: [job.process.pid], None),  # which tells all ranks
    ],
    ids=["the last rank", "mpirun"],
)
def test_a_stop_reaches_all_groups_and_the_runs_go_on_later_in_others(
    number, receivers, next_size, begun, four, tmp_path
):
    for pid in receivers(begun):
        os.kill(pid, number)
    assert begun.process.wait(SOON) == STATUS
    said = (tmp_path / "log").read_text()
    assert said.count(f"stopped by {signal.Signals(number).name}") == 1, said
    assert "Traceback" not in said
    rounds = interrupted(tmp_path)
    assert rounds.keys() == {name(1), name(2)}
    assert all(2 <= count < 12 for count in rounds.values())
    assert [path.suffix for path in records(tmp_path)] == [".run", ".run"]  # no lock
    assert_goes_on(tmp_path, four, next_size)


def test_a_stop_that_a_group_without_work_is_asked_for_reaches_those_at_work(tmp_path):
    write(tmp_path, rounds=200)
    folder = tmp_path / "out/g/g.run"
    with started(2, command(1), tmp_path / "log", cwd=tmp_path, env={SLOW: "0.1"}) as job:
        wait_for(lambda: round_file(folder, 2).exists(), 2 * SOON)
        os.kill(job.ranks()[1], signal.SIGTERM)
        assert job.process.wait(SOON) == STATUS
    assert (tmp_path / "log").read_text().count("stopped by SIGTERM") == 1


def test_a_rank_that_is_killed_ends_all_groups_and_the_runs_go_on_later(begun, four, tmp_path):
    os.kill(begun.ranks()[2], signal.SIGKILL)
    assert begun.process.wait(SOON) not in (0, STATUS)
    wait_for(lambda: begun.ranks() == {}, 10)
    wait_for(lambda: not any(map(lock.holder, (tmp_path / "out/g").glob("*.lock"))), 10)
    assert interrupted(tmp_path).keys() == {name(1), name(2)}
    assert_goes_on(tmp_path, four, 2)


def test_a_run_that_cannot_go_on_stops_the_other_groups_with_one_message(begun, four, tmp_path):
    os.kill(begun.ranks()[1], signal.SIGTERM)
    assert begun.process.wait(SOON) == STATUS
    broken = tmp_path / f"out/g/{name(2)}.run"
    round_file(broken, 1).unlink()
    job = run_ranks(3, command(2), timeout=2 * SOON, cwd=tmp_path, env={SLOW: "0.1"})
    assert_refused(job, f"fempi: g+seed=2: out/g/{name(2)}.run lacks round 1, but its checkpoint is of round")
    assert (tmp_path / f"out/g/{name(1)}.run").exists()
    for path in sorted(broken.iterdir(), reverse=True):
        path.unlink()
    broken.rmdir()
    assert_goes_on(tmp_path, four, 2)


def test_a_group_that_shows_no_sign_of_life_does_not_keep_the_others_waiting_for_ever(tmp_path):
    """As if its host were cut off: its ranks do nothing any more, not even end."""
    write(tmp_path, "[[arm]]\nname = 'short'\nset.rounds = 1\n[[arm]]\nname = 'long'\n", rounds=200)
    with started(2, command(1, "--watchdog", "8"), tmp_path / "log", cwd=tmp_path, env={SLOW: "0.1"}) as job:
        wait_for((tmp_path / "out/g/short.h5").exists, 2 * SOON)
        wait_for(lambda: round_file(tmp_path / "out/g/long.run", 2).exists(), 2 * SOON)
        os.kill(job.ranks()[1], signal.SIGSTOP)
        assert job.process.wait(2 * SOON) not in (0, STATUS)
    assert "made no progress in 8 s" in (tmp_path / "log").read_text()
