"""Scaling one's own update.

The gradient manipulation of the hybrid defence's paper (IJRASET 12 (XI), 2024).
"""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field

from fempi.algebra import Bool, Float32
from fempi.attacks import Attack, Knowledge
from fempi.registry import register


@register("attack", "scale", paper="Hybrid, IJRASET 2024", cost="f d")
@dataclass(frozen=True, kw_only=True)
class Scale(Attack):
    """Send `factor` times one's own update.

    The paper's factors of 0.1, 0.2 and 0.3 shrink the update, although its prose speaks of amplifying it.
    """

    factor: Annotated[float, Field(gt=0, le=1e37)] = 10.0

    knows_columns = True

    def poison_updates(self, updates: Float32, malicious: Bool, knowledge: Knowledge) -> Float32:
        """Scale."""
        return np.float32(self.factor) * updates[malicious]
