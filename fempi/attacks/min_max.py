"""Min-Max.

Shejwalkar, Houmansadr: Manipulating the Byzantine: Optimizing Model Poisoning Attacks and Defenses for Federated
Learning. NDSS 2021.
"""

from dataclasses import dataclass

import numpy as np

from fempi.algebra import Bool, Float32, Float64, distances
from fempi.attacks import Attack, Knowledge
from fempi.attacks.collusion import deviations
from fempi.attacks.shejwalkar import Perturbation, as_far_as_fits
from fempi.registry import register


@register("attack", "min_max", paper="Shejwalkar and Houmansadr, NDSS 2021", cost="n^2 d")
@dataclass(frozen=True, kw_only=True)
class MinMax(Attack):
    """All send mean - gamma p, no further from any honest row than the two honest rows furthest apart.

    `perturbation` p: "unit" is the unit vector of the mean, "std" the standard deviation of each coordinate, "sign" the
    sign of the mean's. gamma is the largest that fits. The paper approaches it by halving; here it is exact, and never
    ends at a limit of where the search began.
    """

    perturbation: Perturbation = "std"

    knows_columns = True

    def poison_updates(self, updates: Float32, malicious: Bool, knowledge: Knowledge) -> Float32:
        """Step as far from the mean as fits."""
        return as_far_as_fits(self.perturbation, largest_gamma, updates, malicious, knowledge)


def largest_gamma(rows: Float32, mean: Float64, p: Float64, knowledge: Knowledge) -> float:
    """Return the largest gamma with max_i |mean - gamma p - x_i| <= max_ij |x_i - x_j|.

    With y_i = x_i - mean, row i asks for gamma^2 |p|^2 + 2 gamma p.y_i + |y_i|^2 <= D^2. That holds at gamma = 0,
    because no row is further from the mean than from every other row; so it holds from there to the greater root.
    """
    with_p = (np.vstack([block, p[columns]]) for columns, block in deviations(rows, mean))
    all_products = knowledge.columns.sum(block @ block.T for block in with_p)
    gram, products, square = all_products[:-1, :-1], all_products[:-1, -1], float(all_products[-1, -1])
    if square == 0:
        return 0.0
    room = distances(gram).max() - np.diagonal(gram)
    return float((np.sqrt(products**2 + square * room) - products).min() / square)
