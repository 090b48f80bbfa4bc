"""What `fempi bench scaling` is to measure, tried as far as that goes without measuring."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path

import torch

from fempi import experiment
from fempi.bench.prediction import Job, Network
from fempi.bench.times import many
from fempi.config import Config
from fempi.description import expected_bytes
from fempi.errors import FempiError
from fempi.prepare import prepare
from fempi.server import EVALUATION_BATCH
from fempi.sweep import ROUND_FILE


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure, and how."""

    config: Path
    arm: str | None = None
    overrides: Sequence[str] = ()
    data_root: Path
    device: torch.device
    ranks: Sequence[int] = ()
    """empty: 1, 2, 4, ... and all there are"""
    rounds: int
    """that count"""
    per_rank: int | None = None
    """clients of each rank in weak scaling; None: as many as strong scaling leaves to each of the most ranks"""
    network: Network
    """of predictions"""
    folder: Path
    """on the disk that the records go to, until they are measured"""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is to be measured, alike on every rank."""

    ranks: list[int]
    cohort: int
    per_rank: int
    configs: Mapping[int, Config]
    """by the size of the cohort"""
    job: Job
    record_bytes: int
    """that the largest record takes until it is measured"""

    @property
    def strong(self) -> list[tuple[int, int]]:
        """Ranks and cohorts."""
        return [(ranks, self.cohort) for ranks in self.ranks]

    @property
    def weak(self) -> list[tuple[int, int]]:
        """Ranks and cohorts."""
        return [(ranks, self.per_rank * ranks) for ranks in self.ranks]


def plan_of(options: Options, size: int) -> Plan:
    """Return what is to be measured on so many ranks, tried as far as that goes without measuring."""
    ranks = sorted(set(options.ranks)) or [2**k for k in range(size.bit_length()) if 2**k < size] + [size]
    if ranks[-1] > size:
        raise FempiError(f"--ranks {ranks[-1]}: there are {many(size, 'rank')}; start more, or measure fewer")
    if len(ranks) < 2:
        raise FempiError("scaling takes at least two numbers of ranks; start it under mpirun -n 2, or more")
    base = config_of(options)
    per_rank = options.per_rank or max(1, base.train.cohort // ranks[-1])
    most, clients = per_rank * ranks[-1], base.data.clients
    if most > clients:
        raise FempiError(
            f"weak scaling to {ranks[-1]} ranks with {many(per_rank, 'client')} each takes a cohort of {most}, and "
            f"{options.config} has {many(clients, 'client')}; use fewer --ranks, a smaller --per-rank, or --set "
            "data.clients"
        )
    cohorts = [base.train.cohort, *(per_rank * p for p in ranks)]
    configs = {cohort: config_of(options, cohort) for cohort in cohorts}
    record_bytes = 0
    for cohort, config in configs.items():
        try:
            problem = prepare(config, options.data_root, options.device)
        except FempiError as error:
            if cohort == base.train.cohort:
                raise
            where = f"weak scaling has a cohort of {cohort} on {many(cohort // per_rank, 'rank')}"
            raise FempiError(f"{where}: {error}; use a larger --per-rank, or --ranks that begin later") from error
        record_bytes = max(record_bytes, expected_bytes(problem, size) + config.rounds * ROUND_FILE)
    job = Job(
        num_examples=problem.num_examples,
        root_cost=problem.root_cost,
        params=problem.model.d,
        sharded=base.aggregator.layout == "sharded",
        test_batches=ceil(len(problem.images.test_labels) / EVALUATION_BATCH),
        evaluate_every=base.evaluation.every,
        seed=base.seed,
        rounds=range(2, options.rounds + 2),
    )
    return Plan(
        ranks=ranks,
        cohort=base.train.cohort,
        per_rank=per_rank,
        configs=configs,
        job=job,
        record_bytes=record_bytes,
    )


def config_of(options: Options, cohort: int | None = None) -> Config:
    """Read the one run that is measured; with a cohort, as it is measured."""
    if not options.config.exists():
        raise FempiError(f"there is no {options.config}; name a configuration (the source has configs/scaling.toml)")
    changes = [f"train.cohort={cohort}", f"rounds={options.rounds + 1}", "evaluation.every=1"]
    overrides = [*options.overrides, *(changes if cohort is not None else [])]
    configs = experiment.load(options.config, overrides=overrides, arm=options.arm)
    if len(configs) > 1:
        raise FempiError(
            f"{options.config} has {len(configs)} runs, and one is measured: name its --arm, and --set what "
            "a grid varies"
        )
    return configs[0]


def numbers(text: str) -> list[int]:
    """Read numbers of ranks, as in "1,2,4"; FempiError for anything else, none for no text."""
    try:
        ranks = [int(number) for number in text.split(",")] if text else []
    except ValueError:
        ranks = [0]
    if min(ranks, default=1) < 1:
        raise FempiError(f"--ranks {text}: give numbers, as in 1,2,4")
    return ranks
