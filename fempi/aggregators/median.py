"""The coordinate-wise median.

Yin, Chen, Ramchandran, Bartlett: Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates. ICML 2018.
"""

from dataclasses import replace

import numpy as np

from fempi.aggregators import Context, Decision
from fempi.aggregators.coordinates import dropped_by_median, mean_of_places
from fempi.algebra import Float32, Float64, Updates
from fempi.registry import register


@register("aggregator", "median", paper="Yin et al., ICML 2018", needs=("columns",), cost="n d log n")
def median(updates: Updates, context: Context) -> Decision:
    """The median of each coordinate; of an even number, the mean of the middle two.

    It knows no f, and holds as long as fewer than half of the rows are Byzantine. Trust: minus the Euclidean distance
    to the median, at most 0; the weights, near 1 / n each, say how often a row was in the middle.
    """
    dropped = dropped_by_median(updates.n)
    decision = mean_of_places(
        updates, updates.n - 2 * dropped, lambda ordered: np.full(ordered.shape[1], dropped, np.int64)
    )
    assert decision.update is not None, "mean_of_places fills it in"
    return replace(decision, trust=-_distances_to(decision.update, updates))


def _distances_to(vector: Float32, updates: Updates) -> Float64:
    def squares(columns: slice, block: Float32) -> Float64:
        differences = np.subtract(block, vector[columns], dtype=np.float64)
        total: Float64 = np.einsum("ij,ij->i", differences, differences)
        return total

    return np.sqrt(updates.sum(squares))
