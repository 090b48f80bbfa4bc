"""How rounds scale with the number of ranks, and what limits that: `fempi bench scaling`.

Strong scaling gives one cohort to more and more ranks, weak scaling a cohort that grows with them. One job measures
both: its first 1, 2, 4, ... ranks make rounds of a real run, records and all, while the others sleep. The first round
of each does not count. In the others the model is tested every time, and of a test as much counts as a round of the
configuration has on average. To what was measured a model is fitted, which predicts more ranks; see `prediction`.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

import fempi
from fempi.bench import rounds, times
from fempi.bench.plan import Options, Plan, plan_of
from fempi.bench.prediction import Model, Network, Parts, Prediction, Residual, compared, fit, predict, residual
from fempi.bench.rounds import Rounds
from fempi.bench.times import many
from fempi.comm import Comm, library
from fempi.config import Config
from fempi.display import console
from fempi.errors import FempiError
from fempi.sweep import agree_on, prepare_alike

PREDICTED = (10, 100, 1000)
"""Ranks that the tables have predictions for"""
FAR = 4
"""Times the largest cohort measured: beyond, what judging costs is hardly known"""
MEANINGS = {
    "train": "training",
    "wait": "waiting for the slowest rank",
    "communicate": "gathering and broadcasting",
    "judge": "attack, aggregation and evidence",
    "evaluate": "testing",
    "record": "waiting for the disk",
}
"""What each part of a round is"""


@dataclass(frozen=True, kw_only=True)
class Row:
    """Rounds of so many ranks with a cohort of that size."""

    ranks: int
    hosts: int
    crowded: str
    """where these ranks have fewer cores than threads; empty: nowhere"""
    cohort: int
    seconds: times.Seconds
    """a round, over the rounds"""
    clients_per_second: float
    """by the median round"""
    speed_up: float
    """times the clients a second of the fewest ranks"""
    efficiency: float
    """the speed-up by how many times as many ranks there are"""
    imbalance: float
    """longest by mean time that a rank trains; median over the rounds"""
    parts: Parts
    """medians over the rounds"""
    fitted: float
    """seconds that the model takes for the round"""


@dataclass(frozen=True, kw_only=True)
class Predicted:
    """What nobody has measured."""

    note: str = "prediction, not measurement"
    network: Network
    strong: list[Prediction]
    weak: list[Prediction]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """All that was measured, of what, and what follows from it."""

    fempi_version: str
    torch_version: str
    mpi_library: str
    name: str
    """of the configuration"""
    label: str
    device: str
    threads: int
    params: int
    cohort: int
    """in strong scaling"""
    per_rank: int
    """clients of each rank in weak scaling"""
    rounds: int
    """that count, of each row"""
    strong: list[Row]
    weak: list[Row]
    fitted_to: list[int]
    """numbers of ranks: those that are not crowded, unless all others but one are"""
    model: Model
    residual: Residual
    predicted: Predicted


Place = tuple[str, Sequence[int], int]
"""A rank's host, the cores it may use, and its threads"""


def measure(comm: Comm, options: Options, say: Callable[[str], None] = lambda _: None) -> Measured | None:
    """Measure all numbers of ranks, one after another; None but at root, which says how far that is.

    Raises `Refused` for what the user can mend.
    """
    plan = comm.together(lambda: plan_of(options, comm.size))
    agree_on(list(plan.configs.values()), comm)
    places = comm.describe((comm.host, sorted(os.sched_getaffinity(0)), torch.get_num_threads()))
    scratch = Path(comm.from_root(lambda: _scratch(options.folder, plan.record_bytes)))
    found: dict[tuple[int, int], Rounds] = {}
    try:
        for ranks, cohort in dict.fromkeys(plan.strong + plan.weak):
            config, here = plan.configs[cohort], scratch / f"{cohort}-on-{ranks}"

            def work(part: Comm, config: Config = config, here: Path = here) -> Rounds | None:
                problem = prepare_alike(config, part, options.data_root, options.device)
                return rounds.timed(part, problem, here, evaluate_every=plan.job.evaluate_every)

            result = comm.on_first(ranks, work)
            if result is not None:
                found[ranks, cohort] = result
                shutil.rmtree(here)
                say(f"{many(ranks, 'rank')}, a cohort of {cohort}: {np.median(result.seconds):.3g} s a round")
    finally:
        if comm.is_root:
            shutil.rmtree(scratch, ignore_errors=True)
    return conclude(options, plan, places, found) if comm.is_root else None


def conclude(
    options: Options, plan: Plan, places: Sequence[Place], found: Mapping[tuple[int, int], Rounds]
) -> Measured:
    """Say what follows from the rounds that were found for each number of ranks and cohort."""
    fitted_to = [ranks for ranks in plan.ranks if not crowded(places[:ranks])]
    fitted_to = fitted_to if len(fitted_to) > 1 else plan.ranks
    works = {(ranks, cohort): plan.job.work(cohort, ranks) for ranks, cohort in found}
    used = [key for key in found if key[0] in fitted_to]
    data = [works[key] for key in used], [found[key].parts for key in used]
    model = fit(*data)

    def rows(keys: Sequence[tuple[int, int]]) -> list[Row]:
        seconds = [times.of(found[key].seconds.tolist()) for key in keys]
        speeds = [cohort / s.median for (_, cohort), s in zip(keys, seconds, strict=True)]
        return [
            Row(
                ranks=key[0],
                hosts=len({host for host, _, _ in places[: key[0]]}),
                crowded=crowded(places[: key[0]]),
                cohort=key[1],
                seconds=s,
                clients_per_second=speed,
                speed_up=speed_up,
                efficiency=efficiency,
                imbalance=found[key].imbalance,
                parts=found[key].parts,
                fitted=model.parts(works[key]).total,
            )
            for key, s, speed, (speed_up, efficiency) in zip(
                keys, seconds, speeds, compared(speeds, plan.ranks), strict=True
            )
        ]

    first = plan.ranks[0]
    ahead = [first, *sorted({p for p in (*(first * 2**k for k in range(11)), *PREDICTED) if first < p <= 1024})]
    config = plan.configs[plan.cohort]
    return Measured(
        fempi_version=fempi.__version__,
        torch_version=torch.__version__,
        mpi_library=library(),
        name=config.name,
        label=config.label,
        device=str(options.device),
        threads=places[0][2],
        params=plan.job.params,
        cohort=plan.cohort,
        per_rank=plan.per_rank,
        rounds=options.rounds,
        strong=rows(plan.strong),
        weak=rows(plan.weak),
        fitted_to=fitted_to,
        model=model,
        residual=residual(model, *data),
        predicted=Predicted(
            network=options.network,
            strong=predict(plan.job, model, options.network, ahead, lambda _: plan.cohort),
            weak=predict(plan.job, model, options.network, ahead, lambda ranks: plan.per_rank * ranks),
        ),
    )


def crowded(places: Sequence[Place]) -> str:
    """Say where ranks have fewer cores than threads; empty: nowhere."""
    said = []
    for host in dict.fromkeys(host for host, _, _ in places):
        here = [(cores, threads) for name, cores, threads in places if name == host]
        cores = len(set().union(*(cores for cores, _ in here)))
        threads = sum(threads for _, threads in here)
        if threads > cores:
            said.append(f"{host} has {many(cores, 'core')} for {many(threads, 'thread')}")
    return "; ".join(said[:3] + ["..."] * (len(said) > 3))


def limit(parts: Parts) -> str:
    """Say how much of a round is not training, and what takes most of that."""
    losses = {name: seconds for name, seconds in vars(parts).items() if name != "train"}
    worst = max(losses, key=losses.__getitem__)
    return (
        f"{sum(losses.values()) / parts.total:.0%} of a round is not training; most of that, "
        f"{losses[worst] / parts.total:.0%}, is {MEANINGS[worst]}"
    )


def show(measured: Measured) -> None:
    """Print what was measured, what limits it, and what is predicted."""
    out, m = console(), measured
    print_ = partial(out.print, highlight=False, markup=False, soft_wrap=True)
    print_(
        f"{m.name if m.label == m.name else f'{m.name}, {m.label}'}: {m.params:,} parameters; "
        f"{many(m.threads, 'thread')} a rank ({m.device}); {m.mpi_library}\n"
        f"{many(m.rounds, 'round')} of each, after one that does not count: median (least to most)"
    )
    scalings = ("strong", f"a cohort of {m.cohort}"), ("weak", f"{many(m.per_rank, 'client')} a rank")
    for (kind, what), rows in zip(scalings, (m.strong, m.weak), strict=True):
        table = times.table("ranks", "cohort", "s a round", *_SPEED, "imbalance", *_SHARES, "model's s")
        table.title = f"{kind} scaling: {what}"
        for row in rows:
            table.add_row(
                f"{row.ranks}{'*' if row.crowded else ''}",
                f"{row.cohort}",
                f"{row.seconds.median:.3g} ({row.seconds.least:.3g} to {row.seconds.most:.3g})",
                *_speed(row),
                f"{row.imbalance:.3f}",
                *_shares(row.parts),
                f"{row.fitted:.3g}",
            )
        out.print(table)
        last = [row for row in rows if not row.crowded][-1:] or rows[-1:]
        print_(f"{kind} scaling, {many(last[0].ranks, 'rank')}: {limit(last[0].parts)}")
    if m.strong[-1].crowded:
        without = "" if m.fitted_to[-1] == m.strong[-1].ranks else "; the model is fitted without them"
        print_(f"* not a core for each thread ({m.strong[-1].crowded}): these times say little{without}")
    f = m.model
    link = f"{1e-9 / f.byte:.3g} GB/s between these ranks" if f.byte else "nothing for what is sent"
    print_(
        f"fitted: {1e3 * f.example:.3g} ms to train an example, {1e3 * f.row:.3g} ms to judge a row and "
        f"{1e3 * f.pair:.3g} ms a pair of rows, {link}\n"
        f"this misses the rounds it was fitted to by {m.residual.rms:.1%} (root mean square), {m.residual.most:.1%} at "
        "most\nprediction, not measurement: further ranks like these, all that a rank receives comes through one link"
    )
    known = max(row.cohort for row in (*m.strong, *m.weak))
    for (kind, what), rows_ahead in zip(scalings, (m.predicted.strong, m.predicted.weak), strict=True):
        table = times.table("ranks", "cohort", "s a round", *_SPEED, *_SHARES, "updates held")
        table.title = f"{kind} scaling: {what}, {m.predicted.network}: {m.predicted.note}"
        for ahead in rows_ahead:
            if ahead.ranks in PREDICTED:
                table.add_row(
                    f"{ahead.ranks}",
                    f"{ahead.cohort}",
                    f"{'~' * (ahead.cohort > FAR * known)}{ahead.seconds:.3g}",
                    *_speed(ahead),
                    *_shares(ahead.parts),
                    f"{ahead.held_bytes / 1e9:.3f} GB",
                )
        out.print(table)
    if any(ahead.ranks in PREDICTED and ahead.cohort > FAR * known for ahead in m.predicted.weak):
        print_(f"~ a cohort of more than {FAR} times the largest measured: at best an order of magnitude")


_SPEED = ("clients/s", "speed-up", "efficiency")
_SHARES = ("train", "wait", "comm.", "judge", "test", "record")


def _speed(row: Row | Prediction) -> list[str]:
    return [f"{row.clients_per_second:.3g}", f"{row.speed_up:.2f}", f"{row.efficiency:.0%}"]


def _shares(parts: Parts) -> list[str]:
    return [f"{seconds / parts.total:.0%}" for seconds in vars(parts).values()]


def _scratch(folder: Path, needed: int) -> str:
    """Make a folder for records, for which there must be room."""
    try:
        free = shutil.disk_usage(folder).free
        if needed > free:
            raise FempiError(
                f"the records need {needed / 1e9:.2f} GB in {folder}, where {free / 1e9:.2f} GB are free; use "
                "--folder, or record less (--set 'record.updates=\"none\"')"
            )
        return tempfile.mkdtemp(prefix="fempi-scaling-", dir=folder)
    except OSError as error:
        raise FempiError(f"{folder} cannot be written: {error.strerror}; use --folder") from error
