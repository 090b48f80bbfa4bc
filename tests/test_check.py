"""A check finds every change of a record, says where it is, and calls nothing damaged that is not."""

import faulthandler
import multiprocessing
import os
import resource
import shutil
import signal
import tempfile
import threading
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from records import round_file
from test_store import MODES, SIZES, arrays_of, begin, final_of, layout_of, record

from fempi import FempiError, RunFile, check, cli, lock
from fempi.check import Verdict
from fempi.checkpoint import NAME, Checkpoint
from fempi.runfile import MASTER, lock_of
from fempi.schema import CHECKSUMS, COORDINATES, FIELDS, PER_ROUND, VECTOR, VECTORS
from fempi.store import pack

ROUND = 4
"""The one that is damaged here: the model is tested after it"""


def assert_whole(path, status="complete", committed=SIZES["round"]):
    assert check.check(path) == Verdict(status=status, rounds=SIZES["round"], committed=committed, problems=[])


def packed(folder, name="x.h5"):
    pack(folder, folder.with_name(name))
    return folder.with_name(name)


# What is whole

LAYOUTS = {
    **{f"{updates}-{every}": {"updates": updates, "every": every} for updates in MODES for every in (1, 2)},
    "no-reference": {"has_reference": False},
    "not-by-client": {"per_client": False},
    "tested-once": {"evaluate_every": 9},
    "no-plugins": {"sizes": {**SIZES, "plugin": 0}},
    "three-launches": {"launches": [[1, 2], [3, 4], [5, 1]]},
    "fewer-ranks-last": {"launches": [[1, 3], [2, 1]], "updates": "none"},
}


@pytest.mark.parametrize(
    ("case", "rounds"), [*((case, 5) for case in LAYOUTS), ("full-1", 0), ("full-2", 3), ("three-launches", 3)]
)
def test_what_was_written_is_whole_in_a_folder_and_packed(case, rounds, tmp_path):
    layout = layout_of(**LAYOUTS[case])
    recorder = begin(tmp_path / "x.run", layout)
    for round_ in range(1, rounds + 1):
        arrays = arrays_of(layout, round_)
        recorder.write(round_, {**arrays, "timing/seconds": arrays["timing/seconds"][: layout.ranks(round_)]})
    recorder.wait()
    status = "interrupted"
    if rounds == SIZES["round"]:
        recorder.finish(final_of(layout))
        status = "complete"
    assert_whole(tmp_path / "x.run", status, rounds)
    assert_whole(packed(tmp_path / "x.run"), status, rounds)


def test_special_numbers_are_no_damage(tmp_path):
    """What a malicious client sends, and what reads like a place that was never written."""
    layout = layout_of()
    recorder = begin(tmp_path / "x.run", layout)
    for round_ in range(1, SIZES["round"] + 1):
        arrays = arrays_of(layout, round_)
        arrays["rounds/update"][0] = np.nan
        arrays["rounds/update"][1] = [-np.inf, -0.0, 1e38] * 100
        arrays["rounds/trust"][:] = np.nan
        arrays["rounds/gram"][:] = np.nan
        arrays["rounds/client"][:] = -1
        arrays["rounds/malicious"][:] = round_ % 2
        arrays["rounds/trained_update"] = np.full((4 * (round_ % 2), 300), np.nan, "f4")
        recorder.write(round_, arrays)
    recorder.finish(final_of(layout))
    assert_whole(tmp_path / "x.run")
    assert_whole(packed(tmp_path / "x.run"))


# What is damaged


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A complete folder with a checkpoint, and the packed files of it and of an unfinished one."""
    place = tmp_path_factory.mktemp("made")
    folder = record(place / "x.run", layout_of(every=2))
    with RunFile(folder) as run:
        Checkpoint(params=np.ones(300, "f4"), round=5).save(folder, run.run_id)
    packed(folder)
    packed(record(place / "y.run", layout_of(every=2), rounds=3, finish=False), "y.h5")
    return place


@pytest.fixture
def file(made, tmp_path):
    return shutil.copy(made / "x.h5", tmp_path / "x.h5")


@pytest.fixture
def folder(made, tmp_path):
    return shutil.copytree(made / "x.run", tmp_path / "x.run")


def change(path, dataset, where=()):
    """Change one bit of the first value at a place of a dataset, or its first letter."""
    with h5py.File(path, "r+") as file:
        item = file[dataset]
        if item.dtype == object:
            item[0] = "?" + item.asstr()[0][1:] if item.ndim == 1 else [*item.asstr()[0][:-1], "?"]
            return
        values = item[where]
        flat = np.ascontiguousarray(values).reshape(-1)
        flat[:1].view("u1")[0] ^= 1
        item[where] = flat.reshape(np.shape(values))


def kind_of(field):
    if VECTOR in field.dims:
        return "updates"
    return "execution" if field.path in ("rounds/rank", "timing/seconds") else "results"


def places(field, malicious=True):
    """Where the values of the damaged round are; of updates, of a client that is malicious or not."""
    if field.dims[0] == "evaluation":
        return (ROUND // 2 - 1,)
    slots = arrays_of(layout_of(), ROUND)["rounds/malicious"]
    return (ROUND - 1, int(np.argmax(slots == malicious))) if field.path == "rounds/trained_update" else (ROUND - 1,)


VALUES = [f for f in PER_ROUND if f not in CHECKSUMS]


@pytest.mark.parametrize("field", VALUES, ids=lambda f: f.path)
def test_one_bit_of_a_round_is_found_and_the_round_is_named(field, file):
    change(file, field.path, places(field))
    assert check.check(file).problems == [f"round {ROUND} has other {kind_of(field)} than were written"]


@pytest.mark.parametrize("field", VALUES, ids=lambda f: f.path)
def test_one_bit_of_a_rounds_file_is_found_and_the_file_is_named(field, folder):
    path = round_file(folder, ROUND)
    change(path, field.path, places(field)[1:])
    assert check.check(folder).problems == [f"round {ROUND} has other {kind_of(field)} than were written ({path.name})"]


REST = [
    *(f.path for f in FIELDS if f not in PER_ROUND and f.path != "final/params"),
    *(f.path for f in (*COORDINATES, *CHECKSUMS)),
]


@pytest.mark.parametrize("dataset", [*REST, "final/params"])
def test_a_packed_file_of_which_anything_else_changed_is_not_trusted(dataset, file):
    change(file, dataset)
    with pytest.raises(FempiError, match=r"x.h5 is damaged: attributes, structure or static data is not what was"):
        check.check(file)


@pytest.mark.parametrize("dataset", [p for p in REST if not p.startswith("checksums/")])
def test_nor_is_a_folder_with_such_a_master(dataset, folder):
    change(folder / MASTER, dataset)
    with pytest.raises(FempiError, match=r"x.run is damaged: its master .* is not what was written"):
        check.check(folder)


@pytest.mark.parametrize("field", CHECKSUMS, ids=lambda f: f.path)
def test_a_changed_checksum_is_a_damage_too(field, folder):
    change(round_file(folder, ROUND), field.path)
    (problem,) = check.check(folder).problems
    assert problem.startswith(f"round {ROUND} has other {field.path.partition('/')[2]} than were written")


def test_what_was_never_written_but_has_data_is_found(file, made, tmp_path):
    """In rows of honest clients, of rounds whose updates are not kept, and of rounds that were never made."""
    change(file, "rounds/trained_update", places(next(f for f in FIELDS if f.path == "rounds/trained_update"), False))
    with h5py.File(file, "r+") as opened:
        slot = int(np.argmin(opened["rounds/malicious"][ROUND - 1]))
        opened["rounds/trained_update"][ROUND - 1, slot, 7] = 0
        for number, path in enumerate(VECTORS[:1] + VECTORS[2:]):
            opened[path][(2 * number, *(0 for _ in opened[path].shape[1:]))] = 1
    assert check.check(file).problems == [f"round {r} has data where none was written" for r in (1, 3, 4, 5)]

    unfinished = shutil.copy(made / "y.h5", tmp_path / "y.h5")
    assert_whole(unfinished, "interrupted", 3)
    with h5py.File(unfinished, "r+") as opened:
        opened["rounds/selected"][3, 0] = 1
        opened["evaluation/confusion"][2, 0, 0] = 0
    assert check.check(unfinished).problems == [f"round {r} has data, but was never made" for r in (4, 5)]


def test_a_rank_that_was_not_there_has_no_times(tmp_path):
    layout = layout_of(launches=[[1, 2], [3, 1]])
    recorder = begin(tmp_path / "x.run", layout)
    for round_ in range(1, 6):
        arrays = arrays_of(layout, round_)
        recorder.write(round_, {**arrays, "timing/seconds": arrays["timing/seconds"][: layout.ranks(round_)]})
    recorder.finish(final_of(layout))
    path = packed(tmp_path / "x.run")
    with h5py.File(path, "r+") as opened:
        opened["timing/seconds"][3, 1, 0] = 1.5
    assert check.check(path).problems == ["round 4 has data where none was written"]


def test_without_the_updates_all_but_those_are_compared(file):
    change(file, "rounds/update", places(next(f for f in FIELDS if f.path == "rounds/update")))
    assert check.check(file, updates=False).problems == []
    change(file, "rounds/norm", (ROUND - 1,))
    assert check.check(file, updates=False).problems == [f"round {ROUND} has other results than were written"]


# Files of a folder


def cut(path):
    os.truncate(path, path.stat().st_size // 2)


def of_another_round(path):
    shutil.copy(round_file(path.parent, 2), path)


def without_a_dataset(path):
    with h5py.File(path, "r+") as file:
        del file["rounds/gram"]


FILES = {
    "lost": (3, os.unlink, "round 3 has no file, but round 4 has"),
    "cut": (3, cut, "round 3 cannot be read"),
    "empty": (3, lambda path: path.write_bytes(b""), "round 3 cannot be read"),
    "without a dataset": (3, without_a_dataset, "round 3 cannot be read"),
    "of another round": (4, of_another_round, "round 4 has other results than were written"),
}


@pytest.mark.parametrize("case", FILES)
def test_a_damaged_file_of_a_round_is_named_and_the_other_rounds_are_checked(case, folder):
    number, damage, said = FILES[case]
    damage(round_file(folder, number))
    change(round_file(folder, 1), "rounds/norm")
    problems = check.check(folder).problems
    assert any(problem.startswith(said) for problem in problems)
    assert any(problem.startswith("round 1 has other results") for problem in problems)
    assert len(problems) == 2


def test_a_file_of_a_round_in_the_place_of_another_is_found_where_their_fields_are_the_same(folder):
    shutil.copy(round_file(folder, 1), round_file(folder, 3))
    assert len(check.check(folder).problems) == 1


def test_damaged_final_parameters_are_found(folder):
    (final,) = folder.glob("final-*.h5")
    change(final, "final/params")
    assert check.check(folder).problems == [f"the final parameters are damaged ({final.name})"]
    cut(final)
    assert check.check(folder).problems == [f"the final parameters are damaged ({final.name})"]


def test_a_damaged_checkpoint_is_found(folder):
    cut(folder / NAME)
    (problem,) = check.check(folder).problems
    assert f"{NAME} is damaged" in problem


# Others at the same time


def test_a_run_that_goes_on_is_whole_at_any_moment(tmp_path):
    layout = layout_of({**SIZES, "round": 30})
    recorder = begin(tmp_path / "x.run", layout)
    held = lock.take(lock_of(tmp_path / "x.run"))

    def write():
        for round_ in range(1, 31):
            recorder.write(round_, arrays_of(layout, round_))
        recorder.finish(final_of(layout))

    writer = threading.Thread(target=write)
    writer.start()
    verdicts = []
    while writer.is_alive():
        verdicts.append(check._examine(tmp_path / "x.run", True, lambda: None))
    writer.join()
    held.release()
    assert [v.problems for v in verdicts if v.problems] == []
    assert {v.status for v in verdicts} <= {"running", "complete"}
    assert len({v.committed for v in verdicts}) > 1


# HDF5's own faults


def within(seconds, monkeypatch, instead):
    """Let a check's child do something else, and give it so many seconds."""
    monkeypatch.setattr(check, "_examine", instead)
    monkeypatch.setattr(check, "PATIENCE", seconds)


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGKILL])
def test_a_crash_of_the_reader_is_a_sentence(number, file, monkeypatch):
    within(20, monkeypatch, lambda *_, **__: (faulthandler.disable(), os.kill(os.getpid(), number)))
    with pytest.raises(FempiError, match=r"x.h5 is damaged: HDF5 crashed reading it$"):
        check.check(file)


def test_a_reader_that_hangs_is_ended(file, monkeypatch):
    within(0.3, monkeypatch, lambda *_, **__: time.sleep(60))
    began = time.monotonic()
    with pytest.raises(FempiError, match=r"x.h5 is damaged: HDF5 has not come back from reading it for 0.3 s$"):
        check.check(file)
    assert time.monotonic() - began < 10
    assert multiprocessing.active_children() == []


def test_patience_is_for_a_round_not_for_all(file, monkeypatch):
    answer = Verdict(status="complete", rounds=5, committed=5, problems=[])

    def slowly(path, updates, beat):
        for _ in range(5):
            time.sleep(0.3)
            beat()
        return answer

    within(1.2, monkeypatch, slowly)
    assert check.check(file) == answer


def test_a_size_that_nothing_has_is_not_believed(file, monkeypatch):
    within(20, monkeypatch, lambda *_, **__: np.ones(1 << 40))
    with pytest.raises(FempiError, match=r"x.h5 is damaged: .*llocate"):
        check.check(file)


def test_a_limit_that_the_process_has_is_no_damage(made):
    """As `ulimit -v` on a login node, which only root may raise."""

    def limited():
        resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
        if os.geteuid() == 0:
            os.setuid(65534)
        assert_whole(file)

    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        file = Path(shutil.copy(made / "x.h5", place))
        child = multiprocessing.get_context("fork").Process(target=limited)
        child.start()
        child.join()
    assert child.exitcode == 0


def test_no_child_is_left_and_the_limits_of_this_process_are_as_before(file):
    before = resource.getrlimit(resource.RLIMIT_AS), resource.getrlimit(resource.RLIMIT_CORE)
    check.check(file)
    assert multiprocessing.active_children() == []
    assert (resource.getrlimit(resource.RLIMIT_AS), resource.getrlimit(resource.RLIMIT_CORE)) == before


# The command


def test_the_status_says_whether_anything_is_lost(file, made, tmp_path, capfd):
    def said(*arguments):
        status = cli.main(["check", *map(str, arguments)])
        return status, capfd.readouterr()

    assert said(file, "--complete")[0] == 0
    assert said(made / "x.run", "--complete")[0] == 0
    status, words = said(made / "y.h5")
    assert (status, words.out.strip()) == (0, f"{made / 'y.h5'} is whole: interrupted, 3 of 5 rounds")
    assert said(made / "y.h5", "--complete")[0] == 1
    assert said(made / "y.run", "--complete")[0] == 1
    change(file, "rounds/norm", (ROUND - 1,))
    status, words = said(file)
    assert status == 1
    assert words.out.splitlines() == [
        f"round {ROUND} has other results than were written",
        f"{file} is damaged: complete, 5 of 5 rounds",
    ]
    (tmp_path / "text").write_text("hello")
    for nothing in (tmp_path / "text", tmp_path / "missing", tmp_path):
        status, words = said(nothing)
        assert (status, words.out) == (2, "")
        assert words.err.startswith("fempi: ")
        assert "Traceback" not in words.err


def test_info_refuses_to_print_what_is_damaged(file, capfd):
    change(file, "rounds/norm", (ROUND - 1,))
    assert cli.main(["info", str(file)]) != 0
    captured = capfd.readouterr()
    assert f"x.h5 is damaged: round {ROUND} has other results" in captured.err
    assert captured.out == ""
