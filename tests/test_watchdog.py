"""A rank that makes no progress ends itself and its launcher, and says who and where it was."""

import contextlib
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from launch import kill_session

from fempi.watchdog import Watchdog

PROGRAM = """
import ctypes, sys, threading, time
import fempi.watchdog
from fempi.watchdog import Watchdog

fempi.watchdog._GRACE, fempi.watchdog._BACKSTOP = 0.2, {backstop}  # 1 and 10 would be long for a test
libc = ctypes.CDLL(None)
mutex = ctypes.create_string_buffer(64)
libc.pthread_mutex_lock(mutex)
lock = threading.Lock()
lock.acquire()

def a_place_to_be_found():
    {wait}

with Watchdog({seconds}, "rank 3 of 5 on somewhere") as watchdog:
    a_place_to_be_found()
time.sleep({seconds} + {backstop} + 0.1)
print("went on with", threading.active_count(), "thread")
"""
HANGS = {
    "python": "time.sleep(60)",
    "a lock": "lock.acquire()",
    "c": "libc.pthread_mutex_lock(mutex)",
}
WORK = """for _ in range(3):
        time.sleep(1)
        watchdog.pat()
    watchdog.rest()
    time.sleep(2.6)
    watchdog.pat()
"""
WAITS = "exec sleep 100"
"""What a launcher does that has lost its rank and goes on waiting, for a host that is cut off"""
LAUNCHERS = ["mpirun", "prterun prted", "mpiexec.hydra hydra_pmi_proxy", "mpiexec bind.sh"]
ANCESTORS = {
    "": 0,
    "slurmstepd": 0,
    "slurmstepd prted": 1,
    "mpirun slurmstepd prted": 1,
    "mpirun bash bind.sh": 1,
    "prterun prted": 2,
}
"""Processes above a rank, and how many of them are its own launcher's."""
KILLED = str(128 + signal.SIGKILL)
SHOW_ANCESTORS = "from fempi import launcher; print(launcher.ancestors())"


def program(wait, *, seconds=1, backstop=3):
    return [sys.executable, "-c", PROGRAM.format(wait=wait, seconds=seconds, backstop=backstop)]


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """Return a function that says how a process ended, by its name; all run at once, since they mostly wait."""
    place = tmp_path_factory.mktemp("launchers")

    def below(names, command, first="", last=""):
        """Make a command a child of processes of these names, outermost first; launchers may do something else too."""
        for name in reversed(names.split()):
            if not (place / name).exists():
                (place / name).symlink_to(Path("/bin/sh").resolve())
            command = [
                str(place / name),
                "-c",
                f'{first} echo "{name} is $$"; "$@"; echo "{name} saw $?"; {last if name != "bind.sh" else ""}',
                "sh",
                *command,
            ]
        return command

    hang = program(HANGS["python"])
    commands = {
        **{name: program(wait) for name, wait in HANGS.items()},
        "all of it": program("ctypes.PyDLL(None).sleep(60)", backstop=1),
        "work": program(WORK, seconds=2, backstop=0.5),
        **{f"batch {names}": below("batch", below(names, hang, last=WAITS)) for names in LAUNCHERS},
        "helper": below("batch", below("prted", hang, first='sleep 100 & echo "helper is $!";', last=WAITS)),
        "reports": below("batch", below("prted", hang, last="exit 14")),
        **{names: below(names, [sys.executable, "-c", SHOW_ANCESTORS]) for names in ANCESTORS},
    }
    begun = {
        name: subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        for name, command in commands.items()
    }

    def end(name):
        out, err = begun[name].communicate(timeout=60)
        return subprocess.CompletedProcess(name, begun[name].returncode, out, err)

    yield end
    for process in begun.values():
        kill_session(process.pid)
        process.communicate()


@pytest.mark.parametrize("hang", HANGS)
def test_it_names_its_rank_and_shows_where_it_was(hang, ended):
    done = ended(hang)
    assert done.returncode == -signal.SIGKILL
    assert done.stderr.startswith("fempi: rank 3 of 5 on somewhere made no progress in 1 s; it was here:\n")
    assert done.stderr.count("in a_place_to_be_found") == 1


def test_what_holds_the_interpreter_is_ended_by_a_timer_in_c(ended):
    """No thread of Python's can run then."""
    done = ended("all of it")
    assert done.returncode == 1
    assert done.stderr.count("in a_place_to_be_found") == 1


def test_pats_and_rests_keep_it_quiet_and_nothing_of_it_remains(ended):
    done = ended("work")
    assert (done.returncode, done.stdout, done.stderr) == (0, "went on with 1 thread\n", "")


def test_its_thread_ends_with_the_block_however_that_ends():
    def there():
        return "fempi-watchdog" in {thread.name for thread in threading.enumerate()}

    with contextlib.suppress(KeyError), Watchdog(1000, "nobody"):
        assert there()
        raise KeyError
    assert not there()


# Launchers. A process that is ended by a signal says nothing more; its parent sees which signal.


def saw(done):
    return dict(line.split(" saw ") for line in done.stdout.splitlines() if " saw " in line)


def pids(done):
    return dict(line.split(" is ") for line in done.stdout.splitlines() if " is " in line)


@pytest.mark.parametrize("names", LAUNCHERS)
def test_it_takes_the_launcher_with_it_and_nothing_above(names, ended):
    """The innermost has seen how its rank ended, and waits."""
    done = ended(f"batch {names}")
    innermost = names.split()[-1]
    assert saw(done)[innermost] == KILLED
    assert saw(done)["batch"] == KILLED
    assert "rank 3 of 5" in done.stderr


def test_a_launcher_that_ends_by_itself_says_with_which_status(ended):
    """A daemon on another host that is killed says nothing to Open MPI's mpirun, which then ends with 0."""
    assert saw(ended("reports")) == {"prted": KILLED, "batch": "14"}


def test_it_takes_what_else_the_launcher_has_started(ended):
    """Such as the ssh client that waits for a host that is cut off."""
    done = ended("helper")
    assert saw(done) == {"prted": KILLED, "batch": KILLED}
    assert not Path("/proc", pids(done)["helper"]).exists()


@pytest.mark.parametrize("names", ANCESTORS)
def test_the_nearest_launchers_are_its_own_the_nearest_first(names, ended):
    done = ended(names)
    launchers = [int(pid) for name, pid in pids(done).items() if name in ("mpirun", "prterun", "prted")]
    assert str(launchers[::-1][: ANCESTORS[names]]) in done.stdout.splitlines()
