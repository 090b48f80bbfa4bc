"""Local model poisoning.

Fang, Cao, Jia, Gong: Local Model Poisoning Attacks to Byzantine-Robust Federated Learning. USENIX Security 2020.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from fempi.algebra import Bool, Float32, Updates, distances
from fempi.attacks import Attack, Knowledge, honest
from fempi.attacks.collusion import answer, drawn, everybody
from fempi.columns import Columns
from fempi.registry import register


@register(
    "attack",
    "fang",
    paper="Fang et al., USENIX Security 2020",
    needs=("rule",),
    cost="halvings (n^2 d + the rule)",
)
@dataclass(frozen=True, kw_only=True)
class Fang(Attack):
    """Push the server's update against the signs s that it would have without the attack.

    Both variants are the paper's, with full knowledge and in terms of updates. s_j is 1 where the update that the
    server would make of what everybody trained is above 0, otherwise -1.

    "trimmed_mean", against coordinate-wise rules: in each coordinate a number beyond all honest ones on the side that s
    leads away from, drawn for each client between the outermost honest number and `b` times it (1 / `b` times it where
    that lies outside).

    "krum": all send -lambda s. lambda starts at the paper's upper bound and is halved until the server's update is this
    row, or lambda is `threshold` or less; then that last lambda is sent (the paper does not say what is). A rule that
    averages rows never gives this very row, so against it the attack ends there. The paper shifts the rows of all
    attackers but the first by a small random epsilon; here all are equal.
    """

    variant: Literal["trimmed_mean", "krum"] = "trimmed_mean"
    b: Annotated[float, Field(gt=1)] = 2.0
    threshold: Annotated[float, Field(gt=0)] = 1e-5

    knows_columns = True

    def poison_updates(self, updates: Float32, malicious: Bool, knowledge: Knowledge) -> Float32:
        """Push."""
        signs = np.where(knowledge.aggregate(updates) > 0, np.float32(1), np.float32(-1))
        rows = honest(updates, malicious, knowledge)
        if self.variant == "krum":
            step = upper_bound(rows, int(malicious.sum()), knowledge.columns)
            while step > self.threshold and not _accepted(np.float32(-step) * signs, updates, malicious, knowledge):
                step /= 2
            return everybody(np.float32(-step) * signs, malicious)
        edge: Float32 = np.where(signs > 0, rows.min(axis=0), rows.max(axis=0))
        outwards = edge * signs < 0
        with np.errstate(over="ignore"):
            far: Float32 = np.where(outwards, edge * np.float32(self.b), edge / np.float32(self.b))
        far = np.clip(far, -np.finfo(np.float32).max, np.finfo(np.float32).max)
        between = drawn(malicious, knowledge, lambda size: knowledge.rng.random(size, np.float32))
        return edge + between * (far - edge)


def upper_bound(rows: Float32, m: int, columns: Columns) -> float:
    """Return the paper's bound (theorem 1) on lambda, for the honest rows and m attackers; D is the Euclidean distance.

    With n rows in all and d coordinates: the least sum of an honest row's D to its n - m - 2 nearest honest others,
    over (n - 2 m - 1) sqrt(d), plus the greatest norm over sqrt(d). Where n - 2 m - 1 is below 1, it counts as 1.
    """
    honest_rows = len(rows)
    updates = Updates(rows, columns=columns)
    between = np.sqrt(distances(updates.gram))
    np.fill_diagonal(between, np.inf)  # a row is not its own neighbour
    nearest = np.sort(between, axis=1)[:, : max(honest_rows - 2, 0)].sum(axis=1).min()
    return float((nearest / max(honest_rows - m - 1, 1) + updates.norms.max()) / np.sqrt(columns.d))


def _accepted(row: Float32, updates: Float32, malicious: Bool, knowledge: Knowledge) -> bool:
    different, columns = answer(row, updates, malicious, knowledge) != row, knowledge.columns
    return not columns.sum(np.count_nonzero(different[here]) for here in columns.blocks())
