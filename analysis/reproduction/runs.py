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
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from fempi import experiment, matrix
from fempi.algebra import Float64, Int64
from fempi.config import Config
from fempi.errors import FempiError
from fempi.forensics import records
from fempi.forensics.figures.accuracy import but_for_seed, without_seed
from fempi.runfile import RunFile

T = TypeVar("T")
METRICS = tuple(matrix.METRICS.values())
SHOWN = {metric: name for name, metric in matrix.METRICS.items()}
"""What metrics are called in sentences and figures"""
CONFIGS = Path(__file__).parents[2] / "configs"
COLUMNS = (
    *("configuration", "run", "seed", *METRICS, "accuracies", "epsilon"),
    *("attackers_excluded", "honest_excluded", "idle_rounds"),
    *("config_hash", "digest", "software", "made"),
)


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
    attackers_excluded: float | None = None
    """share of them that the rule left out, mean over rounds; None if nobody attacked, or nobody noted it"""
    honest_excluded: float | None = None
    """the same of the others"""
    idle_rounds: int | None = None
    """rounds in which the rule left out everybody; None if nobody noted it"""
    hash: str
    """of the configuration"""
    digest: str
    """of the results"""
    software: str
    """that it was made with, and the kind of processor that this was built for; empty if nobody noted it"""
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
    def last_round(self) -> int:
        """That after which the models were tested last."""
        return int(self.tested[-1])

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

    def noted(self, what: str) -> Float64:
        """Return what some runs have noted besides (seeds that have it,)."""
        return np.array([value for run in self.members if (value := getattr(run, what)) is not None], float)


@dataclass(frozen=True, kw_only=True)
class Found:
    """All that is known of a configuration's runs."""

    runs: Mapping[str, Runs]
    """by their labels without the seed, in the configuration's order"""
    aside: Sequence[Run]
    """listed, and not among them: there are records with other settings in their places"""
    differing: Sequence[str]
    """labels of runs that were made again and are not what the list said; it is the records that count then"""
    outdated: Sequence[str]
    """labels of listed runs that are not the configuration's any more"""

    @property
    def every(self) -> list[Run]:
        """Those to be listed."""
        return [*(run for runs in self.runs.values() for run in runs.members), *self.aside]


def read(name: str, root: Path, listed: Sequence[Run] = (), configs: Path = CONFIGS) -> Found:
    """Look for a configuration's runs among records and in the list."""
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
    arms = {label.partition("+")[0]: run for label, run in reversed(usual.items())}
    order = {label: place for place, label in enumerate(usual)}
    groups: dict[str, list[Run]] = {}
    for run in found.values():
        groups.setdefault(but_for_seed(run.config), []).append(run)
    points = []
    for members in groups.values():
        # `--set seed=1` leaves the seed out of a label, and the hash is another; it is the same run, and counts once.
        seeds = {run.seed: run for run in sorted(members, key=lambda run: run.hash in configured)}
        label = without_seed(members[0].label)
        settings = _settings(members[0], usual.get(label) or arms.get(label.partition("+")[0]))
        points.append(Runs(label=label, settings=settings, members=[seeds[seed] for seed in sorted(seeds)]))
    # Of runs with one label, those of which there are records count, and of these the latest: they had other settings.
    points.sort(key=lambda runs: (order.get(runs.label, len(order)), runs.first.path is not None, runs.first.made))
    shown = {runs.label: runs for runs in points}
    hashes = {run.hash for runs in shown.values() for run in runs.members}
    return Found(
        runs=shown,
        aside=[run for run in known.values() if run.hash in configured and run.hash not in hashes],
        differing=differing,
        outdated=[run.label for run in known.values() if run.hash not in configured and run.hash not in found],
    )


def with_common_seeds(runs: Mapping[str, Runs], labels: Iterable[str]) -> dict[str, Runs]:
    """Leave out the seeds that not all runs of these labels have: what is compared has the same seeds."""
    sets = [{run.seed for run in runs[label].members} for label in labels if label in runs]
    common = set.intersection(*sets) if sets else set()
    cut = {
        label: replace(each, members=[run for run in each.members if run.seed in common])
        for label, each in runs.items()
    }
    return {label: each for label, each in cut.items() if each.members}


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings by their dotted keys, without those that tell seeds apart."""
    flat: dict[str, Any] = {}
    for section, value in config.items():
        flat |= {f"{section}.{key}": one for key, one in value.items()} if isinstance(value, dict) else {section: value}
    return {key: value for key, value in flat.items() if key not in ("label", "seed")}


def _settings(run: Run, configured: Config | None) -> str:
    usual = _flat(tomllib.loads(configured.to_toml())) if configured else {}
    changed = {key: value for key, value in _flat(run.config).items() if usual and usual.get(key) != value}
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
            attackers_excluded=_mean(record.read("rounds/true_positive_rate")),
            honest_excluded=_mean(record.read("rounds/false_positive_rate")),
            idle_rounds=int(np.count_nonzero(~record.read("rounds/selected").any(axis=1))),
            hash=record.attributes["config_hash"],
            digest=record.digest,
            software=" / ".join(dict.fromkeys(each.decode() for each in record.read("launches/software"))),
            made=(record.attributes["created"],),
            config=record.config,
            path=path,
        )


def _rounded(value: float) -> float:
    """Round as in the list, so that a page is the same with and without the records."""
    return round(float(value), 4)


def _mean(rates: Float64) -> float | None:
    """Return the mean over the rounds in which there is a rate; None if there is none in any."""
    known = rates[np.isfinite(rates)]
    return _rounded(known.mean()) if len(known) else None


def write_list(path: Path, runs: Iterable[Run]) -> None:
    """Write a line for each run."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for run in runs:
            accuracies = " ".join(f"{round_}:{value:.4f}" for round_, value in run.accuracies.items())
            scores = [f"{run.last[metric]:.4f}" for metric in METRICS]
            rates = ["" if each is None else f"{each:.4f}" for each in (run.attackers_excluded, run.honest_excluded)]
            idle = "" if run.idle_rounds is None else run.idle_rounds
            sums = (run.hash, run.digest, run.software, " ".join(run.made))
            scored = (*scores, accuracies, f"{run.epsilon:.4g}", *rates, idle)
            writer.writerow([run.configuration, run.label, run.seed, *scored, *sums])


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
                attackers_excluded=_maybe(float, line.get("attackers_excluded")),
                honest_excluded=_maybe(float, line.get("honest_excluded")),
                idle_rounds=_maybe(int, line.get("idle_rounds")),
                hash=line["config_hash"],
                digest=line["digest"],
                software=line.get("software", ""),
                made=tuple(line["made"].split()),
                config={},
            )
            for line in csv.DictReader(file)
        ]


def _maybe(kind: Callable[[str], T], text: str | None) -> T | None:
    return kind(text) if text else None


def spread(values: Float64, sign: str = "") -> str:
    """Show the mean, with "+" as its sign if wanted, and, of several values, their standard deviation (with n - 1)."""
    mean = f"{values.mean():{sign}.3f}"
    return mean if len(values) == 1 else f"{mean} ± {values.std(ddof=1):.3f}"
