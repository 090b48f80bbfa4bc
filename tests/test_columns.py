import numpy as np
import pytest

from fempi.algebra import Updates
from fempi.columns import BLOCK, Columns
from fempi.rng import stream

LONG = 2 * BLOCK + 7


def rows(n: int = 3, d: int = LONG) -> np.ndarray:
    return stream(0, "rows").standard_normal((n, d)).astype(np.float32)


def test_blocks_are_counted_from_the_first_column_at_hand() -> None:
    columns = Columns(LONG, BLOCK)
    assert (columns.start, columns.stop, columns.width) == (BLOCK, LONG, BLOCK + 7)
    assert list(columns.blocks()) == [slice(0, BLOCK), slice(BLOCK, BLOCK + 7)]
    assert columns.here == slice(BLOCK, LONG)
    assert list(Columns(LONG, LONG).blocks()) == []


def test_terms_are_added_one_after_the_other_in_float64() -> None:
    one, tiny = np.ones(2, np.float32), np.full(2, 2**-53)
    assert Columns(LONG).sum([one, tiny, tiny]).tolist() == [1, 1]
    assert Columns(LONG).sum([tiny, tiny, one]).tolist() == [1 + 2**-52] * 2
    total = Columns(LONG).sum([1, 2.5])
    assert total == 3.5
    assert total.dtype == np.float64


def test_a_fold_is_a_vector_and_a_sum_of_what_each_block_gives() -> None:
    values = rows()
    seen = []

    def work(columns: slice, block: np.ndarray) -> tuple[np.ndarray, float]:
        assert block.flags.c_contiguous
        np.testing.assert_array_equal(block, values[:, columns])
        seen.append((columns.start, columns.stop))
        return 2 * block[1], columns.start

    vector, total = Updates(values).fold(work)
    np.testing.assert_array_equal(vector, 2 * values[1])
    assert vector.dtype == np.float32
    assert total == BLOCK + 2 * BLOCK
    assert seen == [(0, BLOCK), (BLOCK, 2 * BLOCK), (2 * BLOCK, LONG)]
    assert Updates(values).sum(lambda columns, block: block.shape[1]) == LONG


def test_coordinates_come_in_the_order_in_which_they_are_asked_for() -> None:
    values = rows()
    places = np.array([LONG - 1, 0, BLOCK, 5, BLOCK - 1])
    np.testing.assert_array_equal(Updates(values).at(places), values[:, places])


def test_columns_at_hand_alone_are_no_updates_for_a_rule_that_wants_all() -> None:
    columns = Columns(LONG)
    columns.spread = True
    with pytest.raises(ValueError, match='layout = "root"'):
        next(Updates(rows(), columns=columns).blocks())
