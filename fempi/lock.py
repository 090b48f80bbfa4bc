"""A lock on a run, so that two jobs which share a folder of results never make the same run at once.

It is the kernel's (flock), so it ends with the process that holds it, however that ends.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import time
from datetime import UTC, datetime
from pathlib import Path

from fempi.errors import FempiError

_UNSUPPORTED = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
"""What a file system without locks says, such as Lustre mounted without `flock`"""
_PATIENCE = 0.5
"""Seconds that a lock may be in the way of `take` for less than a run: a reader asks whether it is held"""


class Lock:
    """A lock that this process holds."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor

    def release(self) -> None:
        """Let others have it, and leave no file behind."""
        self._path.unlink(missing_ok=True)
        os.close(self._descriptor)


def take(path: Path) -> Lock | None:
    """Return the lock, or None if another process has it; where the file system has no locks, there is always one.

    Raises FempiError if something is in the way.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    give_up = time.monotonic() + _PATIENCE
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise FempiError(
                f"{path}, the lock of a run, cannot be opened ({error.strerror}); if nobody is at that run, remove it"
            ) from error
        try:
            free = _flock(descriptor, fcntl.LOCK_EX)
        except OSError:
            os.close(descriptor)
            raise
        if free:
            if _is_at(path, descriptor):
                break
        elif time.monotonic() > give_up:
            os.close(descriptor)
            return None
        else:
            time.sleep(_PATIENCE / 10)
        os.close(descriptor)  # another process has it, or removed this file before we had the lock
    os.ftruncate(descriptor, 0)
    os.write(descriptor, _myself().encode())
    return Lock(path, descriptor)


def holder(path: Path) -> str:
    """Return who holds a lock, in words; empty if nobody does."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        if _flock(descriptor, fcntl.LOCK_SH):
            return ""
        return os.read(descriptor, 1000).decode(errors="replace") or "another process"
    finally:
        os.close(descriptor)


def _flock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
    return True


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return path.stat().st_ino == os.fstat(descriptor).st_ino
    except FileNotFoundError:
        return False


def _myself() -> str:
    job = f", Slurm job {os.environ['SLURM_JOB_ID']}" if "SLURM_JOB_ID" in os.environ else ""
    return (
        f"process {os.getpid()} on {socket.gethostname()}{job}, since {datetime.now(UTC).isoformat(timespec='seconds')}"
    )
