import numpy as np

from fempi.aggregators import Context, Decision, decide
from fempi.aggregators.mean import mean
from fempi.algebra import Updates
from fempi.rng import stream

# Columns sum to 1 + 2 + 6 = 9 and 4 - 6 - 1 = -3.
ROWS = np.array([[1, 4], [2, -6], [6, -1]], np.float32)


def decided(rows: np.ndarray, num_examples: list[int], *, weighted: bool) -> Decision:
    n = len(rows)
    context = Context(
        round=1,
        clients=np.arange(n),
        num_examples=np.array(num_examples),
        num_byzantine=0,
        rng=stream(0, "test"),
    )
    return decide(lambda u, c: mean(u, c, weighted=weighted), Updates(rows), context)


def test_the_mean_ignores_reported_numbers_of_examples() -> None:
    decision = decided(ROWS, [100, 1, 1], weighted=False)
    assert decision.update is not None
    np.testing.assert_allclose(decision.update, [3, -1], rtol=1e-6)
    np.testing.assert_allclose(decision.weights, [1 / 3] * 3)
    assert decision.trust.tolist() == [1, 1, 1]
    assert decision.selected.all()


def test_the_weighted_mean_counts_examples() -> None:
    # Examples 1, 2, 5 of 8: (1 + 2 * 2 + 5 * 6) / 8 = 35 / 8 and (4 - 2 * 6 - 5) / 8 = -13 / 8.
    decision = decided(ROWS, [1, 2, 5], weighted=True)
    assert decision.update is not None
    assert decision.update.tolist() == [4.375, -1.625]
    assert decision.weights.tolist() == [0.125, 0.25, 0.625]


def test_the_mean_is_that_of_float64() -> None:
    rows = stream(1, "rows").standard_normal((9, 1000)).astype(np.float32)
    decision = decided(rows, [1] * 9, weighted=False)
    expected = [sum(float(row[j]) for row in rows) / 9 for j in range(1000)]
    np.testing.assert_allclose(decision.update, expected, rtol=1e-5, atol=1e-7)


def test_nobody_reports_an_example_then_the_update_is_zero() -> None:
    decision = decided(ROWS, [0, 0, 0], weighted=True)
    assert decision.update is not None
    assert decision.update.tolist() == [0, 0]
    assert decision.weights.tolist() == [0, 0, 0]
