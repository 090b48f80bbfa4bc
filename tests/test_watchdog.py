"""A rank that makes no progress ends itself and its launcher, and says who and where it was."""

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from fempi.watchdog import Watchdog

PROGRAM = """
import ctypes, sys, threading, time
import fempi.watchdog
from fempi.watchdog import Watchdog

fempi.watchdog._GRACE, fempi.watchdog._BACKSTOP = 0.2, 1.5  # 2 and 10 would be long for a test
libc = ctypes.CDLL(None)
mutex = ctypes.create_string_buffer(64)
libc.pthread_mutex_lock(mutex)
lock = threading.Lock()
lock.acquire()

def a_place_to_be_found():
    {wait}

with Watchdog(1, "rank 3 of 5 on somewhere") as watchdog:
    a_place_to_be_found()
time.sleep(3)
print("went on with", threading.active_count(), "thread")
"""
HANGS = {
    "python": "time.sleep(60)",
    "a lock": "lock.acquire()",
    "c": "libc.pthread_mutex_lock(mutex)",
}
WORK = """for _ in range(4):
        time.sleep(0.5)
        watchdog.pat()
    watchdog.rest()
    time.sleep(3)
    watchdog.pat()
"""


def program(wait):
    return [sys.executable, "-c", PROGRAM.format(wait=wait)]


def ended(command):
    """Return how a process ended, which must do so by itself."""
    return subprocess.run(command, capture_output=True, text=True, timeout=40, check=False)


@pytest.mark.parametrize("hang", HANGS)
def test_it_names_its_rank_and_shows_where_it_was(hang):
    done = ended(program(HANGS[hang]))
    assert done.returncode == -signal.SIGKILL
    assert done.stderr.startswith("fempi: rank 3 of 5 on somewhere made no progress in 1 s; it was here:\n")
    assert done.stderr.count("in a_place_to_be_found") == 1


def test_what_holds_the_interpreter_is_ended_by_a_timer_in_c():
    """No thread of Python's can run then."""
    done = ended(program("ctypes.PyDLL(None).sleep(60)"))
    assert done.returncode == 1
    assert done.stderr.count("in a_place_to_be_found") == 1


def test_pats_and_rests_keep_it_quiet_and_nothing_of_it_remains():
    done = ended(program(WORK))
    assert (done.returncode, done.stdout, done.stderr) == (0, "went on with 1 thread\n", "")


def test_its_thread_ends_with_the_block_however_that_ends():
    def there():
        return "fempi-watchdog" in {thread.name for thread in threading.enumerate()}

    with pytest.raises(KeyError), Watchdog(1000, "nobody"):
        assert there()
        raise KeyError
    assert not there()


# Launchers


@pytest.fixture
def named(tmp_path):
    """Return a function that makes a command a child of processes of these names, the outermost first."""

    def wrap(names, command, *, deaf=False):
        for name in reversed(names):
            if not (tmp_path / name).exists():
                (tmp_path / name).symlink_to(Path("/bin/sh").resolve())
            trap = "trap '' TERM; " if deaf else ""
            command = [str(tmp_path / name), "-c", f'{trap}"$@"; echo "{name} saw $?"', "sh", *command]
        return command

    return wrap


@pytest.mark.parametrize(
    "names", [["mpirun"], ["prterun", "prted"], ["mpiexec.hydra", "hydra_pmi_proxy"], ["mpiexec", "bind.sh"]]
)
def test_it_takes_the_launcher_with_it_and_nothing_above(names, named):
    done = ended(named(["batch", *names], program("time.sleep(60)")))
    # A process that was ended by a signal has not seen the end of the next; what is no launcher has.
    saw = dict(line.split(" saw ") for line in done.stdout.splitlines())
    assert saw.pop("batch") == str(128 + signal.SIGTERM)
    assert saw == ({"bind.sh": str(128 + signal.SIGKILL)} if "bind.sh" in names else {})
    assert "rank 3 of 5" in done.stderr


def test_a_launcher_that_does_not_listen_is_killed(named):
    done = ended(named(["batch"], named(["mpirun"], program("time.sleep(60)"), deaf=True)))
    assert done.stdout == f"batch saw {128 + signal.SIGKILL}\n"


ANCESTORS = "import os; from fempi import launcher; print(os.getppid(), launcher.ancestors())"


@pytest.mark.parametrize(
    ("names", "launchers"),
    [
        ([], 0),
        (["slurmstepd"], 0),
        (["slurmstepd", "prted"], 1),
        (["mpirun", "slurmstepd", "prted"], 1),
        (["mpirun", "(odd) name"], 1),
        (["prterun", "prted"], 2),
    ],
)
def test_only_the_nearest_launchers_are_its_own(names, launchers, named):
    done = ended(named(names, [sys.executable, "-c", ANCESTORS]))
    parent, found = done.stdout.splitlines()[0].split(maxsplit=1)
    found = [int(pid) for pid in found.strip("[]").split(",") if pid]
    assert len(found) == launchers, done
    assert not found or names[-1] == "(odd) name" or found[0] == int(parent)
