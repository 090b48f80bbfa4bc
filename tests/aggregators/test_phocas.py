import numpy as np
import pytest

from fempi.aggregators import Context, Decision, Rule, decide
from fempi.aggregators.meamed import meamed
from fempi.aggregators.phocas import phocas
from fempi.aggregators.trimmed_mean import trimmed_mean
from fempi.algebra import Updates
from fempi.columns import BLOCK
from fempi.rng import stream

# n = 5, f = 1. First column, trimmed mean (3 + 4 + 9) / 3 = 16 / 3: of 0 3 4 9 10 the furthest is 0 (5.33; 10 is 4.67
# away), and 26 / 4 is left. Second, (-5 + 0 + 1) / 3 = -4 / 3: of -6 -5 0 1 5 the furthest is 5, and -10 / 4 is left.
ROWS = np.array([[4, 1], [10, -5], [0, 5], [9, -6], [3, 0]], np.float32)


def decided(rows: np.ndarray, f: int, rule: Rule = phocas) -> Decision:
    n = len(rows)
    context = Context(
        round=1, clients=np.arange(n), num_examples=np.arange(1, n + 1), num_byzantine=f, rng=stream(0, "test")
    )
    return decide(rule, Updates(rows), context)


def result(values: list[float], f: int) -> float:
    update = decided(np.array(values, np.float32)[:, None], f).update
    assert update is not None
    return float(update[0])


def slow_version(rows: np.ndarray, f: int) -> tuple[np.ndarray, np.ndarray]:
    """The n - f values nearest to the trimmed mean of each coordinate; their means, and how often a row is taken."""
    n, means, taken = len(rows), [], np.zeros(len(rows))
    for column in rows.T.astype(np.float64):
        centre = sum(sorted(column)[f : n - f]) / (n - 2 * f)
        order = sorted(range(n), key=lambda i: (abs(column[i] - centre), column[i]))[: n - f]
        means.append(sum(column[i] for i in order) / len(order))
        taken[order] += 1
    return np.array(means), taken / rows.shape[1]


def test_phocas_by_hand() -> None:
    decision = decided(ROWS, f=1)
    assert decision.update is not None
    assert decision.update.tolist() == [6.5, -2.5]
    assert decision.trust.tolist() == [1, 1, 0, 1, 1]
    assert decision.weights.tolist() == [0.25, 0.25, 0, 0.25, 0.25]
    assert decision.selected.tolist() == [True, True, False, True, True]


@pytest.mark.parametrize(
    ("rule", "other"),
    [(meamed, [4, 0.25]), (trimmed_mean, [np.float32(16 / 3), np.float32(-4 / 3)])],
)
def test_the_rules_it_is_mistaken_for_give_others(rule: Rule, other: list[float]) -> None:
    update = decided(ROWS, 1, rule).update
    assert update is not None
    assert update.tolist() == other


@pytest.mark.parametrize("values", [[0, 2, 4], [4, 2, 0], [2, 4, 0]])
def test_of_two_values_equally_near_the_smaller_is_taken(values: list[float]) -> None:
    assert result(values, f=1) == 1  # the trimmed mean is 2: distances 2 0 2


def test_equal_values_share_the_places_taken() -> None:
    # Sorted 0 0 3 3 3 9, trimmed mean (3 + 3) / 2 = 3 with f = 2: 3 3 3 and one 0 are nearest; each 0 has half of it.
    decision = decided(np.array([[3], [0], [3], [9], [0], [3]], np.float32), f=2)
    assert decision.update is not None
    assert decision.update.tolist() == [2.25]
    assert decision.trust.tolist() == [1, 0.5, 1, 0, 0.5, 1]
    assert decision.weights.tolist() == [0.25, 0.125, 0.25, 0, 0.125, 0.25]


def test_without_byzantine_rows_it_is_the_mean() -> None:
    rows = stream(1, "rows").standard_normal((7, 100)).astype(np.float32)
    decision = decided(rows, f=0)
    np.testing.assert_allclose(decision.update, rows.mean(axis=0, dtype=np.float64), rtol=1e-6)
    assert decision.trust.tolist() == [1] * 7


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("n", "f"), [(1, 0), (3, 1), (10, 2), (10, 4), (25, 7)])
def test_it_agrees_with_the_slow_version(n: int, f: int, seed: int) -> None:
    rows = stream(seed, "rows").standard_normal((n, 50)).astype(np.float32)
    update, taken = slow_version(rows, f)
    decision = decided(rows, f)
    np.testing.assert_allclose(decision.update, update, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(decision.trust, taken, rtol=1e-12)
    np.testing.assert_allclose(decision.weights, taken / (n - f), rtol=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_it_agrees_with_the_slow_version_where_values_are_equal(seed: int) -> None:
    # n - 2 f = 4, so that the trimmed mean of integers, and who is equally near, is exact.
    rows = stream(seed, "rows").integers(-3, 4, (10, 200)).astype(np.float32)
    decision = decided(rows, 3)
    np.testing.assert_allclose(decision.update, slow_version(rows, 3)[0], rtol=1e-6, atol=1e-7)
    assert decision.trust.sum() == pytest.approx(7, rel=1e-12)


def test_all_blocks_of_columns_are_treated_alike() -> None:
    rows = stream(1, "rows").standard_normal((5, 2 * BLOCK + 3)).astype(np.float32)
    centre = np.sort(rows, axis=0)[1:4].mean(axis=0, dtype=np.float64)
    furthest = np.abs(rows - centre).argmax(axis=0)
    expected = (rows.sum(axis=0, dtype=np.float64) - np.take_along_axis(rows, furthest[None], 0)[0]) / 4
    np.testing.assert_allclose(decided(rows, f=1).update, expected, rtol=1e-5, atol=1e-6)
