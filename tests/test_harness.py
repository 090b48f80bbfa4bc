"""The tests under mpirun are worth what their harness is: every way a rank can fail must be seen, and end."""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import launch
import pytest
from launch import check_under_mpirun, run_ranks, started

HEAD = """
import os, time
import pytest
from mpi4py import MPI
world = MPI.COMM_WORLD
pytestmark = pytest.mark.mpi
"""

GOOD = """
def test_barrier():
    world.Barrier()
"""

IN_A_CLASS = """
class TestMore:
    def test_barrier(self):
        world.Barrier()
"""

ASSERTION_ON_RANK_1 = """
def test_rank_1_disagrees():
    assert world.rank != 1, "only rank 1 says so"

def test_the_others_go_on():
    world.Barrier()
"""

DEADLOCK = """
def test_rank_1_stays_away():
    if world.rank != 1:
        world.Barrier()
"""

KILLED = """
def test_rank_1_is_killed():
    if world.rank == 1:
        os.kill(os.getpid(), 9)
    world.Barrier()
"""

CRASH_AFTER_THE_REPORT = """
import atexit

def test_barrier():
    world.Barrier()
    if world.rank == 1:
        atexit.register(os._exit, 3)
"""

ASLEEP_AT_IMPORT = """
time.sleep(600)
"""

ALL_SKIPPED = """
@pytest.mark.skip(reason="never runs")
def test_nothing():
    pass
"""


@pytest.fixture(autouse=True)
def no_orphans(monkeypatch):
    """Fail a test that leaves a process of its job running."""
    mark = f"FEMPI_HARNESS_{os.getpid()}_{time.monotonic_ns()}"
    monkeypatch.setenv(mark, "1")
    yield
    assert launch.members(mark) == {}


@pytest.fixture
def written(tmp_path):
    """Return a function that writes a file of tests."""

    def write(body, name="test_written.py"):
        # the copy puts the real files' conftest to the proof too
        shutil.copy(Path(__file__).parent / "mpi" / "conftest.py", tmp_path)
        file = tmp_path / name
        file.write_text(HEAD + body)
        return file

    return write


def test_a_good_file_passes(written, tmp_path):
    check_under_mpirun([written(GOOD)], 2, tmp_path, test_timeout=20, job_timeout=40)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        pytest.param(ASSERTION_ON_RANK_1, "only rank 1 says so", id="assertion"),
        pytest.param(DEADLOCK, "Timeout", id="deadlock"),
        pytest.param(KILLED, "(?i)signal:? 9", id="kill"),
        pytest.param(CRASH_AFTER_THE_REPORT, "on 2 ranks: [1-9]", id="crash-at-exit"),
        pytest.param(ALL_SKIPPED, "ran no test", id="skipped"),
    ],
)
def test_a_bad_file_fails_and_says_why(written, tmp_path, body, said):
    with pytest.raises(AssertionError, match=said):
        check_under_mpirun([written(body)], 2, tmp_path, test_timeout=3 if body == DEADLOCK else 30, job_timeout=60)


def test_of_several_files_each_has_to_run_a_test(written, tmp_path):
    files = [written(GOOD), written(IN_A_CLASS, "test_more.py")]
    check_under_mpirun(files, 2, tmp_path, test_timeout=20, job_timeout=40)
    with pytest.raises(AssertionError, match=r"ran no test of test_idle\.py"):
        check_under_mpirun([*files, written(ALL_SKIPPED, "test_idle.py")], 2, tmp_path, test_timeout=20, job_timeout=40)


def test_a_hang_outside_any_test_is_ended_by_the_outer_limit(written, tmp_path):
    with pytest.raises(AssertionError, match="on 2 ranks: timeout"):
        check_under_mpirun([written(ASLEEP_AT_IMPORT)], 2, tmp_path, test_timeout=1, job_timeout=8)


def test_ranks_do_not_outlive_a_killed_launcher(tmp_path):
    with started(2, [sys.executable, "-c", "import time; time.sleep(600)"], tmp_path / "log") as job:
        give_up = time.monotonic() + 20
        while sorted(job.ranks()) != [0, 1]:
            assert time.monotonic() < give_up
        job.process.kill()


def test_a_killed_job_leaves_no_shared_memory():
    """Two megabytes that it would hold until the machine restarts."""
    killed = """
import os, time
from mpi4py import MPI
MPI.COMM_WORLD.Barrier()
if MPI.COMM_WORLD.rank == 1:
    print(open("/proc/self/maps").read(), flush=True)
    os.kill(os.getpid(), 9)
time.sleep(600)
"""
    job = run_ranks(2, [sys.executable, "-c", killed], timeout=20)
    assert job.returncode not in (0, "timeout"), job.output
    shared = re.findall(r" rw-s .* (/\S+)$", job.output, re.MULTILINE)  # one that is gone ends in (deleted)
    assert shared, job.output
    assert [path for path in shared if Path(path).exists()] == []


def test_singletons_are_not_taken_for_a_world(written, tmp_path, monkeypatch):
    """A launcher of another MPI starts n processes that each believe they are alone, and exits with 0."""
    foreign = tmp_path / "mpiexec"
    foreign.write_text('#!/bin/sh\nshift 2\n"$@" & "$@" & wait\n')
    foreign.chmod(0o755)
    monkeypatch.setattr(launch, "launcher", lambda: str(foreign))
    with pytest.raises(AssertionError, match="rank 1 wrote no report"):
        check_under_mpirun([written(GOOD)], 2, tmp_path, test_timeout=20, job_timeout=40)


def test_the_launcher_asked_for_comes_before_that_of_this_python_and_that_before_any_on_path(tmp_path, monkeypatch):
    beside, on_path = tmp_path / "venv/mpiexec", tmp_path / "path/mpiexec"
    for file in (beside, on_path):
        file.parent.mkdir()
        file.touch(0o755)
    monkeypatch.setattr(sys, "executable", str(beside.with_name("python")))
    monkeypatch.setenv("PATH", str(on_path.parent))
    monkeypatch.setenv("FEMPI_TEST_MPIEXEC", "/another/mpiexec")
    assert launch.launcher() == "/another/mpiexec"
    monkeypatch.delenv("FEMPI_TEST_MPIEXEC")
    assert launch.launcher() == str(beside)
    beside.unlink()
    assert launch.launcher() == str(on_path)


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        pytest.param("def test_good():\n    pass", 0, "1 passed", id="passed"),
        pytest.param("def test_bad():\n    assert False", 1, "1 failed", id="failed"),
        pytest.param(ALL_SKIPPED, 1, "under Some MPI no test passed of test_written.py", id="skipped"),
        pytest.param("", 5, "no tests ran", id="empty"),
    ],
)
def test_a_run_under_another_mpi_in_which_a_file_has_no_test_that_passed_has_failed(tmp_path, body, status, said):
    script = shutil.copy(Path(__file__).with_name("with_mpi.py"), tmp_path)
    (tmp_path / "test_written.py").write_text(f"import pytest\nimport launch\n{body}")
    (tmp_path / "launch.py").touch()
    (tmp_path / "test_other.py").write_text("def test_that_starts_no_ranks():\n    assert False")
    command = [sys.executable, script, "mpiexec", "libmpi.so", "Some MPI"]
    job = subprocess.run(command, cwd=tmp_path, env=launch.clean_env(), capture_output=True, text=True, check=False)
    assert job.returncode == status, job.stdout
    assert said in job.stdout + job.stderr


def test_no_launcher_is_a_failure_and_no_skip(monkeypatch):
    monkeypatch.setattr(launch, "launcher", lambda: None)
    with pytest.raises(RuntimeError, match="no mpiexec"):
        run_ranks(2, ["true"], timeout=1)
