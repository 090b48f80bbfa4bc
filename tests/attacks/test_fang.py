from functools import partial

import numpy as np
import pydantic
import pytest
from adversary import mean_rule, sent, sent_by_all, some_updates

from fempi.aggregators import Context, decide
from fempi.aggregators.krum import krum
from fempi.algebra import Float32, Updates
from fempi.attacks.fang import Fang, upper_bound
from fempi.columns import Columns
from fempi.registry import find
from fempi.rng import stream


def krum_rule(f: int, rows: Float32) -> Float32:
    n = len(rows)
    context = Context(
        round=1, clients=np.arange(n), num_examples=np.ones(n, np.int64), num_byzantine=f, rng=stream(0, "aggregate")
    )
    update = decide(krum, Updates(rows), context).update
    assert update is not None
    return update


def test_trimmed_mean_draws_beyond_the_honest_numbers_against_the_direction() -> None:
    # Without the attack the mean is (+, -, +, -, 0); the honest numbers are the first two rows'. With b = 2 the
    # attackers draw below 2: [1, 2]; above -2: [-2, -1]; below -2: [-4, -2]; above 3: [3, 6]; and where there is no
    # direction it counts as down, above 5: [5, 10].
    updates = np.array([[2, -2, -2, 3, 5], [4, -4, 4, -9, 2]] + [[1, -1, 2, -3, -1]] * 7, np.float32)
    assert np.sign(mean_rule(updates)).tolist() == [1, -1, 1, -1, 0]
    rows = np.concatenate([sent(Fang(), updates, range(2, 9), mean_rule, seed) for seed in range(50)])
    low, high = np.array([1, -2, -4, 3, 5]), np.array([2, -1, -2, 6, 10])
    assert ((rows >= low) & (rows <= high)).all()
    shares = (rows - low) / (high - low)
    np.testing.assert_allclose(shares.mean(axis=0), 0.5, atol=0.08)  # five standard deviations of 350 uniform draws
    assert (shares.max(axis=0) > 0.97).all()
    assert (shares.min(axis=0) < 0.03).all()


def test_each_attacker_draws_its_own_numbers_and_b_is_their_range() -> None:
    updates = np.array([[1], [1], [1], [1]], np.float32)
    one, other = sent(Fang(b=1000.0), updates, [0, 3], mean_rule)
    assert one != other
    rows = np.concatenate([sent(Fang(b=1000.0), updates, [0, 3], mean_rule, seed) for seed in range(50)])
    assert 0.001 <= rows.min() < 0.1
    assert rows.max() <= 1


def test_the_direction_is_that_of_the_servers_rule() -> None:
    # The median of what was trained is 1, the mean is below 0: one is pushed below -9, the other above 1.
    updates = np.array([[1], [1], [-9]], np.float32)
    assert (sent(Fang(), updates, [0], lambda rows: np.median(rows, axis=0)) < -9).all()
    assert (sent(Fang(), updates, [0], mean_rule) > 1).all()


# Rows 1 and 4 attack; the honest rows are unit vectors.
UNITS = np.full((7, 5), 9, np.float32)
UNITS[[0, 2, 3, 5, 6]] = np.eye(5)


def test_the_bound_on_lambda_is_the_papers() -> None:
    # n = 7, m = 2, d = 5: three neighbours at sqrt(2), over 2 sqrt(5), plus 1 / sqrt(5).
    assert upper_bound(np.eye(5, dtype=np.float32), 2, Columns(5)) == pytest.approx(1.39590, abs=1e-5)
    assert upper_bound(2 * np.eye(5, dtype=np.float32), 2, Columns(5)) == pytest.approx(2.79180, abs=1e-5)


def test_the_bound_holds_where_attackers_are_many_and_honest_rows_few() -> None:
    # n - 2 m - 1 counts as 1: 3 sqrt(2 / 5) + 1 / sqrt(5). One honest row has no neighbours: 3 / sqrt(1).
    assert upper_bound(np.eye(5, dtype=np.float32), 5, Columns(5)) == pytest.approx(2.34458, abs=1e-5)
    assert upper_bound(np.array([[-3]], np.float32), 2, Columns(1)) == 3


def test_krum_sends_the_largest_lambda_that_krum_chooses_by_halving_from_the_bound() -> None:
    # Krum ties and takes row 0, so s = (1, -1, -1, -1, -1). With f = 2 it sums the 3 nearest. A row -lambda s has the
    # other attacker at 0, and two of the last four units at q = 5 lambda^2 - 2 lambda + 1 each; a unit has three others
    # at 2 each, or the attackers where they are nearer. At lambda = 1.39590 q is 7.95, and Krum refuses 15.9 > 6. At
    # 0.69795 q is 2.04, and 4.08 < 6.
    row = sent_by_all(Fang(variant="krum"), UNITS, [1, 4], partial(krum_rule, 2))
    np.testing.assert_allclose(row, [-0.69795, 0.69795, 0.69795, 0.69795, 0.69795], atol=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_krum_chooses_what_is_sent_and_would_not_have_chosen_twice_as_much(seed: int) -> None:
    updates, attackers, rule = some_updates(seed=seed), [2, 5, 8], partial(krum_rule, 3)
    row = sent_by_all(Fang(variant="krum"), updates, attackers, rule)
    assert (np.sign(row) == np.where(rule(updates) > 0, -1, 1)).all()
    updates[attackers] = row
    np.testing.assert_array_equal(rule(updates), row)
    bound = upper_bound(np.delete(updates, attackers, axis=0), 3, Columns(updates.shape[1]))
    assert abs(row[0]) < bound
    updates[attackers] = 2 * row
    assert (rule(updates) != 2 * row).any()


def test_where_no_lambda_is_chosen_the_last_one_is_sent() -> None:
    # The mean is never the attackers' row. 1.39590 / 2^17 is 1.07e-5, above the threshold; / 2^18 is 5.3250e-6.
    row = sent_by_all(Fang(variant="krum"), UNITS, [1, 4], mean_rule)
    np.testing.assert_allclose(row, np.full(5, -5.3250e-6), rtol=1e-4)
    row = sent_by_all(Fang(variant="krum", threshold=0.1), UNITS, [1, 4], mean_rule)
    np.testing.assert_allclose(row, np.full(5, -1.39590 / 16), rtol=1e-4)


@pytest.mark.parametrize("wrong", [{"variant": "median"}, {"b": 1.0}, {"threshold": 0.0}])
def test_hyper_parameters_have_bounds(wrong: dict[str, float | str]) -> None:
    with pytest.raises(pydantic.ValidationError):
        find("attack", "fang").bind(wrong)


def test_an_absurd_honest_row_does_not_make_the_attack_overflow() -> None:
    updates = some_updates(9, 4000)
    updates[0], updates[3:6] = 3e38, -3e38
    assert np.isfinite(sent(Fang(), updates, [1, 2], mean_rule)).all()
