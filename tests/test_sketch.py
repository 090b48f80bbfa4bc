import numpy as np

from fempi.algebra import Float32
from fempi.rng import stream
from fempi.sketch import Sketch

D, SIZE, SEEDS = 300, 64, 1000


def two_vectors() -> tuple[Float32, Float32]:
    rng = stream(0, "vectors")
    x, noise = rng.standard_normal((2, D)).astype(np.float32)
    return x, (x + noise).astype(np.float32)


def test_a_sketch_has_its_size_and_type() -> None:
    sketch = Sketch(0, D, SIZE)(two_vectors()[0])
    assert (sketch.shape, sketch.dtype) == ((SIZE,), np.float32)


def test_inner_products_are_unbiased_with_the_stated_standard_error() -> None:
    x, y = two_vectors()
    norms = float(np.linalg.norm(x) * np.linalg.norm(y))
    products = [float(Sketch(seed, D, SIZE)(x) @ Sketch(seed, D, SIZE)(y)) for seed in range(SEEDS)]
    stated = np.sqrt(2 / SIZE) * norms
    assert abs(np.mean(products) - float(x @ y)) < 4 * stated / np.sqrt(SEEDS)
    # The estimate of a standard deviation from 1000 draws is itself good to about 2 %.
    assert np.std(products) < 1.1 * stated
    assert np.std(products) > 0.5 * np.sqrt(1 / SIZE) * norms  # the bound says something


def test_each_coordinate_goes_to_one_bucket_with_a_sign() -> None:
    sketch = Sketch(3, 50, 8)
    columns = np.stack([sketch(unit) for unit in np.eye(50, dtype=np.float32)])
    assert (np.abs(columns).sum(axis=1) == 1).all()
    assert (np.abs(columns).max(axis=1) == 1).all()
    assert set(columns.sum(axis=1)) == {-1, 1}
    assert (np.abs(columns).sum(axis=0) > 0).all()  # 50 coordinates leave none of these 8 buckets empty


def test_a_sketch_is_linear() -> None:
    rng = stream(1, "vectors")
    x, y = rng.integers(-100, 100, (2, D)).astype(np.float32)  # integers: sums are exact
    sketch = Sketch(5, D, SIZE)
    np.testing.assert_array_equal(sketch(3 * x - 2 * y), 3 * sketch(x) - 2 * sketch(y))
    assert not sketch(np.zeros(D, np.float32)).any()


def test_the_seed_decides_the_projection() -> None:
    x = two_vectors()[0]
    np.testing.assert_array_equal(Sketch(1, D, SIZE)(x), Sketch(1, D, SIZE)(x))
    assert (Sketch(1, D, SIZE)(x) != Sketch(2, D, SIZE)(x)).any()


def test_the_vector_is_not_written() -> None:
    x = two_vectors()[0]
    x.flags.writeable = False
    Sketch(0, D, SIZE)(x)
    np.testing.assert_array_equal(x, two_vectors()[0])


def test_a_huge_row_overflows_without_a_warning() -> None:
    sketch = Sketch(0, 1000, 8)(np.full(1000, 1e38, np.float32))  # about 125 a bucket: the sums exceed 3.4e38
    assert np.isinf(sketch).any()


def test_a_row_with_nan_has_a_sketch_with_nan() -> None:
    x = two_vectors()[0]
    x[7] = np.nan
    assert np.isnan(Sketch(0, D, SIZE)(x)).sum() == 1
