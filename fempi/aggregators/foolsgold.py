"""FoolsGold.

Fung, Yoon, Beschastnikh: The Limitations of Federated Learning in Sybil Settings. RAID 2020.
"""

from typing import Annotated

import numpy as np
from pydantic import Field

from fempi.aggregators import Context, Decision, require_clients
from fempi.algebra import Float32, Float64, Updates, cosines, shares
from fempi.registry import register

_RESOLUTION = 1e-6
"""Cosines nearer to 1 than this cannot be told from 1: inner products are summed in float32."""


@register("aggregator", "foolsgold", paper="Fung et al., RAID 2020", needs=("columns", "clients"), cost="n^2 d")
def foolsgold(updates: Updates, context: Context, *, kappa: Annotated[float, Field(gt=0)] = 1.0) -> Decision:
    """Average weighted against clients whose updates, summed over all rounds, point the same way.

    A client's history is the sum of all its updates, cut off at the largest float32 where it would overflow. Of the
    cosines between the cohort's histories a client's largest counts, after pardoning; it becomes a learning rate by the
    logit, times the confidence `kappa`. All coordinates count alike (the paper can weight them by the features'
    importance). The update is the weighted mean, with the learning rates as weights; the paper and its authors' code
    take the weighted sum, which is longer the more clients there are. Under a clear attack, nnm makes all honest rows
    equal, and they pass for clients that agree: leave it out. A single row is taken as it is. If all histories point
    the same way, the update is zero. The state holds 4 d bytes for every client ever seen: 6.7 MB for each, and 0.67 GB
    for 100 clients, of a model of 1.66 million parameters. Trust: the learning rate, 0 to 1.
    """
    require_clients(context)
    names = [f"history/{client}" for client in context.clients]
    histories = _histories(updates, [context.state.get(name) for name in names])
    rates = learning_rates(pairwise_cosines(Updates(histories).gram), kappa)
    return Decision(
        weights=shares(rates),
        trust=rates,
        selected=rates > 0,
        state={**context.state, **dict(zip(names, histories, strict=True))},
    )


def pairwise_cosines(gram: Float64) -> Float64:
    """Cosines (n, n) between rows, from their inner products; 0 for a zero row, and 1 where only rounding differs."""
    norms = np.sqrt(np.diagonal(gram))
    between = cosines(gram, np.outer(norms, norms), 1)
    return np.where(between > 1 - _RESOLUTION, 1, np.maximum(between, -1))


def learning_rates(between: Float64, kappa: float) -> Float64:
    """Learning rates (n,), the paper's alpha, from the cosines (n, n) between histories."""
    similarity = between.copy()
    np.fill_diagonal(similarity, 0)  # not compared with itself; nobody's largest is below 0, as in the authors' code
    largest = similarity.max(axis=1)
    # Pardoning: next to a client that is more like some other, an honest client only looks similar.
    more = largest[None, :] > largest[:, None]
    pardon = np.divide(largest[:, None], largest[None, :], out=np.ones_like(similarity), where=more)
    rates: Float64 = 1 - (similarity * pardon).max(axis=1)
    if not rates.any():
        return rates
    rates /= rates.max()
    with np.errstate(divide="ignore"):  # the logit of 0 and 1 is infinite, and clipped
        logits = np.log(rates) - np.log1p(-rates)
    return np.clip(kappa * (logits + 0.5), 0, 1)


def _histories(updates: Updates, before: list[np.ndarray | None]) -> list[Float32]:
    """The sums (d,) of each client's updates with this round's: one array each, so that each can be let go alone."""
    histories = [np.zeros(updates.d, np.float32) if known is None else known.copy() for known in before]
    bound = np.finfo(np.float32).max
    with np.errstate(over="ignore"):
        for columns, block in updates.blocks():
            for history, row in zip(histories, block, strict=True):
                history[columns] = np.clip(history[columns] + row, -bound, bound)
    return histories
