"""The search that the optimal attacks share, for the factor that moves the server's update the furthest.

Allouah, Farhadkhani, Guerraoui, Gupta, Pinot, Stephan: Fixing by Mixing: A Recipe for Optimal Byzantine ML under
Heterogeneity. AISTATS 2023. The steps are those of their library, ByzFL.
"""

from collections.abc import Callable

import numpy as np

from fempi.algebra import Bool, Float32, Float64
from fempi.attacks import Knowledge
from fempi.attacks.collusion import answer, everybody, length


def strongest(
    row: Callable[[float], Float64],
    mean: Float64,
    updates: Float32,
    malicious: Bool,
    knowledge: Knowledge,
    evaluations: int,
) -> Float32:
    """Return `row(factor)` for each malicious client, with the factor that takes the server furthest from `mean`.

    A factor at which the server's update is not finite counts as the worst.
    """

    def damage(factor: float) -> float:
        distance = length(answer(row(factor), updates, malicious, knowledge) - mean, knowledge)
        return distance if np.isfinite(distance) else -np.inf

    return everybody(row(maximise(damage, evaluations)), malicious)


def maximise(objective: Callable[[float], float], evaluations: int) -> float:
    """Return the best of `evaluations` arguments >= 0, tried from 0 on.

    From the best so far a step ahead: 10 at first, doubled while that helps. After the first that does not help, every
    step is 0.8 of the one before it.
    """
    best, step, growing = 0.0, 10.0, True
    highest = objective(best)
    for _ in range(evaluations - 1):
        value = objective(best + step)
        improved = value > highest
        if improved:
            best, highest = best + step, value
        growing = growing and improved
        step *= 2 if growing else 0.8
    return best
