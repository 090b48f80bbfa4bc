"""What some clients' rows did to the model: their share of each aggregate, and where they differ from the others."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import numpy as np

from fempi import registry
from fempi.algebra import Bool, Float64, Int64
from fempi.forensics.classes import last_layer
from fempi.runfile import RunFile

HALF = float(np.finfo(np.float16).max)
"""The largest number that updates = "float16" keeps"""


@dataclass(frozen=True, kw_only=True)
class Attribution:
    """Round by round (R,), and where the updates were kept, by layer (L,) and class (K,)."""

    norm_share: Float64
    """their share of the rows' norms, each times its share of the aggregate; NaN where nothing was let in"""
    direction_share: Float64
    """their share of the aggregate's squared length: negative where they pulled against it; NaN for a rule that needs
    columns, whose aggregate may be no sum of rows, and for one that is not known here"""
    layer_names: tuple[str, ...]
    layers: Float64
    """distance of their mean from the others', by layer, in units of the others' root mean square distance from it:
    median over the rounds; NaN where unknown"""
    classes: Float64
    """the same by class, of the rows of the last layer"""
    broken: Int64
    """tested rounds in which accuracy had lost half of its best lead over chance, after it had not before"""


def attribute(run: RunFile, clients: Bool) -> Attribution:
    """Say what the clients (C,) did to the model."""
    shares = np.array([_shares(run, place, clients) for place in range(run.rounds_completed)]).reshape(-1, 2)
    rule = run.config["aggregator"]["name"]
    if rule not in registry.names("aggregator") or "columns" in registry.find("aggregator", rule).needs:
        shares[:, 1] = np.nan
    parts = _parts(run)
    each = [_differences(run, place, rows, parts) for place, rows in _comparable(run, clients)]
    middle = np.full(len(parts), np.nan)
    for part, values in enumerate(np.array(each).T):
        if np.isfinite(values).any():
            middle[part] = np.median(values[np.isfinite(values)])
    names = [name.decode(errors="replace") for name in run.read("layers/name")]
    return Attribution(
        norm_share=shares[:, 0],
        direction_share=shares[:, 1],
        layer_names=tuple(names),
        layers=middle[: len(names)],
        classes=middle[len(names) :],
        broken=_broken(run),
    )


def _shares(run: RunFile, place: int, clients: Bool) -> tuple[float, float]:
    """Shares of a round's aggregate, by norm and by direction."""
    gram = run["rounds/gram"][place, :-1, :-1]
    finite = np.isfinite(np.diagonal(gram))
    gram = np.where(np.isfinite(gram), gram, 0.0)
    factors = np.where(finite, run["rounds/weight"][place] * run["rounds/scale"][place], 0.0)
    theirs = factors * clients[run["rounds/client"][place]]
    norms = np.sqrt(np.diagonal(gram))
    whole, length = float(np.abs(factors) @ norms), float(factors @ gram @ factors)
    by_norm = float(np.abs(theirs) @ norms) / whole if whole > 0 else np.nan
    return by_norm, float(theirs @ gram @ factors) / length if length > 0 else np.nan


def _parts(run: RunFile) -> list[slice]:
    """Where in the flat vector the layers are, and then the last layer's rows, one for each class."""
    sizes = [prod(json.loads(shape)) for shape in run.read("layers/shape")]
    offsets = run.read("layers/offset").tolist()
    layers = [slice(start, start + size) for start, size in zip(offsets, sizes, strict=True)]
    last = last_layer(run)
    if last is None:
        return layers
    width = (last.weight.stop - last.weight.start) // last.num_classes
    return layers + [slice(start, start + width) for start in range(last.weight.start, last.weight.stop, width)]


def _comparable(run: RunFile, clients: Bool) -> Iterator[tuple[int, tuple[Int64, Int64]]]:
    """Yield places of rounds whose updates were kept, with the clients' rows and at least two others."""
    if not run.layout.keeps_params:
        return
    sent_by, finite = run.read("rounds/client"), run.read("rounds/finite")
    for place in range(run.rounds_completed):
        theirs = clients[sent_by[place]]
        rows, others = np.flatnonzero(finite[place] & theirs), np.flatnonzero(finite[place] & ~theirs)
        if run.layout.keeps_vectors(place + 1) and len(rows) and len(others) > 1:
            yield place, (rows, others)


def _differences(run: RunFile, place: int, rows: tuple[Int64, Int64], parts: list[slice]) -> list[float]:
    """Distance of means by part, in units of the others' spread; one row is in memory at a time."""
    updates, d = run["rounds/update"], run.layout.size("param")
    means, squares = [np.zeros(d), np.zeros(d)], np.zeros(len(parts))
    for mean, which in zip(means, rows, strict=True):
        for slot in which:
            update = updates[place, slot].astype(np.float64)
            np.nan_to_num(update, copy=False, posinf=HALF, neginf=-HALF)  # what a half was too small for
            mean += update / len(which)
            if mean is means[1]:
                squares += [update[part] @ update[part] / len(which) for part in parts]
    theirs, others = means
    spread = [square - others[part] @ others[part] for square, part in zip(squares, parts, strict=True)]
    return [
        float(np.linalg.norm(theirs[part] - others[part]) / np.sqrt(square)) if square > 0 else np.nan
        for square, part in zip(spread, parts, strict=True)
    ]


def _broken(run: RunFile) -> Int64:
    """Tested rounds in which accuracy had first lost half of its best lead over chance."""
    rounds, accuracy = run.read("evaluation/round"), run.read("evaluation/accuracy")
    chance = 1 / run.layout.size("class")
    low = accuracy < (np.maximum.accumulate(accuracy) + chance) / 2 if len(accuracy) else np.zeros(0, bool)
    fell: Int64 = rounds[low & ~np.concatenate([[False], low[:-1]])].astype(np.int64)
    return fell
