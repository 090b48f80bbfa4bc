"""All runs of a configuration file, one after another, each to a packed file of its own."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from fempi import store
from fempi.comm import Comm, watchdog
from fempi.config import Config
from fempi.errors import FempiError
from fempi.placement import Placement
from fempi.problem import Problem, prepare
from fempi.run import Progress, expected_bytes, run


@dataclass(frozen=True, kw_only=True)
class Options:
    """How and where to run; nothing here changes a result."""

    output: Path
    data_root: Path
    device: torch.device
    placement: Placement = "balanced"
    force: bool = False
    watchdog_seconds: int = 3600


class Reporter:
    """What a sweep tells while it goes on, on root; this one says nothing."""

    def planned(self, target: Path, nbytes: int, done: bool) -> None:
        """A run is to be made, or its finished record was found."""

    def started(self, config: Config) -> None:
        """A run begins."""

    def progressed(self, progress: Progress) -> None:
        """A round is over."""

    def ended(self, target: Path) -> None:
        """A run's record is complete."""


def target_of(config: Config, output: Path) -> Path:
    """Where a run's packed record goes."""
    return output / config.name / f"{config.label}.h5"


def folder_of(target: Path) -> Path:
    """Where a run's rounds are kept while it goes on."""
    return target.with_suffix(".run") if target.suffix == ".h5" else target


def run_all(configs: Sequence[Config], comm: Comm, options: Options, reporter: Reporter) -> list[Path]:
    """Make every run whose record is not there yet, and return all records, in order.

    Everything that can be known to fail is refused before anything is written: plugins that object to their
    settings, records in the way, a disk too small.
    """
    sizes = comm.together(lambda: _try_all(configs, options, comm.size))
    done = comm.from_root(lambda: _plan(configs, sizes, options))
    if comm.is_root:
        for config, nbytes, is_done in zip(configs, sizes, done, strict=True):
            reporter.planned(target_of(config, options.output), nbytes, is_done)

    records = []
    for config, is_done in zip(configs, done, strict=True):
        target = target_of(config, options.output)
        records.append(target if config.record.pack else folder_of(target))
        if is_done:
            continue
        folder = folder_of(target)
        if comm.is_root:
            if folder.exists():
                store.remove(folder)
            reporter.started(config)
        problem = _prepare(config, options)
        with watchdog(options.watchdog_seconds) as step:
            run(
                problem,
                comm,
                folder,
                placement=options.placement,
                step=step,
                report=reporter.progressed,
            )
        if config.record.pack:
            comm.from_root(lambda: _pack(folder, target))  # noqa: B023 - called at once
        if comm.is_root:
            reporter.ended(records[-1])
    return records


def _prepare(config: Config, options: Options) -> Problem:
    return prepare(config, options.data_root, options.device)


def _try_all(configs: Sequence[Config], options: Options, ranks: int) -> list[int]:
    """Prepare every run once; return the sizes of their records, or say of all what is wrong with them."""
    sizes, problems = [], []
    for config in configs:
        try:
            sizes.append(expected_bytes(_prepare(config, options), ranks))
        except FempiError as error:
            problems.append(str(error) if len(configs) == 1 else f"{config.label}: {error}")
    if problems:
        raise FempiError("\n".join(dict.fromkeys(problems)))
    return sizes


def _pack(folder: Path, target: Path) -> None:
    store.pack(folder, target)
    store.remove(folder)


def _plan(configs: Sequence[Config], sizes: Sequence[int], options: Options) -> list[bool]:
    """Return which runs are done already; raise FempiError if something is in the way."""
    done = []
    for config in configs:
        target = target_of(config, options.output)
        _can_be_written(target)
        found = next((p for p in (target, folder_of(target)) if p.exists()), None)
        same = found is not None and not options.force and _is_done(found, config)
        if found is not None and not same and not options.force:
            raise FempiError(
                f"{found} is in the way: it holds an unfinished run or one of another configuration; use --force to "
                "replace it, or --output to write elsewhere"
            )
        done.append(same)
    missing = [size for size, is_done in zip(sizes, done, strict=True) if not is_done]
    # The last run's folder and its packed file are there at the same time.
    needed = sum(missing) + max(missing, default=0)
    free = shutil.disk_usage(_nearest(options.output)).free
    if needed > free:
        raise FempiError(
            f"the records need {needed / 1e9:.2f} GB below {options.output}, but {free / 1e9:.2f} GB are free; use "
            "--output, or record less (record.updates, record.every)"
        )
    return done


def _is_done(path: Path, config: Config) -> bool:
    try:
        with store.RunFile(path) as record:
            return record.status == "complete" and record.attributes["config_hash"] == config.hash
    except FempiError:
        return False


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
