import numpy as np
import pytest

from fempi.aggregators import Context, Decision, TooFewRows, decide
from fempi.aggregators.bulyan import bulyan, iterated_krum
from fempi.aggregators.krum import krum_scores, lowest
from fempi.algebra import Updates
from fempi.columns import BLOCK
from fempi.rng import stream

# One coordinate, n = 7, f = 1: theta = 5 picks, and the means of 3 values. Scores of the rows left:
#   left   6    7   13   19   20   30   37
#   7    415  350  170  302  319  559 1238   4 nearest; of 13: 36 + 36 + 49 + 49
#   6    366  314    -  266  270  270  662   3 nearest; of 19: 1 + 121 + 144
#   5    197  170    -    -  269  149  338   2 nearest; of 30: 49 + 100
#   4      1    1    -    -  169    -  289   1 nearest: 6 and 7 are equal, their next are 14^2 and 13^2, so 7
#   3      0    -    -    -    0    -    0   none; the nearest: 14^2, 14^2 and 17^2, then 31^2 and 17^2, so 20
# Chosen are 7 13 19 20 30. From their median 19 the distances are 12 6 0 1 11: (13 + 19 + 20) / 3.
LINE = np.array([[6], [13], [37], [7], [30], [20], [19]], np.float32)


def decided(rows: np.ndarray, f: int) -> Decision:
    n = len(rows)
    context = Context(
        round=1, clients=np.arange(n), num_examples=np.arange(1, n + 1), num_byzantine=f, rng=stream(0, "test")
    )
    return decide(bulyan, Updates(rows), context)


def slow_choice(rows: np.ndarray, f: int) -> list[int]:
    """Krum, again and again, on the rows left; equal scores are told apart by the nearest rows one by one."""
    left, chosen = list(range(len(rows))), []
    while len(chosen) < len(rows) - 2 * f:
        scores = {}
        for i in left:
            squares = sorted(float(((rows[i].astype(float) - rows[j]) ** 2).sum()) for j in left if j != i)
            scores[i] = (sum(squares[: max(len(left) - f - 2, 0)]), squares)
        best = min(left, key=lambda i: scores[i])
        left.remove(best)
        chosen.append(best)
    return sorted(chosen)


def slow_mean(rows: np.ndarray, chosen: list[int], count: int) -> tuple[np.ndarray, np.ndarray]:
    """The `count` values nearest to the median of the chosen; the means, and how often each row is taken."""
    means, taken = [], np.zeros(len(rows))
    for column in rows.T.astype(np.float64):
        centre = np.median(column[chosen])
        order = sorted(chosen, key=lambda i: (abs(column[i] - centre), column[i]))[:count]
        means.append(sum(column[i] for i in order) / count)
        taken[order] += 1
    return np.array(means), taken / rows.shape[1]


def test_bulyan_on_a_line_by_hand() -> None:
    decision = decided(LINE, f=1)
    assert LINE[decision.selected, 0].tolist() == [13, 7, 30, 20, 19]
    np.testing.assert_allclose(decision.update, [52 / 3], rtol=1e-7)
    assert decision.trust.tolist() == [0, 1, 0, 0, 0, 1, 1]
    np.testing.assert_allclose(decision.weights, [0, 1 / 3, 0, 0, 0, 1 / 3, 1 / 3], rtol=1e-15)


def test_the_five_best_of_one_krum_are_a_known_error() -> None:
    # By the scores of 7 rows alone 13 19 20 7 6 are best. From their median 13: 0 6 7 6 7, so (13 + 7 + 19) / 3.
    one_shot = lowest(krum_scores(Updates(LINE).gram, 1), 5)
    assert LINE[one_shot, 0].tolist() == [6, 13, 7, 20, 19]
    assert slow_mean(LINE, np.flatnonzero(one_shot).tolist(), 3)[0].tolist() == [13]
    assert decided(LINE, f=1).selected.tolist() != one_shot.tolist()


@pytest.mark.parametrize("seed", range(5))
def test_one_shot_multi_krum_chooses_another_set_nearly_always(seed: int) -> None:
    rows = stream(seed, "rows").standard_normal((20, 50)).astype(np.float32)
    gram = Updates(rows).gram
    assert iterated_krum(gram, 4, 12).tolist() != lowest(krum_scores(gram, 4), 12).tolist()


@pytest.mark.parametrize("seed", range(5))
def test_rows_of_equal_score_are_told_apart_whatever_their_order(seed: int) -> None:
    # In the last two picks of LINE there are equal scores, which the first row of them must not win.
    rows = stream(seed, "order").permutation(LINE)
    decision = decided(rows, f=1)
    assert sorted(rows[decision.selected, 0].tolist()) == [7, 13, 19, 20, 30]


def test_without_byzantine_rows_it_is_the_mean() -> None:
    rows = stream(1, "rows").standard_normal((7, 100)).astype(np.float32)
    decision = decided(rows, f=0)
    np.testing.assert_allclose(decision.update, rows.mean(axis=0, dtype=np.float64), rtol=1e-6)
    assert decision.trust.tolist() == [1] * 7
    assert decision.selected.all()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("n", "f"), [(3, 0), (7, 1), (10, 1), (11, 2), (12, 2), (20, 4)])
def test_it_agrees_with_the_slow_version(n: int, f: int, seed: int) -> None:
    rows = stream(seed, "rows").standard_normal((n, 50)).astype(np.float32)
    chosen = slow_choice(rows, f)
    update, taken = slow_mean(rows, chosen, n - 4 * f)
    decision = decided(rows, f)
    assert np.flatnonzero(decision.selected).tolist() == chosen
    np.testing.assert_allclose(decision.update, update, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(decision.trust, taken, rtol=1e-12)
    np.testing.assert_allclose(decision.weights, taken / (n - 4 * f), rtol=1e-12)


def test_all_blocks_of_columns_are_treated_alike() -> None:
    rows = stream(1, "rows").standard_normal((7, 2 * BLOCK + 3)).astype(np.float32)
    decision = decided(rows, f=1)
    expected, taken = slow_mean(rows, np.flatnonzero(decision.selected).tolist(), 3)
    np.testing.assert_allclose(decision.update, expected, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(decision.trust, taken, rtol=1e-12)


def test_what_krum_overlooks_in_one_coordinate_is_cut_off() -> None:
    # The paper's attack: honest rows lie about sqrt(2 d) = 71 apart, so a row at their mean, 50 from each, may add 30
    # in one coordinate and still be nearer to them than they are to each other.
    rows = stream(1, "rows").standard_normal((11, 2500)).astype(np.float32)
    rows[:2] = rows[2:].mean(axis=0)
    rows[:2, 7] = 30
    gram = Updates(rows).gram
    assert rows[lowest(krum_scores(gram, 2), 1), 7].tolist() == [30]
    decision = decided(rows, f=2)
    assert decision.selected[:2].all()
    assert decision.update is not None
    assert rows[2:, 7].min() <= decision.update[7] <= rows[2:, 7].max()


@pytest.mark.parametrize(("n", "f"), [(7, 1), (11, 2)])
def test_far_more_than_f_equal_rows_have_their_way(n: int, f: int) -> None:
    rows = stream(1, "rows").standard_normal((n, 40)).astype(np.float32)
    rows[: n - 2 * f] = 1e6
    update = decided(rows, f).update
    assert update is not None
    assert update.tolist() == [1e6] * 40


@pytest.mark.parametrize("f", [0, 1, 2, 5])
def test_at_least_4_f_plus_3_rows_are_needed(f: int) -> None:
    rows = stream(1, "rows").standard_normal((4 * f + 3, 4)).astype(np.float32)
    assert decided(rows, f).selected.sum() == 2 * f + 3
    with pytest.raises(TooFewRows, match=f"with f = {f} at least {4 * f + 3}, not {4 * f + 2}"):
        decided(rows[1:], f)
