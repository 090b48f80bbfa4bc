"""FLDetector.

Zhang, Cao, Jia, Gong: FLDetector: Defending Federated Learning Against Model Poisoning Attacks via Detecting Malicious
Clients. KDD 2022.
"""

from typing import Annotated

import numpy as np
from pydantic import Field

from fempi.aggregators import Context, Decision, State, require_clients
from fempi.algebra import Bool, Float32, Float64, Int64, Updates, shares
from fempi.columns import BLOCK
from fempi.registry import register

REFERENCES = 100
"""Uniform draws that the gap statistic compares the scores with."""


@register(
    "aggregator",
    "fl_detector",
    paper="Zhang et al., KDD 2022",
    needs=("columns", "clients"),
    cost="m^2 d, m steps",
)
def fl_detector(updates: Updates, context: Context, *, window: Annotated[int, Field(ge=1)] = 10) -> Decision:
    """Mean of the rows whose clients, over rounds, send what their last updates and the model's movement predict.

    A client's update is predicted as its last one, plus H times the movement of the model since then: the sum of the
    aggregates. (The paper has all clients in all rounds; here they may pause.) H is the L-BFGS approximation of the
    derivative of the aggregate, from the movements w_k - w_(k-1) and the changes g_k - g_(k-1) of the aggregate in the
    last `window` rounds. The distance between the prediction and what came, relative to the mean of such distances in
    the round, is averaged over the client's last `window` predicted updates: its suspicion score. (The paper divides by
    the sum; that is a factor n, which here differs between rounds.) If the gap statistic finds more than one cluster in
    the scores of all clients known, the upper one of two by 2-means is left out. Flags are drawn up anew every round;
    the paper starts the training again without those flagged, and then uses any robust rule.

    Everybody is kept until there are `window` changes, and so is a client before it has a score. The state takes
    4 d bytes for each client seen and each of m steps: the last window + 1, and one for each round in which somebody
    was last seen.
    Trust: minus the suspicion score, at most 0; -1 is ordinary, 0 where there is no score yet.
    """
    require_clients(context)
    last, moved = _arrays(context.state, "last"), _arrays(context.state, "moved")
    clients, seen, distances = _records(context, window)
    here = np.searchsorted(clients, context.clients)

    predicted = np.flatnonzero(seen[here] >= 0) if len(moved) > window else np.empty(0, np.int64)
    movements = np.less_equal.outer(seen[here[predicted]], list(moved)).astype(np.float64)
    steps = list(moved.values())
    changes = hessian_products(_gram(steps, updates.d), movements, window) if len(predicted) else movements
    rows, errors = _received(updates, predicted, [last[c] for c in context.clients[predicted].tolist()], steps, changes)
    relative = errors / errors.mean() if errors.any() else np.ones_like(errors)
    who = here[predicted]
    distances[who] = np.column_stack([distances[who, 1:], relative])

    measured = np.isfinite(distances).sum(axis=1)
    suspicion = np.nansum(distances, axis=1) / np.maximum(measured, 1)
    suspected = np.zeros(len(clients), bool)
    suspected[measured > 0] = suspects(suspicion[measured > 0], context.rng)

    selected = ~suspected[here]
    weights = shares(selected.astype(float))
    update = updates.combine(weights)
    seen[here] = context.round
    last |= dict(zip(context.clients.tolist(), rows, strict=True))
    moved = _thinned({**moved, context.round: update}, seen, window)
    return Decision(
        weights=weights,
        trust=-suspicion[here],
        selected=selected,
        update=update,
        state={
            "clients": clients,
            "seen": seen,
            "distances": distances,
            **{f"last/{client}": row for client, row in last.items()},
            **{f"moved/{round_}": step for round_, step in moved.items()},
        },
    )


def hessian_products(gram: Float64, movements: Float64, window: int) -> Float64:
    """H times n movements, H by L-BFGS from the last `window` + 1 of m steps of the model.

    The movements (n, m) and the products (n, m) are given as coefficients of the steps, whose inner products are
    `gram` (m, m). A step in a round is the aggregate of that round, so the model moved by one step when the
    aggregate changed from that one to the next.
    """
    m = len(gram)
    S = np.eye(window, m, m - window - 1)
    Y = np.eye(window, m, m - window) - S
    lengths = np.sqrt(np.diagonal(S @ gram @ S.T))
    moving = lengths > 0
    # H depends on the ratio of a pair only; movements of length 1 keep the numbers in range.
    S, Y = S[moving] / lengths[moving, None], Y[moving] / lengths[moving, None]
    if not len(S):
        return np.zeros_like(movements)
    SS, SY = S @ gram @ S.T, S @ gram @ Y.T
    sigma, L, D = SY[-1, -1], np.tril(SY, -1), np.diag(np.diagonal(SY))
    basis = np.vstack([sigma * S, Y])
    middle = np.block([[sigma * SS, L], [L.T, -D]])
    solved = np.linalg.lstsq(middle, basis @ gram @ movements.T, rcond=None)[0]  # it may be singular
    products: Float64 = sigma * movements - solved.T @ basis
    return products


def suspects(scores: Float64, rng: np.random.Generator) -> Bool:
    """Mark (n,) the upper of two clusters of scores, if the gap statistic finds more than one cluster.

    Tibshirani, Walther, Hastie: Estimating the Number of Clusters in a Data Set via the Gap Statistic. JRSS B, 2001.
    """
    n = len(scores)
    drawn = rng.random((REFERENCES, n))  # always, so that what is drawn later does not depend on the scores
    if n < 3 or scores.min() == scores.max():
        return np.zeros(n, bool)
    scaled = (scores - scores.min()) / np.ptp(scores)
    one, two, lower = two_means(scaled)
    reference_one, reference_two, _ = two_means(drawn)
    gap_one, gap_two = reference_one.mean() - one, reference_two.mean() - two
    if gap_one >= gap_two - np.sqrt(1 + 1 / REFERENCES) * reference_two.std():
        return np.zeros(n, bool)
    marked: Bool = scaled > np.sort(scaled)[lower - 1]
    return marked


def two_means(values: Float64) -> tuple[Float64, Float64, Int64]:
    """Logarithm of the sum of squares within one cluster and within the best two, and the size of the lower of these.

    Clusters of numbers are intervals, so the best two are found by trying each place to cut the sorted values (..., n).
    """
    n = values.shape[-1]
    ordered = np.sort(values, axis=-1)
    sizes = np.arange(1, n)
    sums, squares = np.cumsum(ordered, axis=-1), np.cumsum(ordered**2, axis=-1)
    lower = squares[..., :-1] - sums[..., :-1] ** 2 / sizes
    upper = squares[..., -1:] - squares[..., :-1] - (sums[..., -1:] - sums[..., :-1]) ** 2 / (n - sizes)
    whole = squares[..., -1] - sums[..., -1] ** 2 / n
    cut = (lower + upper).argmin(axis=-1)
    parts = (lower + upper).min(axis=-1)
    tiny = 1e-12  # rounding, where the values in each cluster are equal
    return np.log(np.maximum(whole, tiny)), np.log(np.maximum(parts, tiny)), cut + 1


def _arrays(state: State, name: str) -> dict[int, Float32]:
    """The arrays of the state called `name`/number, by rising number."""
    found = {int(key.partition("/")[2]): array for key, array in state.items() if key.startswith(f"{name}/")}
    return dict(sorted(found.items()))


def _records(context: Context, window: int) -> tuple[Int64, Int64, Float64]:
    """All clients ever seen (k,), sorted; the round each was last seen in (k,), or -1; last distances (k, window).

    Distances are relative to their rounds' means, the newest last, and NaN where there are fewer.
    """
    state = context.state
    known = state.get("clients", np.empty(0, np.int64))
    clients = np.union1d(known, context.clients)
    seen, distances = np.full(len(clients), -1), np.full((len(clients), window), np.nan)
    if len(known):
        places = np.searchsorted(clients, known)
        seen[places], distances[places] = state["seen"], state["distances"]
    return clients, seen, distances


def _gram(steps: list[Float32], d: int) -> Float64:
    gram = np.zeros((len(steps), len(steps)))
    for start in range(0, d, BLOCK):
        block = np.stack([step[start : start + BLOCK] for step in steps]).astype(np.float64)
        gram += block @ block.T
    return gram


def _received(
    updates: Updates, predicted: Int64, last: list[Float32], steps: list[Float32], changes: Float64
) -> tuple[list[Float32], Float64]:
    """All rows as arrays of their own, and the errors of the predictions: last row plus `changes` of the steps."""
    rows = [np.empty(updates.d, np.float32) for _ in range(updates.n)]
    squares, without = np.zeros(len(predicted)), np.zeros(len(predicted))
    for columns, block in updates.blocks():
        for row, part in zip(rows, block, strict=True):
            row[columns] = part
        if len(predicted):
            change = block[predicted] - np.stack([row[columns] for row in last]).astype(np.float64)
            without += (change**2).sum(axis=1)
            moved = np.stack([step[columns] for step in steps]).astype(np.float64)
            with np.errstate(over="ignore", invalid="ignore"):
                squares += ((change - changes @ moved) ** 2).sum(axis=1)
    # After hostile rows H can be beyond all numbers; then the last row alone is the prediction.
    return rows, np.sqrt(np.where(np.isfinite(squares), squares, without))


def _thinned(moved: dict[int, Float32], seen: Int64, window: int) -> dict[int, Float32]:
    """Keep the last steps apart, and otherwise only sums of those between rounds in which somebody was seen last."""
    needed = {*list(moved)[-window - 1 :], *seen.tolist()}
    kept: dict[int, Float32] = {}
    for round_, step in moved.items():
        if round_ in needed:
            kept[round_] = step
        elif kept:
            before = next(reversed(kept))
            with np.errstate(over="ignore"):  # beyond float32 the model is lost, but no NaN must come of it
                kept[before] = np.nan_to_num(kept[before] + step)
    return kept
