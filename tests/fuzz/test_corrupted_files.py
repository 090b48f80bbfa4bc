"""A damaged record is said to be damaged: never a traceback, a hang or a wrong value that passes for a right one.

Copies of a good record are damaged, 200 of the packed file and some of each file of a folder, and read as a user would,
`fempi check` and `fempi info`. They are damaged in the same way every time; `make fuzz N=20`
makes twenty times as many.
"""

import contextlib
import json
import os
import random
import resource
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from launch import clean_env
from records import round_file

from fempi import check, cli, display, store
from fempi.runfile import MASTER, RunFile
from fempi.schema import VECTORS
from fempi.signals import STATUS

pytestmark = pytest.mark.usefixtures("own_registry")

MORE = int(os.environ.get("FEMPI_FUZZ", "1"))
STOP = "FEMPI_TEST_STOP"
CONFIG = """
name = "x"
rounds = 3
[data]
dataset = "synthetic"
size = 4
train_examples = 200
test_examples = 50
clients = 8
root_examples = 20
[model]
name = "mlp"
hidden = [4]
[train]
cohort = 6
local_epochs = 1
[attack]
name = "stopping"
malicious = 2
[aggregator]
name = "centered_clipping"
[plugins]
files = ["stopping.py"]
"""
PLUGIN = f"""
import os, signal, time
from dataclasses import dataclass
import fempi

@fempi.register("attack", "stopping")
@dataclass(frozen=True, kw_only=True)
class Stopping(fempi.Attack):
    def poison_updates(self, updates, malicious, knowledge):
        if str(knowledge.round) == os.environ.get("{STOP}"):
            os.kill(os.getpid(), signal.SIGUSR1)
            time.sleep(0.2)
        return -updates[malicious]
"""
BOOKKEEPING = ("DIMENSION_LIST", "REFERENCE_LIST", "CLASS", "NAME", "_Netcdf4Dimid")
"""HDF5's own attributes of what a dimension is called where; `contents` asks HDF5 for what they mean"""


# What reads copies, in a process of its own, with another for each copy: HDF5 may crash.


def contents(path, *, updates=True):
    """All that a record holds, with the updates or without, in a form that can be compared."""
    found = {}
    with h5py.File(path / MASTER if path.is_dir() else path) as file:

        def add(name, item):
            if name in VECTORS and not updates:
                return
            for key in item.attrs.keys() - BOOKKEEPING:
                found[f"{name} {key}"] = repr(item.attrs[key])
            if isinstance(item, h5py.Dataset):
                values = item.asstr()[...] if item.dtype == object else item[...]
                stored = repr(values.tolist()) if item.dtype == object else values.tobytes()
                found[name] = (item.shape, str(item.dtype), stored)
                found[f"{name} dimensions"] = [(dim.label, list(dim.keys())) for dim in item.dims]

        add("/", file)
        file.visititems(add)
    return found


def answers_on(copy, original):
    """What both commands say of a copy, and for what is not said to be damaged, whether it is not: `same`, `shown`."""
    statuses = {"check": cli.main(["check", str(copy)])}
    sys.stdout.flush()
    print("\n-- info", file=sys.stderr, flush=True)
    statuses["info"] = cli.main(["info", str(copy)])
    if statuses["check"] == 0:
        statuses["same"] = contents(copy) == original
    if statuses["info"] == 0:  # it leaves the updates unread, but nothing else
        rest = {name: value for name, value in original.items() if name.partition(" ")[0] not in VECTORS}
        statuses["shown"] = contents(copy, updates=False) == rest
    return statuses


def read_all(copies, original):
    """Let a child read each copy, and print what came of it as a line of JSON."""
    original = contents(original)
    check.PATIENCE = 10  # HDF5 takes no time, or for ever
    for copy in sorted(copies.iterdir()):
        log, answer = copies.with_name("log"), copies.with_name("answer")
        answer.unlink(missing_ok=True)
        child = os.fork()
        if child == 0:
            with contextlib.suppress(BaseException):
                descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
                os.dup2(descriptor, 1)
                os.dup2(descriptor, 2)
                resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
                try:
                    answer.write_text(json.dumps(answers_on(copy, original)))
                except BaseException:
                    sys.excepthook(*sys.exc_info())
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(0)
        ended = os.pidfd_open(child)
        if not select.select([ended], [], [], 60)[0]:
            os.kill(child, signal.SIGKILL)
        os.close(ended)
        _, status = os.waitpid(child, 0)
        told = {"ended": status, "said": log.read_text(errors="replace")}
        told.update(json.loads(answer.read_text()) if answer.exists() else {})
        print(json.dumps([copy.name, told]), flush=True)


if __name__ == "__main__":
    assert display.check is check.check  # no import is left for a child to make
    read_all(Path(sys.argv[1]), Path(sys.argv[2]))
    sys.exit()


# Records


def fempi(*arguments, stop=None):
    """Run a command; return its status and all it said."""
    job = subprocess.run(
        [sys.executable, "-m", "fempi", *map(str, arguments)],
        env=clean_env() | ({STOP: str(stop)} if stop else {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
        check=False,
    )
    return job.returncode, job.stdout


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """A folder with one experiment: packed as x.h5, unpacked as x.run, and stopped after two rounds as stopped.run."""
    folder = tmp_path_factory.mktemp("records")
    (folder / "x.toml").write_text(CONFIG)
    (folder / "stopping.py").write_text(PLUGIN)
    status, said = fempi("run", folder / "x.toml", "--output", folder / "a", "--set", "record.pack=false")
    assert status == 0, said
    status, said = fempi("run", folder / "x.toml", "--output", folder / "b", stop=2)
    assert status == STATUS, said
    shutil.copytree(folder / "a/x/x.run", folder / "x.run")
    shutil.copytree(folder / "b/x/x.run", folder / "stopped.run")
    store.pack(folder / "x.run", folder / "x.h5")
    with RunFile(folder / "stopped.run") as run:
        assert (run.status, run.rounds_completed) == ("interrupted", 2)
    return folder


DAMAGES = ("bytes", "bytes", "bits", "header", "end", "zeros", "ones", "gap")


def damaged(content, number):
    """Damage bytes in one of several ways; the same number does the same."""
    rng, kind = random.Random(number), DAMAGES[number % len(DAMAGES)]
    out = bytearray(content)
    place, length = rng.randrange(len(out)), rng.choice([1, 8, 64, 512, 4096])
    match kind:
        case "bytes" | "header" | "bits":
            for _ in range(rng.randint(1, 8)):
                where = rng.randrange(min(len(out), 4096) if kind == "header" else len(out))
                out[where] ^= 1 << rng.randrange(8) if kind == "bits" else rng.randint(1, 255)
        case "end":
            del out[place:]
        case "zeros" | "ones":
            out[place : place + length] = bytes([0 if kind == "zeros" else 255]) * len(out[place : place + length])
        case "gap":
            del out[place : place + length]
    return bytes(out)


def read(copies, original):
    """Let both commands read every copy in a folder, in a process of its own; return what came of each."""
    count = len(list(copies.iterdir()))
    job = subprocess.run(
        [sys.executable, __file__, str(copies), str(original)],
        env=clean_env() | {"PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=60 + 30 * count,
        check=False,
    )
    assert job.returncode == 0, job.stderr
    answers = dict(map(json.loads, job.stdout.splitlines()))
    assert len(answers) == count
    return answers


def assert_honest(name, answer):
    """It was read to the end, and what is called whole is."""
    told = f"{name}: {answer}"
    assert answer["ended"] == 0, told
    assert "Traceback" not in answer["said"], told
    assert answer["check"] in (0, 1, 2), told
    checked, _, informed = answer["said"].partition("-- info")
    if answer["check"] == 0:
        assert answer["same"], told
        assert answer["info"] == 0, told
    else:
        assert any(word in checked for word in ("damaged", "not an HDF5 file", "not a record", "newer")), told
    if answer["info"] == 0:
        assert answer["shown"], told
    else:
        assert answer["info"] == 2, told
        assert informed.count("fempi: ") == 1, told


def test_200_damaged_copies_of_a_packed_record(records, tmp_path):
    content = (records / "x.h5").read_bytes()
    copies = tmp_path / "copies"
    copies.mkdir()
    (copies / "whole.h5").write_bytes(content)
    for number in range(200 * MORE):
        (copies / f"{number:05}.h5").write_bytes(damaged(content, number))
    answers = read(copies, records / "x.h5")
    assert answers["whole.h5"]["check"] == 0, answers["whole.h5"]
    for name, answer in answers.items():
        assert_honest(name, answer)
    assert sum(answer["check"] != 0 for answer in answers.values()) > 100 * MORE


PARTS = {
    "master": lambda run: run / MASTER,
    "round": lambda run: round_file(run, 2),
    "final parameters": lambda run: next(run.glob("final-*.h5")),
    "checkpoint": lambda run: run / "checkpoint.h5",
}


@pytest.mark.parametrize("part", PARTS)
def test_damaged_copies_of_a_file_in_a_folder(part, records, tmp_path):
    content = PARTS[part](records / "x.run").read_bytes()
    copies = tmp_path / "copies"
    for number in range(24 * MORE):
        copy = shutil.copytree(records / "x.run", copies / f"{number:05}.run")
        PARTS[part](copy).write_bytes(damaged(content, number))
    answers = read(copies, records / "x.run")
    for name, answer in answers.items():
        assert_honest(name, answer)
    assert sum(answer["check"] != 0 for answer in answers.values()) >= 6 * MORE


# Made by hand


def made_by(change):
    """Return what makes a copy of a packed record and lets `change` do something to it."""

    def make(records, place):
        shutil.copy(records / "x.h5", place)
        with h5py.File(place, "r+") as file:
            change(file)

    return make


def foreign(_, place):
    with h5py.File(place, "w") as file:
        file["x"] = np.arange(3)


def instead(path, make):
    def change(file):
        del file[path]
        make(file, path)

    return made_by(change)


def attribute(name, value):
    return made_by(lambda file: file.attrs.__setitem__(name, value))


def maps_itself(file, path):
    layout = h5py.VirtualLayout((3, 6), "f8")
    layout[...] = h5py.VirtualSource(".", path, (3, 6))
    file.create_virtual_dataset(path, layout)


def fifo(file, path):
    os.mkfifo(Path(file.filename).with_suffix(".fifo"))
    file[path] = h5py.ExternalLink(Path(file.filename).with_suffix(".fifo").name, "/x")


MADE = {
    "empty": lambda _, place: place.write_bytes(b""),
    "text": lambda _, place: place.write_text("round 1\n" * 1000),
    "foreign": foreign,
    "a later version": attribute("format_version", 99),
    "a version in words": attribute("format_version", "one"),
    "two formats": attribute("format", ["fempi", "fempi"]),
    "another status": attribute("status", "interrupted"),
    "more rounds than there are": attribute("rounds_completed", 10**15),
    "fewer rounds than none": attribute("rounds_completed", -1),
    "no number of rounds": attribute("rounds_completed", np.nan),
    "a configuration that is none": attribute("config", "name = "),
    "a configuration too deep to parse": attribute("config", "a = " + "[" * 20_000),
    "a layout that is none": attribute("layout", "[" * 100_000),
    "a huge attribute": made_by(lambda file: file.attrs.create("created", "x" * (50 << 20))),
    "no attributes": made_by(lambda file: [file.attrs.pop(name) for name in list(file.attrs) if name[:6] != "format"]),
    "nothing but attributes": made_by(lambda file: [file.pop(name) for name in list(file)]),
    "a dataset gone": instead("rounds/trust", lambda file, path: None),
    "a group for a dataset": instead("timing/seconds", lambda file, path: file.create_group(path)),
    "a scalar for a dataset": instead("timing/seconds", lambda file, path: file.__setitem__(path, 1.0)),
    "records for numbers": instead(
        "rounds/trust", lambda file, path: file.__setitem__(path, np.zeros((3, 6), [("a", "f8"), ("b", "f8")]))
    ),
    "no checksums": instead("checksums/results", lambda file, path: None),
    "other checksums": made_by(lambda file: file["checksums/results"].__setitem__(0, 7)),
    "another number": made_by(lambda file: file["rounds/trust"].__setitem__((1, 2), 0.25)),
    "another update": made_by(lambda file: file["rounds/update"].__setitem__((1, 2, 3), 0.25)),
    "a truth turned round": made_by(
        lambda file: file["rounds/malicious"].__setitem__((0, 0), not file["rounds/malicious"][0, 0])
    ),
    "a dataset larger than any disk": instead(
        "timing/seconds", lambda file, path: file.create_dataset(path, (3, 10**9, 7), "f8", chunks=(1, 1000, 7))
    ),
    "a link to itself": instead("rounds/trust", lambda file, path: file.__setitem__(path, h5py.SoftLink(f"/{path}"))),
    "a link to another file": instead(
        "rounds/trust", lambda file, path: file.__setitem__(path, h5py.ExternalLink("/etc/passwd", "/"))
    ),
    "a link to a pipe": instead("rounds/trust", fifo),
    "a dataset that maps itself": instead("rounds/trust", maps_itself),
    "a dataset kept in another file": instead(
        "rounds/trust", lambda file, path: file.create_dataset(path, (3, 6), "f8", external=[("/etc/passwd", 0, 144)])
    ),
}


def test_odd_files_made_by_hand_are_damaged_or_no_records(records, tmp_path):
    copies = tmp_path / "copies"
    copies.mkdir()
    for name, make in MADE.items():
        make(records, tmp_path / "one.h5")
        (tmp_path / "one.h5").rename(copies / f"{name}.h5")
    answers = read(copies, records / "x.h5")
    for name, answer in answers.items():
        assert answer["check"] != 0, f"{name}: {answer}"
        assert_honest(name, answer)


def test_what_is_wrong_is_said_in_words(records, tmp_path, capfd):
    def said(path):
        capfd.readouterr()
        return cli.main(["check", str(path)]), "".join(capfd.readouterr())

    shutil.copy(records / "x.h5", tmp_path / "x.h5")
    with h5py.File(tmp_path / "x.h5", "r+") as file:
        file["rounds/trust"][1, 2] = 0.25
        file["rounds/update"][2, 1, 0] = 7
    status, words = said(tmp_path / "x.h5")
    assert status == 1
    assert "round 1" not in words
    assert "round 2 has other results than were written" in words
    assert "round 3 has other updates than were written" in words

    folder = shutil.copytree(records / "x.run", tmp_path / "x.run")
    round_file(folder, 2).unlink()
    status, words = said(folder)
    assert status == 1
    assert "round 2 has no file, but round 3 has" in words


def test_a_round_without_its_checksums_cannot_pass_for_a_whole_one(records, tmp_path):
    folder = shutil.copytree(records / "x.run", tmp_path / "x.run")
    with h5py.File(round_file(folder, 2), "r+") as file:
        file.move("checksums/updates", "checksums/updites")  # what a flipped bit did
        file["rounds/update"][1, 2] = 7
    assert cli.main(["check", str(folder)]) == 1


@pytest.mark.parametrize(("record", "last"), [("x.run", 3), ("stopped.run", 2)])
def test_a_committed_round_cannot_be_missed_though_it_is_the_last(record, last, records, tmp_path):
    folder = shutil.copytree(records / record, tmp_path / "x.run")
    round_file(folder, last).unlink()
    assert cli.main(["check", str(folder)]) == 1


def test_what_a_kill_leaves_behind_is_no_damage(records, tmp_path):
    folder = shutil.copytree(records / "stopped.run", tmp_path / "x.run")
    (folder / ".round-x-000003.h5.77.tmp").write_bytes(b"half a round")
    (folder / ".checkpoint.h5.77.tmp").write_bytes(b"")
    assert cli.main(["check", str(folder)]) == 0
    assert cli.main(["info", str(folder)]) == 0


# Going on


@pytest.fixture
def stopped(records, tmp_path):
    return shutil.copytree(records / "stopped.run", tmp_path / "x.run")


def assert_same_results(target, records):
    """A packed record is whole, and has the bits of the run that was never stopped."""
    assert check.check(target).problems == []
    with RunFile(target) as run, RunFile(records / "x.h5") as wanted:
        assert run.status == "complete"
        for path in ("checksums/results", "checksums/updates", "rounds/update", "evaluation/loss", "final/params"):
            assert run[path][...].tobytes() == wanted[path][...].tobytes(), path


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_run_goes_on_to_the_bits_of_one_that_was_never_stopped(stopped, records):
    assert cli.main(["resume", str(stopped), "--allow-plugins"]) == 0
    assert_same_results(stopped.with_suffix(".h5"), records)


def test_without_its_checkpoint_a_run_begins_anew_to_the_same_bits(stopped, records):
    (stopped / "checkpoint.h5").unlink()
    assert cli.main(["resume", str(stopped), "--allow-plugins"]) == 0
    assert_same_results(stopped.with_suffix(".h5"), records)


@pytest.mark.parametrize("part", ["master", "checkpoint"])
def test_a_run_never_goes_on_from_a_damaged_file(part, stopped, capfd):
    file = PARTS[part](stopped)
    content = file.read_bytes()
    for number in range(24 * MORE):
        text = damaged(content, number)
        if text == content:  # zeros where there were zeros
            continue
        file.write_bytes(text)
        before = files_of(stopped)
        capfd.readouterr()
        assert cli.main(["resume", str(stopped), "--allow-plugins"]) == 2
        said = capfd.readouterr().err
        assert said.count("fempi: ") == 1, said
        assert f"{file.name} is damaged" in said
        assert "Traceback" not in said
        assert files_of(stopped) == before
        assert not stopped.with_suffix(".h5").exists()


@pytest.mark.parametrize("number", range(3 * MORE))
def test_a_damaged_round_never_gets_into_a_packed_record(number, stopped):
    file = round_file(stopped, 1)
    file.write_bytes(damaged(file.read_bytes(), 8 * number))  # bytes, perhaps where nothing is
    whole = check.check(stopped).problems == []
    status, said = fempi("resume", stopped, "--allow-plugins")
    assert status == (0 if whole else 2), said
    assert "Traceback" not in said
    assert stopped.with_suffix(".h5").exists() == whole
    assert whole or "round-" in said
