"""What the tables are made of: the records of a configuration, those that differ in the seed together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fempi import matrix
from fempi.algebra import Float64, Int64
from fempi.errors import FempiError
from fempi.forensics import records
from fempi.forensics.figures.accuracy import by_seed, without_seed
from fempi.runfile import RunFile

METRICS = tuple(matrix.METRICS.values())


@dataclass(frozen=True, kw_only=True)
class Runs:
    """Runs of one arm at one point of the grid: one a seed, in the order of the seeds."""

    label: str
    """without the seed"""
    config: Mapping[str, Any]
    """of the first seed"""
    paths: Sequence[Path]
    seeds: Sequence[int]
    hashes: Sequence[str]
    """of the configurations"""
    digests: Sequence[str]
    """of the results"""
    tested: Int64
    """(E,) rounds after which the model was tested"""
    scores: Mapping[str, Float64]
    """each metric (seeds, E)"""
    epsilon: float
    """privacy spent at the end; infinite where nothing bounds it"""

    @property
    def arm(self) -> str:
        """The system."""
        return self.label.partition("+")[0]

    def at(self, round_: int | None = None, metric: str = "accuracy") -> Float64:
        """Return a metric (seeds,) after a round, by default the last; ValueError if it was not measured then."""
        place = -1 if round_ is None else self.tested.tolist().index(round_)
        return self.scores[metric][:, place]

    def shown(self, round_: int | None = None, metric: str = "accuracy") -> str:
        """Show mean and standard deviation."""
        return spread(self.at(round_, metric))


def read(folder: Path) -> dict[str, Runs]:
    """Return the complete runs of a folder by their labels without the seed, in the order of the labels' first runs."""
    found: dict[str, Runs] = {}
    try:
        paths = [path for path in records.find([folder]) if path.suffix == ".h5" and path.is_file()]
    except FempiError:
        return {}
    for label, members in by_seed(paths):
        opened = [_one(path) for path in members]
        opened.sort(key=lambda one: one["seed"])
        first = opened[0]
        name = without_seed(label)
        found[name] = Runs(
            label=name,
            config=first["config"],
            paths=[one["path"] for one in opened],
            seeds=[one["seed"] for one in opened],
            hashes=[one["hash"] for one in opened],
            digests=[one["digest"] for one in opened],
            tested=first["tested"],
            scores={metric: np.array([one["scores"][metric] for one in opened]) for metric in METRICS},
            epsilon=first["epsilon"],
        )
    return found


def _one(path: Path) -> dict[str, Any]:
    with RunFile(path) as record:
        return {
            "path": path,
            "config": record.config,
            "seed": int(record.config["seed"]),
            "hash": record.attributes["config_hash"],
            "digest": record.digest,
            "tested": record.read("evaluation/round"),
            "scores": {metric: record.read(f"evaluation/{metric}") for metric in METRICS},
            "epsilon": float(record.read("rounds/epsilon")[-1]),
        }


def spread(values: Float64) -> str:
    """Show the mean and, of several values, their standard deviation (with n - 1)."""
    if len(values) == 1:
        return f"{values[0]:.3f}"
    return f"{values.mean():.3f} ± {values.std(ddof=1):.3f}"
