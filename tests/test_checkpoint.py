"""A checkpoint gives back every bit that was put in, or says that it cannot."""

import multiprocessing
from pathlib import Path

import h5py
import numpy as np
import pytest

from fempi import FempiError
from fempi.checkpoint import NAME, Checkpoint, load

RNG = np.random.default_rng(5)
STATES = {
    "nothing": {},
    "one": {"history": RNG.normal(size=(3, 4))},
    "names": {name: np.ones(i) for i, name in enumerate(["b", "a/b/c", "a", "größe 🙂", ".", "..", "/", ""])},
    "many-in-order": {f"{(7 * i) % 23}": np.full(2, i) for i in range(23)},
    "shapes": {f"{shape}": RNG.normal(size=shape) for shape in ((), (0,), (3, 0, 2), (1, 2, 1, 3))},
    "special": {"floats": np.array([np.nan, -np.nan, np.inf, -np.inf, -0.0, 5e-324])},
    "views": {"transposed": RNG.normal(size=(3, 5)).T, "strided": np.arange(20)[::3], "back": np.arange(5.0)[::-1]},
    **{
        str(np.dtype(kind)): {"x": RNG.integers(0, 100, (2, 3)).astype(kind), "y": np.array(1, kind)}
        for kind in ("?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", ">f8", ">i4")
    },
}


def checkpoint(**changed):
    facts = {"params": RNG.normal(size=7).astype("f4"), "round": 3, "epsilon": 1 / 3, "seconds": 0.1}
    return Checkpoint(**{**facts, **changed})


def assert_same(a, b):
    assert (a.round, a.epsilon, a.seconds) == (b.round, b.epsilon, b.seconds)
    for x, y in ((a.rule, b.rule), (a.attack, b.attack), ({"": a.params}, {"": b.params})):
        assert list(x) == list(y)
        for name, values in x.items():
            assert isinstance(y[name], np.ndarray)
            assert (values.dtype, values.shape) == (y[name].dtype, y[name].shape)
            assert values.tobytes() == y[name].tobytes()


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("whose", ["rule", "attack"])
def test_what_is_saved_is_loaded_bit_for_bit(whose, state, tmp_path):
    saved = checkpoint(**{whose: STATES[state]})
    saved.save(tmp_path, "id")
    assert_same(saved, load(tmp_path, "id"))


@pytest.mark.parametrize("epsilon", [0.0, np.inf, 1e-300])
def test_numbers_are_loaded_as_they_were(epsilon, tmp_path):
    saved = checkpoint(epsilon=epsilon, seconds=1e9 + 1e-6, round=10**6, params=np.empty(0, "f4"))
    saved.save(tmp_path, "id")
    assert_same(saved, load(tmp_path, "id"))


def test_the_last_one_saved_is_there_and_no_other_file(tmp_path):
    for round_ in range(1, 4):
        checkpoint(round=round_).save(tmp_path, "id")
        assert load(tmp_path, "id").round == round_
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


def test_one_that_cannot_be_written_leaves_the_last(tmp_path):
    first = checkpoint(rule={"a": np.ones(3)})
    first.save(tmp_path, "id")
    with pytest.raises(TypeError):
        checkpoint(round=4, rule={"a": np.ones(3), "b": np.array([object()])}).save(tmp_path, "id")
    assert_same(first, load(tmp_path, "id"))
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


def test_a_reader_of_the_last_one_is_not_disturbed_by_the_next(tmp_path):
    checkpoint(round=1).save(tmp_path, "id")
    with h5py.File(tmp_path / NAME) as reader:
        checkpoint(round=2).save(tmp_path, "id")
        assert reader.attrs["round"] == 1
    assert load(tmp_path, "id").round == 2


def test_without_a_checkpoint_there_is_none(tmp_path):
    assert load(tmp_path, "id") is None


def test_that_of_another_run_is_refused(tmp_path):
    checkpoint().save(tmp_path, "id")
    with pytest.raises(FempiError, match=rf"{NAME} is of another run"):
        load(tmp_path, "other")


def overwritten(path):
    path.write_bytes(b"x" * 5000)


def truncated(path):
    path.write_bytes(path.read_bytes()[:-100])


def foreign(path):
    with h5py.File(path, "w") as file:
        file["x"] = 1


def changed(where, value):
    def change(path):
        with h5py.File(path, "r+") as file:
            if where in file:
                file[where][...] = value
            else:
                file.attrs[where] = value

    return change


def renamed(path):
    with h5py.File(path, "r+") as file:
        file["rule/0"].attrs["name"] = "another"


def moved(path):
    with h5py.File(path, "r+") as file:
        file.move("rule/0", "attack/0")


DAMAGES = {
    "empty": lambda path: path.write_bytes(b""),
    "overwritten": overwritten,
    "truncated": truncated,
    "foreign": foreign,
    "round": changed("round", 4),
    "epsilon": changed("epsilon", 0.5),
    "seconds": changed("seconds", 0.5),
    "params": changed("params", 0.5),
    "rule": changed("rule/0", 0.5),
    "rule-renamed": renamed,
    "rule-for-attack": moved,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_one_is_refused_with_what_can_be_done(damage, tmp_path):
    checkpoint(rule={"a": np.ones(3)}).save(tmp_path, "id")
    DAMAGES[damage](tmp_path / NAME)
    with pytest.raises(FempiError, match=rf"{NAME} is damaged, .*fempi pack.*--force"):
        load(tmp_path, "id")


def flipped_ones(folder, offsets, answers):
    """Flip one byte after another and send which, and what came of it."""
    whole = (folder / NAME).read_bytes()
    for offset in offsets:
        answers.send(offset)
        (folder / NAME).write_bytes(whole[:offset] + bytes([whole[offset] ^ 0xFF]) + whole[offset + 1 :])
        try:
            load(folder, "id")
        except FempiError:
            answers.send("refused")
        except Exception as error:
            answers.send(f"byte {offset}: {error!r}")
        else:
            answers.send(f"byte {offset} was not missed")
    answers.send(None)


def test_a_flipped_byte_is_refused(tmp_path):
    """In a child process, so that a crash of HDF5 is one failure, with the place."""
    checkpoint(rule={"a": np.eye(2)}, attack={"b/c": np.array(3)}).save(tmp_path, "id")
    size = (tmp_path / NAME).stat().st_size
    offsets = range(0, size, 7)
    here, there = multiprocessing.get_context("fork").Pipe(duplex=False)
    child = multiprocessing.get_context("fork").Process(target=flipped_ones, args=(tmp_path, offsets, there))
    child.start()
    there.close()
    said, offset = [], None
    try:
        while here.poll(10) and (answer := here.recv()) is not None:
            if isinstance(answer, int):
                offset = answer
            else:
                said.append(answer)
    except EOFError:
        pytest.fail(f"HDF5 crashed over byte {offset}")
    finally:
        child.kill()
        child.join()
    assert len(said) == len(offsets), f"HDF5 has not come back from byte {offset}"
    assert set(said) == {"refused"}


def test_a_checkpoint_is_on_the_disk_before_it_replaces_the_last(tmp_path, monkeypatch):
    """What survives a power cut is the order of the calls."""
    calls = []
    monkeypatch.setattr("os.fsync", lambda descriptor: calls.append("sync"))
    replace = Path.replace
    monkeypatch.setattr(Path, "replace", lambda *paths: calls.append("replace") or replace(*paths))
    checkpoint().save(tmp_path, "id")
    assert calls == ["sync", "replace", "sync"]
