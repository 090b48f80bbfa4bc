"""Inner product manipulation.

Xie, Koyejo, Gupta: Fall of Empires: Breaking Byzantine-tolerant SGD by Inner Product Manipulation. UAI 2019.
"""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from fempi.algebra import Bool, Float32
from fempi.attacks import Attack, Knowledge, honest
from fempi.attacks.collusion import everybody, mean_of
from fempi.registry import register


@register("attack", "ipm", paper="Xie et al., UAI 2019", cost="n d")
@dataclass(frozen=True, kw_only=True)
class Ipm(Attack):
    """All send minus `epsilon` times the mean of the honest rows.

    A small epsilon (0.1) stays near the honest rows and passes for one; a large one (2) makes a plain mean point
    backwards with fewer attackers.
    """

    epsilon: Annotated[float, Field(gt=0)] = 0.1

    knows_columns = True

    def poison_updates(self, updates: Float32, malicious: Bool, knowledge: Knowledge) -> Float32:
        """Turn the mean round."""
        mean = mean_of(honest(updates, malicious, knowledge))
        return everybody(-self.epsilon * mean, malicious)
