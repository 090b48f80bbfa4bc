"""What Min-Max and Min-Sum share: a step from the mean along a perturbation, as long as a bound allows.

Shejwalkar, Houmansadr: Manipulating the Byzantine: Optimizing Model Poisoning Attacks and Defenses for Federated
Learning. NDSS 2021.
"""

from collections.abc import Callable
from typing import Literal

import numpy as np

from fempi.algebra import Bool, Float32, Float64
from fempi.attacks import Knowledge, honest
from fempi.attacks.collusion import everybody, length, mean_of, spread

Perturbation = Literal["unit", "std", "sign"]


def as_far_as_fits(
    perturbation: Perturbation,
    largest_gamma: Callable[[Float32, Float64, Float64, Knowledge], float],
    updates: Float32,
    malicious: Bool,
    knowledge: Knowledge,
) -> Float32:
    """Return rows that all hold mean - gamma p, with the largest gamma for the honest rows, their mean and p."""
    rows = honest(updates, malicious, knowledge)
    mean = mean_of(rows)
    p = direction(perturbation, rows, mean, knowledge)
    return everybody(mean - largest_gamma(rows, mean, p, knowledge) * p, malicious)


def direction(perturbation: Perturbation, rows: Float32, mean: Float64, knowledge: Knowledge) -> Float64:
    """Return p (d,) of mean - gamma p: the mean's unit vector, the standard deviation, or the mean's sign."""
    if perturbation == "std":
        return spread(rows, mean)
    if perturbation == "sign":
        return np.sign(mean)
    norm = length(mean, knowledge)
    return mean / norm if norm > 0 else mean
