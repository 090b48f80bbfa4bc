"""How each update of a round lies among the others, from inner products alone and without the truth.

Every measure is relative to the round it was taken in, so that rounds can be compared and accumulated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from fempi.aggregators import Context
from fempi.aggregators.geometric_median import geometric_median
from fempi.aggregators.krum import krum_scores
from fempi.algebra import Bool, Float64, Int64, Updates, cosines, distances, distances_to
from fempi.rng import stream
from fempi.runfile import RunFile

_HUGE = 1e150
NORMAL = 1.4826
"""Median absolute deviations in a normal distribution's standard deviation"""


@dataclass(frozen=True)
class Round:
    """The rows of a round; every measure is (n,), with NaN for a row that was not finite."""

    number: int
    clients: Int64
    """(n,) who sent each row"""
    gram: Float64
    """(n, n) inner products; NaN where a row is not finite"""
    trust: Float64
    """(n,) the rule's own"""

    @cached_property
    def finite(self) -> Bool:
        """Which rows hold neither NaN nor Inf."""
        return np.isfinite(np.diagonal(self.gram))

    @property
    def sound(self) -> bool:
        """Whether the round tells anything of anybody."""
        return is_sound(self.finite)

    @cached_property
    def centre(self) -> Float64:
        """Weights (n,) whose sum of rows is the geometric median of the finite rows: half of them may lie anywhere."""
        weights = np.zeros(len(self.clients))
        rows = self._known
        if len(rows):
            updates = Updates.from_gram(np.pad(rows, (0, 1), constant_values=np.nan), has_reference=False)
            context = Context(
                round=self.number,
                clients=self.clients[self.finite],
                num_examples=np.ones(len(rows), np.int64),
                num_byzantine=0,
                rng=stream(0, "unused"),
            )
            weights[self.finite] = geometric_median(updates, context).weights
        return weights

    @cached_property
    def norm(self) -> Float64:
        """Norm in units of the median norm."""
        norms = np.sqrt(np.diagonal(self._known))
        return self._spread(_relative(norms))

    @cached_property
    def cosine(self) -> Float64:
        """Cosine with the geometric median."""
        gram, centre = self._known, self.centre[self.finite]
        length = float(np.sqrt(max(float(centre @ gram @ centre), 0.0)))
        return self._spread(cosines(gram @ centre, np.sqrt(np.diagonal(gram)), length))

    @cached_property
    def distance(self) -> Float64:
        """Distance from the geometric median, in units of the median of these."""
        away = distances_to(self._known, self.centre[self.finite])
        return self._spread(_relative(away))

    @cached_property
    def krum(self) -> Float64:
        """Krum score, with as many suspected as Krum allows, in units of the median score; NaN for under 3 rows."""
        n = len(self._known)
        if n < 3:
            return self._spread(np.full(n, np.nan))
        return self._spread(_relative(krum_scores(self._known, (n - 3) // 2)))

    @cached_property
    def nearest(self) -> Float64:
        """Distance to the nearest other row, in units of the median of these; NaN for a lone row."""
        between = np.sqrt(distances(self._known))
        np.fill_diagonal(between, np.inf)
        least = between.min(axis=1, initial=np.inf)
        if len(least) < 2:
            return self._spread(np.full(len(least), np.nan))
        return self._spread(_relative(least))

    def cosines(self) -> Float64:
        """Cosines (n, n) between rows; 0 with a row of zeros."""
        norms = np.sqrt(np.diagonal(self.gram))
        scale = np.outer(norms, norms)
        out: Float64 = np.divide(self.gram, scale, out=np.zeros_like(scale), where=~(scale == 0))
        return out

    @property
    def _known(self) -> Float64:
        return self.gram[np.ix_(self.finite, self.finite)]

    def _spread(self, values: Float64) -> Float64:
        out = np.full(len(self.clients), np.nan)
        out[self.finite] = values
        return out


def is_sound(finite: Bool) -> bool:
    """Whether most rows (n,) of a round are finite; else it is the model that is broken, and nobody stands out."""
    return bool(finite.mean() > 0.5)


def rounds(run: RunFile) -> Iterator[Round]:
    """Yield the committed rounds, one at a time."""
    for number in range(1, run.rounds_completed + 1):
        yield round_at(run, number)


def round_at(run: RunFile, number: int) -> Round:
    """Return one round."""
    place = number - 1
    clients: Int64 = run["rounds/client"][place].astype(np.int64)
    return Round(number, clients, run["rounds/gram"][place, :-1, :-1], run["rounds/trust"][place])


def _log(values: Float64) -> Float64:
    """Logarithm of positive numbers; the smallest there is for 0."""
    return np.log(np.maximum(values, np.finfo(float).tiny))


SCORES: Mapping[str, Callable[[Round], Float64]] = {
    "trust": lambda r: -r.trust,
    "norm": lambda r: np.abs(_log(r.norm)),
    "cosine": lambda r: -r.cosine,
    "distance": lambda r: _log(r.distance),
    "krum": lambda r: _log(r.krum),
    "nearest": lambda r: -_log(r.nearest),
}
"""What makes a row suspicious, higher = more: little trust, an unusual norm, another direction than the geometric
median, distance from that, a high Krum score, another row too near by. NaN for a row that was not finite."""

MEANINGS: Mapping[str, str] = {
    "trust": "little trust by the rule",
    "norm": "unusual norm",
    "cosine": "other direction than the geometric median",
    "distance": "far from the geometric median",
    "krum": "high Krum score",
    "nearest": "another row very near by",
}
"""What a suspicious score says of a row, in words"""


def standardized(scores: Float64) -> Float64:
    """Scores (n,) in robust standard deviations from their median: median absolute deviations times 1.4826.

    Where most scores are equal, the others are infinitely far out. NaN stays NaN.
    """
    if np.isnan(scores).all():
        return scores
    away = np.clip(scores, -_HUGE, _HUGE)  # infinities have no median
    away -= np.nanmedian(away)
    deviation = NORMAL * np.nanmedian(np.abs(away))
    if deviation > 0:
        away /= deviation
    else:
        away[away != 0] *= np.inf
    return away


def _relative(values: Float64) -> Float64:
    """Values in units of their median; where that is 0, 1 for those that are too and infinity for the others."""
    unit = float(np.median(values)) if len(values) else 1.0
    return values / unit if unit > 0 else np.where(values > 0, np.inf, 1.0)
