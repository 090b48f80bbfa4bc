"""Inner products of vectors of different rounds, or of other kinds than updates: the rounds' Gram matrices lack these.

They take the vectors themselves. From full updates they are exact, from halves nearly so, and from sketches estimates,
with `fempi.sketch.standard_error`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fempi.algebra import Float64
from fempi.columns import BLOCK
from fempi.errors import FempiError
from fempi.runfile import RunFile


class Vector(NamedTuple):
    """A recorded vector: an update, a trained_update, the reference or the aggregate of a round."""

    round: int
    slot: int | None = None
    """None for the reference and the aggregate, of which a round has one"""
    name: str = "update"


def inner_products(run: RunFile, vectors: Sequence[Vector]) -> Float64:
    """Return the inner products (m, m) of recorded vectors; NaN with one that is not finite or not there.

    A block of columns at a time is in memory. FempiError if the record does not keep them.
    """
    rows = [(run[f"rounds/{v.name}"], (v.round - 1,) if v.slot is None else (v.round - 1, v.slot)) for v in vectors]
    for v in vectors:
        if not (1 <= v.round <= run.rounds_completed and run.layout.keeps_vectors(v.round)):
            raise FempiError(f"{run.path} keeps no {v.name} of round {v.round}")
    products = np.zeros((len(rows), len(rows)))
    length = run.layout.size(run.layout.vector)
    with np.errstate(invalid="ignore"):  # a hostile row gives NaN, which says so
        for start in range(0, length, BLOCK):
            columns = slice(start, min(start + BLOCK, length))
            block = np.stack([dataset[(*place, columns)] for dataset, place in rows]).astype(np.float64)
            products += block @ block.T
    return products
