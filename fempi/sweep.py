"""All runs of a configuration file, one after another, each to a packed file of its own."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from fempi import store
from fempi.comm import Comm, Refused, Watchdog
from fempi.config import Config
from fempi.errors import FempiError
from fempi.placement import Placement
from fempi.problem import prepare
from fempi.progress import Reporter
from fempi.run import expected_bytes, run


@dataclass(frozen=True, kw_only=True)
class Options:
    """How and where to run; nothing here changes a result."""

    output: Path
    data_root: Path
    device: torch.device
    placement: Placement = "balanced"
    force: bool = False
    watchdog_seconds: int = 3600


def target_of(config: Config, output: Path) -> Path:
    """Where a run's packed record goes."""
    return output / config.name / f"{config.label}.h5"


def folder_of(target: Path) -> Path:
    """Where a run's rounds are kept while it goes on."""
    return target.with_suffix(".run")


def run_all(configs: Sequence[Config], comm: Comm, options: Options, reporter: Reporter) -> list[Path]:
    """Make every run whose record is not there yet, and return all records, in order.

    Everything that can be known to fail is refused before anything is written: plugins that object to their
    settings, records in the way, a disk too small.
    """
    with Watchdog(options.watchdog_seconds) as watchdog:
        if len(set(comm.describe(" ".join(config.hash for config in configs)))) > 1:
            raise Refused("the ranks have read different configurations or plugin files; are they all on one disk?")
        sizes = comm.together(lambda: _try_all(configs, options, comm.size))
        found = comm.from_root(lambda: _plan(configs, sizes, options))
        if comm.is_root:
            for config, nbytes, record in zip(configs, sizes, found, strict=True):
                reporter.planned(record or target_of(config, options.output), nbytes, done=record is not None)
        try:
            return [
                record or _make(config, comm, options, reporter, watchdog)
                for config, record in zip(configs, found, strict=True)
            ]
        finally:
            reporter.stopped()


def _make(config: Config, comm: Comm, options: Options, reporter: Reporter, watchdog: Watchdog) -> Path:
    target = target_of(config, options.output)
    folder = folder_of(target)
    watchdog.pat()
    if comm.is_root:
        if folder.exists():
            store.remove(folder)
        reporter.started(config)
    problem = prepare(config, options.data_root, options.device)
    run(problem, comm, folder, placement=options.placement, step=watchdog.pat, report=reporter.progressed)
    reporter.stopped()
    if not config.record.pack:
        return folder
    watchdog.rest()  # how long packing takes depends on the disk, not on the ranks
    comm.from_root(lambda: _pack(folder, target))
    return target


def _try_all(configs: Sequence[Config], options: Options, ranks: int) -> list[int]:
    """Prepare every run once; return the sizes of their records, or say of all what is wrong with them."""
    sizes, problems = [], []
    for config in configs:
        try:
            sizes.append(expected_bytes(prepare(config, options.data_root, options.device), ranks))
        except FempiError as error:
            problems.append(str(error) if len(configs) == 1 else f"{config.label}: {error}")
    if problems:
        raise FempiError("\n".join(dict.fromkeys(problems)))
    return sizes


def _pack(folder: Path, target: Path) -> None:
    store.pack(folder, target)
    store.remove(folder)


def _plan(configs: Sequence[Config], sizes: Sequence[int], options: Options) -> list[Path | None]:
    """Return the records that are there already; raise FempiError if something is in the way of the others."""
    found = []
    for config in configs:
        target = target_of(config, options.output)
        _can_be_written(target)
        found.append(None if options.force else _found(config, target))
    # A run's folder and its packed file are there at the same time, for one run at a time.
    to_make = [(c, size) for c, size, record in zip(configs, sizes, found, strict=True) if record is None]
    folders = [size + c.rounds * _ROUND_FILE for c, size in to_make]
    packed = sum(size if c.record.pack else folder for (c, size), folder in zip(to_make, folders, strict=True))
    needed = packed + max((f for (c, _), f in zip(to_make, folders, strict=True) if c.record.pack), default=0)
    free = shutil.disk_usage(_nearest(options.output)).free
    if needed > free:
        raise FempiError(
            f"the records need {needed / 1e9:.2f} GB below {options.output}, but {free / 1e9:.2f} GB are free; use "
            "--output, or record less (record.updates, record.every)"
        )
    return found


_ROUND_FILE = 20_000
"""Bytes that a round's file takes besides its data, for names and attributes."""


def _found(config: Config, target: Path) -> Path | None:
    """Return a run's finished record, packed now if it was cut short before that; None if there is nothing."""
    folder = folder_of(target)
    reasons = {path: _objection(path, config) for path in (target, folder) if path.exists()}
    if reasons.get(target) == "":
        if reasons.get(folder) == "" and config.record.pack:
            store.remove(folder)  # it was packed, but killed before the folder went
        return target
    if reasons.get(folder) == "":
        if target not in reasons and config.record.pack:
            _pack(folder, target)
            return target
        return folder
    for path, reason in reasons.items():
        raise FempiError(f"{path} {reason}; use --force to replace it, or --output to write elsewhere")
    return None


def _objection(path: Path, config: Config) -> str:
    """Say why a record can't serve as this run's; nothing if it can."""
    try:
        with store.RunFile(path) as record:
            if record.attributes["config_hash"] != config.hash:
                return "is of another configuration"
            return "" if record.status == "complete" else "is of a run that did not end"
    except FempiError:
        return "is in the way"


def _nearest(path: Path) -> Path:
    """Return the nearest thing above that exists."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path


def _can_be_written(target: Path) -> None:
    """Raise FempiError if a record cannot be put there, or would replace what is no record."""
    place, folder = _nearest(target.parent), folder_of(target)
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        raise FempiError(f"cannot write to {target.parent}: {place} is {'read-only' if place.is_dir() else 'a file'}")
    if (target.exists() and not target.is_file()) or (folder.exists() and not store.is_run_folder(folder)):
        wrong = target if target.exists() and not target.is_file() else folder
        raise FempiError(f"{wrong} is in the way, and it is no record; move it, or use --output")
