"""Inner product manipulation, with the factor that hurts most.

Allouah, Farhadkhani, Guerraoui, Gupta, Pinot, Stephan: Fixing by Mixing: A Recipe for Optimal Byzantine ML under
Heterogeneity. AISTATS 2023.
"""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from fempi.algebra import Bool, Float32
from fempi.attacks import Attack, Knowledge, honest
from fempi.attacks.collusion import mean_of
from fempi.attacks.line_search import strongest
from fempi.registry import register


@register(
    "attack",
    "optimal_ipm",
    paper="Allouah et al., AISTATS 2023",
    needs=("rule",),
    cost="evaluations (n^2 d + the rule)",
)
@dataclass(frozen=True, kw_only=True)
class OptimalIpm(Attack):
    """All send -epsilon times the mean of the honest rows, with the epsilon that takes the server furthest from it.

    epsilon >= 0 is the best of `evaluations` that a line search tries, each against the server's own rule.
    """

    evaluations: Annotated[int, Field(ge=1)] = 20

    knows_columns = True

    def poison_updates(self, updates: Float32, malicious: Bool, knowledge: Knowledge) -> Float32:
        """Turn the mean round as far as hurts most."""
        mean = mean_of(honest(updates, malicious, knowledge))
        return strongest(lambda epsilon: -epsilon * mean, mean, updates, malicious, knowledge, self.evaluations)
