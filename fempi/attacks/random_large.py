"""Huge random numbers."""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field

from fempi.algebra import Bool, Float32
from fempi.attacks import Attack, Knowledge
from fempi.attacks.collusion import drawn
from fempi.registry import register


@register("attack", "random_large", cost="f d")
@dataclass(frozen=True, kw_only=True)
class RandomLarge(Attack):
    """Send numbers drawn uniformly between -`magnitude` and `magnitude` for each client, all finite.

    They test a rule's arithmetic: their squares overflow float32 by far.
    """

    magnitude: Annotated[float, Field(gt=0, le=3.4e38)] = 1e30

    knows_columns = True

    def poison_updates(self, updates: Float32, malicious: Bool, knowledge: Knowledge) -> Float32:
        """Draw."""
        numbers = drawn(malicious, knowledge, lambda size: knowledge.rng.random(size, np.float32))
        return np.float32(self.magnitude) * (2 * numbers - 1)
