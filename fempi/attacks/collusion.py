"""What colluding clients need: statistics of honest rows, one row for all of them, and the server's answer to it.

d are the columns at hand (see `Knowledge`). What takes all of them is summed block by block.
"""

from collections.abc import Callable, Iterator

import numpy as np

from fempi.algebra import Bool, Float32, Float64
from fempi.attacks import Knowledge
from fempi.columns import Columns


def mean_of(rows: Float32) -> Float64:
    """Mean (d,) of the rows."""
    out = np.empty(rows.shape[1])
    for columns in Columns(len(out)).blocks():  # as wide in every layout, so that numpy adds alike
        out[columns] = rows[:, columns].mean(axis=0, dtype=np.float64)
    return out


def deviations(rows: Float32, mean: Float64) -> Iterator[tuple[slice, Float64]]:
    """Yield (columns, the rows minus their mean in these columns), so that no (n, d) float64 copy is needed."""
    for columns in Columns(len(mean)).blocks():
        yield columns, rows[:, columns] - mean[columns]


def spread(rows: Float32, mean: Float64) -> Float64:
    """Standard deviation (d,) of each coordinate, the population's: divided by n, so that one row alone has 0."""
    out = np.empty_like(mean)
    for columns, block in deviations(rows, mean):
        out[columns] = np.sqrt(np.mean(np.square(block), axis=0))
    return out


def length(vector: Float64, knowledge: Knowledge) -> float:
    """Euclidean norm of a vector over all columns, of which (d,) are at hand."""
    columns = knowledge.columns
    return float(np.sqrt(columns.sum(vector[here] @ vector[here] for here in columns.blocks())))


def everybody(row: Float64 | Float32, malicious: Bool) -> Float32:
    """Return the row (d,) once for each malicious client."""
    return np.repeat(row[None].astype(np.float32), malicious.sum(), axis=0)


def drawn(malicious: Bool, knowledge: Knowledge, draw: Callable[[int], Float32]) -> Float32:
    """Return a row of random numbers for each malicious client, out of a row for all columns that `draw` draws."""
    columns = knowledge.columns
    out = np.empty((malicious.sum(), columns.width), np.float32)
    for row in out:
        row[:] = draw(columns.d)[columns.here]
    return out


def answer(row: Float64 | Float32, updates: Float32, malicious: Bool, knowledge: Knowledge) -> Float32:
    """Return the update (d,) that the server would make if every malicious client sent this row."""
    rows = updates.copy()
    rows[malicious] = row
    return knowledge.aggregate(rows)
