"""A record is examined in a fraction of the memory that it would fill: one round, or one block of columns, at a time.

The record has half a gigabyte; `make memory GB=30` takes one of thirty, and says how much memory each command took.
"""

import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from launch import clean_env
from records import make_runs

from fempi import store

GB = float(os.environ.get("FEMPI_GB", "0.5"))
LARGE = GB > 5
"""Whether cohorts and model are the papers' largest"""
COHORT, PARAMS = (100, 1_663_370) if LARGE else (12, 1_000_120)
MALICIOUS = COHORT // 4
ROUNDS = round(GB * 1e9 / (4 * PARAMS * (COHORT + MALICIOUS + 1)))
LIMIT = 2e9
CONFIG = """
name = "x"
rounds = {rounds}
[data]
dataset = "synthetic"
size = 28
train_examples = 600
test_examples = 20
clients = {cohort}
[model]
{model}
[train]
cohort = {cohort}
local_epochs = 1
[attack]
name = "sign_flip"
malicious = {malicious}
[aggregator]
name = "geometric_median"
[evaluation]
every = {rounds}
[record]
pack = false
"""
MODEL = 'name = "cnn"' if LARGE else 'name = "mlp"\nhidden = [1258]'

LAUNCHER = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)
sys.exit(code)
"""
"""A small process between: what a child takes is counted from what its parent had."""

COMMANDS = {
    "check": "check PATH",
    "examine": "examine --truth PATH",
    "info": "info PATH",
    "replay": "replay PATH",
    "replay of a rule of columns": "replay --aggregator median PATH",
    "report": "report --force -o PATH.html PATH",
}
ACROSS = """
import fempi, sys
from fempi.forensics.across import Vector, inner_products
run = fempi.open(sys.argv[1])
inner_products(run, [Vector(number, 0) for number in range(1, run.rounds_completed + 1)])
"""
EVERYTHING = """
import fempi, sys
fempi.open(sys.argv[1])["rounds/update"][...].sum()
"""
TABLES = """
import fempi, sys
run = fempi.open(sys.argv[1])
assert all(len(run.to_pandas(table)) for table in ("updates", "rounds", "clients"))
"""
XARRAY = """
import sys, xarray
rounds = xarray.open_dataset(sys.argv[1], group="rounds", engine="h5netcdf")
rounds["norm"].mean("slot").values, rounds["update"][0, 0].values.sum(), str(rounds)
"""
USES = {name: ["-m", "fempi", *command.split()] for name, command in COMMANDS.items()} | {
    "one client through all rounds": ["-c", ACROSS, "PATH"],
    "tables": ["-c", TABLES, "PATH"],
    "xarray": ["-c", XARRAY, "PATH"],
}
"""Arguments of Python that examine a record"""


opened = store.opened


@contextmanager
def dropped(path):
    """Open a round's file and delete it once it is read: two records of thirty gigabytes are more than disks have."""
    with opened(path) as file:
        yield file
    path.unlink()


def made(folder, rounds=2, cohort=COHORT, malicious=MALICIOUS, model=MODEL):
    """Make a run and pack it."""
    runs = make_runs(folder, CONFIG.format(rounds=rounds, cohort=cohort, malicious=malicious, model=model))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(store, "opened", dropped)
        store.pack(runs / "x.run", runs / "x.h5")
    assert not list((runs / "x.run").glob("round-*"))
    return runs / "x.h5"


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    path = made(tmp_path_factory.mktemp("large"), ROUNDS)
    yield path
    path.unlink()


@pytest.fixture(scope="module")
def few_rounds(tmp_path_factory):
    path = made(tmp_path_factory.mktemp("few"))
    yield path
    path.unlink()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return made(tmp_path_factory.mktemp("tiny"), cohort=6, malicious=2, model='name = "mlp"\nhidden = [4]')


def peak(arguments: list[str], path: Path) -> int:
    """Return the most bytes of memory that Python had with these arguments, a record's path among them."""
    done = subprocess.run(
        [sys.executable, "-c", LAUNCHER, sys.executable, *(word.replace("PATH", str(path)) for word in arguments)],
        env=clean_env(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def said(name: str, most: int, least: int, nbytes: int) -> None:
    """Print it; `make memory` shows what passing tests print."""
    print(f"{name}: {most / 1e6:.0f} MB with {nbytes / 1e9:.2f} GB, {least / 1e6:.0f} MB with a tiny record")


def test_the_record_is_as_large_as_it_says_and_on_the_disk(record):
    facts = record.stat()
    assert facts.st_size == pytest.approx(GB * 1e9, rel=0.1)
    assert facts.st_blocks * 512 > 0.99 * facts.st_size  # no holes


@pytest.mark.parametrize("name", USES)
def test_a_large_record_takes_little_more_memory_than_a_tiny_one(name, record, tiny):
    most, least, nbytes = peak(USES[name], record), peak(USES[name], tiny), record.stat().st_size
    said(name, most, least, nbytes)
    assert most < LIMIT
    assert most - least < nbytes / 4


def test_every_rule_takes_little_memory_but_for_what_two_of_them_remember(few_rounds, tiny):
    arguments = ["-m", "fempi", "replay", "--all", "PATH"]
    most, least, nbytes = peak(arguments, few_rounds), peak(arguments, tiny), few_rounds.stat().st_size
    said("replay --all", most, least, nbytes)
    before_and_after = 2 * 4 * PARAMS * COHORT  # foolsgold and fl_detector keep a row of each client
    assert most < LIMIT
    assert most - least < before_and_after + nbytes / 2


@pytest.mark.skipif(LARGE, reason="it would not fit the memory")
def test_this_would_see_a_command_that_reads_all_updates(record, tiny):
    arguments = ["-c", EVERYTHING, "PATH"]
    assert peak(arguments, record) - peak(arguments, tiny) > record.stat().st_size / 2
