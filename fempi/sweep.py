"""All runs of a configuration file, one after another, each to a packed file of its own."""

from __future__ import annotations

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
    watchdog_seconds: float = 3600.0


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
    sizes = comm.together(lambda: [expected_bytes(_prepare(config, options), comm.size) for config in configs])
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
            if comm.is_root and config.record.pack:
                store.pack(folder, target)
                store.remove(folder)
        if comm.is_root:
            reporter.ended(records[-1])
    return records


def _prepare(config: Config, options: Options) -> Problem:
    return prepare(config, options.data_root, options.device)


def _plan(configs: Sequence[Config], sizes: Sequence[int], options: Options) -> list[bool]:
    """Return which runs are done already; raise FempiError if something is in the way."""
    done = []
    for config in configs:
        target = target_of(config, options.output)
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
    free = shutil.disk_usage(_nearest_folder(options.output)).free
    if needed > free:
        raise FempiError(
            f"the records need {needed / 1e9:.2f} GB below {options.output}, but {free / 1e9:.2f} GB are free; use "
            "--output, or record less (record.updates, record.every)"
        )
    _try_to_write(options.output)
    return done


def _is_done(path: Path, config: Config) -> bool:
    try:
        with store.RunFile(path) as record:
            return record.status == "complete" and record.attributes["config_hash"] == config.hash
    except FempiError:
        return False


def _nearest_folder(path: Path) -> Path:
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path


def _try_to_write(output: Path) -> None:
    try:
        output.mkdir(parents=True, exist_ok=True)
        probe = output / ".fempi-can-write"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise FempiError(f"cannot write to {output}: {error.strerror}") from error
