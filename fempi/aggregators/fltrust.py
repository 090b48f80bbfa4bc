"""FLTrust.

Cao, Fang, Liu, Gong: FLTrust: Byzantine-robust Federated Learning via Trust Bootstrapping. NDSS 2021.
"""

import numpy as np

from fempi.aggregators import Context, Decision
from fempi.algebra import Float64, Updates, cosines, shares
from fempi.registry import register


@register("aggregator", "fltrust", paper="Cao et al., NDSS 2021", needs=("reference",), cost="n")
def fltrust(updates: Updates, context: Context) -> Decision:
    """Average of the rows, rescaled to the reference's norm and weighted by their trust.

    Trust: max(0, cosine with the reference), 0 to 1. If no row is trusted, the update is zero.

    In the paper, the reference takes as many steps as a client. The server's examples are few, so that as many epochs
    are far fewer steps: cosines get small then, and so does the reference's norm. `train.root_epochs` gives it more.
    """
    trust = trust_scores(updates)
    return Decision(
        weights=shares(trust),
        trust=trust,
        selected=trust > 0,
        scale=to_reference_norm(updates),
    )


def trust_scores(updates: Updates) -> Float64:
    """FLTrust's score (n,): the cosine with the reference, cut at 0."""
    return np.maximum(cosines(updates.reference_products, updates.norms, updates.reference_norm), 0)


def to_reference_norm(updates: Updates) -> Float64:
    """Factor (n,) that gives each row the reference's norm; 0 for a zero row, and where the reference is not finite."""
    norms = updates.norms
    target = updates.reference_norm if updates.has_reference else 0.0
    return np.divide(target, norms, out=np.zeros_like(norms), where=norms > 0)
