"""Sums that change with whatever they are of, and with nothing else."""

import shutil

import h5py
import numpy as np
import pytest
from test_store import SIZES, arrays_of, begin, layout_of, record

from fempi import RunFile
from fempi.digest import SEAL, RoundSums, checksum_of, seal
from fempi.runfile import MASTER
from fempi.schema import CHECKSUMS, EXECUTION, FIELDS, PER_ROUND, VECTORS
from fempi.store import pack

A, B = (next(f for f in FIELDS if f.path == path) for path in ("rounds/norm", "rounds/trust"))


def digests(*added):
    sums = RoundSums(1)
    for f, values in added:
        sums.add(f, np.asarray(values))
    return {path: digest.tobytes() for path, digest in sums.digests().items()}


def test_each_field_of_a_round_goes_into_one_sum():
    owners = {f.path: checksum_of(f) for f in PER_ROUND if f not in CHECKSUMS}
    assert {path for path, owner in owners.items() if owner == "checksums/updates"} == set(VECTORS)
    assert {path for path, owner in owners.items() if owner == "checksums/execution"} == set(EXECUTION)
    assert set(owners.values()) == {f.path for f in CHECKSUMS}


def test_a_sum_is_of_one_kind_only():
    nothing, something = digests(), digests((A, [1.0]))
    changed = [path for path in nothing if nothing[path] != something[path]]
    assert changed == ["checksums/results"]
    assert {len(digest) for digest in something.values()} == {32}


@pytest.mark.parametrize(
    "added",
    [
        [(A, [1.0, 3.0])],
        [(A, [1.0, np.nextafter(2.0, 3)])],
        [(A, [2.0, 1.0])],
        [(A, [1.0, 2.0, 0.0])],
        [(B, [1.0, 2.0])],
        [(A, [1.0, 2.0]), (B, [])],
        [(A, np.array([1.0, 2.0], "f4"))],
        [],
    ],
)
def test_a_sum_changes_with_every_value_and_with_the_field(added):
    assert digests(*added) != digests((A, [1.0, 2.0]))


def test_equal_values_have_equal_sums_however_they_lie_in_memory():
    gram = np.arange(16.0).reshape(4, 4)
    for same in (gram.copy(order="F"), np.repeat(gram, 2, axis=1)[:, ::2], gram[::-1][::-1]):
        assert digests((A, same)) == digests((A, gram))
    assert digests((A, gram)) != digests((A, gram.T))


def test_negative_zero_and_the_bits_of_a_nan_count():
    assert digests((A, [0.0])) != digests((A, [-0.0]))
    assert digests((A, [np.nan])) != digests((A, np.array([np.nan]).view("i8") | 1))


# In records


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder and its packed file."""
    place = tmp_path_factory.mktemp("made")
    record(place / "x.run", layout_of())
    pack(place / "x.run", place / "x.h5")
    return place


@pytest.fixture
def packed(made, tmp_path):
    """A packed file, which a test may change."""
    return shutil.copy(made / "x.h5", tmp_path / "x.h5")


def checksums(path):
    with RunFile(path) as run:
        return {f.path: run[f.path][...].tobytes() for f in CHECKSUMS}


def test_two_runs_with_the_same_rounds_have_the_same_sums_and_a_packed_one_those_of_its_folder(made, tmp_path):
    again = record(tmp_path / "again.run", layout_of())
    with RunFile(made / "x.h5") as one, RunFile(again) as two:
        assert one.run_id != two.run_id
    assert checksums(made / "x.h5") == checksums(again) == checksums(made / "x.run")
    assert len(set(checksums(again).values())) == 3


def test_who_made_a_round_and_how_long_it_took_is_in_a_sum_of_its_own(packed, tmp_path):
    layout = layout_of()
    recorder = begin(tmp_path / "other.run", layout)
    for round_ in range(1, SIZES["round"] + 1):
        arrays = arrays_of(layout, round_)
        recorder.write(round_, arrays | {path: arrays[path] + 1 for path in EXECUTION})
    recorder.wait()
    one, other = checksums(packed), checksums(tmp_path / "other.run")
    assert [path for path in one if one[path] != other[path]] == ["checksums/execution"]


def test_every_round_and_every_kind_has_a_sum_of_its_own(packed):
    with RunFile(packed) as run:
        sums = np.concatenate([run[f.path][...] for f in CHECKSUMS])
    assert len(np.unique(sums, axis=0)) == len(sums) == 3 * SIZES["round"]


@pytest.mark.parametrize("where", ["x.h5", f"x.run/{MASTER}", "x.run/final-*.h5"])
def test_a_file_is_sealed(where, made):
    (path,) = made.glob(where)
    with h5py.File(path) as file:
        assert file.attrs[SEAL] == seal(file)
        assert len(file.attrs[SEAL]) == 64


def relabel(file):
    file["rounds/norm"].dims[1].label = "slots"


def detach(file):
    file["rounds/norm"].dims[1].detach_scale(file["rounds/slot"])


def retype(file):
    values = file["clients/num_examples"][...]
    del file["clients/num_examples"]
    file["clients/num_examples"] = values.astype("i4")


CHANGES = {
    "an attribute": lambda file: file.attrs.modify("seed", 4),
    "a text attribute": lambda file: file.attrs.modify("config", file.attrs["config"] + " "),
    "an attribute more": lambda file: file.attrs.create("more", 1),
    "an attribute less": lambda file: file.attrs.__delitem__("seed"),
    "an attribute of a dataset": lambda file: file["rounds/norm"].attrs.modify("description", "?"),
    "a dataset more": lambda file: file.create_dataset("rounds/more", data=1),
    "a dataset less": lambda file: file.__delitem__("rounds/epsilon"),
    "a dataset's name": lambda file: file.move("rounds/epsilon", "rounds/epsilons"),
    "a dataset's type": retype,
    "a dimension's name": relabel,
    "a dimension's scale": detach,
    "the parameters": lambda file: file["final/params"].write_direct(np.zeros(SIZES["param"], "f4")),
    "a text": lambda file: file["layers/name"].__setitem__(0, "?"),
    "a checksum": lambda file: file["checksums/updates"].__setitem__((0, 0), file["checksums/updates"][0, 0] ^ 1),
    "a coordinate": lambda file: file["rounds/round"].__setitem__(0, 2),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_seal_changes_with_everything_that_is_not_of_one_round(change, packed):
    with h5py.File(packed, "r+") as file:
        assert file.attrs[SEAL] == seal(file)
        CHANGES[change](file)
        assert file.attrs[SEAL] != seal(file)


def test_a_seal_does_not_change_with_rounds_with_order_or_with_what_other_libraries_add(packed):
    with h5py.File(packed, "r+") as file:
        file["rounds/norm"][0, 0] += 1
        file.attrs["_Netcdf4Dimid"] = 3
        seed = file.attrs["seed"]
        del file.attrs["seed"]
        file.attrs["seed"] = seed  # now the last
        assert file.attrs[SEAL] == seal(file)
