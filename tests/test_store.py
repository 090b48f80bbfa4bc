"""The record: what was handed over is what is read, from a folder or a packed file, whenever the writer dies."""

import contextlib
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray
from records import round_file

from fempi import FempiError, RunFile, cli, lock
from fempi.check import check
from fempi.checkpoint import Checkpoint
from fempi.runfile import MASTER, lock_of
from fempi.schema import CHECKSUMS, FIELDS, FORMAT_VERSION, PER_ROUND, PHASES, VECTOR, Layout
from fempi.sketch import Sketch
from fempi.store import Description, Recorder, open_record, pack, remove, to_half

SIZES = {"round": 5, "slot": 4, "param": 300, "client": 6, "class": 3, "layer": 2, "plugin": 1}
STATIC = ("client", "layer", "launch", "plugin")
MODES = ["full", "float16", "sketch", "none"]
VECTORS = ["rounds/update", "rounds/trained_update", "rounds/reference", "rounds/aggregate"]
CONFIG = 'name = "x"\nlabel = "x"\n[record]\nupdates = "{}"\nevery = 1\n'
ATTRIBUTES = {"config_hash": "abc", "problem": "def", "seed": 3}


def layout_of(sizes=SIZES, **options):
    launches = options.pop("launches", [[1, 2]])
    return Layout(
        sizes=sizes,
        launches=launches,
        **{"evaluate_every": 2, "sketch_size": 32, "per_client": True, "seed": 3, **options},
    )


def test_without_tests_by_client_their_datasets_are_absent(tmp_path):
    assert {f.path for f in FIELDS} - {f.path for f in layout_of(per_client=False).fields()} == {
        "clients/num_test_examples",
        *(f"evaluation/client_{metric}" for metric in ("accuracy", "precision", "recall", "f1")),
    }


def values_of(layout, field, rng):
    """Values of a field for one round (for the whole run, if it is not recorded by the round)."""
    shape = tuple(layout.size("param" if dim == VECTOR else dim) for dim in field.dims)
    if field.dims[0] in ("round", "evaluation"):
        shape = shape[1:]
    if field.dtype == "bool":
        return rng.random(shape) < 0.5
    if field.dtype == "str":
        return np.array([f"{field.path} {i}" for i in np.ndindex(*shape)], dtype=object).reshape(shape)
    return rng.normal(size=shape).astype(field.dtype) if field.dtype[0] == "f" else rng.integers(0, 99, shape)


def arrays_of(layout, round_):
    """What a run would hand over for a round, made from its number alone."""
    rng = np.random.default_rng(round_)
    arrays = {f.path: values_of(layout, f, rng) for f in PER_ROUND if f.dims[0] == "round" and f not in CHECKSUMS}
    arrays["rounds/trained_update"] = arrays["rounds/trained_update"][arrays["rounds/malicious"]]
    if round_ in layout.evaluated:
        arrays |= {f.path: values_of(layout, f, rng) for f in FIELDS if f.dims[0] == "evaluation"}
    return arrays


def static_of(layout):
    rng = np.random.default_rng(0)
    return {f.path: values_of(layout, f, rng) for f in FIELDS if f.dims[0] in STATIC}


def final_of(layout):
    return np.random.default_rng(99).normal(size=layout.size("param")).astype("f4")


def begin(folder, layout):
    attributes = {**ATTRIBUTES, "config": CONFIG.format(layout.updates)}
    return Recorder(folder, Description(layout=layout, attributes=attributes, static=static_of(layout)))


def record(folder, layout, rounds=None, finish=True):
    recorder = begin(folder, layout)
    for round_ in range(1, (layout.sizes["round"] if rounds is None else rounds) + 1):
        recorder.write(round_, arrays_of(layout, round_))
    recorder.wait()
    if finish:
        recorder.finish(final_of(layout))
    return folder


def expected(layout, field, rounds):
    """The dataset of a field as it must read after `rounds` rounds."""
    if field.dims[0] in STATIC:
        return static_of(layout)[field.path]
    dtype = layout.dtype(field)
    whole = np.full(layout.shape(field), field.fill, dtype)
    if field.path == "final/params":
        whole[:] = final_of(layout)
        return whole
    for round_ in range(1, rounds + 1):
        arrays = arrays_of(layout, round_)
        if field.path not in arrays or (VECTOR in field.dims and not layout.keeps_vectors(round_)):
            continue
        place = round_ - 1 if field.dims[0] == "round" else layout.evaluated.index(round_)
        values = arrays[field.path]
        if VECTOR in field.dims and layout.updates == "sketch":
            sketch = Sketch(layout.seed, layout.size("param"), layout.sketch_size)
            values = np.array([sketch(v) for v in np.atleast_2d(values)]).reshape(*values.shape[:-1], -1)
        if field.path == "rounds/trained_update":
            place = (place, arrays["rounds/malicious"])
        whole[place] = values.astype(dtype)
    return whole


def datasets(file):
    found = {}
    file.visititems(lambda path, item: found.update({path: item}) if isinstance(item, h5py.Dataset) else None)
    return found


def plain(attributes):
    """Attributes without HDF5's references, which are addresses inside one file."""
    return {k: str(v) for k, v in attributes.items() if k not in ("DIMENSION_LIST", "REFERENCE_LIST")}


def assert_same(a, b):
    """Bit for bit; strings by value."""
    assert a.shape == b.shape
    assert a.dtype == b.dtype
    assert a.tolist() == b.tolist() if a.dtype == object else a.tobytes() == b.tobytes()


def assert_holds(run, layout, rounds, paths=None):
    for field in layout.fields():
        if paths is None or field.path in paths:
            if field in CHECKSUMS:
                assert (run[field.path][:rounds] != 0).any(axis=1).all()  # test_check.py knows what they sum up
                continue
            got, want = run[field.path][...], expected(layout, field, rounds)
            if field.dtype == "str":
                assert run[field.path].asstr()[...].tolist() == want.tolist()
            else:
                np.testing.assert_array_equal(got, want.astype(got.dtype), err_msg=field.path)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "x.run"


# Reading


def test_every_committed_round_is_readable_while_the_run_goes_on(folder):
    layout = layout_of()
    recorder = begin(folder, layout)
    for done in range(SIZES["round"] + 1):
        with RunFile(folder) as run:
            assert run.status == "interrupted"
            assert run.rounds == SIZES["round"]
            assert run.rounds_completed == done
            rounds_only = {f.path for f in FIELDS} - {"final/params"}
            assert_holds(run, layout, done, rounds_only)
            assert np.isnan(run["final/params"][...]).all()
            assert len(run.read("rounds/trust")) == done
        if done < SIZES["round"]:
            recorder.write(done + 1, arrays_of(layout, done + 1))
            recorder.wait()


def test_rounds_that_are_missing_read_as_fill_values(folder):
    record(folder, layout_of(), rounds=2, finish=False)
    with RunFile(folder) as run:
        assert np.isnan(run["rounds/trust"][2:]).all()
        assert np.isnan(run["rounds/update"][2:]).all()
        assert np.isnan(run["timing/seconds"][2:]).all()
        assert (run["rounds/client"][2:] == -1).all()
        assert (run["evaluation/confusion"][1:] == -1).all()


def test_a_reader_that_was_open_before_a_round_does_not_harm_the_writer(folder):
    layout = layout_of()
    recorder = begin(folder, layout)
    with RunFile(folder) as early:
        early["rounds/trust"][...]
        recorder.write(1, arrays_of(layout, 1))
        recorder.wait()
        with RunFile(folder) as late:
            assert_holds(late, layout, 1, {"rounds/trust", "rounds/update"})


def test_a_folder_reads_from_anywhere_and_after_a_move(folder, tmp_path, monkeypatch):
    layout = layout_of()
    record(folder, layout)
    monkeypatch.chdir("/")
    with RunFile(folder) as run:
        assert_holds(run, layout, SIZES["round"])
    moved = tmp_path / "a b" / "y"
    moved.parent.mkdir()
    folder.rename(moved)
    monkeypatch.chdir(moved.parent)
    with RunFile("y") as run:
        assert_holds(run, layout, SIZES["round"])
    monkeypatch.chdir(moved)
    with h5py.File(MASTER) as file:  # any HDF5 reader, too
        assert not np.isnan(file["rounds/trust"][...]).any()


def test_the_status_is_running_while_somebody_works_on_it_then_complete(folder, tmp_path):
    recorder = begin(folder, layout_of())
    with RunFile(folder) as run:
        assert run.status == "interrupted"
        held = lock.take(lock_of(folder))
        assert run.status == "running"
        assert f"process {os.getpid()} on " in run.holder
        held.release()
        assert run.status == "interrupted"
    for round_ in range(1, SIZES["round"] + 1):
        recorder.write(round_, arrays_of(layout_of(), round_))
    recorder.finish(final_of(layout_of()))
    pack(folder, tmp_path / "x.h5")
    for path in (folder, tmp_path / "x.h5"):
        with RunFile(path) as run:
            assert run.status == "complete"
            assert run.rounds_completed == SIZES["round"]


def test_booleans_are_read_as_booleans(folder):
    record(folder, layout_of())
    with RunFile(folder) as run:
        assert run.read("rounds/malicious").dtype == bool
        assert run.read("clients/malicious").dtype == bool
        assert run.read("rounds/client").dtype == np.int32


@pytest.mark.parametrize(("every", "evaluated"), [(1, [1, 2, 3, 4, 5]), (2, [2, 4, 5]), (5, [5]), (9, [5])])
def test_evaluations_lie_at_their_rounds(every, evaluated, folder, tmp_path):
    layout = layout_of(evaluate_every=every)
    record(folder, layout)
    pack(folder, tmp_path / "x.h5")
    for path in (folder, tmp_path / "x.h5"):
        with RunFile(path) as run:
            assert run["evaluation/round"][...].tolist() == evaluated
            want = [arrays_of(layout, r)["evaluation/accuracy"] for r in evaluated]
            assert run.read("evaluation/accuracy").tolist() == want


def test_evaluations_of_rounds_to_come_are_not_read(folder):
    record(folder, layout_of(), rounds=3, finish=False)
    with RunFile(folder) as run:
        assert run.evaluations_completed == len(run.read("evaluation/accuracy")) == 1


# Packing


@pytest.mark.parametrize("has_reference", [True, False])
@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("updates", MODES)
def test_a_packed_file_holds_the_same_bits_names_and_attributes(updates, every, has_reference, folder, tmp_path):
    layout = layout_of(updates=updates, every=every, has_reference=has_reference)
    record(folder, layout)
    pack(folder, tmp_path / "x.h5")
    with RunFile(tmp_path / "x.h5") as run:
        assert run.layout == layout
        assert_holds(run, layout, SIZES["round"])
    with h5py.File(folder / MASTER) as old, h5py.File(tmp_path / "x.h5") as new:
        before, after = datasets(old), datasets(new)
        assert before.keys() == after.keys() >= {f.path for f in layout.fields()}
        for path in before:
            assert_same(before[path][...], after[path][...])
            assert plain(before[path].attrs) == plain(after[path].attrs)
            assert [d.label for d in before[path].dims] == [d.label for d in after[path].dims]
            assert str(before[path].fillvalue) == str(after[path].fillvalue)
            assert not after[path].is_virtual
        packing = {
            "status": "complete",
            "rounds_completed": SIZES["round"],
            "wall_seconds": new.attrs["wall_seconds"],
        }
        changed = {**old.attrs, **packing, "sha256": new.attrs["sha256"]}
        assert {k: str(v) for k, v in changed.items()} == {k: str(v) for k, v in new.attrs.items()}
        assert len({old.attrs["sha256"], new.attrs["sha256"]}) == 2


@pytest.mark.parametrize("updates", MODES)
def test_update_vectors_are_kept_as_chosen(updates, folder):
    layout = layout_of(updates=updates, every=2)
    record(folder, layout)
    with RunFile(folder) as run:
        if updates == "none":
            with pytest.raises(FempiError, match=r'record.updates = "none"'):
                run["rounds/update"]
            return
        update = run["rounds/update"]
        assert update.dtype == ("f2" if updates == "float16" else "f4")
        assert update.shape == (5, 4, 32 if updates == "sketch" else 300)
        assert update.dims[2].label == ("sketch" if updates == "sketch" else "param")
        assert np.isnan(update[...]).all(axis=(1, 2)).tolist() == [True, False, True, False, True]
        assert not np.isnan(run["rounds/gram"][...]).any()


def test_a_half_that_overflows_is_infinite(folder):
    layout = layout_of(updates="float16")
    arrays = arrays_of(layout, 1)
    arrays["rounds/update"][0, :2] = 1e6, -1e6
    recorder = begin(folder, layout)
    recorder.write(1, arrays)
    recorder.wait()
    with RunFile(folder) as run:
        assert run["rounds/update"][0, 0, :2].tolist() == [np.inf, -np.inf]


def test_halves_are_the_nearest_and_tiny_ones_raise_no_flag_which_costs_a_hundred_times_the_rounding():
    rng = np.random.default_rng(0)
    anything = rng.integers(0, 2**32, 200_000, np.uint32).view("f4")
    tiny = rng.normal(size=200_000).astype("f4") * np.logspace(-12, -3, 200_000, dtype="f4")
    ties = np.arange(-3000, 3000, dtype="f4") * np.float32(2.0**-25)
    for values in (anything, tiny, ties):
        with np.errstate(all="ignore"):
            assert_same(to_half(values), values.astype("f2"))
    with np.errstate(under="raise"):
        to_half(tiny)
        with pytest.raises(FloatingPointError):
            tiny.astype("f2")


def test_rows_of_honest_clients_take_no_space_in_trained_update(folder, tmp_path):
    d = 50_000
    layout = layout_of({**SIZES, "param": d})
    record(folder, layout)
    malicious = sum(int(arrays_of(layout, r)["rounds/malicious"].sum()) for r in range(1, 6))
    pack(folder, tmp_path / "x.h5")
    vectors = (5 * (4 + 1 + 1) + malicious + 1) * d * 4
    assert 0 < malicious < 20
    with RunFile(tmp_path / "x.h5") as run:
        assert run["rounds/trained_update"].id.get_storage_size() == malicious * d * 4
    assert vectors < (tmp_path / "x.h5").stat().st_size < 1.02 * vectors
    assert sum(p.stat().st_size for p in folder.iterdir()) < 1.05 * vectors


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("updates", MODES)
def test_the_size_said_beforehand_is_within_a_tenth_or_the_50_kb_of_names_and_descriptions(
    updates, every, folder, tmp_path
):
    sizes = {"round": 60, "slot": 20, "param": 5000, "client": 100, "class": 10, "layer": 8, "plugin": 0}
    layout = layout_of(sizes, launches=[[1, 4]], updates=updates, every=every, sketch_size=1024)
    record(folder, layout)
    pack(folder, tmp_path / "x.h5")
    kept = [r for r in range(1, 61) if layout.keeps_vectors(r)]
    said = layout.nbytes(sum(int(arrays_of(layout, r)["rounds/malicious"].sum()) for r in kept))
    assert said == pytest.approx((tmp_path / "x.h5").stat().st_size, rel=0.1)


@pytest.mark.parametrize("rounds", [0, 1, 3])
def test_an_unfinished_folder_is_packed_as_interrupted_with_all_it_has(rounds, folder, tmp_path):
    layout = layout_of()
    record(folder, layout, rounds, finish=False)
    pack(folder, tmp_path / "x.h5")
    assert folder.exists()
    with RunFile(tmp_path / "x.h5") as run:
        assert run.status == "interrupted"
        assert (run.rounds_completed, run.rounds) == (rounds, 5)
        assert_holds(run, layout, rounds, {f.path for f in FIELDS} - {"final/params"})
        assert np.isnan(run["final/params"][...]).all()


def test_a_failed_pack_leaves_neither_a_file_nor_a_temporary_one(folder, tmp_path):
    record(folder, layout_of())
    round_file(folder, 3).write_bytes(b"damaged")
    with pytest.raises(FempiError, match=r"000003.h5 is not an HDF5 file.*file signature not found"):
        pack(folder, tmp_path / "x.h5")
    assert [p.name for p in tmp_path.iterdir()] == ["x.run"]


def test_remove_takes_the_whole_folder(folder):
    record(folder, layout_of())
    remove(folder)
    assert not folder.exists()


# Going on


def test_launches_say_who_made_which_rounds_and_those_that_made_none_are_forgotten(folder, tmp_path):
    """Two ranks make two rounds, five ranks none, one rank the rest."""
    recorder = begin(folder, layout_of())
    for round_ in (1, 2):
        recorder.write(round_, arrays_of(layout_of(), round_), Checkpoint(params=np.zeros(300, "f4"), round=round_))
    recorder.wait()
    for ranks in (5, 1):
        layout = layout_of(launches=[[1, ranks]])
        launch = Description(layout=layout, attributes={**ATTRIBUTES, "config": "other"}, static=static_of(layout))
        recorder, state = open_record(folder, launch, Checkpoint(params=np.ones(300, "f4")), 1)
        assert (state.round, state.params.sum()) == (2, 0)
    for round_ in (3, 4, 5):
        recorder.write(round_, arrays_of(layout, round_))
    recorder.finish(final_of(layout))
    pack(folder, tmp_path / "x.h5")
    for path in (folder, tmp_path / "x.h5"):
        with RunFile(path) as run:
            assert run.status == "complete"
            assert run.layout.launches == [[1, 2], [3, 1]]
            assert run["launches/first_round"][1] == 3
            hosts = [f"ranks/host {place}" for place in ((0, 0), (0, 1), (0, 0))]
            assert run["ranks/host"].asstr()[...].tolist() == [hosts[:2], [hosts[2], ""]]
            seconds = run["timing/seconds"][...]
            assert np.isnan(seconds).any(axis=2).tolist() == [[False, False]] * 2 + [[False, True]] * 3
            assert seconds[3, 0].tolist() == arrays_of(layout, 4)["timing/seconds"][0].tolist()
        assert check(path).problems == []


# Other readers


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """The same run as its folder's master and as a packed file."""
    place = tmp_path_factory.mktemp("both")
    record(place / "x.run", layout_of())
    pack(place / "x.run", place / "x.h5")
    return {"folder": place / "x.run" / MASTER, "packed": place / "x.h5"}


DIMENSIONS = {
    "rounds": {"round": 5, "slot": 4, "row": 5, "column": 5, "param": 300},
    "clients": {"client": 6, "class": 3},
    "layers": {"layer": 2},
    "evaluation": {"evaluation": 3, "actual": 3, "predicted": 3, "client": 6},
    "timing": {"round": 5, "rank": 2, "phase": len(PHASES)},
    "final": {"param": 300},
}


@pytest.mark.parametrize("group", DIMENSIONS)
@pytest.mark.parametrize("where", ["folder", "packed"])
def test_xarray_shows_named_dimensions(where, group, both):
    with xarray.open_dataset(both[where], group=group, engine="h5netcdf") as data:
        assert dict(data.sizes) == DIMENSIONS[group]
        named = {f.path.partition("/")[2]: tuple(d if d != VECTOR else "param" for d in f.dims) for f in FIELDS
                 if f.path.startswith(f"{group}/")}  # fmt: skip
        assert {name: data[name].dims for name in named} == named
        coordinates = {"rounds": ["round"], "timing": ["phase", "round"], "evaluation": []}
        assert sorted(set(data.variables) - set(named) - {"round"} | set(data.coords)) == coordinates.get(group, [])
        assert all(data[name].attrs["description"] for name in named)


@pytest.mark.parametrize("where", ["folder", "packed"])
def test_xarray_reads_values_units_and_booleans(where, both):
    arrays = arrays_of(layout_of(), 3)
    with xarray.open_dataset(both[where], group="rounds", engine="h5netcdf") as rounds:
        third = rounds.sel(round=3)
        np.testing.assert_array_equal(third["update"], arrays["rounds/update"])
        assert third["malicious"].dtype == bool
        assert third["malicious"].values.tolist() == arrays["rounds/malicious"].tolist()
        assert rounds["train_loss"].attrs["units"] == "nat"
    with xarray.open_dataset(both[where], group="timing", engine="h5netcdf") as timing:
        assert timing["phase"].values.tolist() == list(PHASES)


# Failure

WRITER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_store import SIZES, arrays_of, begin, layout_of
layout = layout_of({**SIZES, "round": 200, "param": 20_000})
recorder = begin(Path(sys.argv[1]), layout)
for round_ in range(1, 201):
    recorder.write(round_, arrays_of(layout, round_))
    recorder.wait()
    print(round_, flush=True)
"""


def test_every_acknowledged_round_survives_a_kill_at_any_moment(tmp_path):
    chance = random.Random(11)
    layout = layout_of({**SIZES, "round": 200, "param": 20_000})
    strays = 0
    for number in range(10):
        folder = tmp_path / f"{number}.run"
        command = [sys.executable, "-c", WRITER, str(folder), str(Path(__file__).parent)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout.readline() == "1\n"
            time.sleep(chance.uniform(0, 0.15))
            writer.kill()
            said = writer.stdout.read().split()
        acknowledged = int(said[-1]) if said else 1
        strays += len(list(folder.glob("*.tmp")))
        with RunFile(folder) as run:
            done = run.rounds_completed
            assert acknowledged <= done <= acknowledged + 1
            assert run.status == "interrupted"
            for path in ("rounds/trust", "rounds/update", "rounds/gram"):
                got = run[path][:done]
                for round_ in range(1, done + 1):
                    np.testing.assert_array_equal(got[round_ - 1], arrays_of(layout, round_)[path])
            assert np.isnan(run["rounds/trust"][done:]).all()
        assert all(h5py.is_hdf5(file) for file in folder.glob("*.h5"))
        shutil.rmtree(folder)
    print(f"{strays} temporary files were left")


def test_stray_temporary_files_are_ignored(folder, tmp_path):
    layout = layout_of()
    record(folder, layout, rounds=2, finish=False)
    (folder / ".round-000003.h5.12345.tmp").write_bytes(round_file(folder, 2).read_bytes()[:1000])
    (folder / ".final-x.h5.12345.tmp").touch()
    pack(folder, tmp_path / "x.h5")
    for path in (folder, tmp_path / "x.h5"):
        with RunFile(path) as run:
            assert run.rounds_completed == 2
            assert run.status in ("running", "interrupted")
            assert_holds(run, layout, 2, {"rounds/update", "rounds/trust"})
    remove(folder)


@pytest.mark.parametrize("call", ["wait", "write", "finish"])
def test_what_goes_wrong_in_the_writing_thread_surfaces(call, folder):
    layout = layout_of()
    recorder = begin(folder, layout)
    shutil.rmtree(folder)
    recorder.write(1, arrays_of(layout, 1))
    calls = {
        "wait": recorder.wait,
        "write": lambda: recorder.write(2, arrays_of(layout, 2)),
        "finish": lambda: recorder.finish(final_of(layout)),
    }
    with pytest.raises(FileNotFoundError):
        calls[call]()


def test_an_exception_while_a_round_is_written_leaves_no_file(folder):
    layout = layout_of()
    recorder = begin(folder, layout)
    arrays = arrays_of(layout, 1)
    recorder.write(1, {**arrays, "rounds/update": arrays["rounds/update"][:, 1:]})
    with pytest.raises(TypeError, match="broadcast"):
        recorder.wait()
    assert [p.name for p in folder.iterdir()] == [MASTER]


def test_a_folder_that_is_there_is_not_written_to(folder):
    record(folder, layout_of(), rounds=1, finish=False)
    with pytest.raises(FileExistsError):
        begin(folder, layout_of())
    assert RunFile(folder).rounds_completed == 1


def foreign(path):
    with h5py.File(path, "w") as file:
        file["x"] = 1


def of_version(version):
    def make(path):
        with h5py.File(path, "w") as file:
            file.attrs.update({"format": "fempi", "format_version": version})

    return make


def truncated(path):
    record(path.with_suffix(".run"), layout_of())
    pack(path.with_suffix(".run"), path)
    os.truncate(path, path.stat().st_size // 2)


def folder_with_a_damaged_master(path):
    record(path, layout_of())
    os.truncate(path / MASTER, 1000)


NO_RECORDS = {
    "missing": (lambda path: None, "there is no "),
    "empty-folder": (Path.mkdir, f"holds no {MASTER}"),
    "empty-file": (Path.touch, "is not an HDF5 file that can be read"),
    "text": (lambda path: path.write_text("hello"), "is not an HDF5 file that can be read"),
    "truncated": (truncated, "is not an HDF5 file that can be read.*truncated"),
    "damaged-master": (folder_with_a_damaged_master, "is not an HDF5 file that can be read"),
    "foreign": (foreign, "is an HDF5 file, but not a record of fempi"),
    "newer": (of_version(FORMAT_VERSION + 1), f"format version {FORMAT_VERSION + 1}, newer than .*install a newer"),
    "strange-version": (of_version("x"), "not a record of fempi"),
}


@pytest.mark.parametrize("case", NO_RECORDS)
def test_what_is_no_record_is_refused_in_a_sentence(case, tmp_path, capsys):
    make, said = NO_RECORDS[case]
    path = tmp_path / "x"
    make(path)
    with pytest.raises(FempiError, match=f"{path}.*{said}" if case != "missing" else f"{said}{path}"):
        RunFile(path)
    assert cli.main(["info", str(path)]) == 2
    assert capsys.readouterr().err.startswith("fempi: ")


def test_a_dataset_that_is_not_there_is_said(folder):
    record(folder, layout_of())
    with RunFile(folder) as run:
        assert "rounds/trusts" not in run
        with pytest.raises(FempiError, match=f"{folder} holds no rounds/trusts"):
            run["rounds/trusts"]


@pytest.mark.parametrize("first", ["RunFile", "xarray"])
@pytest.mark.parametrize("where", ["folder", "packed"])
def test_a_record_that_is_open_can_be_opened_by_another_reader_in_the_same_process(where, first, both):
    ways = {
        "RunFile": lambda: RunFile(both[where].parent if where == "folder" else both[where]),
        "xarray": lambda: xarray.open_dataset(both[where], group="rounds", engine="h5netcdf"),
    }
    with contextlib.ExitStack() as open_files:
        for way in sorted(ways, key=lambda way: way != first):
            rounds = open_files.enter_context(ways[way]())
            assert rounds["trust" if way == "xarray" else "rounds/trust"].shape == (5, 4)


def test_a_record_can_be_opened_twice(both):
    with RunFile(both["packed"]) as first, RunFile(both["packed"]) as second:
        assert first.layout == second.layout == layout_of()


def test_a_folder_never_shows_the_rounds_of_a_run_in_the_working_folder(folder, tmp_path, monkeypatch):
    record(tmp_path / "other", layout_of(seed=4))
    record(folder, layout_of(), rounds=1, finish=False)
    monkeypatch.chdir(tmp_path / "other")
    with RunFile(folder) as run:
        assert np.isfinite(run["rounds/norm"][0]).all()
        assert np.isnan(run["rounds/norm"][1:]).all()
        assert np.isnan(run["final/params"][...]).all()


def test_a_folder_that_lost_a_round_is_not_complete_and_not_packed(folder, tmp_path):
    record(folder, layout_of())
    round_file(folder, 2).unlink()
    with RunFile(folder) as run:
        assert (run.status, run.rounds_completed) == ("interrupted", 1)
    with pytest.raises(FempiError, match="lacks round 2"):
        pack(folder, tmp_path / "x.h5")
    assert not (tmp_path / "x.h5").exists()


def test_a_damaged_round_is_named_when_it_is_read(folder):
    record(folder, layout_of())
    whole = round_file(folder, 3).read_bytes()
    round_file(folder, 3).write_bytes(whole[: len(whole) // 2])
    with RunFile(folder) as run, pytest.raises(FempiError, match=r"rounds/norm of .*x.run cannot be read"):
        run.read("rounds/norm")
