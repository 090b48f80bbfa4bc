"""Whether the file system below the output can do what a record needs of it, and how fast."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from statistics import median

import h5py
import numpy as np

from fempi import atomic, lock
from fempi.comm import Comm
from fempi.doctor.finding import Finding, ok, problem, size, speed, warning
from fempi.sweep import nearest

_REPETITIONS = 3
_ENOUGH = 10.0
"""Seconds of writing after which the speed is known"""
_SLOW = 5.0
"""Seconds for a round's file that training may have to wait for"""


def examine(comm: Comm, output: Path, round_bytes: int) -> Generator[Finding, None, bool]:
    """Write a round's file a few times, and lock one; all ranks must call it. Nothing is left behind.

    Returns whether anything can be written there at all.
    """
    place = nearest(output)
    folder, reason = comm.from_root(lambda: _scratch(place))
    if reason:
        yield problem(f"cannot write to {output}: {reason}", "choose another --output")
        return False
    try:
        if comm.is_root:
            yield from _files(Path(folder), place, round_bytes)
        yield from _locks(comm, Path(folder), place)
    finally:
        if comm.is_root:
            shutil.rmtree(folder, ignore_errors=True)
    return True


def _scratch(place: Path) -> tuple[str, str]:
    """Make a folder to try things in; return it, and why it could not be made."""
    try:
        return tempfile.mkdtemp(prefix=".fempi-doctor-", dir=place), ""
    except OSError as error:
        return "", f"{place}: {error.strerror}"


def _files(folder: Path, place: Path, round_bytes: int) -> Iterator[Finding]:
    """Write, replace and read a file as large as a round's."""
    numbers = np.random.default_rng(0).standard_normal(
        max(round_bytes // 4, 1), np.float32
    )  # no file system packs them
    path = folder / "round.h5"
    seconds: list[float] = []
    try:
        while len(seconds) < _REPETITIONS and sum(seconds) < _ENOUGH:
            began = time.perf_counter()
            atomic.write(path, lambda file: file.create_dataset("update", data=numbers))
            seconds.append(time.perf_counter() - began)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        yield problem(
            f"a round's file of {size(round_bytes)} cannot be written to {place}: {reason}",
            "choose another --output, or record less (record.updates, record.every)",
        )
        return
    told = f"a round's file on the disk of {place}, renamed into place: {speed(round_bytes, median(seconds))}"
    if median(seconds) > _SLOW:
        yield warning(told, "a faster --output, or record less (record.updates, record.every)")
    else:
        yield ok(told)

    said = os.environ.get("HDF5_USE_FILE_LOCKING")
    setting = f"HDF5_USE_FILE_LOCKING={said}" if said is not None else "HDF5_USE_FILE_LOCKING is not set"
    try:
        with h5py.File(path) as file:
            file["update"][-1]
    except OSError as error:
        yield problem(
            f"HDF5 cannot open a file on {place} ({setting}): {error}",
            "export HDF5_USE_FILE_LOCKING=FALSE to all ranks",
        )
    else:
        yield ok(f"HDF5 opens its files there ({setting})")


def _locks(comm: Comm, folder: Path, place: Path) -> Iterator[Finding]:
    """See on every rank whether the lock shows that root holds on a file; all ranks must call it."""
    path = folder / "run.lock"
    held: list[lock.Lock] = []

    def take() -> str:
        try:
            held.extend(filter(None, [lock.take(path)]))
        except OSError as error:
            return error.strerror or str(error)
        return ""

    reason = comm.from_root(take)
    seen = comm.describe("" if reason else _seen(path))
    hosts = comm.describe(comm.host)
    for mine in held:
        mine.release()
    blind = {host for host, what in zip(hosts, seen, strict=True) if what == "free"}
    apart = {host for host, what in zip(hosts, seen, strict=True) if what == "absent"}
    if reason:
        yield problem(f"a file on {place} cannot be locked: {reason}", "choose another --output")
    elif blind:
        whose = "no process sees another's lock" if hosts[0] in blind else f"a lock does not show on {', '.join(blind)}"
        yield warning(
            f"locks on {place}: {whose}",
            "never start the same runs twice at once there (Lustre: mount it with `flock`; NFS: without `nolock`)",
        )
    else:
        yield ok(f"locks on {place} keep two jobs from making the same run")
    if apart:
        yield ok(
            f"{place} of rank 0's host is not on {', '.join(sorted(apart))}, and need not be: only rank 0 writes; "
            "`fempi resume` must find the folder again"
        )


def _seen(path: Path) -> str:
    """Say what a lock that root holds looks like from here."""
    try:
        if not path.exists():
            return "absent"
        return "held" if lock.holder(path) else "free"
    except OSError:
        return "free"
