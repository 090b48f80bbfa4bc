"""Rounds of a real run, timed: how long they took, and what the time went to."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fempi.algebra import Float64
from fempi.bench.prediction import Parts
from fempi.comm import Comm
from fempi.problem import Problem
from fempi.progress import Progress, Reporter
from fempi.run import run
from fempi.runfile import RunFile
from fempi.schema import PHASES


@dataclass(frozen=True, kw_only=True)
class Rounds:
    """What the rounds of a run took, all but the first."""

    seconds: Float64
    """(rounds,) of each, as if all held an equal share of a test"""
    imbalance: float
    """longest by mean time that a rank trains; median over the rounds"""
    parts: Parts
    """medians over the rounds"""


class Laps(Reporter):
    """Takes the time of every round, at root: what lies between the phases counts too."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._start = 0.0

    def begin(self) -> None:
        """A round begins."""
        self._start = time.perf_counter()

    def progressed(self, progress: Progress) -> None:
        """A round is over."""
        self.seconds.append(time.perf_counter() - self._start)


def timed(comm: Comm, problem: Problem, folder: Path, *, evaluate_every: int) -> Rounds | None:
    """Make all rounds of a problem that tests its model after each, in a new folder; None but at root.

    Of a test, one in `evaluate_every` counts.
    """
    laps = Laps()
    run(problem, comm, folder, step=laps.begin, reporter=laps)
    if not comm.is_root:
        return None
    with RunFile(folder) as record:
        phases = record.read("timing/seconds")
    return of(np.array(laps.seconds[1:]), phases[1:], evaluate_every=evaluate_every)


def of(seconds: Float64, phases: Float64, *, evaluate_every: int) -> Rounds:
    """Return what rounds (R,) with these phases (R, ranks, phases) took.

    A round's time is root's, which is always the last to train, wait or work: its phases, in order, make up the round.
    What is not in any phase is root's evidence.
    """
    train = phases[:, :, PHASES.index("train")]
    at_root = {name: phases[:, 0, number] for number, name in enumerate(PHASES)}
    mean, slowest = train.mean(axis=1), train.max(axis=1)
    arrived = np.maximum(at_root["train"] + at_root["gather"], slowest)  # ranks do not begin at exactly one time
    rest = at_root["broadcast"] + at_root["evaluate"] + at_root["record"]
    evaluate = at_root["evaluate"] / evaluate_every
    parts = {
        "train": mean,
        "wait": slowest - mean,
        "communicate": arrived - slowest + at_root["broadcast"],
        "judge": np.maximum(seconds - arrived - rest, 0),
        "evaluate": evaluate,
        "record": at_root["record"],
    }
    return Rounds(
        seconds=seconds - at_root["evaluate"] + evaluate,
        imbalance=float(np.median(slowest / mean)),
        parts=Parts(**{name: float(np.median(each)) for name, each in parts.items()}),
    )
