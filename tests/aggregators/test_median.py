import statistics

import numpy as np
import pytest
import torch

from fempi.aggregators import Context, Decision, decide
from fempi.aggregators.median import median
from fempi.algebra import Updates
from fempi.columns import BLOCK
from fempi.rng import stream

# Sorted columns: 1 2 10 1000, the middle two from rows 2 and 1; and -5 0 1 3, from rows 3 and 2.
EVEN = np.array([[1, 3], [10, -5], [2, 1], [1000, 0]], np.float32)


def decided(rows: np.ndarray, f: int = 1) -> Decision:
    n = len(rows)
    context = Context(
        round=1, clients=np.arange(n), num_examples=np.arange(1, n + 1), num_byzantine=f, rng=stream(0, "test")
    )
    return decide(median, Updates(rows), context)


def result(rows: np.ndarray) -> list[float]:
    update = decided(rows).update
    assert update is not None
    return [float(value) for value in update]


def test_the_median_of_an_odd_number_is_the_middle_value() -> None:
    # Sorted columns: 1 2 10, the middle one from row 2; and -5 1 3, from row 2 as well.
    decision = decided(EVEN[:3])
    assert result(EVEN[:3]) == [2, 1]
    assert decision.weights.tolist() == [0, 0, 1]
    assert decision.selected.tolist() == [False, False, True]


def test_the_median_of_an_even_number_is_the_mean_of_the_middle_two() -> None:
    # (2 + 10) / 2 and (0 + 1) / 2; of the four places taken rows 1 and 3 have one, row 2 has two.
    decision = decided(EVEN)
    assert result(EVEN) == [6, 0.5]
    assert decision.weights.tolist() == [0, 0.25, 0.5, 0.25]
    assert decision.selected.tolist() == [False, True, True, True]


def test_the_lower_middle_value_is_a_known_error() -> None:
    assert torch.median(torch.from_numpy(EVEN), dim=0).values.tolist() == [2, 0]
    assert result(EVEN) != [2, 0]


def test_trust_is_minus_the_distance_to_the_median() -> None:
    # Differences to (6, 0.5): (-5, 2.5), (4, -5.5), (-4, 0.5), (994, -0.5).
    expected = [-(squares**0.5) for squares in (31.25, 46.25, 16.25, 988036.25)]
    np.testing.assert_allclose(decided(EVEN).trust, expected, rtol=1e-15)


def test_equal_values_share_the_middle_places() -> None:
    # Sorted 0 0 0 5: the three zeros share both places, a third each. Sorted 1 7 7 9: the two sevens have one each.
    decision = decided(np.array([[0, 7], [5, 1], [0, 7], [0, 9]], np.float32))
    np.testing.assert_allclose(decision.weights, [1 / 6 + 1 / 4, 0, 1 / 6 + 1 / 4, 1 / 6], rtol=1e-15)
    assert decision.selected.tolist() == [True, False, True, True]


@pytest.mark.parametrize(
    ("values", "expected"),
    [([3e38, 3e38], 3e38), ([3e38, -3e38], 0), ([3.4e38] * 7, 3.4e38), ([-3e38, -3e38, 3e38, 1, 3, 3e38], 2)],
)
def test_huge_values_do_not_overflow(values: list[float], expected: float) -> None:
    rows = np.array(values, np.float32)[:, None]
    assert result(rows) == [np.float32(expected)]
    np.testing.assert_allclose(decided(rows).trust, [-abs(value - expected) for value in values], rtol=1e-6, atol=1e32)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("n", [1, 2, 3, 10, 21])
def test_the_median_agrees_with_the_slow_version(n: int, seed: int) -> None:
    rows = stream(seed, "rows").standard_normal((n, 50)).astype(np.float32)
    expected = [statistics.median(float(value) for value in column) for column in rows.T]
    weights = np.zeros(n)
    for column in rows.T:
        order = sorted(range(n), key=lambda i: column[i])
        for place in {(n - 1) // 2, n // 2}:
            weights[order[place]] += 1 / 50 / (2 - n % 2)
    decision = decided(rows)
    np.testing.assert_allclose(decision.update, expected, rtol=1e-7)
    np.testing.assert_allclose(decision.weights, weights, rtol=1e-12)
    trust = [-(sum((float(x) - m) ** 2 for x, m in zip(row, expected, strict=True)) ** 0.5) for row in rows]
    np.testing.assert_allclose(decision.trust, trust, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("n", [5, 6])
def test_all_blocks_of_columns_are_treated_alike(n: int) -> None:
    rows = stream(1, "rows").standard_normal((n, 2 * BLOCK + 3)).astype(np.float32)
    expected = np.median(rows.astype(np.float64), axis=0)
    decision = decided(rows)
    np.testing.assert_allclose(decision.update, expected, rtol=1e-7)
    np.testing.assert_allclose(decision.trust, -np.linalg.norm(rows - expected, axis=1), rtol=1e-6)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(("n", "f"), [(3, 1), (10, 4), (11, 5)])
def test_a_minority_cannot_leave_the_range_of_honest_values_and_a_majority_can(n: int, f: int, sign: int) -> None:
    rows = stream(1, "rows").standard_normal((n, 40)).astype(np.float32)
    rows[:f] = sign * 1e6
    honest = rows[f:]
    bounded = np.array(result(rows))
    assert (bounded >= honest.min(axis=0)).all()
    assert (bounded <= honest.max(axis=0)).all()
    rows[: n // 2 + 1] = sign * 1e6
    assert result(rows) == [sign * 1e6] * 40


def test_rows_that_flip_the_sign_are_trusted_least() -> None:
    rng = stream(1, "rows")
    rows = (rng.standard_normal(200) + 0.5 * rng.standard_normal((10, 200))).astype(np.float32)
    rows[[2, 7]] *= -1
    assert sorted(np.argsort(decided(rows).trust)[:2].tolist()) == [2, 7]
