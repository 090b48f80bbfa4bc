"""Nothing at all."""

from dataclasses import dataclass

import numpy as np

from fempi.algebra import Bool, Float32
from fempi.attacks import Attack, Knowledge
from fempi.registry import register


@register("attack", "zero", cost="f d")
@dataclass(frozen=True, kw_only=True)
class Zero(Attack):
    """Send zeros: a free rider, or a client whose training stands still."""

    knows_columns = True

    def poison_updates(self, updates: Float32, malicious: Bool, knowledge: Knowledge) -> Float32:
        """Send zeros."""
        return np.zeros((malicious.sum(), updates.shape[1]), np.float32)
