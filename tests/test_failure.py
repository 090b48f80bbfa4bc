"""Whatever goes wrong on any rank, the job ends soon and not with 0, nothing is left running, and no round is lost."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from launch import clean_env, ranks_of, run_ranks, started
from records import round_file

from fempi import RunFile, lock
from fempi.runfile import lock_of

# 8 clients, all of them in every round: on two ranks each trains four.
CONFIG = """
name = "x"
rounds = {rounds}

[data]
dataset = "synthetic"
size = 4
train_examples = 200
test_examples = 50
clients = 8
root_examples = 0

[model]
name = "mlp"
hidden = [{hidden}]

[train]
cohort = 8
local_epochs = 1

[attack]
name = "fault"
malicious = 8
kind = "{kind}"

[plugins]
files = ["fault.py"]
"""

# Each client has 25 examples and calls poison_data once a round; the trial at the start has 10. On one rank of two,
# the 10th call is in the third round. On root, poison_updates knows the round.
FAULT = """
import os, resource, sys, time
from dataclasses import dataclass
from pathlib import Path
import fempi.comm

calls = 0

if "SLOW_PACK" in os.environ:
    from fempi import store
    pack = store.pack
    store.pack = lambda *arguments: time.sleep(5) or pack(*arguments)

@fempi.register("attack", "fault")
@dataclass(frozen=True, kw_only=True)
class Fault(fempi.Attack):
    kind: str
    def poison_data(self, images, labels, num_classes, rng):
        global calls
        calls += len(labels) > 10
        if calls == 10 and fempi.comm.MPI.COMM_WORLD.rank == 1:
            if self.kind == "exception":
                raise KeyError("a fault on one rank")
            if self.kind == "exit":
                sys.exit(3)
            if self.kind == "exit-0":
                sys.exit(0)
            if self.kind == "hang":
                time.sleep(1000)
        if calls == 10 and self.kind == "exception-everywhere":
            raise KeyError("a fault on all ranks")
        if calls and self.kind == "slow":
            time.sleep(0.03)
        return images, labels

    def poison_updates(self, updates, malicious, knowledge):
        if knowledge.round == 3 and self.kind == "root-exception":
            raise KeyError("a fault on root")
        if knowledge.round == 3 and self.kind == "full":
            if disk := os.environ.get("SMALL_DISK"):
                try:
                    with Path(disk, "filler").open("wb", buffering=0) as file:
                        while file.write(bytes(4096)):
                            pass
                except OSError:
                    pass
            else:
                resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
        if self.kind == "no-room-to-pack":  # for a round's 1.8 MB, but not for six of them
            resource.setrlimit(resource.RLIMIT_FSIZE, (4_000_000, 4_000_000))
        return updates[malicious]
"""

SOON = 40  # seconds; a few suffice, but machines are busy at times


@pytest.fixture
def experiment(tmp_path):
    """Return a function that writes the experiment with a fault and returns the command to run it."""

    def write(kind, *arguments, rounds=20, hidden=4, output=tmp_path / "out"):
        (tmp_path / "x.toml").write_text(CONFIG.format(kind=kind, rounds=rounds, hidden=hidden))
        (tmp_path / "fault.py").write_text(FAULT)
        return [sys.executable, "-m", "fempi", "run", str(tmp_path / "x.toml"), "--output", str(output), *arguments]

    return write


@pytest.fixture
def start(tmp_path):
    """Return a function that starts a command on some ranks and returns launcher and mark; kills what is left."""
    with contextlib.ExitStack() as begun:

        def popen(command, ranks):
            job = begun.enter_context(started(ranks, command, tmp_path / "log"))
            return job.process, job.mark

        yield popen


def wait_for(condition, seconds):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.02)


def assert_rounds_are_whole(folder, least):
    """Every committed round is readable, with as many of them as there are files; the rest reads as not there."""
    # A dead process keeps its lock as long as the kernel is busy with one of its threads, writing to the disk.
    wait_for(lambda: not lock.holder(lock_of(folder)), 10)
    with RunFile(folder) as run:
        done = run.rounds_completed
        assert done == len(list(folder.glob("round-*.h5"))) >= least
        assert run.status == "interrupted"
        assert np.isfinite(run.read("rounds/gram")[:, :-1, :-1]).all()
        assert np.isfinite(run["rounds/update"][:done]).all()
        assert np.isnan(run["rounds/update"][done:]).all()
        return done


@pytest.mark.parametrize(
    ("kind", "rank", "said"),
    [
        ("exception", 1, "KeyError: 'a fault on one rank'"),
        ("root-exception", 0, "KeyError: 'a fault on root'"),
        ("exception-everywhere", 0, "KeyError: 'a fault on all ranks'"),
        ("exit", 1, "SystemExit: 3"),
    ],
)
def test_an_exception_ends_the_job_with_one_traceback_that_names_the_rank(kind, rank, said, experiment, tmp_path):
    job = run_ranks(2, experiment(kind), timeout=SOON)
    assert job.returncode not in (0, "timeout"), job.output
    assert job.output.count("Traceback") == 1, job.output
    assert job.output.count(said) == 1, job.output
    assert f"rank {rank} of 2 failed" in job.output or kind == "exception-everywhere"  # there, the first to get there
    assert "fault.py" in job.output
    assert kind != "exit" or job.returncode == 3
    assert_rounds_are_whole(tmp_path / "out/x/x.run", least=1)


def test_a_rank_that_leaves_with_status_zero_ends_the_job_too(experiment):
    assert run_ranks(2, experiment("exit-0"), timeout=SOON).returncode not in (0, "timeout")


def test_a_fault_of_the_only_rank_is_told_once(experiment):
    command = experiment("root-exception")
    job = subprocess.run(command, env=clean_env(), capture_output=True, text=True, timeout=SOON, check=False)
    assert job.returncode == 1
    assert job.stderr.count("KeyError: 'a fault on root'") == 1, job.stderr


@pytest.mark.parametrize(("victim", "ranks"), [(0, 2), (2, 3)])
def test_a_rank_that_is_killed_ends_the_job(victim, ranks, experiment, start, tmp_path):
    job, mark = start(experiment("slow", rounds=2000), ranks)
    folder = tmp_path / "out/x/x.run"
    wait_for(lambda: round_file(folder, 3).exists(), SOON)
    os.kill(ranks_of(mark)[victim], signal.SIGKILL)
    assert job.wait(SOON) != 0
    wait_for(lambda: ranks_of(mark) == {}, 10)
    assert_rounds_are_whole(folder, least=2)


def test_a_rank_that_hangs_is_ended_by_the_watchdog_which_shows_where(experiment, tmp_path):
    job = run_ranks(2, experiment("hang", "--watchdog", "5"), timeout=SOON)
    assert job.returncode not in (0, "timeout"), job.output
    line = FAULT.splitlines().index("                time.sleep(1000)") + 1
    # Both ranks' timers are due at once: the one that sleeps, and the one that waits for it.
    assert re.search(rf'fault.py", line {line} in poison_data|comm.py", line \d+ in wait', job.output), job.output
    assert_rounds_are_whole(tmp_path / "out/x/x.run", least=1)


def test_the_watchdog_is_about_one_round_not_about_all(experiment, tmp_path):
    started = time.monotonic()
    job = subprocess.run(
        experiment("slow", "--watchdog", "4", rounds=20),
        env=clean_env(),
        capture_output=True,
        text=True,
        timeout=2 * SOON,
        check=False,
    )
    assert job.returncode == 0, job.stderr
    assert time.monotonic() - started > 4
    with RunFile(tmp_path / "out/x/x.h5") as run:
        assert run.status == "complete"
        assert run["timing/seconds"][...].sum() > 4


def test_the_watchdog_is_not_about_packing(experiment):
    command, env = experiment("none", "--watchdog", "4", rounds=1), {**clean_env(), "SLOW_PACK": "1"}
    job = subprocess.run(command, env=env, capture_output=True, text=True, timeout=SOON, check=False)
    assert job.returncode == 0, job.stderr


def test_no_rank_outlives_a_killed_launcher(experiment, start, tmp_path):
    job, mark = start(experiment("slow", rounds=2000), 2)
    wait_for(lambda: round_file(tmp_path / "out/x/x.run", 2).exists(), SOON)
    assert sorted(ranks_of(mark)) == [0, 1]
    job.kill()
    wait_for(lambda: ranks_of(mark) == {}, 10)
    assert_rounds_are_whole(tmp_path / "out/x/x.run", least=1)


@pytest.mark.parametrize("variable", ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"])
def test_singletons_refuse_to_run_and_say_why(variable, experiment, tmp_path):
    """What a launcher of another MPI does: each process believes to be alone."""
    env = {**clean_env(), variable: "4"}
    job = subprocess.run(experiment("none"), env=env, capture_output=True, text=True, timeout=SOON, check=False)
    assert job.returncode != 0
    assert job.stderr.count("the launcher started 4 processes") == 1, job.stderr
    assert "but MPI sees 1" in job.stderr
    assert "Traceback" not in job.stderr
    assert not (tmp_path / "out").exists()


# The disk


@pytest.fixture
def small_disk(tmp_path, monkeypatch):
    """A file system of 20 MB, where this user may mount one; else None, and the limit on file sizes must do."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = f"mount -t tmpfs -o size=20m tmpfs '{place}'"
    mounted = subprocess.run(["sh", "-c", mount], capture_output=True, check=False)
    if mounted.returncode:
        yield None
        return
    monkeypatch.setenv("SMALL_DISK", str(place))
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def test_a_record_that_does_not_fit_is_refused_at_the_start_with_both_sizes(experiment, small_disk, tmp_path):
    place = small_disk or tmp_path  # 40 MB are too many for the one, 7 PB for the other
    rounds, hidden = (20, 1000) if small_disk else (20_000, 400_000)
    job = run_ranks(2, experiment("none", rounds=rounds, hidden=hidden, output=place / "out"), timeout=2 * SOON)
    assert job.returncode == 2, job.output
    sizes = re.search(r"the records need ([0-9.]+) (k|M|G|T)B .* but ([0-9.]+) (k|M|G|T)B are free", job.output)
    assert sizes, job.output
    assert float(sizes[1]) > 0
    assert "Traceback" not in job.output
    assert list(place.glob("out*")) == []


@pytest.mark.parametrize("hidden", [4, 1000])
def test_a_disk_that_fills_up_ends_the_job_and_spares_what_is_committed(hidden, experiment, small_disk, tmp_path):
    output = (small_disk or tmp_path) / "out"
    job = run_ranks(2, experiment("full", rounds=4, hidden=hidden, output=output), timeout=SOON)
    assert job.returncode not in (0, "timeout"), job.output
    assert_rounds_are_whole(output / "x/x.run", least=1)
    assert "No space left on device" in job.output or "File too large" in job.output, job.output
    assert "rank 0 of 2 failed" in job.output
    assert list((output / "x/x.run").glob(".*.tmp")) == []


def test_a_disk_too_full_to_pack_keeps_the_folder(experiment, tmp_path):
    job = run_ranks(2, experiment("no-room-to-pack", rounds=6, hidden=1000), timeout=SOON)
    assert job.returncode not in (0, "timeout"), job.output
    with RunFile(tmp_path / "out/x/x.run") as run:
        assert (run.status, run.rounds_completed) == ("complete", 6)
    assert "rank 0 of 2 failed" in job.output
    assert [p.name for p in (tmp_path / "out/x").iterdir()] == ["x.run"]
