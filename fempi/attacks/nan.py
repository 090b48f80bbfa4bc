"""Not a number."""

from dataclasses import dataclass

import numpy as np

from fempi.algebra import Bool, Float32
from fempi.attacks import Attack, Knowledge
from fempi.registry import register


@register("attack", "nan", cost="f d")
@dataclass(frozen=True, kw_only=True)
class Nan(Attack):
    """Send NaN in every coordinate, as a client does whose training has diverged."""

    knows_columns = True

    def poison_updates(self, updates: Float32, malicious: Bool, knowledge: Knowledge) -> Float32:
        """Send NaN."""
        return np.full((malicious.sum(), updates.shape[1]), np.nan, np.float32)
