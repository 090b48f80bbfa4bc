import numpy as np
from adversary import knowledge_of, unknown_rule

from fempi.attacks import honest

ROWS = np.array([[1, 2], [np.nan, 1], [3, np.inf], [3, 4]], np.float32)
KNOWN = knowledge_of(ROWS, unknown_rule)


def test_honest_rows_are_those_that_are_finite() -> None:
    assert honest(ROWS, np.array([False, False, True, False]), KNOWN).tolist() == [[1, 2], [3, 4]]


def test_where_everybody_is_malicious_all_count_as_they_were_trained() -> None:
    assert honest(ROWS, np.ones(4, bool), KNOWN).tolist() == [[1, 2], [3, 4]]


def test_without_a_finite_honest_row_there_is_nothing_better() -> None:
    np.testing.assert_array_equal(honest(ROWS, np.array([True, False, False, True]), KNOWN), ROWS[1:3])
