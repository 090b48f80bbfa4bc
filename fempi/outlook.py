"""How long a sweep has to go: from what its runs cost and how fast they went so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fempi.problem import Problem
from fempi.progress import Outlook

BESIDES = 20_000
"""Parameters whose training takes as long as what a step takes whatever the model is"""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a run takes."""

    nbytes: int
    """of its record"""
    work: float
    """examples trained on, times parameters: in proportion to time, more or less"""


def work_of(problem: Problem) -> float:
    """Estimate what a run takes to train, in units that all runs share."""
    config = problem.config
    examples = config.train.cohort * float(problem.num_examples.mean()) + problem.root_cost
    return config.rounds * config.train.local_epochs * examples * (problem.model.d + BESIDES)


class Pace:
    """Tells how long a sweep has to go, whose runs several groups of ranks share, from the runs that one of them made.

    `works` are those of all runs, in the order in which they are taken; 0 for a run whose record is there already.
    """

    def __init__(self, works: Sequence[float], groups: int) -> None:
        self._works = np.array(works)
        self._groups = groups
        self._seconds = self._done = 0.0

    def made(self, number: int, seconds: float) -> Outlook:
        """Note that the group has just made a run, its number being that in `works`, and what this took."""
        self._seconds += seconds
        self._done += self._works[number]
        before, after = np.split(self._works, [number + 1])
        pace = self._seconds / max(self._done, 1.0)
        return Outlook(
            run=int(np.count_nonzero(before)),
            runs=int(np.count_nonzero(self._works)),
            seconds=float(after.sum() * pace / self._groups),
        )
