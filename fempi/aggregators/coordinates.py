"""What the coordinate-wise rules share: each averages values that are next to each other in a coordinate's order.

The values of a coordinate, sorted, have places 0 to n - 1. Values are ordered as they are, in float32, and averaged in
float64, so that no sum overflows; the order of the rows plays no part.
"""

from collections.abc import Callable

import numpy as np

from fempi.aggregators import Decision
from fempi.algebra import Float32, Float64, Int64, Updates


def mean_of_places(updates: Updates, count: int, first: Callable[[Float32], Int64]) -> Decision:
    """Average, in each coordinate, the values at `count` places next to each other.

    `first` tells from sorted columns (n, width) at which place (width,) to begin. Trust is the share of the coordinates
    in which the row's value was taken; rows with equal values share the places of these.
    """

    def of_block(_: slice, block: Float32) -> tuple[Float64, Float64]:
        n, width = block.shape
        # Rows a power of two apart would share one set of the cache, and sorting take ten times as long.
        padded = np.empty((n + 2, width + 16), np.float32)[:, :width]
        padded[0], padded[-1] = -np.inf, np.inf
        ordered = padded[1:-1]
        ordered[:] = block
        ordered.sort(axis=0)
        start = first(ordered)
        taken = _in_lowest(start + count, block, padded) - _in_lowest(start, block, padded)
        return _sum_of_places(ordered, start, count) / count, taken

    update, taken = updates.fold(of_block)
    taken /= updates.d
    return Decision(weights=taken / taken.sum(), trust=taken, selected=taken > 0, update=update)


def middle(ordered: Float32, dropped: int) -> Float64:
    """Mean (width,) of sorted columns without the `dropped` smallest and largest values."""
    mean: Float64 = ordered[dropped : len(ordered) - dropped].mean(axis=0, dtype=np.float64)
    return mean


def dropped_by_median(n: int) -> int:
    """How many values on either side leave only the middle one, or the middle two of an even number."""
    return (n - 1) // 2


def nearest(ordered: Float32, centre: Float64, count: int) -> Int64:
    """First place (width,) of the `count` values nearest to `centre`; of two equally near the smaller comes first."""
    # Place i is given up for place i + count where that is nearer: centre - lower > upper - centre.
    lower, upper = ordered[: len(ordered) - count], ordered[count:]
    first: Int64 = (lower.astype(np.float64) + upper < 2 * centre).sum(axis=0)
    return first


def _sum_of_places(ordered: Float32, start: Int64, count: int) -> Float64:
    """Sum `count` values of each sorted column, from a place (width,) on."""
    if (start == start[0]).all():
        values = ordered[start[0] : start[0] + count]
    else:
        places = np.arange(len(ordered))[:, None]
        # Not a difference of cumulative sums: a hostile value below would swallow all that follows.
        values = np.where((start <= places) & (places < start + count), ordered, 0)
    total: Float64 = values.sum(axis=0, dtype=np.float64)
    return total


def _in_lowest(count: Int64, block: Float32, padded: Float32) -> Float64:
    """How often each row (n,) is among the `count` (width,) lowest of a column; equal values share what is left."""
    column = np.arange(len(count))
    last, beyond = padded[count, column], padded[count + 1, column]
    often: Float64 = np.count_nonzero(block < beyond, axis=1).astype(np.float64)
    tied = np.flatnonzero(last == beyond)
    if tied.size:
        values, bound = block[:, tied], beyond[tied]
        equal = values == bound
        often += equal @ ((count[tied] - (values < bound).sum(axis=0)) / equal.sum(axis=0))
    return often
