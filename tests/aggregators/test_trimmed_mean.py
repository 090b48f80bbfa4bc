import numpy as np
import pytest

from fempi.aggregators import Context, Decision, decide
from fempi.aggregators.trimmed_mean import trimmed_mean
from fempi.algebra import Updates
from fempi.columns import BLOCK
from fempi.rng import stream

# Sorted columns: 0 1 2 6 50 60, and -9 -8 1 3 8 9. With f = 2 the middle two are left: 2 and 6 from rows 4 and 0,
# 1 and 3 from rows 0 and 5.
ROWS = np.array([[6, 1], [0, 9], [60, 8], [1, -9], [2, -8], [50, 3]], np.float32)


def decided(rows: np.ndarray, f: int) -> Decision:
    n = len(rows)
    context = Context(
        round=1, clients=np.arange(n), num_examples=np.arange(1, n + 1), num_byzantine=f, rng=stream(0, "test")
    )
    return decide(trimmed_mean, Updates(rows), context)


def slow_version(rows: np.ndarray, low: int, high: int) -> tuple[np.ndarray, np.ndarray]:
    """Drop `low` values below and `high` above, coordinate by coordinate; the means, and how often a row is kept."""
    n, means, kept = len(rows), [], np.zeros(len(rows))
    for column in rows.T.astype(np.float64):
        order = sorted(range(n), key=lambda i: column[i])[low : n - high]
        means.append(sum(column[i] for i in order) / len(order))
        kept[order] += 1
    return np.array(means), kept / rows.shape[1]


def test_the_trimmed_mean_by_hand() -> None:
    # (2 + 6) / 2 and (1 + 3) / 2. Of four places row 0 has two, rows 4 and 5 one each; of two coordinates, row 0 both.
    decision = decided(ROWS, f=2)
    assert decision.update is not None
    assert decision.update.tolist() == [4, 2]
    assert decision.weights.tolist() == [0.5, 0, 0, 0, 0.25, 0.25]
    assert decision.trust.tolist() == [1, 0, 0, 0, 0.5, 0.5]
    assert decision.selected.tolist() == [True, False, False, False, True, True]


@pytest.mark.parametrize(
    ("error", "low", "high", "wrong"),
    [
        # 59 / 4 and (-8 + 1 + 3 + 8) / 4 = 1
        ("f in total, or beta n / 2 on either side", 1, 1, [14.75, 1]),
        ("the largest only", 0, 2, [2.25, -3.25]),  # 9 / 4 and -13 / 4
    ],
)
def test_known_errors_of_other_codes_give_another_mean(error: str, low: int, high: int, wrong: list[float]) -> None:
    assert slow_version(ROWS, low, high)[0].tolist() == wrong, error
    decision = decided(ROWS, f=2)
    assert decision.update is not None
    assert decision.update.tolist() != wrong


def test_equal_values_share_the_places_that_are_left() -> None:
    # Sorted 0 0 0 4 5 6: without one on either side 0 0 4 5 are left. The three zeros share two places, two thirds
    # each. The second column is all 1: six values share four places.
    rows = np.array([[0, 1], [5, 1], [0, 1], [6, 1], [4, 1], [0, 1]], np.float32)
    decision = decided(rows, f=1)
    assert decision.update is not None
    assert decision.update.tolist() == [2.25, 1]
    # Rows of 0: (2/3 + 2/3) / 2 of the coordinates; rows of 4 and 5: (1 + 2/3) / 2; the row of 6: (0 + 2/3) / 2.
    np.testing.assert_allclose(decision.trust, [2 / 3, 5 / 6, 2 / 3, 1 / 3, 5 / 6, 2 / 3], rtol=1e-14)
    np.testing.assert_allclose(decision.weights, decision.trust / 4, rtol=1e-14)


def test_without_byzantine_rows_it_is_the_mean() -> None:
    rows = stream(1, "rows").standard_normal((7, 100)).astype(np.float32)
    decision = decided(rows, f=0)
    np.testing.assert_allclose(decision.update, rows.mean(axis=0, dtype=np.float64), rtol=1e-6)
    np.testing.assert_allclose(decision.weights, [1 / 7] * 7, rtol=1e-14)
    assert decision.trust.tolist() == [1] * 7


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("n", "f"), [(1, 0), (3, 1), (10, 2), (10, 4), (25, 7)])
def test_it_agrees_with_the_slow_version(n: int, f: int, seed: int) -> None:
    rows = stream(seed, "rows").standard_normal((n, 50)).astype(np.float32)
    update, kept = slow_version(rows, f, f)
    decision = decided(rows, f)
    np.testing.assert_allclose(decision.update, update, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(decision.trust, kept, rtol=1e-12)
    np.testing.assert_allclose(decision.weights, kept / (n - 2 * f), rtol=1e-12)


def test_all_blocks_of_columns_are_treated_alike() -> None:
    rows = stream(1, "rows").standard_normal((7, 2 * BLOCK + 3)).astype(np.float32)
    expected = np.sort(rows, axis=0)[2:5].mean(axis=0, dtype=np.float64)
    np.testing.assert_allclose(decided(rows, f=2).update, expected, rtol=1e-6, atol=1e-7)
