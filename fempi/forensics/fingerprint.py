"""What kind of attack it was, from the geometry of suspected rows among the others.

Nothing but what was received is used. Who is suspected is an input: what an examination found, or the truth.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from fempi.algebra import Bool, distances_to
from fempi.forensics.geometry import Round, rounds
from fempi.runfile import RunFile

ALIKE = 0.999
"""Cosine from which two rows are taken for the same"""

_MEANS = ("not_finite", "copies", "along", "others_along")


@dataclass(frozen=True, kw_only=True)
class Traits:
    """What suspected rows look like beside the others of their rounds: medians over all of them, NaN where unknown."""

    rows: int
    """suspected rows"""
    not_finite: float
    """share with a NaN or an Inf"""
    norm: float
    """norm in units of the others' median norm"""
    cosine: float
    """cosine with the mean of the others"""
    others_cosine: float
    """what that is for an honest row: the others' cosine with the mean of the rest of them"""
    along: float
    """component along the mean of the others, in units of that mean; the mean of all rows"""
    others_along: float
    """what that is for an honest row"""
    shift: float
    """distance from the mean of the others, in units of their root mean square distance from it"""
    twins: float
    """cosine among suspected rows of one round; 1: they send the same"""
    copies: float
    """share that is a copy of another client's row"""
    residual: float
    """norm in excess of the others', as the standard deviation of one coordinate"""
    per_coordinate: float
    """root mean square of a coordinate"""


@dataclass(frozen=True, kw_only=True)
class Fingerprint:
    """A kind of attack, with its estimated parameters."""

    kind: str
    parameters: Mapping[str, float] = field(default_factory=dict)


def traits(run: RunFile, suspected: Bool) -> Traits:
    """Measure the rows of suspected clients (C,) in all rounds that have others beside them."""
    each: dict[str, list[float]] = {name: [] for name in Traits.__dataclass_fields__ if name != "rows"}
    for one in rounds(run):
        _measure(one, suspected[one.clients], run.layout.size("param"), each)
    summarized = {name: (np.mean if name in _MEANS else np.median)(values) for name, values in each.items() if values}
    return Traits(rows=len(each["not_finite"]), **{name: float(summarized.get(name, np.nan)) for name in each})


def classify(t: Traits) -> Fingerprint:
    """Name the kind of attack that rows with such traits come from.

    Label flipping and backdoors send what they trained, on other data: they come out as unusual data, or as noise.
    """
    if t.not_finite > 0.5:
        return Fingerprint(kind="not finite")
    if t.norm < 1e-3:
        return Fingerprint(kind="zero")
    if t.copies > 0.5:
        return Fingerprint(kind="mimic")
    if t.norm > 100:
        return Fingerprint(kind="random large", parameters={"std": t.residual})
    if t.twins > ALIKE:
        if t.cosine < -0.9:
            return Fingerprint(kind="ipm", parameters={"epsilon": -t.along})
        return Fingerprint(kind="alie", parameters={"z": t.shift})
    if t.cosine < -0.5 * t.others_cosine:
        return Fingerprint(kind="sign flip", parameters={"scale": t.norm})
    if abs(t.along) < 0.3 * t.others_along:
        return Fingerprint(kind="gaussian", parameters={"std": t.per_coordinate})
    if t.cosine < 0.75 * t.others_cosine and t.norm > 1.2:
        return Fingerprint(kind="gaussian noise", parameters={"std": t.residual})
    if t.norm > 1.5:
        return Fingerprint(kind="scale", parameters={"factor": t.norm})
    return Fingerprint(kind="unusual data")


def _measure(one: Round, suspected: Bool, d: int, each: dict[str, list[float]]) -> None:
    """Add the measures of a round's suspected rows."""
    others: list[int] = np.flatnonzero(one.finite & ~suspected).tolist()
    each["not_finite"] += (~one.finite[suspected]).astype(float).tolist()
    found: list[int] = np.flatnonzero(one.finite & suspected).tolist()
    if len(others) < 3 or not len(found):
        return
    gram = one.gram
    squares = np.diagonal(gram)
    norms = np.sqrt(squares)
    mean = np.zeros(len(norms))
    mean[others] = 1 / len(others)
    known = np.where(np.isfinite(gram), gram, 0.0)
    length = float(np.sqrt(mean @ known @ mean))
    typical = float(np.median(norms[others]))
    if not (typical > 0 and length > 0):
        return
    away, cosines = distances_to(known, mean), one.cosines()
    spread = float(np.sqrt(np.mean(away[others] ** 2)))
    for row in found:
        product = float(known[row] @ mean)
        each["norm"].append(norms[row] / typical)
        each["cosine"].append(product / (norms[row] * length) if norms[row] > 0 else 0.0)
        each["along"].append(product / length**2)
        each["shift"].append(away[row] / spread if spread > 0 else np.nan)
        same = (cosines[row, others] > ALIKE) & (np.abs(norms[others] - norms[row]) < (1 - ALIKE) * norms[row])
        each["copies"].append(float(same.any()))
        each["per_coordinate"].append(float(norms[row] / np.sqrt(d)))
        each["residual"].append(float(np.sqrt(max(squares[row] - typical**2, 0.0) / d)))
    for row in others:
        rest = mean.copy()
        rest[row] = 0
        rest *= len(others) / (len(others) - 1)
        size = float(np.sqrt(max(float(rest @ known @ rest), 0.0)))
        if norms[row] > 0 and size > 0:
            product = float(known[row] @ rest)
            each["others_cosine"].append(product / (norms[row] * size))
            each["others_along"].append(product / size**2)
    if len(found) > 1:
        inner = cosines[np.ix_(found, found)][np.triu_indices(len(found), 1)]
        each["twins"].append(float(np.median(inner)))
