"""Divide-and-conquer (DnC), a spectral filter.

Shejwalkar, Houmansadr: Manipulating the Byzantine: Optimizing Model Poisoning Attacks and Defenses for Federated
Learning. NDSS 2021.
"""

import math
from typing import Annotated

import numpy as np
from pydantic import Field

from fempi.aggregators import Context, Decision, TooFewRows
from fempi.aggregators.krum import lowest
from fempi.algebra import Float64, Updates, shares
from fempi.registry import register


@register("aggregator", "dnc", paper="Shejwalkar and Houmansadr, NDSS 2021", needs=("columns",), cost="n d")
def dnc(
    updates: Updates,
    context: Context,
    *,
    iterations: Annotated[int, Field(ge=1)] = 1,
    subsample_size: Annotated[int, Field(ge=1)] = 10_000,
    filter_fraction: Annotated[float, Field(ge=0)] = 1.0,
) -> Decision:
    """Average of the rows that lie least far out along their top singular vector.

    Each of the `iterations` draws `subsample_size` coordinates (all, if there are fewer), centres the rows on their
    mean, and takes as outlier scores the squared projections on the top right singular vector. The n - c f rows with
    the lowest scores stay; c is `filter_fraction`, and c f is rounded up. Rows that stay in every iteration are
    averaged; if there are none, the update is zero. Trust: minus the largest share that the row has of all squared
    projections in an iteration, -1 to 0.
    """
    # The inner rounding makes 0.28 times 25 seven.
    dropped = math.ceil(round(filter_fraction * context.num_byzantine, 9))
    if updates.n <= dropped:
        raise TooFewRows(f"dnc drops {dropped} rows and needs at least {dropped + 1}, not {updates.n}")
    selected, outlier = np.ones(updates.n, bool), np.zeros(updates.n)
    for sample in _subsamples(updates, iterations, min(subsample_size, updates.d), context.rng):
        scores = shares(squared_projections(sample))
        selected &= lowest(scores, updates.n - dropped)
        outlier = np.maximum(outlier, scores)
    return Decision(weights=shares(selected.astype(float)), trust=-outlier, selected=selected)


def squared_projections(sample: Float64) -> Float64:
    """Squared projections (n,) of the centred rows of (n, size) on their top right singular vector."""
    centred = sample - sample.mean(axis=0)
    # With C = S diag(s) V', the projections C v are s times the left singular vector: the top eigenvector of C C'.
    values, vectors = np.linalg.eigh(centred @ centred.T)
    projections: Float64 = values[-1] * vectors[:, -1] ** 2
    return projections


def _subsamples(updates: Updates, count: int, size: int, rng: np.random.Generator) -> Float64:
    """Return `count` draws of `size` different coordinates of all rows, (count, n, size), in one pass over the rows."""
    drawn = [rng.choice(updates.d, size, replace=False, shuffle=False) for _ in range(count)]
    samples = updates.at(np.concatenate(drawn)).reshape(updates.n, count, size)
    return samples.transpose(1, 0, 2).astype(np.float64, order="C")
