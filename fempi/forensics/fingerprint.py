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

_OF_ROWS = ("not_finite", "norm", "cosine", "along", "shift", "twins", "echo", "copies", "residual", "per_coordinate")
_OF_OTHERS = ("others_cosine", "others_along")
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
    low_cosine: float
    """what three quarters of the others' rows exceed"""
    along: float
    """component along the mean of the others, in units of that mean; the mean of all rows"""
    others_along: float
    """what that is for an honest row"""
    shift: float
    """distance from the mean of the others, in units of their root mean square distance from it"""
    twins: float
    """cosine with the suspected row of the round that is most alike; 1: they send the same"""
    echo: float
    """largest absolute cosine with another row of the round, in units of 1 / sqrt(d)"""
    copies: float
    """share that is a copy of another client's row"""
    residual: float
    """norm in excess of the others', as the standard deviation of one coordinate"""
    per_coordinate: float
    """root mean square of a coordinate"""


ECHO = 5
"""Noise has cosines of order 1 / sqrt(d) with anything; ten of them seldom exceed 3 of these, and thousands 5"""
UNUSUAL = "unusual data"
"""What an honest client may have"""


@dataclass(frozen=True, kw_only=True)
class Fingerprint:
    """A kind of attack, with its estimated parameters."""

    kind: str
    parameters: Mapping[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        """Kind and parameters in words, as in: scale (factor 4.9), label flip (7 -> 1)."""
        if {"source", "target"} <= self.parameters.keys():
            return f"{self.kind} ({self.parameters['source']} -> {self.parameters['target']})"
        said = ", ".join(f"{name} {value:.3g}" for name, value in self.parameters.items())
        return f"{self.kind} ({said})" if said else self.kind


def traits(run: RunFile, suspected: Bool, of: Bool | None = None) -> Traits:
    """Measure the rows of suspected clients (C,), or of some of them, in all rounds that have others beside them."""
    rows = _measure_all(run, suspected)
    return _summary(rows, (suspected if of is None else of)[rows.clients])


def traits_of_each(run: RunFile, suspected: Bool) -> dict[int, Traits]:
    """Measure each suspected client (C,) alone, among those who are not."""
    rows = _measure_all(run, suspected)
    clients = np.array(rows.clients, np.int64)
    return {int(client): _summary(rows, clients == client) for client in np.unique(clients)}


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
    if t.cosine < min(-0.5 * t.others_cosine, t.low_cosine) and t.norm > 0.5:
        return Fingerprint(kind="sign flip", parameters={"scale": t.norm})
    if t.echo < ECHO and abs(t.along) < 0.5 * t.others_along:
        return Fingerprint(kind="gaussian", parameters={"std": t.per_coordinate})
    if t.norm > 1.2 and t.cosine < 0.75 * t.others_cosine and t.along < np.sqrt(t.norm) * t.others_along:
        return Fingerprint(kind="gaussian noise", parameters={"std": t.residual})
    if t.norm > 2:
        return Fingerprint(kind="scale", parameters={"factor": t.norm})
    return Fingerprint(kind=UNUSUAL)


@dataclass(frozen=True)
class _Rows:
    """Measures of suspected rows, one by one, and of the others for comparison."""

    clients: list[int] = field(default_factory=list)
    suspected: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in _OF_ROWS})
    others: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in _OF_OTHERS})


def _measure_all(run: RunFile, suspected: Bool) -> _Rows:
    rows, d = _Rows(), run.layout.size("param")
    for one in rounds(run):
        if one.sound:
            _measure(one, suspected[one.clients], d, rows)
    return rows


def _summary(rows: _Rows, chosen: Bool) -> Traits:
    """Medians or means of some suspected rows; NaN where nothing is known."""
    columns = {name: np.array(values)[chosen] for name, values in rows.suspected.items()}
    count = len(columns["not_finite"])
    columns |= {name: np.array(values) for name, values in rows.others.items()}
    known = {name: values[~np.isnan(values)] for name, values in columns.items()}
    summarized = {
        name: float((np.mean if name in _MEANS else np.median)(values)) if len(values) else np.nan
        for name, values in known.items()
    }
    like = known["others_cosine"]
    return Traits(rows=count, low_cosine=float(np.quantile(like, 0.25)) if len(like) else np.nan, **summarized)


def _measure(one: Round, suspected: Bool, d: int, rows: _Rows) -> None:
    """Add the measures of a round's suspected rows."""
    others: list[int] = np.flatnonzero(one.finite & ~suspected).tolist()
    found: list[int] = np.flatnonzero(one.finite & suspected).tolist()
    gram = np.where(np.isfinite(one.gram), one.gram, 0.0)
    squares = np.diagonal(gram)
    norms = np.sqrt(squares)
    mean = np.zeros(len(norms))
    mean[others] = 1 / max(len(others), 1)
    length = float(np.sqrt(max(float(mean @ gram @ mean), 0.0)))
    typical = float(np.median(norms[others])) if others else 0.0
    comparable = len(others) >= 3 and typical > 0 and length > 0
    away, cosines = distances_to(gram, mean), one.cosines()
    alike = np.abs(np.nan_to_num(cosines, nan=0.0))
    np.fill_diagonal(alike, 0)
    spread = float(np.sqrt(np.mean(away[others] ** 2))) if others else 0.0
    for row in np.flatnonzero(suspected).tolist():
        values = dict.fromkeys(_OF_ROWS, np.nan)
        values["not_finite"] = float(not one.finite[row])
        if one.finite[row] and comparable:
            product = float(gram[row] @ mean)
            same = (cosines[row, others] > ALIKE) & (np.abs(norms[others] - norms[row]) < (1 - ALIKE) * norms[row])
            values |= {
                "norm": norms[row] / typical,
                "cosine": product / (norms[row] * length) if norms[row] > 0 else 0.0,
                "along": product / length**2,
                "shift": away[row] / spread if spread > 0 else np.nan,
                "twins": max((cosines[row, other] for other in found if other != row), default=np.nan),
                "echo": float(alike[row].max() * np.sqrt(d)),
                "copies": float(same.any()),
                "residual": float(np.sqrt(max(squares[row] - typical**2, 0.0) / d)),
                "per_coordinate": float(norms[row] / np.sqrt(d)),
            }
        rows.clients.append(int(one.clients[row]))
        for name, value in values.items():
            rows.suspected[name].append(value)
    for row in others if found and comparable else ():
        rest = mean.copy()
        rest[row] = 0
        rest *= len(others) / (len(others) - 1)
        size = float(np.sqrt(max(float(rest @ gram @ rest), 0.0)))
        if norms[row] > 0 and size > 0:
            product = float(gram[row] @ rest)
            rows.others["others_cosine"].append(product / (norms[row] * size))
            rows.others["others_along"].append(product / size**2)
