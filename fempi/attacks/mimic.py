"""Mimic.

Karimireddy, He, Jaggi: Byzantine-Robust Learning on Heterogeneous Datasets via Bucketing. ICLR 2022.
"""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field

from fempi.algebra import Bool, Float32
from fempi.attacks import Attack, Knowledge, honest_rows
from fempi.attacks.collusion import deviations, everybody, mean_of
from fempi.columns import Columns
from fempi.registry import register


@register("attack", "mimic", paper="Karimireddy et al., ICLR 2022", cost="n^2 d")
@dataclass(frozen=True, kw_only=True)
class Mimic(Attack):
    """All copy one honest client, so that what is special about its data counts many times.

    `client` is the number of the one to copy. In rounds where it is not among the honest, and without a `client`, it is
    the honest row furthest out along the direction in which the honest rows vary most. The paper estimates that
    direction over some first rounds and then keeps to one client; here each round has its own, because a cohort need
    not hold the same clients again. Both it and ByzFL project the rows themselves; here it is their deviations from the
    mean, so that a direction all rows share plays no part.
    """

    client: Annotated[int, Field(ge=0)] | None = None

    knows_columns = True

    def poison_updates(self, updates: Float32, malicious: Bool, knowledge: Knowledge) -> Float32:
        """Copy."""
        there = honest_rows(updates, malicious, knowledge)
        wanted = there[knowledge.clients[there] == self.client]
        if wanted.size:
            return everybody(updates[wanted[0]], malicious)
        return everybody(updates[there[furthest_out(updates[there], knowledge.columns)]], malicious)


def furthest_out(rows: Float32, columns: Columns) -> int:
    """Return the row whose deviation from the mean is largest along the direction of largest variance.

    That direction is the sum of u_i y_i over the deviations y_i, with u the top eigenvector of their Gram matrix; the
    projection of row i on it is proportional to u_i.
    """
    gram = columns.sum(block @ block.T for _, block in deviations(rows, mean_of(rows)))
    if not np.isfinite(gram).all():
        return 0  # a client has diverged: there is no such direction
    _, vectors = np.linalg.eigh(gram)
    return int(np.argmax(np.abs(vectors[:, -1]).round(9)))  # rounded, so that of equal ones the first wins
