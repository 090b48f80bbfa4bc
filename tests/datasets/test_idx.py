import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from fempi.datasets import idx
from fempi.errors import FempiError


def write_folder(folder: Path, *, train: int = 6, test: int = 3, size: int = 4) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for part, count in ("train", train), ("t10k", test):
        images = np.arange(count * size * size, dtype=np.uint8).reshape(count, size, size)
        idx.write(folder / f"{part}-images-idx3-ubyte", images)
        idx.write(folder / f"{part}-labels-idx1-ubyte", np.arange(count, dtype=np.uint8))


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("idx")


shapes = array_shapes(min_dims=1, max_dims=1, min_side=0) | array_shapes(min_dims=3, max_dims=3, min_side=0)


@given(values=arrays(np.uint8, shapes), compress=st.booleans())
def test_what_was_written_is_read(scratch: Path, values: np.ndarray, compress: bool) -> None:
    path = scratch / "values"
    idx.write(path, values)
    if compress:
        packed = scratch / "values.gz"
        packed.write_bytes(gzip.compress(path.read_bytes()))
        path = packed
    read = idx.read(path)
    np.testing.assert_array_equal(read, values)
    assert read.dtype == np.uint8
    assert read.flags.writeable


def test_the_bytes_are_those_of_the_format(tmp_path: Path) -> None:
    idx.write(tmp_path / "a", np.array([[[7, 8]]], np.uint8))
    assert (tmp_path / "a").read_bytes() == b"\0\0\x08\x03" + struct.pack(">3I", 1, 1, 2) + b"\x07\x08"


@pytest.mark.parametrize("length", [0, 3, 4, 10, 15, 16, 17])
def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path: Path, length: int) -> None:
    path = tmp_path / "a"
    idx.write(path, np.zeros((1, 1, 2), np.uint8))
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(FempiError, match=r"a is (truncated|not an IDX file)"):
        idx.read(path)


def test_a_truncated_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(b"\0\0\x08\x01" + struct.pack(">I", 1000) + bytes(1000))[:-12])
    with pytest.raises(FempiError, match="cannot be read"):
        idx.read(path)


def test_trailing_bytes_are_refused(tmp_path: Path) -> None:
    idx.write(tmp_path / "a", np.zeros(3, np.uint8))
    with (tmp_path / "a").open("ab") as file:
        file.write(b"!")
    with pytest.raises(FempiError, match="too long: 12 bytes where its header promises 11"):
        idx.read(tmp_path / "a")


@pytest.mark.parametrize(
    "content",
    [b"<html>not found</html>", b"\0\0\x0d\x01\0\0\0\0", b"\0\0\x08\x02\0\0\0\0\0\0\0\0"],
    ids=["a web page", "floats", "two dimensions"],
)
def test_a_foreign_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(FempiError, match="not an IDX file"):
        idx.read(tmp_path / "a")


def test_a_foreign_archive_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.gz").write_bytes(b"<html>")
    for name in "a.gz", "b":
        with pytest.raises(FempiError, match="cannot be read"):
            idx.read(tmp_path / name)


def test_a_folder_becomes_a_dataset(tmp_path: Path) -> None:
    write_folder(tmp_path, train=6, test=3, size=4)
    dataset = idx.read_folder(tmp_path)
    assert dataset.train_images.shape == (6, 1, 4, 4)
    assert dataset.test_images.shape == (3, 1, 4, 4)
    assert dataset.train_images.dtype == dataset.test_images.dtype == np.uint8
    assert dataset.train_labels.dtype == dataset.test_labels.dtype == np.int64
    assert dataset.test_labels.tolist() == [0, 1, 2]
    assert dataset.num_classes == 6
    assert dataset.image_shape == (1, 4, 4)


def test_a_file_may_be_compressed(tmp_path: Path) -> None:
    write_folder(tmp_path)
    plain = tmp_path / idx.FILES[0]
    before = idx.read_folder(tmp_path)
    (tmp_path / f"{plain.name}.gz").write_bytes(gzip.compress(plain.read_bytes()))
    plain.unlink()
    np.testing.assert_array_equal(idx.read_folder(tmp_path).train_images, before.train_images)


def test_missing_files_are_named(tmp_path: Path) -> None:
    write_folder(tmp_path)
    (tmp_path / idx.FILES[3]).unlink()
    assert idx.missing(tmp_path) == [idx.FILES[3]]
    with pytest.raises(FempiError, match=r"lacks t10k-labels-idx1-ubyte \(plain or \.gz\)"):
        idx.read_folder(tmp_path)


def test_counts_must_agree(tmp_path: Path) -> None:
    write_folder(tmp_path, train=6)
    idx.write(tmp_path / idx.FILES[1], np.zeros(5, np.uint8))
    with pytest.raises(FempiError, match=r"6 images and train-labels-idx1-ubyte 5 labels"):
        idx.read_folder(tmp_path)


def test_no_examples_are_no_dataset(tmp_path: Path) -> None:
    write_folder(tmp_path, test=0)
    with pytest.raises(FempiError, match="0 images"):
        idx.read_folder(tmp_path)


def test_swapped_files_are_refused(tmp_path: Path) -> None:
    write_folder(tmp_path)
    idx.write(tmp_path / idx.FILES[0], np.zeros(6, np.uint8))
    with pytest.raises(FempiError, match="must have 3 dimensions"):
        idx.read_folder(tmp_path)


def test_images_of_two_sizes_are_refused(tmp_path: Path) -> None:
    write_folder(tmp_path)
    idx.write(tmp_path / idx.FILES[2], np.zeros((3, 5, 5), np.uint8))
    with pytest.raises(FempiError, match="differ in size"):
        idx.read_folder(tmp_path)
