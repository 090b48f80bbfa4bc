"""A Little Is Enough.

Baruch, Baruch, Goldberg: A Little Is Enough: Circumventing Defenses For Distributed Learning. NeurIPS 2019.
"""

from dataclasses import dataclass
from statistics import NormalDist

from fempi.algebra import Bool, Float32
from fempi.attacks import Attack, Knowledge, honest
from fempi.attacks.collusion import everybody, mean_of, spread
from fempi.registry import register


@register("attack", "alie", paper="Baruch et al., NeurIPS 2019", cost="n d")
@dataclass(frozen=True, kw_only=True)
class Alie(Attack):
    """All send mean - z std of the honest rows, so little off that enough honest clients look further out.

    Mean and standard deviation are per coordinate. The paper's attackers estimate them from their own updates; here,
    as usual since, they know all honest ones. The standard deviation divides by the number of rows, as the authors'
    code does; ByzFL divides by one less, and adds where the paper subtracts. Without `z` it is the paper's, from the
    numbers n of clients and m of attackers in the round: Phi^-1((n - m - s) / (n - m)) with s = floor(n / 2 + 1) - m,
    which is below 0 for small m. For a majority of attackers s is 1; with fewer than two honest clients z is 0.
    """

    z: float | None = None

    knows_columns = True

    def poison_updates(self, updates: Float32, malicious: Bool, knowledge: Knowledge) -> Float32:
        """Step away from the mean."""
        rows = honest(updates, malicious, knowledge)
        z = z_max(len(updates), int(malicious.sum())) if self.z is None else self.z
        mean = mean_of(rows)
        return everybody(mean - z * spread(rows, mean), malicious)


def z_max(n: int, m: int) -> float:
    """Return the paper's z for m attackers among n clients.

    A majority takes s honest supporters: as many as are, on average, more than z standard deviations out. Where that
    leaves the quantiles, because it takes none or all of them, s is the nearest number that does not.
    """
    candidates = n - m
    if candidates < 2:
        return 0.0
    supporters = min(max(n // 2 + 1 - m, 1), candidates - 1)
    return NormalDist().inv_cdf((candidates - supporters) / candidates)
