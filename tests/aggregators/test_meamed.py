import numpy as np
import pytest

from fempi.aggregators import Context, Decision, decide
from fempi.aggregators.meamed import meamed
from fempi.aggregators.phocas import phocas
from fempi.algebra import Updates
from fempi.columns import BLOCK
from fempi.rng import stream

# n = 5, f = 1. First column, median 4: distances 4 1 0 5 6 of 0 3 4 9 10, so 10 goes and 16 / 4 is left.
# Second, median 0: distances 6 5 0 1 5 of -6 -5 0 1 5, so -6 goes and 1 / 4 is left.
ROWS = np.array([[4, 1], [10, -5], [0, 5], [9, -6], [3, 0]], np.float32)


def decided(rows: np.ndarray, f: int) -> Decision:
    n = len(rows)
    context = Context(
        round=1, clients=np.arange(n), num_examples=np.arange(1, n + 1), num_byzantine=f, rng=stream(0, "test")
    )
    return decide(meamed, Updates(rows), context)


def result(values: list[float], f: int) -> float:
    update = decided(np.array(values, np.float32)[:, None], f).update
    assert update is not None
    return float(update[0])


def slow_version(rows: np.ndarray, f: int) -> tuple[np.ndarray, np.ndarray]:
    """The n - f values nearest to the median of each coordinate; their means, and how often a row is taken.

    Of rows with equal values the first ones are taken.
    """
    n, means, taken = len(rows), [], np.zeros(len(rows))
    for column in rows.T.astype(np.float64):
        centre = np.median(column)
        order = sorted(range(n), key=lambda i: (abs(column[i] - centre), column[i]))[: n - f]
        means.append(sum(column[i] for i in order) / len(order))
        taken[order] += 1
    return np.array(means), taken / rows.shape[1]


def test_meamed_by_hand() -> None:
    decision = decided(ROWS, f=1)
    assert decision.update is not None
    assert decision.update.tolist() == [4, 0.25]
    assert decision.trust.tolist() == [1, 0.5, 1, 0.5, 1]
    assert decision.weights.tolist() == [0.25, 0.125, 0.25, 0.125, 0.25]
    assert decision.selected.all()


def test_the_values_nearest_to_the_trimmed_mean_are_others() -> None:
    context = Context(round=1, clients=np.arange(5), num_examples=np.arange(5), num_byzantine=1, rng=stream(0, "test"))
    other = decide(phocas, Updates(ROWS), context).update
    assert other is not None
    # The trimmed means are (3 + 4 + 9) / 3 and (-5 + 0 + 1) / 3; 0 and 5 are furthest from them: 26 / 4 and -10 / 4.
    assert other.tolist() == [6.5, -2.5]


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]])
def test_of_two_values_equally_near_the_smaller_is_taken(order: list[int]) -> None:
    values = [1.0, 4.0, 6.0, 9.0]  # median 5: distances 4 1 1 4
    assert result([values[i] for i in order], f=1) == pytest.approx(11 / 3)
    values = [-1.0, 0.0, 1.0, 50.0]  # median 0.5: distances 1.5 0.5 0.5 49.5
    assert result([values[i] for i in order], f=1) == 0


def test_the_median_of_an_even_number_is_the_mean_of_the_middle_two() -> None:
    # From 6.5 the distances of 0 5 8 11 are 6.5 1.5 1.5 4.5, so 0 goes: 24 / 3. From the lower middle value, 5, they
    # would be 5 0 3 6, so 11 would go: 13 / 3.
    assert result([0, 5, 8, 11], f=1) == 8


def test_equal_values_share_the_places_taken() -> None:
    # Sorted 0 0 3 3 3 7, median 3: 3 3 3 and one 0 are nearest with f = 2; each 0 has half of its place.
    decision = decided(np.array([[3], [0], [3], [7], [0], [3]], np.float32), f=2)
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
    rows = stream(seed, "rows").integers(-3, 4, (12, 200)).astype(np.float32)
    decision = decided(rows, 3)
    np.testing.assert_allclose(decision.update, slow_version(rows, 3)[0], rtol=1e-6, atol=1e-7)
    expected = np.zeros(12)  # rows with equal values share what the first of them have
    for column in rows.T:
        often = slow_version(column[:, None], 3)[1]
        for value in set(column.tolist()):
            expected[column == value] += often[column == value].mean() / 200
    np.testing.assert_allclose(decision.trust, expected, rtol=1e-12)


def test_all_blocks_of_columns_are_treated_alike() -> None:
    rows = stream(1, "rows").standard_normal((5, 2 * BLOCK + 3)).astype(np.float32)
    centre = np.median(rows.astype(np.float64), axis=0)
    furthest = np.abs(rows - centre).argmax(axis=0)
    expected = (rows.sum(axis=0, dtype=np.float64) - np.take_along_axis(rows, furthest[None], 0)[0]) / 4
    np.testing.assert_allclose(decided(rows, f=1).update, expected, rtol=1e-5, atol=1e-6)
