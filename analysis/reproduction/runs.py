"""What the tables are made of: runs, from their records or, where those are gone, from the list that was made of them.

All experiments take longer than most machines are given to one person at a time, and their records fill gigabytes. So
runs.csv, which is committed, keeps what the page needs of every run; a line counts as long as the configuration that it
belongs to is still the same.
"""

from __future__ import annotations

import csv
import json
import shlex
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fempi import experiment, matrix
from fempi.algebra import Float64, Int64
from fempi.config import Config
from fempi.errors import FempiError
from fempi.forensics import records
from fempi.forensics.figures.accuracy import but_for_seed, without_seed
from fempi.runfile import RunFile

METRICS = tuple(matrix.METRICS.values())
CONFIGS = Path(__file__).parents[2] / "configs"
COLUMNS = ("configuration", "run", "seed", *METRICS, "accuracies", "epsilon", "config_hash", "digest", "made")


@dataclass(frozen=True, kw_only=True)
class Run:
    """A line of the list."""

    configuration: str
    label: str
    seed: int
    accuracies: Mapping[int, float]
    """by the round after which the model was tested"""
    last: Mapping[str, float]
    """each metric after the last round"""
    epsilon: float
    """privacy spent at the end; infinite where nothing bounds it"""
    hash: str
    """of the configuration"""
    digest: str
    """of the results"""
    made: tuple[str, ...]
    """when, in UTC; several times if the run was made again, with the same digest"""
    config: Mapping[str, Any]
    path: Path | None = None
    """of the record, if it is at hand"""


@dataclass(frozen=True, kw_only=True)
class Runs:
    """Runs of one arm at one point of the grid: one a seed, in the order of the seeds."""

    label: str
    """without the seed"""
    settings: str = ""
    """with which they were made: what `fempi run` needs besides their configuration and the arm"""
    members: Sequence[Run]

    @property
    def arm(self) -> str:
        """The system."""
        return self.label.partition("+")[0]

    @property
    def first(self) -> Run:
        """That of the first seed."""
        return self.members[0]

    @property
    def tested(self) -> Int64:
        """Rounds (E,) after which the model of every run was tested."""
        return np.array(sorted(set.intersection(*(set(run.accuracies) for run in self.members))))

    @property
    def curve(self) -> Float64:
        """Accuracies (seeds, E) after those rounds."""
        return np.array([[run.accuracies[round_] for round_ in self.tested] for run in self.members])

    def at(self, round_: int) -> Float64:
        """Return accuracies (seeds,) after a round; KeyError if they were not measured then."""
        return np.array([run.accuracies[round_] for run in self.members])

    def last(self, metric: str = "accuracy") -> Float64:
        """Return a metric (seeds,) after the last round."""
        return np.array([run.last[metric] for run in self.members])


def read(
    name: str, root: Path, listed: Sequence[Run] = (), configs: Path = CONFIGS
) -> tuple[dict[str, Runs], list[str]]:
    """Return the runs of a configuration by their labels without the seed, in the configuration's order.

    Also the labels of those that were made again and are not what the list says. It is the records that count then.
    """
    configured = {run.hash: run for run in experiment.load(configs / f"{name}.toml")}
    found, known = {}, {run.hash: run for run in listed if run.configuration == name}
    differing = []
    for run in _measured(name, root / name):
        before = known.get(run.hash)
        if before is not None and before.digest == run.digest:
            run = replace(run, made=tuple(sorted({*before.made, *run.made})))
        elif before is not None:
            differing.append(run.label)
        found[run.hash] = run
    for hash_ in known.keys() & configured.keys() - found.keys():
        found[hash_] = replace(known[hash_], config=tomllib.loads(configured[hash_].to_toml()))
    usual = {without_seed(run.label): run for run in configured.values()}
    order = {label: place for place, label in enumerate(usual)}
    groups: dict[str, list[Run]] = {}
    for run in found.values():
        groups.setdefault(but_for_seed(run.config), []).append(run)
    points = []
    for members in groups.values():
        label = without_seed(members[0].label)
        settings = _settings(members[0], usual.get(label))
        points.append(Runs(label=label, settings=settings, members=sorted(members, key=lambda run: run.seed)))
    # Of runs with one label, those of which there are records count, and of these the latest: they had other settings.
    points.sort(key=lambda runs: (order.get(runs.label, len(order)), runs.first.path is not None, runs.first.made))
    return {runs.label: runs for runs in points}, differing


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings by their dotted keys, without those that tell seeds apart."""
    flat: dict[str, Any] = {}
    for section, value in config.items():
        flat |= {f"{section}.{key}": one for key, one in value.items()} if isinstance(value, dict) else {section: value}
    return {key: value for key, value in flat.items() if key not in ("label", "seed")}


def _settings(run: Run, configured: Config | None) -> str:
    usual = _flat(tomllib.loads(configured.to_toml())) if configured else {}
    changed = {key: value for key, value in _flat(run.config).items() if usual.get(key, value) != value}
    return "".join(f" --set {shlex.quote(f'{key}={json.dumps(value)}')}" for key, value in changed.items())


def _measured(name: str, folder: Path) -> list[Run]:
    """Read the complete records of a folder."""
    try:
        paths = [path for path in records.find([folder]) if path.suffix == ".h5" and path.is_file()]
    except FempiError:
        return []
    return [_one(name, path) for path in paths]


def _one(name: str, path: Path) -> Run:
    with RunFile(path) as record:
        accuracies = zip(record.read("evaluation/round"), record.read("evaluation/accuracy"), strict=True)
        return Run(
            configuration=name,
            label=record.config["label"],
            seed=int(record.config["seed"]),
            accuracies={int(round_): _rounded(value) for round_, value in accuracies},
            last={metric: _rounded(record.read(f"evaluation/{metric}")[-1]) for metric in METRICS},
            epsilon=float(f"{record.read('rounds/epsilon')[-1]:.4g}"),
            hash=record.attributes["config_hash"],
            digest=record.digest,
            made=(record.attributes["created"],),
            config=record.config,
            path=path,
        )


def _rounded(value: float) -> float:
    """Round as in the list, so that a page is the same with and without the records."""
    return round(float(value), 4)


def write_list(path: Path, runs: Iterable[Run]) -> None:
    """Write a line for each run."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for run in runs:
            accuracies = " ".join(f"{round_}:{value:.4f}" for round_, value in run.accuracies.items())
            scores = [f"{run.last[metric]:.4f}" for metric in METRICS]
            sums = (f"{run.epsilon:.4g}", run.hash, run.digest, " ".join(run.made))
            writer.writerow([run.configuration, run.label, run.seed, *scores, accuracies, *sums])


def read_list(path: Path) -> list[Run]:
    """Read what `write_list` wrote; nothing if there is no such file."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [
            Run(
                configuration=line["configuration"],
                label=line["run"],
                seed=int(line["seed"]),
                accuracies={int(k): float(v) for k, v in (each.split(":") for each in line["accuracies"].split())},
                last={metric: float(line[metric]) for metric in METRICS},
                epsilon=float(line["epsilon"]),
                hash=line["config_hash"],
                digest=line["digest"],
                made=tuple(line["made"].split()),
                config={},
            )
            for line in csv.DictReader(file)
        ]


def spread(values: Float64) -> str:
    """Show the mean and, of several values, their standard deviation (with n - 1)."""
    if len(values) == 1:
        return f"{values[0]:.3f}"
    return f"{values.mean():.3f} ± {values.std(ddof=1):.3f}"
