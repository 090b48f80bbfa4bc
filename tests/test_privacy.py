import math
import tracemalloc

import numpy as np
import pytest
from scipy.stats import norm

from fempi.algebra import Float32
from fempi.columns import BLOCK
from fempi.errors import FempiError
from fempi.privacy import Mechanism, Sampling, noise_multiplier_for, privatize, spent
from fempi.rng import stream

SAMPLINGS: tuple[Sampling, ...] = ("poisson", "fixed", "none")


def privatized(update: Float32, clip: float | None, noise_std: float, seed: int = 0) -> Float32:
    out = update.copy()
    privatize(out, Mechanism(clip=clip, noise_std=noise_std), stream(seed, "privacy"))
    return out


def exact_norm(update: Float32) -> float:
    return math.sqrt(math.fsum(float(x) ** 2 for x in update))


def random_update(d: int, seed: int = 0) -> Float32:
    return stream(seed, "update").standard_normal(d).astype(np.float32)


def test_a_long_update_is_scaled_to_the_clipping_norm() -> None:
    update = np.array([3, -4], np.float32)  # norm 5
    np.testing.assert_allclose(privatized(update, 2.0, 0.0), [1.2, -1.6], rtol=1e-6)
    np.testing.assert_array_equal(privatized(update, 5.0, 0.0), [3, -4])
    np.testing.assert_array_equal(privatized(update, None, 0.0), [3, -4])


@pytest.mark.parametrize("clip", [1e-3, 0.1, 1.0, 7.3])
@pytest.mark.parametrize("seed", range(5))
def test_no_norm_exceeds_the_clipping_norm_even_by_rounding(clip: float, seed: int) -> None:
    update = random_update(2 * BLOCK + 7, seed)
    clipped = privatized(update, clip, 0.0)
    assert clip * (1 - 1e-6) < exact_norm(clipped) <= clip
    np.testing.assert_allclose(clipped, update * (clip / exact_norm(update)), rtol=1e-6)  # the direction is kept


def test_the_norm_is_that_of_the_whole_update_not_of_a_block() -> None:
    update = np.zeros(2 * BLOCK, np.float32)
    update[0], update[-1] = 3, 4
    clipped = privatized(update, 1.0, 0.0)
    np.testing.assert_allclose(clipped[[0, -1]], [0.6, 0.8], rtol=1e-6)
    assert not clipped[1:-1].any()


@pytest.mark.parametrize(("size", "clip"), [(1e-30, 1e-31), (1e30, 1.0), (1e38, 1.0), (3.4e38, 1e38)])
def test_updates_whose_squares_leave_float32_are_clipped_like_others(size: float, clip: float) -> None:
    clipped = privatized(np.full(1000, size, np.float32), clip, 0.0)
    np.testing.assert_allclose(clipped, np.full(1000, clip / math.sqrt(1000)), rtol=1e-6)


def test_the_noise_has_the_stated_deviation_and_is_normal() -> None:
    count, std = 1_000_000, 0.5
    noise = privatized(np.zeros(count, np.float32), 2.0, std).astype(np.float64)
    assert abs(noise.mean()) < 5 * std / math.sqrt(count)
    assert abs(noise.std() - std) < 5 * std / math.sqrt(2 * count)
    beyond = 2 * norm.sf(2)  # 4.6 % lie outside two deviations
    assert abs((np.abs(noise) > 2 * std).mean() - beyond) < 5 * math.sqrt(beyond / count)


def test_noise_is_added_after_clipping() -> None:
    update = random_update(1000)
    noise = privatized(np.zeros(1000, np.float32), 1.0, 3.0)
    np.testing.assert_array_equal(privatized(update, 1.0, 3.0), privatized(update, 1.0, 0.0) + noise)


def test_the_noise_depends_on_the_generator_alone() -> None:
    d = 3 * BLOCK + 5
    expected = stream(4, "privacy").standard_normal(d, dtype=np.float32) * np.float32(0.25)
    np.testing.assert_array_equal(privatized(np.zeros(d, np.float32), None, 0.25, seed=4), expected)
    assert (privatized(np.zeros(d, np.float32), None, 0.25, seed=5) != expected).mean() > 0.99


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_of_an_update_that_cannot_be_clipped_nothing_is_sent(bad: float) -> None:
    update = random_update(2 * BLOCK)
    update[-1] = bad
    assert np.isnan(privatized(update, 1.0, 1.0)).all()
    assert np.isnan(privatized(np.full(5, np.nan, np.float32), 1.0, 1.0)).all()


def test_without_clipping_anything_takes_noise_without_a_warning() -> None:
    update = np.array([np.inf, np.nan, 3e38, 0], np.float32)
    noised = privatized(update, None, 1e38)
    assert np.isposinf(noised[0])
    assert np.isnan(noised[1])
    assert noised[3] != 0


def test_an_update_is_changed_in_place_and_never_copied() -> None:
    update = random_update(100 * BLOCK)  # 6.5 MB
    tracemalloc.start()
    privatize(update, Mechanism(clip=1.0, noise_std=0.1), stream(0, "privacy"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.1 * update.nbytes


def test_the_noise_multiplier_is_the_noise_in_units_of_the_clipping_norm() -> None:
    assert Mechanism(clip=0.5, noise_std=2.0).noise_multiplier == 4
    assert Mechanism(clip=None, noise_std=2.0).noise_multiplier == 0  # nothing is hidden: epsilon is infinite


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_without_noise_epsilon_is_infinite(sampling: Sampling) -> None:
    assert spent(0.0, 1e-5, rounds=3, sampling_rate=0.1, sampling=sampling).tolist() == [math.inf] * 3


def test_the_gaussian_mechanism_by_hand() -> None:
    # sigma = 10, 100 rounds: RDP alpha 100 / (2 10^2) = alpha / 2. Canonne, Kamath, Steinke 2020, proposition 12:
    # epsilon = RDP + log(1 - 1 / alpha) - log(delta alpha) / (alpha - 1). With delta = 1e-5,
    #   alpha = 4: 2.0 - 0.28768 + 10.12663 / 3 = 5.08786
    #   alpha = 5: 2.5 - 0.22314 +  9.90349 / 4 = 4.75273, the least
    #   alpha = 6: 3.0 - 0.18232 +  9.72117 / 5 = 4.76191
    # Mironov's older conversion, RDP + log(1 / delta) / (alpha - 1), would give 5.30259 at its best (alpha = 6).
    last = spent(10.0, 1e-5, rounds=100, sampling_rate=0.1, sampling="none")[-1]
    assert last == pytest.approx(4.75273, abs=1e-5)


@pytest.mark.parametrize("sigma", [3.0, 10.0, 50.0])
@pytest.mark.parametrize("rounds", [1, 30, 400])
def test_epsilon_holds_and_is_not_far_from_the_exact_one(sigma: float, rounds: int) -> None:
    # All rounds together are one Gaussian mechanism with mu = sqrt(rounds) / sigma, whose delta at a given epsilon is
    # known exactly (Balle, Wang: ICML 2018, theorem 8).
    mu = math.sqrt(rounds) / sigma

    def exact_delta(epsilon: float) -> float:
        return float(norm.cdf(mu / 2 - epsilon / mu) - math.exp(epsilon) * norm.cdf(-mu / 2 - epsilon / mu))

    epsilon = spent(sigma, 1e-5, rounds=rounds, sampling_rate=1.0, sampling="none")[-1]
    assert exact_delta(epsilon) <= 1e-5 < exact_delta(0.8 * epsilon)


def test_a_published_epsilon_of_the_sampled_gaussian() -> None:
    # TensorFlow Privacy, compute_dp_sgd_privacy_test.py, Test0: 60000 examples, batches of 150, noise multiplier 1.3,
    # 15 epochs, delta 1e-5; the best order is 19.
    epsilon = spent(1.3, 1e-5, rounds=15 * 400, sampling_rate=150 / 60000, sampling="poisson")[-1]
    assert epsilon == pytest.approx(0.7242234026109595, rel=1e-9)


@pytest.mark.parametrize(("sigma", "rate", "rounds"), [(1.0, 0.1, 20), (2.0, 0.3, 10), (3.0, 0.1, 100), (1.0, 0.01, 9)])
def test_poisson_agrees_with_the_slow_sum(sigma: float, rate: float, rounds: int) -> None:
    # Mironov, Talwar, Zhang 2019, section 3.3, at integer orders: exp((alpha - 1) RDP) is the sum over k of
    # C(alpha, k) (1 - q)^(alpha - k) q^k exp((k^2 - k) / (2 sigma^2)).
    candidates = []
    for alpha in range(2, 33):
        terms = [
            math.comb(alpha, k) * (1 - rate) ** (alpha - k) * rate**k * math.exp((k * k - k) / (2 * sigma**2))
            for k in range(alpha + 1)
        ]
        rdp = math.log(math.fsum(terms)) / (alpha - 1)
        candidates.append(rounds * rdp + math.log(1 - 1 / alpha) - math.log(1e-5 * alpha) / (alpha - 1))
    assert 0 < int(np.argmin(candidates)) < len(candidates) - 1  # the best order is none of the ends
    epsilon = spent(sigma, 1e-5, rounds=rounds, sampling_rate=rate, sampling="poisson")[-1]
    assert epsilon == pytest.approx(min(candidates), rel=1e-9)


def test_fixed_cohorts_by_hand() -> None:
    # Wang, Balle, Kasiviswanathan 2019, theorem 27, at alpha = 2: exp(RDP) = 1 + q^2 min(4 (exp(v) - 1), 2 exp(v)),
    # where v is the RDP of the round without sampling: alpha 2^2 / (2 sigma^2) = 4 for sigma = 1, because another
    # client's update may lie 2 C away. With q = 0.1 the sum is 1 + 0.01 * 2 * 54.59815 = 2.09196, its logarithm
    # 0.738103; after 100 rounds epsilon = 73.8103 + log(1/2) - log(2e-5) = 73.8103 - 0.6931 + 10.8198 = 83.9369.
    # With a sensitivity of C it would be 100 log(1 + 0.01 min(6.873, 5.437)) + 10.1266 = 15.42.
    epsilon = spent(1.0, 1e-5, rounds=100, sampling_rate=0.1, sampling="fixed")[-1]
    assert epsilon == pytest.approx(83.9369, abs=1e-4)


def test_when_all_take_part_sampling_hides_nobody() -> None:
    poisson, none = (spent(2.0, 1e-5, rounds=9, sampling_rate=1.0, sampling=kind) for kind in ("poisson", "none"))
    np.testing.assert_allclose(poisson, none, rtol=1e-12)
    fixed = spent(4.0, 1e-5, rounds=9, sampling_rate=1.0, sampling="fixed")
    np.testing.assert_allclose(fixed, none, rtol=1e-12)  # half the noise, for the difference may be 2 C


def test_an_observer_who_knows_the_cohort_gains_nothing_from_a_small_one() -> None:
    small, large = (spent(2.0, 1e-5, rounds=9, sampling_rate=rate, sampling="none") for rate in (0.01, 1.0))
    np.testing.assert_array_equal(small, large)


@pytest.mark.parametrize("sampling", ["poisson", "fixed"])
def test_epsilon_grows_with_the_cohort_and_never_above_that_of_all(sampling: Sampling) -> None:
    rates = [0.001, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 1.0]
    last = [spent(10.0, 1e-5, rounds=100, sampling_rate=rate, sampling=sampling)[-1] for rate in rates]
    assert (np.diff(last) >= 0).all()
    assert last[0] < 0.1 * last[-1]


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_epsilon_grows_with_rounds_and_falls_with_noise(sampling: Sampling) -> None:
    curves = np.array(
        [spent(sigma, 1e-5, rounds=50, sampling_rate=0.1, sampling=sampling) for sigma in (0.5, 1.0, 3.0, 20.0)]
    )
    assert curves.shape == (4, 50)
    assert (curves > 0).all()
    assert (np.diff(curves, axis=0) < 0).all()
    assert (np.diff(curves, axis=1) > 0).all()


def test_what_was_spent_by_a_round_does_not_depend_on_later_ones() -> None:
    short, long = (spent(2.0, 1e-5, rounds=rounds, sampling_rate=0.1, sampling="poisson") for rounds in (5, 20))
    np.testing.assert_array_equal(short, long[:5])


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize(("epsilon", "rounds", "rate"), [(0.5, 10, 0.3), (3.0, 100, 0.1), (8.0, 1, 1.0)])
def test_calibrated_noise_spends_the_budget_and_no_more(
    epsilon: float, rounds: int, rate: float, sampling: Sampling
) -> None:
    sigma = noise_multiplier_for(epsilon, 1e-5, rounds=rounds, sampling_rate=rate, sampling=sampling)
    last = spent(sigma, 1e-5, rounds=rounds, sampling_rate=rate, sampling=sampling)[-1]
    assert epsilon * (1 - 1e-2) < last <= epsilon


def test_large_fixed_cohorts_need_no_more_noise_than_if_all_took_part() -> None:
    # The bound for fixed cohorts is looser than none for 70 of 100 clients, and must not be the one that is used.
    most, everybody = (
        noise_multiplier_for(3.0, 1e-5, rounds=100, sampling_rate=rate, sampling="fixed") for rate in (0.7, 1.0)
    )
    assert most == everybody


@pytest.mark.parametrize("epsilon", [1e-4, 1e9])
def test_a_budget_out_of_reach_is_refused_with_the_range(epsilon: float) -> None:
    with pytest.raises(FempiError, match=r"ask for more than 0\.0035 and less than 1e"):
        noise_multiplier_for(epsilon, 1e-5, rounds=10, sampling_rate=0.1, sampling="poisson")


def test_the_accountant_logs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    for sampling in SAMPLINGS:
        for sigma, rate in ((0.02, 0.1), (1.0, 0.5), (1e6, 1e-3)):
            spent(sigma, 1e-5, rounds=3, sampling_rate=rate, sampling=sampling)
    noise_multiplier_for(1.0, 1e-5, rounds=100, sampling_rate=0.01, sampling="poisson")
    assert not caplog.records
