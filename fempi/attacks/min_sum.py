"""Min-Sum.

Shejwalkar, Houmansadr: Manipulating the Byzantine: Optimizing Model Poisoning Attacks and Defenses for Federated
Learning. NDSS 2021.
"""

from dataclasses import dataclass

import numpy as np

from fempi.algebra import Bool, Float32, Float64
from fempi.attacks import Attack, Knowledge
from fempi.attacks.collusion import deviations, length
from fempi.attacks.shejwalkar import Perturbation, as_far_as_fits
from fempi.registry import register


@register("attack", "min_sum", paper="Shejwalkar and Houmansadr, NDSS 2021", cost="n d")
@dataclass(frozen=True, kw_only=True)
class MinSum(Attack):
    """All send mean - gamma p, with no greater sum of squared distances to honest rows than some honest row has.

    `perturbation` p is one of min_max's, and gamma the largest that fits, exactly as there.
    """

    perturbation: Perturbation = "std"

    knows_columns = True

    def poison_updates(self, updates: Float32, malicious: Bool, knowledge: Knowledge) -> Float32:
        """Step as far from the mean as fits."""
        return as_far_as_fits(self.perturbation, largest_gamma, updates, malicious, knowledge)


def largest_gamma(rows: Float32, mean: Float64, p: Float64, knowledge: Knowledge) -> float:
    """Return the largest gamma with sum_i |mean - gamma p - x_i|^2 <= max_i sum_j |x_i - x_j|^2.

    A sum of squared distances to n rows is n times the squared distance to their mean, plus a constant. So the bound
    says that gamma |p| is at most the distance from the mean to the row furthest from it.
    """
    squares = knowledge.columns.sum(np.square(block).sum(axis=1) for _, block in deviations(rows, mean))
    step = length(p, knowledge)
    return float(np.sqrt(squares.max()) / step) if step > 0 else 0.0
