"""A run is worked on by one process at a time, and by none that is dead."""

import errno
import fcntl
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from fempi import FempiError, lock

HOLD = """
import sys
from pathlib import Path
from fempi import FempiError, lock
print("none" if lock.take(Path(sys.argv[1])) is None else "held", flush=True)
sys.stdin.read()
"""

COUNT = """
import os, sys
from pathlib import Path
from fempi import FempiError, lock
path, marker, log = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
done = 0
while done < int(sys.argv[4]):
    held = lock.take(path)
    if held is None:
        continue
    os.close(os.open(marker, os.O_CREAT | os.O_EXCL))  # fails if there are two
    marker.unlink()
    with log.open("a") as file:
        file.write("x")
    held.release()
    done += 1
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "new folder/x.lock"


@pytest.fixture
def another(path):
    """Return a function that starts a process which tries to take the lock; kills all of them in the end."""
    begun = []

    def start(**options):
        child = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **options
        )
        begun.append(child)
        return child, child.stdout.readline().strip()

    yield start
    for child in begun:
        child.kill()
        child.communicate()


def test_a_lock_that_another_process_holds_is_not_given(path, another):
    child, said = another()
    assert said == "held"
    assert lock.take(path) is None
    assert another()[1] == "none"
    child.communicate()
    lock.take(path).release()


def test_what_is_held_is_not_given_to_the_same_process_either(path):
    held = lock.take(path)
    assert lock.take(path) is None
    held.release()
    again = lock.take(path)
    assert again is not None
    again.release()


def test_the_lock_of_a_killed_process_is_free_at_once(path, another):
    child, _ = another()
    child.kill()
    child.wait()
    assert path.exists()  # it is the kernel's word that counts, not the file
    assert lock.holder(path) == ""
    held = lock.take(path)
    assert held is not None
    assert f"process {os.getpid()} " in lock.holder(path)
    held.release()


def test_nothing_is_left_of_a_released_lock(path):
    lock.take(path).release()
    assert list(path.parent.iterdir()) == []
    assert lock.holder(path) == ""


def test_the_holder_is_described(path, another):
    assert lock.holder(path) == ""
    child, _ = another(env={**os.environ, "SLURM_JOB_ID": "4711"})
    said = lock.holder(path)
    assert said.startswith(f"process {child.pid} on {socket.gethostname()}, Slurm job 4711, since 20")


def test_a_shorter_description_replaces_all_of_a_longer_one(path, another):
    child, _ = another(env={**os.environ, "SLURM_JOB_ID": "4711" * 50})
    child.kill()
    child.wait()
    held = lock.take(path)
    assert "4711" not in lock.holder(path)
    held.release()


def test_a_holder_that_has_not_said_who_it_is_is_one_all_the_same(path):
    path.parent.mkdir()
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert lock.holder(path) == "another process"


def test_a_program_that_the_holder_started_does_not_hold_it(path, another):
    held = lock.take(path)
    with subprocess.Popen(["sleep", "60"]) as child:
        held.release()
        lock.take(path).release()
        child.kill()


def test_there_are_never_two_holders_among_many_that_take_and_release(path, tmp_path):
    """The file goes with each release, and may go between another's opening and locking it."""
    command = [sys.executable, "-c", COUNT, str(path), str(tmp_path / "marker"), str(tmp_path / "log"), "200"]
    children = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    try:
        errors = [child.communicate(timeout=60)[1] for child in children]
    finally:
        for child in children:
            child.kill()
    assert [child.returncode for child in children] == [0] * 4, errors
    assert (tmp_path / "log").read_text() == "x" * 800
    assert not path.exists()


def test_a_lock_that_was_removed_while_it_was_being_taken_is_taken_anew(path, monkeypatch):
    """What happens between opening and locking, made certain."""
    first, opened = lock.take(path), []
    flock = fcntl.flock

    def release_first(descriptor, kind):
        opened.append(len(opened) + 1)
        if opened == [1]:
            first.release()
        flock(descriptor, kind)

    monkeypatch.setattr(fcntl, "flock", release_first)
    held = lock.take(path)
    assert opened == [1, 2]
    assert f"process {os.getpid()} " in path.read_text()
    assert lock.take(path) is None
    held.release()


def test_those_who_ask_for_the_holder_are_not_in_the_way_of_a_job(path):
    path.parent.mkdir()
    path.touch()
    over, asked = threading.Event(), []

    def ask():
        while not over.is_set():
            lock.holder(path)
            asked.append(1)

    readers = [threading.Thread(target=ask) for _ in range(2)]
    for reader in readers:
        reader.start()
    try:
        for _ in range(20):
            held = lock.take(path)
            assert held is not None
            held.release()
            path.touch()
    finally:
        over.set()
        for reader in readers:
            reader.join()
    assert len(asked) > 20


def test_a_reader_in_the_way_for_a_moment_is_waited_for_and_a_holder_not_for_long(path):
    path.parent.mkdir()
    path.touch()
    with path.open() as reader:
        fcntl.flock(reader, fcntl.LOCK_SH)
        threading.Timer(0.2, reader.close).start()
        held = lock.take(path)
    assert held is not None
    began = time.monotonic()
    assert lock.take(path) is None
    assert 0.2 < time.monotonic() - began < 5
    held.release()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL])
def test_where_there_are_no_locks_work_goes_on_without(number, path, monkeypatch):
    def none(descriptor, kind):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", none)
    held, second = lock.take(path), lock.take(path)
    assert held is not None
    assert second is not None
    assert lock.holder(path) == ""
    held.release()
    second.release()
    assert not path.exists()


def test_what_cannot_be_a_lock_is_said(path):
    path.mkdir(parents=True)
    with pytest.raises(FempiError, match=r"x.lock, the lock of a run, cannot be opened \(Is a directory\)"):
        lock.take(path)


def test_any_other_error_is_raised(path, monkeypatch):
    def broken(descriptor, kind):
        raise OSError(errno.EIO, "broken disk")

    monkeypatch.setattr(fcntl, "flock", broken)
    with pytest.raises(OSError, match="broken disk"):
        lock.take(path)
    path.touch()
    with pytest.raises(OSError, match="broken disk"):
        lock.holder(path)


def test_no_attempt_leaves_a_descriptor(path):
    before = len(list(Path("/proc/self/fd").iterdir()))
    held = lock.take(path)
    for _ in range(3):
        assert lock.holder(path)
    assert lock.take(path) is None
    held.release()
    assert len(list(Path("/proc/self/fd").iterdir())) == before
