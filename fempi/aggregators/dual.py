"""The Dual-System defence: FLTrust's trust filter, then Multi-Krum among the trusted.

Nadeem, Javed: Byzantine-Resilient Federated Learning for IoMT Devices: A Dual-Model Intrusion Detection System
against Targeted Poisoning.
"""

from typing import Annotated

import numpy as np
from pydantic import Field

from fempi.aggregators import Context, Decision
from fempi.aggregators.fltrust import to_reference_norm, trust_scores
from fempi.aggregators.krum import krum_scores, lowest
from fempi.algebra import Updates, shares
from fempi.registry import register


@register("aggregator", "dual", paper="Nadeem and Javed, Dual-System", needs=("reference",), cost="n^2 log n")
def dual(
    updates: Updates,
    context: Context,
    *,
    trust_threshold: Annotated[float, Field(ge=0, lt=1)] = 0.2,
    m: Annotated[int, Field(ge=1)] | None = None,
    rescale: bool = False,
) -> Decision:
    """Multi-Krum among the rows whose trust exceeds the threshold.

    Of n' rows kept, Multi-Krum averages the m best (n' - f' by default, and all if m exceeds n') with f' = min(f, (n' -
    3) // 2), the most it is defined for. Fewer than 3 kept rows are averaged; if none is kept, the update is zero. With
    4 or fewer kept, f' is 0 and all are averaged: one long row that points as the reference does then decides alone,
    unless `rescale` is set. `rescale` gives the rows the reference's norm first, as FLTrust does; the paper doesn't
    say. With a reference that takes fewer steps than a client, see `fltrust`, trust may never exceed the threshold.
    Trust: max(0, cosine with the reference), 0 to 1.
    """
    trust = trust_scores(updates)
    selected = trust > trust_threshold
    scale = to_reference_norm(updates) if rescale else np.ones(updates.n)
    kept = np.flatnonzero(selected)
    if len(kept) >= 3:
        f = min(context.num_byzantine, (len(kept) - 3) // 2)
        factors = scale[kept]
        gram = updates.gram[np.ix_(kept, kept)] * np.outer(factors, factors)
        selected[kept] = lowest(krum_scores(gram, f), m or len(kept) - f)
    return Decision(weights=shares(selected.astype(float)), trust=trust, selected=selected, scale=scale)
