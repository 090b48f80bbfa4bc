"""Sign flipping.

Li, Xu, Chen, Giannakis, Ling: RSA: Byzantine-Robust Stochastic Aggregation Methods for Distributed Learning from
Heterogeneous Datasets. AAAI 2019. The scale and both readings of the target are the Dual-System paper's.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from fempi.algebra import Bool, Float32
from fempi.attacks import Attack, Knowledge
from fempi.registry import register


@register("attack", "sign_flip", paper="Li et al., AAAI 2019; Nadeem and Javed, Dual-System", cost="f d")
@dataclass(frozen=True, kw_only=True)
class SignFlip(Attack):
    """Send minus `scale` times one's own update, or one's own trained weights.

    With `target = "weights"` the client sends -scale (w + u) as its weights, so the server receives that minus w.
    """

    scale: Annotated[float, Field(gt=0, le=1e37)] = 5.0
    target: Literal["update", "weights"] = "update"

    knows_columns = True

    def poison_updates(self, updates: Float32, malicious: Bool, knowledge: Knowledge) -> Float32:
        """Flip and scale."""
        factor = np.float32(-self.scale)
        own = updates[malicious]
        if self.target == "update":
            return factor * own
        return factor * (knowledge.params + own) - knowledge.params
