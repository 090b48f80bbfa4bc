"""Client-level differential privacy: every client clips its update to norm C and adds N(0, sigma^2 C^2) noise to it.

McMahan, Ramage, Talwar, Zhang: Learning Differentially Private Recurrent Language Models. ICLR 2018 (one client is
what is protected). Mironov: Rényi Differential Privacy. CSF 2017 (the accounting); with sampling, Mironov, Talwar,
Zhang: Rényi Differential Privacy of the Sampled Gaussian Mechanism. 2019 ("poisson"), and Wang, Balle,
Kasiviswanathan: Subsampled Rényi Differential Privacy and Analytical Moments Accountant. AISTATS 2019 ("fixed").

The noise is the client's own: the server receives noised updates, and no rule that it applies to them costs more
privacy. What epsilon and delta promise, over all rounds together, depends on `sampling`:

- "none": against anyone, the server included, who sees every message and knows who sent it. From its messages one
  cannot tell a client's updates from zeros (a difference of at most C). It counts as taking part in every round, so
  this is a bound.
- "poisson": the figure that is usually reported. Only against someone who sees no messages but the models made of
  them, and does not know who took part: not against the server, nor a reader of the record. Neighbours are with and
  without the client (C). An approximation: its proof is for a sum with noise of one sigma C, to which each client is
  admitted independently with probability cohort / clients, while cohorts have a fixed size here, noise is added n
  times, and rules need not be sums.
- "fixed": against the same, but proven for cohorts of a fixed size and any rule. Neighbours are the client and
  another in its place (a difference of 2 C, which is why epsilon is so much larger); a bound.

None covers losses and numbers of examples, which are recorded as they are, nor that an update was not finite. The
noise is pseudo-random and float32: an experiment on the mechanism, not a means to protect real people.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from fempi.algebra import Float32, Float64
from fempi.columns import BLOCK
from fempi.errors import FempiError

if TYPE_CHECKING:
    from dp_accounting import DpEvent
    from dp_accounting.rdp import RdpAccountant

Sampling = Literal["poisson", "fixed", "none"]

ORDERS = (*range(2, 65), 128, 256, 512, 1024)
"""Rényi orders to optimize over. Integers: there the sampled Gaussian has a finite sum, at others a series that may
not converge."""

_LEAST_NOISE = 0.01


@dataclass(frozen=True, kw_only=True)
class Mechanism:
    """What a client does to its update before it sends it."""

    clip: float | None
    """largest norm C; None: no clipping"""
    noise_std: float
    """standard deviation of the noise of each coordinate, sigma C"""

    @property
    def noise_multiplier(self) -> float:
        """The sigma of the accounting; 0 without clipping, as no noise hides updates of any length: epsilon is inf."""
        return 0.0 if self.clip is None else self.noise_std / self.clip


def privatize(update: Float32, mechanism: Mechanism, rng: np.random.Generator) -> None:
    """Clip the update (d,) and add the noise, in place.

    With clipping, an update that is not finite becomes NaN throughout: it has no norm to clip, and what is finite in
    it must not be sent as it is. The server excludes it.
    """
    blocks = [update[start : start + BLOCK] for start in range(0, len(update), BLOCK)]  # views
    if mechanism.clip is not None:
        # Float64 has room for the square of any float32.
        norm = np.sqrt(sum(float(np.square(block, dtype=np.float64).sum()) for block in blocks))
        if not np.isfinite(norm):
            update.fill(np.nan)
        elif norm > mechanism.clip:
            factor = mechanism.clip / norm * (1 - 2**-23)  # rounding to float32 shall not lead above C
            for block in blocks:
                np.multiply(block, factor, out=block, dtype=np.float64)
    with np.errstate(over="ignore", invalid="ignore"):  # without clipping an update may be anything
        for block in blocks:
            noise = rng.standard_normal(len(block), dtype=np.float32)
            noise *= mechanism.noise_std
            block += noise


def spent(noise_multiplier: float, delta: float, *, rounds: int, sampling_rate: float, sampling: Sampling) -> Float64:
    """Epsilon (rounds,) after each of the rounds 1 to `rounds`, at `delta`; inf without noise.

    `sampling_rate` is the cohort's share of all clients. The module says what `sampling` means.
    """
    if noise_multiplier == 0:
        return np.full(rounds, np.inf)
    from dp_accounting.rdp import compute_epsilon

    # A sampled round never spends more than one in which all take part, though the bound of "fixed" may.
    per_round = np.minimum(
        *(_accountant(sampling).compose(_round(noise_multiplier, rate, sampling)).rdp for rate in (sampling_rate, 1.0))
    )
    per_round = np.maximum(per_round, 0)  # rounding may leave less
    return np.array([compute_epsilon(ORDERS, count * per_round, delta)[0] for count in range(1, rounds + 1)], float)


def noise_multiplier_for(
    epsilon: float, delta: float, *, rounds: int, sampling_rate: float, sampling: Sampling
) -> float:
    """Return the least sigma with which `rounds` rounds spend at most `epsilon` at `delta`, as `spent` counts.

    Raises FempiError where the accounting has no answer: for an epsilon near 0, or so large that it is no privacy.
    """
    from dp_accounting import LowerEndpointAndGuess, SelfComposedDpEvent, calibrate_dp_mechanism
    from dp_accounting.rdp import compute_epsilon

    def all_rounds(sigma: float, rate: float) -> DpEvent:
        return SelfComposedDpEvent(_round(sigma, rate, sampling), rounds)

    def total(sigma: float, rate: float) -> float:
        return float(_accountant(sampling).compose(all_rounds(sigma, rate)).get_epsilon(delta))

    # With a finite largest order, epsilon falls to this as noise grows, and from there at once to 0.
    smallest = compute_epsilon(ORDERS, np.full(len(ORDERS), 2 * delta**2), delta)[0]
    largest = total(_LEAST_NOISE, 1.0)
    if not smallest < epsilon < largest:
        raise FempiError(
            f"no noise can be found that spends epsilon = {epsilon:g} at delta = {delta:g} in {rounds} rounds: "
            f"ask for more than {smallest:.3g} and less than {largest:.3g}"
        )

    def calibrate(event: Callable[[float], DpEvent], start: float, guess: float) -> float:
        return float(
            calibrate_dp_mechanism(
                lambda: _accountant(sampling), event, epsilon, delta, LowerEndpointAndGuess(start, guess)
            )
        )

    # First without sampling, in closed form; then how many times less will do thanks to sampling.
    unsampled = calibrate(lambda sigma: all_rounds(sigma, 1.0), _LEAST_NOISE, 1.0)
    if total(unsampled, sampling_rate) > epsilon:
        return unsampled
    return unsampled / calibrate(lambda times: all_rounds(unsampled / times, sampling_rate), 1.0, 2.0)


def _accountant(sampling: Sampling) -> RdpAccountant:
    from dp_accounting import NeighboringRelation
    from dp_accounting.rdp import RdpAccountant

    replaced = sampling == "fixed"
    return RdpAccountant(ORDERS, NeighboringRelation.REPLACE_ONE if replaced else NeighboringRelation.ADD_OR_REMOVE_ONE)


def _round(noise_multiplier: float, sampling_rate: float, sampling: Sampling) -> DpEvent:
    from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent, SampledWithoutReplacementDpEvent

    match sampling:
        case "none":
            return GaussianDpEvent(noise_multiplier)
        case "poisson":
            return PoissonSampledDpEvent(sampling_rate, GaussianDpEvent(noise_multiplier))
        case "fixed":  # only the ratio of the two sizes counts
            return SampledWithoutReplacementDpEvent(1, sampling_rate, GaussianDpEvent(noise_multiplier / 2))
