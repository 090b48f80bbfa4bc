"""Where rows lie among the others, worked by hand."""

import numpy as np
import pytest

from fempi.forensics.geometry import SCORES, Round, standardized

NAN, INF = np.nan, np.inf


def round_of(rows, trust=None):
    rows = np.array(rows, float)
    n = len(rows)
    gram = np.full((n, n), NAN)
    known = np.flatnonzero(np.isfinite(rows).all(axis=1))
    gram[np.ix_(known, known)] = rows[known] @ rows[known].T
    return Round(1, np.arange(n), gram, np.zeros(n) if trust is None else np.array(trust, float))


SQUARE = [[3, 0], [1, 2], [1, -2], [-1, 0]]  # its geometric median is the middle of the two diagonals, (1, 0)


def test_measures_of_a_square_by_hand():
    found = round_of(SQUARE)
    assert found.centre @ np.array(SQUARE) == pytest.approx([1, 0], abs=1e-5)
    five = np.sqrt(5)  # norms 3, sqrt(5), sqrt(5), 1: median sqrt(5)
    assert found.norm == pytest.approx([3 / five, 1, 1, 1 / five])
    assert found.cosine == pytest.approx([1, 1 / five, 1 / five, -1], abs=1e-5)
    assert found.distance == pytest.approx([1, 1, 1, 1], abs=1e-5)
    assert found.nearest == pytest.approx([1, 1, 1, 1])


def test_krum_scores_are_in_units_of_their_median():
    # Four rows: f = 0, so each score sums the squares of the distances to its two nearest others.
    found = round_of([[0], [1], [2], [10]])
    assert found.krum == pytest.approx(np.array([1 + 4, 1 + 1, 1 + 4, 64 + 81]) / 5)


def test_a_row_that_is_not_finite_is_left_out_of_what_is_said_of_the_others():
    found = round_of([*SQUARE[:2], [NAN, 0], *SQUARE[2:]])
    assert found.finite.tolist() == [True, True, False, True, True]
    whole = round_of(SQUARE)
    for name in ("norm", "cosine", "distance", "krum", "nearest"):
        measured = getattr(found, name)
        assert np.isnan(measured[2])
        assert measured[found.finite] == pytest.approx(getattr(whole, name))


def test_cosines_of_pairs_with_a_row_of_zeros_and_one_that_is_not_finite():
    cosines = round_of([[2, 0], [0, 3], [-5, 0], [0, 0], [INF, 0]]).cosines()
    assert cosines[:3, :3] == pytest.approx(np.array([[1, 0, -1], [0, 1, 0], [-1, 0, 1]]))
    assert (cosines[3, :4] == 0).all()
    assert np.isnan(cosines[4]).all()


@pytest.mark.parametrize("rows", [[], [[NAN, 1]], [[1, 2]], [[0, 0]] * 4, [[1, 0], [1, 0]], [[0, 0], [1, 1], [0, 0]]])
def test_few_rows_and_equal_ones_have_measures_without_a_warning(rows):
    found = round_of(np.array(rows).reshape(-1, 2))
    for score in SCORES.values():
        assert standardized(score(found)).shape == (len(rows),)


def test_identical_rows_are_as_near_as_can_be():
    found = round_of([[5, 0], [5, 0], [0, 1], [1, 1], [2, 3]])
    assert (found.nearest[:2] == 0).all()
    suspicious = SCORES["nearest"](found)
    assert suspicious[:2].min() > 100 > suspicious[2:].max()


def test_standard_deviations_by_hand():
    # Median 2, absolute deviations 2 1 0 1 8: their median 1.
    assert standardized(np.array([0, 1, 2, 3, 10.0])) == pytest.approx(np.array([-2, -1, 0, 1, 8]) / 1.4826)
    assert standardized(np.array([1, 1, 1, 4, -4.0])).tolist() == [0, 0, 0, INF, -INF]
    known = standardized(np.array([0, NAN, 2, 4]))
    assert np.isnan(known).tolist() == [False, True, False, False]
    assert known[[0, 2, 3]] == pytest.approx(np.array([-1, 0, 1]) / 1.4826)
    assert standardized(np.array([0, 1, 2, INF]))[3] > 1e100
    assert np.isnan(standardized(np.array([NAN, NAN]))).all()


def test_the_scores_are_the_same_for_any_rotation_and_unit():
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(9, 6))
    turn = 7 * np.linalg.qr(rng.normal(size=(6, 6)))[0]
    one, other = round_of(rows), round_of(rows @ turn)
    for name, score in SCORES.items():
        assert score(one) == pytest.approx(score(other), rel=1e-5, abs=1e-5), name
