"""Which rank trains which client of a cohort. Neither way changes a result."""

from __future__ import annotations

from typing import Literal

import numpy as np

from fempi.algebra import Int64

Placement = Literal["balanced", "pinned"]


def place(
    placement: Placement, clients: Int64, costs: Int64, *, ranks: int, total_clients: int, root_cost: int = 0
) -> Int64:
    """Return the rank (n,) that trains each client of the cohort.

    "pinned": a client always lives on the same rank, in contiguous shards. "balanced": the costliest client first, each
    to the rank with the least to do (longest processing time first); `root_cost` is what rank 0 has to do besides.
    """
    if placement == "pinned":
        return clients * ranks // total_clients
    load = np.zeros(ranks, np.int64)
    load[0] = root_cost
    owners = np.empty(len(clients), np.int64)
    for slot in np.argsort(-costs, kind="stable"):
        owners[slot] = load.argmin()
        load[owners[slot]] += costs[slot]
    return owners
