"""What a round would take on more ranks: a model of few parameters, each with a meaning, fitted to measured rounds.

A round waits for its busiest rank, which trains one client after another. Then the rows of all other ranks come to root
through one link, a message each; root attacks, aggregates and takes evidence; the model is broadcast, and the ranks
share the test set. With n rows of m bytes, of which k are not root's, on p ranks:

    seconds = A (examples of the busiest rank) + k (latency + m / bandwidth) + ceil(log2 p) latency + m / bandwidth
              + B n + C n^2 + E (test batches of the busiest rank) + F + G n

Where the updates are sharded, each rank receives and judges its columns of them: of rows, B and C its share counts,
and 8 n^2 bytes of inner products come and go. A message of m bytes takes latency + m / bandwidth: Hockney, The
communication challenge for MPP: Intel Paragon and Meiko CS-2, Parallel Computing 20 (1994). A long broadcast is taken
to be pipelined, so that only its latency grows with p. Who trains what is not modelled: cohorts are drawn as in a run,
and `placement.place` deals them out.

A prediction takes for granted that further ranks are as fast as those measured, with a core and a share of the
memory's bandwidth like theirs, and that equal loads take equal times; that nothing is sent while the busiest rank
trains; that there is enough memory, and a disk that keeps up as it did. Of cohorts much larger than those measured,
the quadratic term gives the order of magnitude at best.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, log2

import numpy as np
from scipy.optimize import nnls

from fempi.algebra import Float64, Int64
from fempi.columns import BLOCK
from fempi.errors import FempiError
from fempi.placement import place
from fempi.rng import stream


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Seconds of a round by what they go to; they add up to the round."""

    train: float
    """mean over the ranks"""
    wait: float
    """from then on until the slowest rank has trained"""
    communicate: float
    """from then on until root has all rows, and the broadcast"""
    judge: float
    """judging updates while all wait: attack, aggregation, evidence"""
    evaluate: float
    """a round's share of a test that takes place every few rounds"""
    record: float
    """root waits for the disk, which writes while the next round trains"""

    @property
    def total(self) -> float:
        """Seconds of the whole round."""
        return float(sum(vars(self).values()))


@dataclass(frozen=True, kw_only=True)
class Work:
    """What there is to do in a round; loads and rows are means over several cohorts."""

    ranks: int
    cohort: int
    row_bytes: int
    mean_load: float
    """examples in an epoch, mean over the ranks"""
    largest_load: float
    """those of the busiest rank"""
    remote_rows: float
    """that other ranks have trained than root"""
    share: float
    """of each row that the rank with most of it judges: 1 at root"""
    batches: float
    """of test examples for the busiest rank, in a round's share of a test"""


@dataclass(frozen=True, kw_only=True)
class Job:
    """A problem, as far as the time of its rounds depends on it."""

    num_examples: Int64
    """(C,) of each client"""
    root_cost: int
    """what root's reference takes to train, as examples of a client; 0: there is none"""
    params: int
    sharded: bool
    """whether the updates are judged by all ranks, each some columns of them"""
    test_batches: int
    evaluate_every: int
    seed: int
    rounds: Sequence[int]
    """over whose cohorts a round's work is averaged"""

    def clients(self, round: int, cohort: int) -> Int64:  # noqa: A002 - the field's word
        """Who takes part: as in a run, or with repetition where a cohort is larger than the number of clients."""
        rng = stream(self.seed, "cohort", round)
        return np.sort(rng.choice(len(self.num_examples), cohort, replace=cohort > len(self.num_examples)))

    def work(self, cohort: int, ranks: int) -> Work:
        """Return what there is to do for so many ranks with a cohort of that size."""
        loads, remote = [], []
        for round_ in self.rounds:
            clients = self.clients(round_, cohort)
            costs = self.num_examples[clients]
            owners = place(
                "balanced",
                clients,
                costs,
                ranks=ranks,
                total_clients=len(self.num_examples),
                root_cost=self.root_cost,
            )
            load = np.bincount(owners, costs, minlength=ranks)
            load[0] += self.root_cost
            loads.append(load)
            remote.append(np.count_nonzero(owners))
        return Work(
            ranks=ranks,
            cohort=cohort,
            row_bytes=4 * self.params,
            mean_load=float(np.mean(loads)),
            largest_load=float(np.max(loads, axis=1).mean()),
            remote_rows=float(np.mean(remote)),
            share=min(ceil(ceil(self.params / BLOCK) / ranks) * BLOCK / self.params, 1) if self.sharded else 1.0,
            batches=ceil(self.test_batches / ranks) / self.evaluate_every,
        )


@dataclass(frozen=True, kw_only=True)
class Network:
    """A link between two ranks."""

    latency: float
    """seconds"""
    bandwidth: float
    """bytes a second"""

    def __str__(self) -> str:
        return f"{1e6 * self.latency:g} us and {self.bandwidth / 1e9:g} GB/s"


def network(text: str) -> Network:
    """Read "LATENCY_US,GB_PER_S"; FempiError for anything else."""
    try:
        latency, bandwidth = (float(number) for number in text.split(","))
    except ValueError:
        latency = bandwidth = -1.0
    if not (0 <= latency < np.inf and 0 < bandwidth < np.inf):
        raise FempiError(f"--network {text}: give microseconds and GB/s, as in 2,10")
    return Network(latency=latency / 1e6, bandwidth=bandwidth * 1e9)


@dataclass(frozen=True, kw_only=True)
class Model:
    """What was fitted: seconds for one of each."""

    example: float
    """an example that a rank trains on, through all epochs"""
    byte: float
    """a byte that is sent, between the ranks of this measurement"""
    row: float
    """an update that root judges"""
    pair: float
    """two updates that root compares"""
    batch: float
    """a batch of the test set"""
    file: float
    """a round whose record root waits for"""
    recorded: float
    """an update that this record holds"""

    def parts(self, work: Work, network: Network | None = None) -> Parts:
        """Return what a round takes on a network; None: the one it was measured on, whose latency counts as nothing."""
        latency, byte = (0.0, self.byte) if network is None else (network.latency, 1 / network.bandwidth)
        steps = ceil(log2(work.ranks))
        return Parts(
            train=self.example * work.mean_load,
            wait=self.example * (work.largest_load - work.mean_load),
            communicate=(work.remote_rows + steps) * latency + _bytes(work) * byte,
            judge=work.share * (self.row * work.cohort + self.pair * work.cohort**2),
            evaluate=self.batch * work.batches,
            record=self.file + self.recorded * work.cohort,
        )


def fit(works: Sequence[Work], measured: Sequence[Parts]) -> Model:
    """Fit the model, by least squares of errors relative to their round; no parameter is negative."""
    total = np.array([parts.total for parts in measured])

    def solve(seconds: Sequence[float], *columns: Sequence[float]) -> list[float]:
        design = np.array(columns, np.float64).T / total[:, None]
        scale = np.maximum(design.max(axis=0), np.finfo(float).tiny)  # n^2 and n alike; nothing was sent: 0
        found, _ = nnls(design / scale, np.array(seconds) / total)
        return [float(value) for value in np.where(design.any(axis=0), found / scale, 0.0)]

    (example,) = solve([p.train + p.wait for p in measured], [w.largest_load for w in works])
    (byte,) = solve([p.communicate for p in measured], [_bytes(w) for w in works])
    row, pair = solve(
        [p.judge for p in measured],
        [w.share * w.cohort for w in works],
        [w.share * w.cohort**2 for w in works],
    )
    (batch,) = solve([p.evaluate for p in measured], [w.batches for w in works])
    file, recorded = solve([p.record for p in measured], [1] * len(works), [w.cohort for w in works])
    return Model(example=example, byte=byte, row=row, pair=pair, batch=batch, file=file, recorded=recorded)


@dataclass(frozen=True, kw_only=True)
class Residual:
    """By how much the model misses the rounds it was fitted to, relative to them."""

    rms: float
    most: float


def residual(model: Model, works: Sequence[Work], measured: Sequence[Parts]) -> Residual:
    """Compare the model's rounds with those measured."""
    errors = np.array([model.parts(w).total / p.total - 1 for w, p in zip(works, measured, strict=True)])
    return Residual(rms=float(np.sqrt(np.mean(errors**2))), most=float(np.abs(errors).max()))


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """A round that nobody has measured."""

    ranks: int
    cohort: int
    seconds: float
    clients_per_second: float
    speed_up: float
    """times the clients a second of the fewest ranks, predicted too"""
    efficiency: float
    parts: Parts
    held_bytes: float
    """of updates, by a rank that judges them"""


def predict(
    job: Job, model: Model, network: Network, ranks: Sequence[int], cohort_of: Callable[[int], int]
) -> list[Prediction]:
    """Predict rounds on so many ranks each; the first is what the others are compared with."""
    works = [job.work(cohort_of(p), p) for p in ranks]
    parts = [model.parts(work, network) for work in works]
    speeds = np.array([work.cohort / p.total for work, p in zip(works, parts, strict=True)])
    return [
        Prediction(
            ranks=work.ranks,
            cohort=work.cohort,
            seconds=p.total,
            clients_per_second=float(speed),
            speed_up=speed_up,
            efficiency=efficiency,
            parts=p,
            held_bytes=work.cohort * work.row_bytes * work.share,
        )
        for work, p, speed, (speed_up, efficiency) in zip(works, parts, speeds, compared(speeds, ranks), strict=True)
    ]


def compared(speeds: Float64 | Sequence[float], ranks: Sequence[int]) -> list[tuple[float, float]]:
    """Return speed-up over the first, and efficiency: the speed-up by how many times as many ranks there are."""
    return [(float(s / speeds[0]), float(s / speeds[0] * ranks[0] / p)) for s, p in zip(speeds, ranks, strict=True)]


def _bytes(work: Work) -> float:
    """What goes through the busiest link: rows, the model if there is anybody to have it, sums of inner products."""
    sums = 16 * work.cohort**2 if work.share < 1 else 0
    return work.remote_rows * work.share * work.row_bytes + (work.row_bytes if work.ranks > 1 else 0) + sums
