import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fempi.algebra import Float32, Float64, Updates, cosines, distances
from fempi.columns import BLOCK
from fempi.rng import stream

LONG = 3 * BLOCK + 17


def random_rows(n: int, d: int, seed: int = 0) -> Float32:
    return stream(seed, "rows").standard_normal((n, d)).astype(np.float32)


def exact_gram(rows: Float32) -> Float64:
    return rows.astype(np.float64) @ rows.T.astype(np.float64)


@pytest.mark.parametrize(("n", "d"), [(1, 1), (2, 5), (7, 1000), (3, BLOCK), (5, BLOCK + 1), (10, LONG)])
def test_gram_is_that_of_float64_within_float32_rounding(n: int, d: int) -> None:
    rows = random_rows(n, d)
    exact = exact_gram(rows)
    norms = np.sqrt(np.diagonal(exact))
    gram = Updates(rows).gram
    assert gram.dtype == np.float64
    assert gram.shape == (n, n)
    assert (np.abs(gram - exact) <= 1e-6 * np.outer(norms, norms)).all()
    np.testing.assert_array_equal(gram, gram.T)
    np.testing.assert_allclose(Updates(rows).norms, norms, rtol=1e-6)


@given(
    st.integers(1, 6).flatmap(
        lambda n: st.lists(st.lists(st.integers(-1000, 1000), min_size=n, max_size=n), min_size=1, max_size=5)
    )
)
def test_gram_of_small_integers_is_exact(values: list[list[int]]) -> None:
    # At most 6 products of at most 1e6 each: every sum is an integer below 2**24, which float32 holds exactly.
    rows = np.array(values, np.float32)
    np.testing.assert_array_equal(Updates(rows).gram, exact_gram(rows))


def test_gram_has_equal_bits_however_the_rows_lie_in_memory() -> None:
    rows = random_rows(6, LONG)
    wide = np.empty((6, LONG + 5), np.float32)
    wide[:, 3:-2] = rows
    every_other = np.empty((12, 2 * LONG), np.float32)
    every_other[::2, ::2] = rows
    unaligned = np.empty(6 * LONG * 4 + 4, np.uint8)[4:].view(np.float32).reshape(6, LONG)
    unaligned[:] = rows
    expected = Updates(rows).gram
    for same in (rows.copy(), np.asfortranarray(rows), wide[:, 3:-2], every_other[::2, ::2], unaligned):
        np.testing.assert_array_equal(same, rows)
        np.testing.assert_array_equal(Updates(same).gram, expected)


def test_gram_sums_the_float32_products_of_fixed_blocks_in_rising_order() -> None:
    rows = random_rows(4, LONG)
    expected = np.zeros((4, 4))
    for start in (0, 16384, 32768, 49152):
        block = np.ascontiguousarray(rows[:, start : start + 16384])
        expected += block @ block.T
    np.testing.assert_array_equal(Updates(rows).gram, expected)


def test_the_reference_is_the_last_row_and_column() -> None:
    rows, reference = np.array([[1, 2], [3, -4]], np.float32), np.array([6, 8], np.float32)
    updates = Updates(rows, reference)
    assert updates.has_reference
    assert updates.full_gram.tolist() == [[5, -5, 22], [-5, 25, -14], [22, -14, 100]]
    assert updates.gram.tolist() == [[5, -5], [-5, 25]]
    assert updates.reference_products.tolist() == [22, -14]
    assert updates.reference_norm == 10
    assert updates.norms.tolist() == [5**0.5, 5]


def test_without_a_reference_its_row_and_column_are_nan() -> None:
    updates = Updates(random_rows(3, 10))
    assert not updates.has_reference
    assert updates.full_gram.shape == (4, 4)
    assert np.isnan(updates.full_gram[-1]).all()
    assert np.isnan(updates.full_gram[:, -1]).all()
    assert np.isnan(updates.reference_norm)
    assert np.isfinite(updates.gram).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_reference_that_is_not_finite_counts_as_none(value: float) -> None:
    rows = random_rows(3, 10)
    updates = Updates(rows, np.full(10, value, np.float32))
    assert not updates.has_reference
    np.testing.assert_array_equal(updates.full_gram, Updates(rows).full_gram)


@pytest.mark.parametrize("values", [[np.nan], [np.inf], [-np.inf], [np.inf, -np.inf], [np.nan, np.inf]])
def test_rows_that_are_not_finite_give_nan_and_leave_the_others_bits(values: list[float]) -> None:
    rows, reference = random_rows(6, LONG), random_rows(1, LONG, seed=1)[0]
    rows[[1, 4], -len(values) :] = values
    good = np.array([0, 2, 3, 5])
    updates = Updates(rows, reference)
    assert updates.finite.dtype == bool
    assert np.flatnonzero(updates.finite).tolist() == good.tolist()
    assert np.isnan(updates.full_gram[[1, 4]]).all()
    assert np.isnan(updates.full_gram[:, [1, 4]]).all()
    alone = Updates(rows[good], reference)
    np.testing.assert_array_equal(updates.gram[np.ix_(good, good)], alone.gram)
    np.testing.assert_array_equal(updates.reference_products[good], alone.reference_products)
    assert updates.reference_norm == alone.reference_norm


def test_huge_finite_rows_do_not_overflow_and_leave_the_others_bits() -> None:
    rows = random_rows(5, LONG)
    huge = rows.copy()
    huge[1] *= 1e37  # normal draws reach beyond 4, so entries come near float32's largest, 3.4e38
    huge[3] = np.float32(1e38)
    assert np.isfinite(huge).all()
    updates = Updates(huge)
    exact = exact_gram(huge)
    norms = np.sqrt(np.diagonal(exact))
    assert updates.finite.all()
    # Sums of equal products round the same way every time: a constant row is off by up to 3e-6 at any size.
    assert (np.abs(updates.gram - exact) <= 1e-5 * np.outer(norms, norms)).all()
    others = np.ix_([0, 2, 4], [0, 2, 4])
    np.testing.assert_array_equal(updates.gram[others], Updates(rows).gram[others])


def test_the_largest_float32_has_a_gram() -> None:
    largest = np.finfo(np.float32).max
    gram = Updates(np.full((2, 100), largest, np.float32)).gram
    np.testing.assert_allclose(gram, 100 * float(largest) ** 2, rtol=1e-6)


@pytest.mark.parametrize("size", [1e-22, 1e-24, 1e-30])
def test_tiny_rows_do_not_underflow(size: float) -> None:
    rows = random_rows(3, 1000)
    rows[1] *= np.float32(size)
    exact = exact_gram(rows)
    norms = np.sqrt(np.diagonal(exact))
    assert (np.abs(Updates(rows).gram - exact) <= 1e-6 * np.outer(norms, norms)).all()


def test_distances_are_squared_and_never_negative() -> None:
    # 1 + 1 - 2 * 1.0000001 < 0: what float32 rounding makes of two equal rows.
    assert distances(np.array([[1, 1.0000001], [1.0000001, 1]])).tolist() == [[0, 0], [0, 0]]
    rows = np.array([[0, 0], [3, 4], [3, 0]], np.float32)
    assert distances(Updates(rows).gram).tolist() == [[0, 25, 9], [25, 0, 16], [9, 16, 0]]


def test_distances_of_equal_random_rows_are_at_least_0() -> None:
    rows = np.repeat(random_rows(1, LONG), 9, axis=0)
    assert distances(Updates(rows).gram).min() >= 0


def test_cosines_are_0_where_either_vector_is_zero() -> None:
    rows, reference = np.array([[3, 4], [0, 0], [-1, 0]], np.float32), np.array([5, 0], np.float32)
    updates = Updates(rows, reference)
    assert cosines(updates.reference_products, updates.norms, 5.0).tolist() == [0.6, 0, -1]
    assert cosines(np.zeros(3), updates.norms, 0.0).tolist() == [0, 0, 0]


def test_take_keeps_rows_reference_and_the_bits_of_the_gram() -> None:
    rows, reference = random_rows(5, 100), random_rows(1, 100, seed=1)[0]
    rows[4, 0] = np.nan
    updates = Updates(rows, reference)
    mask = np.array([True, False, True, False, True])
    some = updates.take(mask)
    assert (some.n, some.d, some.has_reference) == (3, 100, True)
    assert some.finite.tolist() == [True, True, False]
    np.testing.assert_array_equal(some.gram, updates.gram[np.ix_(mask, mask)])
    np.testing.assert_array_equal(some.reference_products, updates.reference_products[mask])
    assert some.reference_norm == updates.reference_norm
    ((_, block),) = some.blocks()
    np.testing.assert_array_equal(block, rows[mask])


def test_take_of_take_and_of_nothing() -> None:
    rows = random_rows(4, 10)
    some = Updates(rows).take(np.array([False, True, True, True])).take(np.array([True, False, True]))
    ((_, block),) = some.blocks()
    np.testing.assert_array_equal(block, rows[[1, 3]])
    none = Updates(rows).take(np.zeros(4, bool))
    assert none.n == 0
    assert none.gram.shape == (0, 0)
    assert none.combine(np.empty(0)).tolist() == [0] * 10


@pytest.mark.parametrize("d", [1, BLOCK - 1, BLOCK, BLOCK + 1, LONG])
def test_blocks_are_contiguous_copies_that_cover_all_columns_in_order(d: int) -> None:
    rows = random_rows(3, d)
    columns, blocks = zip(*Updates(np.asfortranarray(rows)).blocks(), strict=True)
    assert [c.start for c in columns] == [0, *(c.stop for c in columns[:-1])]
    assert columns[-1].stop == d
    assert all(block.flags.c_contiguous and block.dtype == np.float32 for block in blocks)
    assert not any(np.shares_memory(block, rows) for block in blocks)
    np.testing.assert_array_equal(np.concatenate(blocks, axis=1), rows)


def test_combine_is_the_weighted_sum_of_float64() -> None:
    rows, weights = random_rows(5, LONG), stream(1, "weights").standard_normal(5)
    combined = Updates(rows).combine(weights)
    assert combined.dtype == np.float32
    np.testing.assert_allclose(combined, weights @ rows.astype(np.float64), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e38])
def test_combine_ignores_rows_of_weight_0_whatever_they_hold(value: float) -> None:
    rows = np.array([[1, 2], [value, value], [3, 6]], np.float32)
    assert Updates(rows).combine(np.array([0.5, 0, 0.5])).tolist() == [2, 4]
    assert Updates(rows).combine(np.zeros(3)).tolist() == [0, 0]


def test_combine_passes_an_overflow_on_without_a_warning() -> None:
    rows = np.full((2, 3), 3e38, np.float32)
    assert Updates(rows).combine(np.ones(2)).tolist() == [np.inf] * 3


def test_from_gram_knows_inner_products_but_no_columns() -> None:
    original = Updates(random_rows(4, 50), random_rows(1, 50, seed=1)[0])
    updates = Updates.from_gram(original.full_gram, has_reference=True)
    assert updates.n == 4
    assert updates.has_reference
    np.testing.assert_array_equal(updates.gram, original.gram)
    np.testing.assert_array_equal(updates.reference_products, original.reference_products)
    np.testing.assert_array_equal(updates.norms, original.norms)
    with pytest.raises(ValueError, match="not their columns"):
        next(updates.blocks())
    with pytest.raises(ValueError, match="not their columns"):
        updates.combine(np.ones(4))


def test_from_gram_takes_rows_too() -> None:
    updates = Updates.from_gram(Updates(random_rows(4, 50)).full_gram, has_reference=False)
    some = updates.take(np.array([True, False, False, True]))
    assert some.n == 2
    assert not some.has_reference
    np.testing.assert_array_equal(some.gram, updates.gram[np.ix_([0, 3], [0, 3])])


def test_from_gram_knows_which_rows_were_finite() -> None:
    rows = random_rows(3, 50)
    rows[1, 7] = np.nan
    updates = Updates.from_gram(Updates(rows).full_gram, has_reference=False)
    assert updates.finite.tolist() == [True, False, True]


def test_rows_and_reference_are_never_written() -> None:
    rows, reference = random_rows(4, LONG), random_rows(1, LONG, seed=1)[0]
    rows[0], rows[1, 5] = 1e38, np.nan
    before = rows.copy(), reference.copy()
    rows.flags.writeable = reference.flags.writeable = False
    updates = Updates(rows, reference)
    assert updates.gram.shape == (4, 4)
    for _, block in updates.blocks():
        block[:] = 0
    updates.combine(np.array([0.5, 0, 0.25, 0.25]))
    np.testing.assert_array_equal(rows, before[0])
    np.testing.assert_array_equal(reference, before[1])


def test_the_inner_products_of_mixed_rows_are_those_of_the_rows_mixed_first() -> None:
    rng = stream(0, "mix")
    rows, reference = rng.standard_normal((5, 300)).astype(np.float32), rng.standard_normal(300).astype(np.float32)
    matrix = rng.random((3, 5))
    mixed = Updates(rows, reference).mix(matrix)
    by_hand = np.vstack([matrix @ rows.astype(np.float64), reference])
    np.testing.assert_allclose(mixed.full_gram, by_hand @ by_hand.T, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(mixed.full_gram, mixed.full_gram.T)  # a rule may read either half
    np.testing.assert_allclose(mixed.combine(np.array([1.0, 0, 2])), by_hand[0] + 2 * by_hand[2], atol=1e-6)
    (block,) = [block for _, block in mixed.take(np.array([False, True, True])).blocks()]
    np.testing.assert_allclose(block, by_hand[1:3], rtol=1e-6)
    assert np.isnan(Updates(rows).mix(matrix).full_gram[-1]).all()


def test_mixing_twice_is_mixing_by_the_product() -> None:
    rng = stream(0, "mix")
    rows = rng.standard_normal((5, 40)).astype(np.float32)
    one, two = rng.random((4, 5)), rng.random((3, 4))
    twice, once = Updates(rows).mix(one).mix(two), Updates(rows).mix(two @ one)
    np.testing.assert_allclose(twice.gram, once.gram, rtol=1e-12)
    np.testing.assert_allclose(twice.combine(np.ones(3)), once.combine(np.ones(3)), rtol=1e-6)


def test_rows_that_cancel_do_not_pass_for_a_short_row() -> None:
    # Their average has length 1e20, which is nothing beside 1e38: the products cannot tell it from 0.
    rows = np.array([[1e38, 1e20], [-1e38, 1e20], [1, 0]], np.float32)
    mixed = Updates(rows).mix(np.array([[0.5, 0.5, 0], [0, 0, 1]]))
    assert mixed.norms[0] > 1e30
    assert mixed.norms[1] == 1


def test_products_with_any_vector_are_exact_to_float64() -> None:
    rows = np.array([[1, 2, 3], [1e38, 1e38, -1e38]], np.float32)
    assert Updates(rows).products(np.array([2, 0, 1], np.float32)).tolist() == [5, float(rows[1, 0])]
