"""The updates of one round as a matrix, and all that rules need of it: its Gram matrix, and columns by the block.

Nearly every robust rule depends on the rows only through their inner products. `Updates.gram` computes those once,
in fixed blocks of columns: float32 products within a block, float64 sums over the blocks in their order. The result
does not depend on how many ranks there are or which columns each has, nor on how the rows lie in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from fempi.columns import Columns

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Bool = NDArray[np.bool_]
Int64 = NDArray[np.int64]
Array = TypeVar("Array", bound="NDArray[Any]")

_SAFE = 40
"""Rows whose largest entry lies within 2**-40 and 2**40 in magnitude neither overflow nor vanish in a float32 inner
product; others are scaled first."""


class Row(Protocol):
    """One update of d coordinates, an array or what reads it from a file when asked."""

    def __getitem__(self, columns: slice, /) -> Float32:
        """Return some of its coordinates."""


class Updates:
    """n updates of d coordinates (float32, one per row), with the server's reference update where there is one.

    `gram` is (n, n) float64. `reference_products` (n,) and `reference_norm` are the reference's inner products; they
    exist only where `has_reference`. The rows, a matrix or one array each, are read, never written.

    Where the d columns are spread over ranks, `rows` holds those at hand, and what needs the others takes all ranks:
    they call the same methods in the same order.
    """

    def __init__(
        self,
        rows: Float32 | Sequence[Float32],
        reference: Float32 | None = None,
        columns: Columns | None = None,
    ) -> None:
        self._rows: Sequence[Any] = list(rows)
        self._reference = reference
        self._mixing: Float64 | None = None
        self.n = len(self._rows)
        self.columns = columns or Columns(rows.shape[1] if isinstance(rows, np.ndarray) else len(rows[0]))

    @classmethod
    def from_gram(cls, gram: Float64, *, has_reference: bool, rows: Sequence[Row] = (), d: int = 0) -> Updates:
        """Make updates whose inner products are known: what a record keeps of every round.

        `gram` is (n + 1, n + 1), its last row and column the reference's. Without the rows, asking for columns raises
        ValueError.
        """
        updates = cls.__new__(cls)
        updates._rows = rows
        updates._reference = None
        updates._mixing = None
        updates.n = len(gram) - 1
        updates.columns = Columns(d)
        updates.__dict__["has_reference"] = has_reference
        updates.__dict__["full_gram"] = read_only(gram)
        updates.__dict__["finite"] = np.isfinite(np.diagonal(gram)[:-1])
        return updates

    @property
    def d(self) -> int:
        """Coordinates of an update."""
        return self.columns.d

    @cached_property
    def has_reference(self) -> bool:
        """Whether there is a reference update, and it is finite."""
        return self._reference is not None and bool(np.isfinite(self._magnitudes[-1]))

    @cached_property
    def finite(self) -> Bool:
        """(n,) which rows hold neither NaN nor Inf."""
        return np.isfinite(self._magnitudes[: self.n])

    @cached_property
    def full_gram(self) -> Float64:
        """(n + 1, n + 1) inner products, the reference last; NaN where there is no reference or a row is not finite."""
        rows, known = self._rows_and_reference, np.flatnonzero(np.isfinite(self._magnitudes))
        gram = np.full((self.n + 1, self.n + 1), np.nan)
        if len(known):
            gram[np.ix_(known, known)] = _inner_products(
                [rows[i] for i in known], self._magnitudes[known], self.columns
            )
        return read_only(gram)  # it is recorded after the rule has seen it

    @property
    def _rows_and_reference(self) -> list[Any]:
        """The columns at hand of all rows, the reference last if there is one."""
        return [*self._rows, *([self._reference[self.columns.here]] if self._reference is not None else [])]

    @cached_property
    def _magnitudes(self) -> Float64:
        """What `_magnitude` says of each row, and last of the reference if there is one."""
        return self.columns.largest(np.array([_magnitude(row) for row in self._rows_and_reference], np.float64))

    @property
    def gram(self) -> Float64:
        """(n, n) inner products of the rows."""
        return self.full_gram[:-1, :-1]

    @property
    def reference_products(self) -> Float64:
        """(n,) inner products of the rows with the reference."""
        return self.full_gram[:-1, -1]

    @property
    def reference_norm(self) -> float:
        """Euclidean norm of the reference."""
        return float(np.sqrt(self.full_gram[-1, -1]))

    @property
    def norms(self) -> Float64:
        """(n,) Euclidean norms of the rows."""
        norms: Float64 = np.sqrt(np.diagonal(self.gram))
        return norms

    def take(self, mask: Bool) -> Updates:
        """Return the rows where `mask` is true, with the same reference; nothing is copied but the Gram matrix."""
        subset = Updates.from_gram(
            self.full_gram[np.ix_(*[np.append(mask, True)] * 2)], has_reference=self.has_reference
        )
        if self._mixing is None:
            subset._rows = [row for row, kept in zip(self._rows, mask, strict=False) if kept]
        else:
            subset._rows, subset._mixing = self._rows, self._mixing[mask]
        subset._reference = self._reference
        subset.columns = self.columns
        return subset

    def blocks(self) -> Iterator[tuple[slice, Float32]]:
        """Yield (columns, a contiguous (n, width) copy of them) for all columns.

        Raises ValueError where they are spread over ranks, so that nobody has all; `sum` and `fold` work there, too.
        """
        if self.columns.spread:
            raise ValueError(
                "it takes the updates apart column by column itself, which needs all of them on one rank: use "
                'aggregator.layout = "root"'
            )
        yield from self._blocks()

    def _blocks(self) -> Iterator[tuple[slice, Float32]]:
        if not self.d:
            raise ValueError("only the inner products of these updates are known, not their columns")
        start = self.columns.start
        for here in self.columns.blocks():
            block = np.stack([row[here] for row in self._rows])
            yield (
                slice(start + here.start, start + here.stop),
                block if self._mixing is None else (self._mixing @ block).astype(np.float32),
            )

    def sum(self, term: Callable[[slice, Float32], Any]) -> Float64:
        """Return the sum over all blocks of columns of `term(columns, block)`, in float64 and in their order.

        A block is a contiguous (n, width) copy of the columns; terms are arrays of one shape, or numbers.
        """
        return self.columns.sum(term(columns, block) for columns, block in self._blocks())

    def fold(self, work: Callable[[slice, Float32], tuple[Any, Any]]) -> tuple[Float32, Float64]:
        """Return a float32 vector (d,) and a sum as of `sum`, of both of which `work(columns, block)` gives a part.

        The vector's part is of shape (width,).
        """
        piece = np.empty(self.columns.width, np.float32)

        def terms() -> Iterator[Any]:
            for columns, block in self._blocks():
                here = slice(columns.start - self.columns.start, columns.stop - self.columns.start)
                piece[here], term = work(columns, block)
                yield term

        total = self.columns.sum(terms())
        return self.columns.join(piece), total

    def at(self, places: Int64) -> Float32:
        """Return the coordinates (n, k) of all rows at k places, in the order in which they are asked for."""
        found = np.zeros((self.n, len(places)), np.float32)
        for columns, block in self._blocks():
            here = np.flatnonzero((places >= columns.start) & (places < columns.stop))
            found[:, here] = block[:, places[here] - columns.start]
        return self.columns.overlaid(found)

    def products(self, vector: Float32) -> Float64:
        """Return the inner products (n,) of the rows with any vector (d,), in float64."""
        return self.sum(lambda columns, block: block.astype(np.float64) @ vector[columns].astype(np.float64))

    def mix(self, matrix: Float64) -> Updates:
        """Return the updates whose rows are matrix (m, n) times these; only their inner products are computed now."""
        extended = np.zeros((len(matrix) + 1, self.n + 1))
        extended[:-1, :-1], extended[-1, -1] = matrix, 1
        known = self.full_gram.copy()
        if not self.has_reference:
            known[-1], known[:, -1] = 0, 0
        gram = extended @ known @ extended.T
        gram = (gram + gram.T) / 2  # a product of three is symmetric but for rounding
        # What cancels in a sum of rows leaves rounding behind, which must not pass for a short row.
        squares = np.einsum("ii->i", gram)[:-1]
        np.maximum(squares, 1e-6 * (matrix @ self.norms) ** 2, out=squares)
        if not self.has_reference:
            gram[-1], gram[:, -1] = np.nan, np.nan
        mixed = Updates.from_gram(gram, has_reference=self.has_reference)
        mixed._rows, mixed._reference, mixed.columns = self._rows, self._reference, self.columns
        mixed._mixing = matrix if self._mixing is None else matrix @ self._mixing
        return mixed

    def combine(self, weights: Float64) -> Float32:
        """Return the (d,) float32 sum of the rows, each times its weight; rows of weight 0 are not touched."""
        used, factors = self.take(weights != 0), weights[weights != 0]
        if not used.n:
            return np.zeros(self.d, np.float32)
        with np.errstate(over="ignore", invalid="ignore"):  # a sum of hostile rows may overflow; it is recorded
            return used.fold(lambda _, block: (factors @ block.astype(np.float64), 0))[0]


def read_only(array: Array) -> Array:
    """Return a view that refuses to be written to: evidence may be shown to plugins, not changed by them."""
    view = array.view()
    view.flags.writeable = False
    return view


def distances(gram: Float64) -> Float64:
    """Squared Euclidean distances (n, n) between rows, from their inner products; clamped at 0."""
    squares = np.diagonal(gram)
    between: Float64 = np.maximum(squares[:, None] + squares[None, :] - 2 * gram, 0)
    return between


def cosines(products: Float64, norms: Float64, reference_norm: float) -> Float64:
    """Cosines (n,) of rows with one vector; 0 where either is zero."""
    scale = norms * reference_norm
    out: Float64 = np.divide(products, scale, out=np.zeros_like(products), where=scale > 0)
    return out


def distances_to(gram: Float64, weights: Float64) -> Float64:
    """Distances (n,) of the rows from the point that is the rows' weighted sum."""
    products = gram @ weights
    # A small weight meets its row's large products before anything is subtracted: hostile rows cost no digits.
    squares = np.diagonal(gram) - 2 * products + weights @ products
    out: Float64 = np.sqrt(np.maximum(squares, 0))
    return out


def shares(trust: Float64) -> Float64:
    """Non-negative scores (n,) as shares that sum to 1, or all 0."""
    total = trust.sum()
    return trust / total if total > 0 else np.zeros_like(trust)


def clipped(norms: Float64, threshold: float) -> Float64:
    """Factor (n,) that shortens rows of these norms to the threshold; 1 for those that are not longer."""
    factors: Float64 = np.divide(threshold, norms, out=np.ones_like(norms), where=norms > threshold)
    return factors


def _magnitude(row: Float32) -> float:
    """Largest absolute entry, or 1 where that is surely in the safe range; NaN if there is a NaN, 0 without entries."""
    if not len(row):
        return 0.0
    with np.errstate(over="ignore", invalid="ignore"):
        square = float(row @ row)  # in one look at the row, where the largest and the smallest entry take two
    # The largest entry's square is at most the sum of all, and at least its d-th part; a factor 4 is for rounding.
    if 4 * len(row) * 2.0 ** (-2 * _SAFE) < square < 2.0 ** (2 * _SAFE) / 4:
        return 1.0
    return float(np.maximum(row.max(), -row.min()))


def _inner_products(rows: list[Float32], magnitudes: Float64, columns: Columns) -> Float64:
    # A power of two scales without rounding, so ordinary rows keep their bits, and hostile ones neither overflow nor
    # hide: a row too small to have a norm would have any cosine it likes.
    exponents = np.frexp(magnitudes)[1].astype(np.int64)
    exponents -= exponents.clip(-_SAFE, _SAFE)
    scales = np.ldexp(np.float32(1), -exponents).astype(np.float32)

    def products(here: slice) -> Float32:
        # The same block at another row stride gives other bits: always multiply a fresh contiguous copy.
        block = np.empty((len(rows), here.stop - here.start), np.float32)
        for target, row, scale in zip(block, rows, scales, strict=True):
            np.multiply(row[here], scale, out=target)
        return block @ block.T

    gram = columns.sum(map(products, columns.blocks()))
    unscaled: Float64 = np.ldexp(gram, exponents[:, None] + exponents[None, :])
    return unscaled
