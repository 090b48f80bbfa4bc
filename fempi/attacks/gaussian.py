"""Noise instead of an update.

Blanchard, El Mhamdi, Guerraoui, Stainer: Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent.
NeurIPS 2017 (the "Gaussian" attack of its experiments).
"""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field

from fempi.algebra import Bool, Float32
from fempi.attacks import Attack, Knowledge
from fempi.attacks.collusion import drawn
from fempi.registry import register


@register("attack", "gaussian", paper="Blanchard et al., NeurIPS 2017", cost="f d")
@dataclass(frozen=True, kw_only=True)
class Gaussian(Attack):
    """Send normal noise of mean 0 and standard deviation `std` in each coordinate, drawn for each client."""

    std: Annotated[float, Field(gt=0, le=1e37)] = 200.0

    knows_columns = True

    def poison_updates(self, updates: Float32, malicious: Bool, knowledge: Knowledge) -> Float32:
        """Draw noise."""
        noise = drawn(malicious, knowledge, lambda size: knowledge.rng.standard_normal(size, np.float32))
        return np.float32(self.std) * noise
