"""The columns of a round's updates in fixed blocks: which are at hand, and what all of them say together.

Whatever is asked of all columns is made of what each block says, in the order of the blocks. So the answer has the same
bits however the columns are spread over ranks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

BLOCK = 1 << 14
"""Columns in a block. Part of the definition of a run's bits: another width rounds differently."""


class Columns:
    """d columns, of which those from `start` to `stop` are at hand: here, all of them.

    A subclass may spread them over ranks. Then its methods take all ranks, which ask the same in the same order.
    """

    spread = False

    def __init__(self, d: int, start: int = 0, stop: int | None = None) -> None:
        self.d = d
        self.start = start
        self.stop = d if stop is None else stop

    @property
    def here(self) -> slice:
        """The columns at hand, among all."""
        return slice(self.start, self.stop)

    @property
    def width(self) -> int:
        """How many are at hand."""
        return self.stop - self.start

    def blocks(self) -> Iterator[slice]:
        """Yield the blocks at hand in their order, counted from the first column at hand."""
        for first in range(0, self.width, BLOCK):
            yield slice(first, min(first + BLOCK, self.width))

    def sum(self, terms: Iterable[Any]) -> NDArray[np.float64]:
        """Add up, in float64 and in the order of all blocks, the arrays of equal shape that blocks at hand give."""
        total: NDArray[np.float64] | None = None
        for term in terms:
            if total is None:
                total = np.zeros(np.shape(term))
            total += term
        return np.zeros(()) if total is None else total

    def join(self, piece: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return a vector over all columns (d,) from its part at hand."""
        return piece

    def whole(self, rows: NDArray[np.float32]) -> Iterable[NDArray[np.float32]]:
        """Return on root the rows (d,) whose columns (k, width) are at hand."""
        return rows

    def largest(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the largest of what each part of the columns says (k,); NaN where any says NaN."""
        return values

    def overlaid(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return an array to which each part of the columns gives some entries, the others being 0 there."""
        return values
