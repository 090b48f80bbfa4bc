"""Infinity."""

from dataclasses import dataclass

import numpy as np

from fempi.algebra import Bool, Float32
from fempi.attacks import Attack, Knowledge
from fempi.registry import register


@register("attack", "inf", cost="f d")
@dataclass(frozen=True, kw_only=True)
class Inf(Attack):
    """Send plus infinity in every coordinate, as a client does whose numbers have overflowed."""

    knows_columns = True

    def poison_updates(self, updates: Float32, malicious: Bool, knowledge: Knowledge) -> Float32:
        """Send infinity."""
        return np.full((malicious.sum(), updates.shape[1]), np.inf, np.float32)
