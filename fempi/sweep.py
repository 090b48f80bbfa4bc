"""All runs of a configuration file, one after another or a few at once, each to a packed file of its own."""

from __future__ import annotations

import hashlib
import heapq
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from fempi import lock, store
from fempi.comm import Comm, Refused
from fempi.config import Config, names
from fempi.description import expected_bytes
from fempi.errors import FempiError
from fempi.groups import Groups
from fempi.outlook import Cost, Pace, work_of
from fempi.placement import Placement
from fempi.prepare import prepare
from fempi.problem import Problem
from fempi.progress import Reporter
from fempi.run import run
from fempi.runfile import MASTER, RunFile, folder_of, lock_of
from fempi.watchdog import Watchdog


@dataclass(frozen=True, kw_only=True)
class Options:
    """How and where to run; nothing here changes a result."""

    output: Path
    data_root: Path
    device: torch.device
    placement: Placement = "balanced"
    force: bool = False
    watchdog_seconds: int = 3600
    checkpoint_every: int = 1
    target: Path | None = None
    """where the packed record of the only run goes; None: below `output`"""

    def target_of(self, config: Config) -> Path:
        """Where a run's packed record goes."""
        return self.target or self.output / config.name / f"{config.label}.h5"


def run_all(
    configs: Sequence[Config],
    groups: Groups,
    options: Options,
    reporter: Reporter,
) -> list[Path | None]:
    """Make every run whose record is not there yet, and return the records, in order.

    A run that was cut short goes on; one that another job is at is left to it, and None stands for its record.
    Everything that can be known to fail is refused before anything is written: plugins that object to their settings,
    records in the way, a disk too small. Raises `Interrupted` on all ranks together if any of them was asked to stop.
    """
    comm, called = groups.world, names(configs)

    def settle(number: int) -> Path | None:
        config, target, _ = left[number]
        began = time.monotonic()
        try:
            record, made = _settled(config, target, groups, options, reporter, watchdog)
        except Refused as error:
            raise Refused(f"{called[config.title]}: {error}" if len(configs) > 1 else str(error)) from error
        if made:
            groups.made(called[config.title], began)
            seconds = time.monotonic() - began
            reporter.made(config, seconds, pace.made(number, seconds))
        return record

    with Watchdog(options.watchdog_seconds, f"rank {comm.rank} of {comm.size} on {comm.host}") as watchdog:
        agree_on(configs, comm)
        costs, refused, digest = comm.together(lambda: _try_all(configs, options, groups, watchdog))
        comm.agree(
            " ".join(refused),
            otherwise="some runs can be prepared on some ranks only: is the data the same on every host, or a device "
            "short of memory?",
        )
        comm.agree(digest, otherwise=_DIFFERENT)
        for config in configs:
            if comm.is_root and config.title in refused:
                reporter.skipped(config, refused[config.title])
        configs = [config for config in configs if config.title not in refused]
        targets = [options.target_of(config) for config in configs]
        sizes = [cost.nbytes for cost in costs]
        done = comm.from_root(lambda: plan(configs, targets, sizes, options, at_once=groups.count))
        if comm.is_root:
            for target, nbytes, record in zip(targets, sizes, done, strict=True):
                reporter.planned(record or target, nbytes, done=record is not None)
        works = [cost.work if record is None else 0 for cost, record in zip(costs, done, strict=True)]
        records: dict[Path, Path | None] = dict.fromkeys(targets)
        left = list(zip(configs, targets, works, strict=True))
        while left:
            pace = Pace([work for _, _, work in left], groups.count)
            try:
                made = groups.share(range(len(left)), settle, watchdog)
            finally:
                reporter.stopped()
            records |= {target: record for (_, target, _), record in zip(left, made, strict=True)}
            before, left = left, [each for each in left if records[each[1]] is None]
            if len(left) == len(before):
                break  # all of them were held in one go; others may have come free since they were passed over
            options = replace(options, force=False)  # what another job has made meanwhile is new
        for config, target, _ in left if comm.is_root else []:
            reporter.left(config, lock.holder(lock_of(folder_of(target))) or "another job")
        if comm.is_root and groups.count > 1:
            reporter.shared(groups.shares, groups.seconds)
        return list(records.values())


def agree_on(configs: Sequence[Config], comm: Comm) -> None:
    """Raise `Refused` unless all ranks have read the same."""
    comm.agree(
        " ".join(config.hash for config in configs),
        otherwise="the ranks have read different configurations or plugin files; are they all on one disk?",
    )


def prepare_alike(config: Config, comm: Comm, data_root: Path, device: torch.device) -> Problem:
    """Build a run's problem on every rank; raise `Refused` on all of them unless it is the same."""
    problem = comm.together(lambda: prepare(config, data_root, device))
    comm.agree(problem.digest, otherwise=_DIFFERENT)
    return problem


_DIFFERENT = "the ranks have built different problems: is the data the same on every host, or is a plugin random?"


def _settled(
    config: Config, target: Path, groups: Groups, options: Options, reporter: Reporter, watchdog: Watchdog
) -> tuple[Path | None, bool]:
    """Bring a run to its end and its record into the form that was asked for; None if another job is at it.

    All ranks of one group call it. Also returns whether there was anything of it to be made.
    """
    folder, comm, made = folder_of(target), groups.comm, False

    def step() -> None:
        watchdog.pat()
        groups.heed()

    step()
    with _claimed(target, comm, options.force) as claimed:
        if not claimed:
            return None, False
        if comm.from_root(lambda: _found(config, target)) is None:
            run(
                prepare_alike(config, comm, options.data_root, options.device),
                comm,
                folder,
                placement=options.placement,
                checkpoint_every=options.checkpoint_every,
                step=step,
                reporter=reporter,
            )
            reporter.stopped()
            made = True
            step()  # packing may take long; whoever was asked to stop need not wait for it
        watchdog.rest()  # how long packing takes depends on the disk, not on the ranks
        groups.rest()
        record = comm.from_root(lambda: _settle(config, target))
        watchdog.pat()
    return record, made


@contextmanager
def _claimed(target: Path, comm: Comm, force: bool) -> Iterator[bool]:
    """Hold the lock on a run, what is left of others' attempts cleared away; False if another job holds it."""
    folder = folder_of(target)
    held: lock.Lock | None = None

    def claim() -> bool:
        nonlocal held
        held = lock.take(lock_of(folder))
        if held is None:
            return False
        for leftover in target.parent.glob(f".{target.name}.*.tmp"):
            leftover.unlink()
        if force:
            target.unlink(missing_ok=True)
            if folder.exists():
                store.remove(folder)
        return True

    try:
        yield comm.from_root(claim)
    finally:
        if held is not None:
            held.release()


def _settle(config: Config, target: Path) -> Path:
    folder = folder_of(target)
    if target.exists() or config.record.pack:
        if not target.exists():
            store.pack(folder, target)
        if folder.exists():
            store.remove(folder)  # its rounds are in the packed file
        return target
    return folder


def _try_all(
    configs: Sequence[Config], options: Options, groups: Groups, watchdog: Watchdog
) -> tuple[list[Cost], dict[str, str], str]:
    """Prepare every run once; return what they take, and why those are refused, by their titles, that may be skipped.

    Where several groups make the runs, also a digest of all that was built: no run then brings all ranks together.
    FempiError says of all others what is wrong with them, and if nothing is left.
    """

    def attempt(config: Config) -> tuple[Cost | None, str, str]:
        watchdog.pat()
        try:
            problem = prepare(config, options.data_root, options.device)
        except FempiError as error:
            return None, "", str(error)
        cost = Cost(nbytes=expected_bytes(problem, groups.size), work=work_of(problem))
        return cost, problem.digest if groups.count > 1 else "", ""

    called = names(configs)
    costs, problems, refused, digests = [], [], {}, hashlib.sha256()
    for config, (cost, digest, wrong) in zip(configs, groups.divide(configs, attempt), strict=True):
        if cost is not None:
            costs.append(cost)
            digests.update(digest.encode())
        elif config.skip_invalid:
            refused[config.title] = wrong
        else:
            problems.append(wrong if len(configs) == 1 else f"{called[config.title]}: {wrong}")
    if not costs:
        problems += refused.values()
    if problems:
        raise FempiError("\n".join(dict.fromkeys(problems)))
    return costs, refused, digests.hexdigest()


def plan(
    configs: Sequence[Config],
    targets: Sequence[Path],
    sizes: Sequence[int],
    options: Options,
    *,
    at_once: int = 1,
) -> list[Path | None]:
    """Return the records that are there already; raise FempiError if something is in the way of the others."""
    found: list[Path | None] = []
    for config, target in zip(configs, targets, strict=True):
        if lock.holder(lock_of(folder_of(target))):
            found.append(None)  # its files come and go; it will be left to whoever is at it, or be finished by then
            continue
        _can_be_written(target)
        found.append(None if options.force else _found(config, target))
    # A run's folder and its packed file are there at the same time, for as many runs as are made at once.
    to_make = [(c, size) for c, size, record in zip(configs, sizes, found, strict=True) if record is None]
    folders = [size + c.rounds * ROUND_FILE for c, size in to_make]
    packed = sum(size if c.record.pack else folder for (c, size), folder in zip(to_make, folders, strict=True))
    also = heapq.nlargest(at_once, (f for (c, _), f in zip(to_make, folders, strict=True) if c.record.pack))
    needed = packed + sum(also)
    begun = [folder_of(target) for target, record in zip(targets, found, strict=True) if record is None]
    free = shutil.disk_usage(nearest(options.output)).free + sum(map(store.size, begun))
    if needed > free:
        raise FempiError(
            f"the records need {needed / 1e9:.2f} GB below {options.output}, but {free / 1e9:.2f} GB are free; use "
            "--output, or record less (record.updates, record.every)"
        )
    return found


ROUND_FILE = 20_000
"""Bytes that a round's file takes besides its data, for names and attributes."""


def _found(config: Config, target: Path) -> Path | None:
    """Return a run's finished record, packed or not; None if it is to be made, or to go on.

    FempiError says what is in the way.
    """
    there = [path for path in (target, folder_of(target)) if path.exists()]
    for path in there:
        try:
            with RunFile(path) as record:
                if record.attributes["config_hash"] != config.hash:
                    reason = f"{path} is of another configuration"
                elif record.status == "complete":
                    return path
                elif record.is_folder:
                    return None
                else:
                    reason = f"{path} is of a run that did not end"
        except FempiError as error:
            if path.is_dir() and not (path / MASTER).exists():
                return None  # killed before its first round, or after packing
            reason = str(error)
        raise FempiError(f"{reason}; use --force to replace it, or --output to write elsewhere")
    return None


def nearest(path: Path) -> Path:
    """Return the nearest thing above that exists."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path


def _can_be_written(target: Path) -> None:
    """Raise FempiError if a record cannot be put there, or would replace what is no record."""
    place, folder = nearest(target.parent), folder_of(target)
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        raise FempiError(f"cannot write to {target.parent}: {place} is {'read-only' if place.is_dir() else 'a file'}")
    if folder.exists() and not store.is_run_folder(folder):
        raise FempiError(f"{folder} is in the way, and it is no record; move it, or use --output")
    if target.exists():
        try:
            RunFile(target).close()
        except FempiError as error:
            raise FempiError(f"{error}; it is in the way: move it, or use --output") from error
