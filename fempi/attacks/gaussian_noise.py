"""Noise on one's own update.

Xu, Huang, Song, Lan: Byzantine-Robust Federated Learning through Collaborative Malicious Gradient Filtering.
ICDCS 2022 (there the "noise attack").
"""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field

from fempi.algebra import Bool, Float32
from fempi.attacks import Attack, Knowledge
from fempi.attacks.collusion import drawn
from fempi.registry import register


@register("attack", "gaussian_noise", paper="Xu et al., ICDCS 2022", cost="f d")
@dataclass(frozen=True, kw_only=True)
class GaussianNoise(Attack):
    """Send one's own update plus normal noise of standard deviation `std` in each coordinate, drawn for each client.

    Noise of norm std sqrt(d) hides an update that is shorter: choose `std` for the model at hand.
    """

    std: Annotated[float, Field(gt=0, le=1e37)] = 0.1

    knows_columns = True

    def poison_updates(self, updates: Float32, malicious: Bool, knowledge: Knowledge) -> Float32:
        """Add noise."""
        noise = drawn(malicious, knowledge, lambda size: knowledge.rng.standard_normal(size, np.float32))
        return updates[malicious] + np.float32(self.std) * noise
