"""SignGuard.

Xu, Huang, Song, Lan: Byzantine-Robust Federated Learning through Collaborative Malicious Gradient Filtering.
ICDCS 2022.
"""

import math
from typing import Annotated

import numpy as np
from pydantic import Field

from fempi.aggregators import Context, Decision
from fempi.algebra import Bool, Float32, Float64, Int64, Updates, clipped, shares
from fempi.registry import register


@register("aggregator", "sign_guard", paper="Xu et al., ICDCS 2022", needs=("columns",), cost="n d")
def sign_guard(
    updates: Updates,
    context: Context,
    *,
    lower: Annotated[float, Field(ge=0, le=1)] = 0.1,
    upper: Annotated[float, Field(ge=1)] = 3.0,
    fraction: Annotated[float, Field(gt=0, le=1)] = 0.1,
) -> Decision:
    """Average, clipped to the median norm, of rows with a usual norm and usual shares of signs.

    A row passes the first test if its norm is `lower` to `upper` times the median norm. It passes the second if it
    is in the largest cluster that mean shift finds among the rows' shares of positive, zero and negative signs in a
    random `fraction` of the coordinates. If no row passes both, the update is zero. Of equally large clusters the
    denser counts, then the one with more positive signs. The bandwidth is the mean distance of a row to its n/2-th
    nearest, itself included, as the authors set it, and wide enough for a change of one sign; rows farther than that
    from every centre are in no cluster. The authors' code differs in two things: it takes a window of adjacent
    coordinates, and divides each share by the largest in the cohort, so that a few zeros can outweigh all other signs.
    Trust: the share of the two tests passed, 0, 0.5 or 1.
    """
    norms = updates.norms
    median = float(np.median(norms))
    in_gate = (norms >= lower * median) & (norms <= upper * median)
    size = math.ceil(fraction * updates.d)
    signs = _sign_shares(updates, size, context.rng)
    # A change of one sign moves the shares by sqrt(2) / size: no reason to tell two rows apart.
    in_cluster = _in_largest_cluster(signs, least_bandwidth=1.5 / size)
    selected = in_gate & in_cluster
    return Decision(
        weights=shares(selected.astype(float)),
        trust=(in_gate.astype(float) + in_cluster) / 2,
        selected=selected,
        scale=clipped(norms, median),
    )


def _sign_shares(updates: Updates, size: int, rng: np.random.Generator) -> Float64:
    """Shares (n, 3) of positive, zero and negative signs among `size` coordinates."""
    chosen = np.zeros(updates.d, bool)
    chosen[rng.choice(updates.d, size, replace=False, shuffle=False)] = True

    def counts(columns: slice, block: Float32) -> Int64:
        sample = block[:, chosen[columns]]
        return np.stack([has_sign.sum(axis=1) for has_sign in (sample > 0, sample == 0, sample < 0)], axis=1)

    return updates.sum(counts) / size


def _in_largest_cluster(features: Float64, *, least_bandwidth: float) -> Bool:
    """Mark (n,) the rows of the largest mean-shift cluster."""
    from sklearn.cluster import MeanShift, estimate_bandwidth  # slow to import, and no other rule's need

    order = np.lexsort(features.T)  # in a fixed order, ties cannot depend on the order of rows
    points = features[order]
    bandwidth = max(estimate_bandwidth(points, quantile=0.5), least_bandwidth)
    labels = np.empty(len(points), np.int64)
    labels[order] = MeanShift(bandwidth=bandwidth, cluster_all=False).fit(points).labels_  # -1: in no cluster
    largest = np.bincount(labels[labels >= 0], minlength=1).argmax()
    members: Bool = labels == largest
    return members
