"""A Little Is Enough, with the factor that hurts most.

Allouah, Farhadkhani, Guerraoui, Gupta, Pinot, Stephan: Fixing by Mixing: A Recipe for Optimal Byzantine ML under
Heterogeneity. AISTATS 2023.
"""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from fempi.algebra import Bool, Float32
from fempi.attacks import Attack, Knowledge, honest
from fempi.attacks.collusion import mean_of, spread
from fempi.attacks.line_search import strongest
from fempi.registry import register


@register(
    "attack",
    "optimal_alie",
    paper="Allouah et al., AISTATS 2023",
    needs=("rule",),
    cost="evaluations (n^2 d + the rule)",
)
@dataclass(frozen=True, kw_only=True)
class OptimalAlie(Attack):
    """All send mean - z std of the honest rows, with the z that takes the server's update furthest from that mean.

    z >= 0 is the best of `evaluations` that a line search tries, each against the server's own rule. The steps are
    ByzFL's; its rows add the standard deviation, and divide by one less than the number of rows.
    """

    evaluations: Annotated[int, Field(ge=1)] = 20

    knows_columns = True

    def poison_updates(self, updates: Float32, malicious: Bool, knowledge: Knowledge) -> Float32:
        """Step away from the mean as far as hurts most."""
        rows = honest(updates, malicious, knowledge)
        mean = mean_of(rows)
        std = spread(rows, mean)
        return strongest(lambda z: mean - z * std, mean, updates, malicious, knowledge, self.evaluations)
