"""What updates teach the last layer: which class's examples are pushed towards which other class.

Where the last layer is linear, an example with features h and label y adds (1[k = y] - p_k) h to the step of row k. An
honest client never pushes the features of class s towards another class t, be its data as one-sided as it may; one
whose labels are flipped from s to t does, and takes them from s at once. How far a step of a row goes along the
features of one class, and of no other, is read off with the pseudo-inverse of the model's own rows, which in a trained
model are what features of their class look like (Papyan, Han, Donoho: Prevalence of neural collapse. PNAS 2020).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from fempi.algebra import Float64, Int64
from fempi.forensics.geometry import is_sound
from fempi.forensics.suspicion import ALARM, evidence
from fempi.runfile import RunFile

MARKED = 2.0
"""Standard normal deviate from which a client's rows together are marked"""
CHANCE = 0.0025
"""How often an honest client is marked for a pair of classes, rounded up: on MNIST it was 0 to 0.0015 in clean runs"""
SETTLED = 0.9
"""Cosine with the last weights from which those of a round tell the features of classes"""
MOST_PAIRS = 10**7
"""Pairs of classes times clients: of more, the counts would not fit the memory of a laptop"""
_RANK = 1e-2
"""Directions in which the rows of the last layer differ less than this, relative to the most, are not told apart"""


@dataclass(frozen=True, kw_only=True)
class LastLayer:
    """Where the weights (K, h) of the last layer are in the flat vector."""

    weight: slice
    num_classes: int


@dataclass(frozen=True, kw_only=True)
class Lessons:
    """What each client's rows together taught."""

    mistaken: Float64
    """(C, K, K): how much the client takes examples of class [., ., s] for class [., t, .], 0 where it does not; as
    standard normal deviates"""
    first_round: Int64
    """(C, K, K): in which that was first marked; 0: never"""
    moved: Float64
    """(C, K): how far the row of each class went from where the others took it, compared with the client's other rows,
    as standard normal deviates"""
    clients: int
    """who took part"""


@dataclass(frozen=True, kw_only=True)
class Flip:
    """Several clients who teach that examples of one class are of another."""

    source: int
    target: int
    since: Mapping[int, int]
    """first round in which it was seen, by client"""
    p: float
    """probability that so many are marked by chance, all pairs of classes considered"""


def last_layer(run: RunFile) -> LastLayer | None:
    """Find the last matrix with a row for each class; None if the model has none."""
    classes = run.layout.size("class")
    shapes = [json.loads(shape) for shape in run.read("layers/shape")]
    matrices = [
        (start, shape) for start, shape in zip(run.read("layers/offset"), shapes, strict=True) if len(shape) == 2
    ]
    if not matrices or matrices[-1][1][0] != classes:
        return None
    start, (_, width) = matrices[-1]
    return LastLayer(weight=slice(int(start), int(start) + classes * width), num_classes=classes)


def obstacle(run: RunFile) -> str:
    """Say why a record does not tell what was taught; empty if it does."""
    if not run.layout.keeps_params:
        kept = run.layout.updates
        return f'which classes were flipped is seen in the updates; the record keeps record.updates = "{kept}"'
    if run.layout.size("class") ** 2 * run.layout.size("client") > MOST_PAIRS:
        return "which classes were flipped is not looked for among so many classes and clients"
    if last_layer(run) is None:
        return "which classes were flipped is seen in a last layer with one row for each class; the model has none"
    return ""


def lessons(run: RunFile) -> Lessons | None:
    """Read what clients taught off the rounds whose updates were kept; None if there is an `obstacle`."""
    layer = None if obstacle(run) else last_layer(run)
    if layer is None:
        return None
    K, C = layer.num_classes, run.layout.size("client")
    taught, foreign, moved = np.zeros((C, K, K)), np.zeros((C, K, K)), np.zeros((C, K))
    looks, first = np.zeros(C, np.int64), np.zeros((C, K, K), np.int64)
    clients, finite = run.read("rounds/client"), run.read("rounds/finite")
    for place, model in _models(run, layer):
        rows = run["rounds/update"][place, :, layer.weight].astype(np.float64).reshape(len(finite[place]), K, -1)
        known = finite[place] & np.isfinite(rows).all(axis=(1, 2))  # a half may have become Inf
        if known.sum() < 3 or not is_sound(known):
            continue
        rows = rows[known]
        who = clients[place][known]  # each client at most once
        pushed = _pushed(rows, model)
        far = np.log(np.maximum(np.linalg.norm(rows - np.median(rows, axis=0), axis=2), np.finfo(float).tiny))
        taught[who] += evidence(_standardized(pushed))
        foreign[who] += pushed >= np.abs(pushed).max(axis=2, keepdims=True)
        moved[who] += evidence(_standardized(far - np.median(far, axis=1, keepdims=True)))
        looks[who] += 1
        new = (_mistaken(taught[who], foreign[who], looks[who]) > MARKED) & (first[who] == 0)
        first[who] = np.where(new, place + 1, first[who])
    return Lessons(
        mistaken=_mistaken(taught, foreign, looks),
        first_round=first,
        moved=moved / np.sqrt(np.maximum(looks, 1))[:, None],
        clients=int((looks > 0).sum()),
    )


def flips(found: Lessons) -> tuple[Flip, ...]:
    """Find the flips that more clients teach than chance allows, the most certain first.

    Marks of clients are held against a binomial distribution: one client alone may have strange data; several with the
    same strangeness are no chance.
    """
    marked, K = found.mistaken > MARKED, found.mistaken.shape[1]
    p = stats.binom.sf(marked.sum(axis=0) - 1, found.clients, CHANCE) * K * (K - 1)
    pairs = np.argwhere((p < ALARM) & marked.any(axis=0)).tolist()
    pairs.sort(key=lambda pair: (p[pair[0], pair[1]], -found.mistaken[:, pair[0], pair[1]].sum()))
    return tuple(
        Flip(
            source=s,
            target=t,
            since={client: int(found.first_round[client, t, s]) for client in np.flatnonzero(marked[:, t, s]).tolist()},
            p=float(p[t, s]),
        )
        for t, s in pairs
    )


def moved_class(found: Lessons, clients: Sequence[int]) -> int | None:
    """Return the one class whose row most of at least three clients moved as few others did; None if there is none.

    That is what a backdoor does: images of all classes with the trigger go to one.
    """
    share = (found.moved[list(clients)] > MARKED).mean(axis=0) if len(clients) >= 3 else np.zeros(1)
    moved = np.flatnonzero(share > 0.5)
    return int(moved[0]) if len(moved) == 1 else None


def _models(run: RunFile, layer: LastLayer) -> Iterator[tuple[int, Float64]]:
    """Yield the places of the rounds that tell, whose updates were kept, and the layer's weights (K, h) before each.

    Of a run cut short, and where only some rounds were kept, the weights lack what is not known.
    """
    kept = [place for place in range(run.rounds_completed) if run.layout.keeps_vectors(place + 1)]

    def added(place: int) -> Float64:
        step: Float64 = run["rounds/aggregate"][place, layer.weight].astype(np.float64).reshape(layer.num_classes, -1)
        return step

    total = np.zeros((layer.num_classes, (layer.weight.stop - layer.weight.start) // layer.num_classes))
    for place in kept:
        total += added(place)
    model: Float64 = np.zeros_like(total)
    if run.status == "complete":
        model = run["final/params"][layer.weight].astype(np.float64).reshape(total.shape) - total
    if not np.isfinite(model).all():
        model = np.zeros_like(total)
    last = _centred(model + total)
    for place in kept:
        if np.isfinite(model).all() and _cosine(_centred(model), last) >= SETTLED:
            yield place, model.copy()
        model += added(place)


def _pushed(rows: Float64, model: Float64) -> Float64:
    """How far steps (n, K, h) of row t go along the features of class s alone: (n, t, s)."""
    features = np.asarray(np.linalg.pinv(_centred(model), rcond=_RANK), np.float64)
    pushed: Float64 = _centred(rows) @ features
    return pushed


def _mistaken(taught: Float64, foreign: Float64, looks: Int64) -> Float64:
    """How much (n, t, s) examples of s are taken for t: their features, most of all, pushed to t, and off s."""
    away = -np.einsum("css->cs", taught)[:, None, :]
    both = np.minimum(taught, away) / np.sqrt(np.maximum(looks, 1))[:, None, None]
    return np.where(foreign > 0.5 * looks[:, None, None], np.maximum(both, 0.0), 0.0)


def _centred(weights: Float64) -> Float64:
    """Weights (..., K, h) less the mean of all classes, which softmax does not see."""
    centred: Float64 = weights - weights.mean(axis=-2, keepdims=True)
    return centred


def _cosine(a: Float64, b: Float64) -> float:
    size = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float((a * b).sum()) / size if size > 0 else 0.0


def _standardized(values: Float64) -> Float64:
    """Values (n, ...) in robust standard deviations from the median over n; 0 where most are equal."""
    away = values - np.median(values, axis=0)
    unit = stats.median_abs_deviation(values, axis=0, scale="normal")
    out: Float64 = np.divide(away, unit, out=np.zeros_like(away), where=unit > 0)
    return out
