"""Records are examined where there is no MPI, no torch and nothing else that a run takes."""

import subprocess
import sys

import pytest
from launch import clean_env
from records import make_runs

from fempi.cli import EXTRAS

CONFIG = """
name = "x"
rounds = 3
[data]
dataset = "synthetic"
size = 4
train_examples = 300
test_examples = 50
clients = 9
[model]
name = "mlp"
hidden = [4]
[train]
cohort = 7
local_epochs = 1
[attack]
name = "sign_flip"
malicious = 2
[aggregator]
name = "krum"
"""
ABSENT = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {modules}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name.partition(".")[0])

sys.meta_path.insert(0, Absent())
"""


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    return make_runs(tmp_path_factory.mktemp("laptop"), CONFIG) / "x.h5"


def python(code, *arguments, without):
    """Run code where some modules cannot be found."""
    modules = [module for extra in without for module in EXTRAS[extra]]
    return subprocess.run(
        [sys.executable, "-c", ABSENT.format(modules=modules) + code, *map(str, arguments)],
        env=clean_env(),
        capture_output=True,
        text=True,
        check=False,
    )


def command(*arguments, without=("run", "analysis")):
    return python("from fempi import cli; sys.exit(cli.main(sys.argv[1:]))", *arguments, without=without)


@pytest.mark.parametrize(
    "arguments", ["info", "check", "examine --truth", "replay", "replay --all", "replay --aggregator flame"]
)
def test_a_command_needs_none_of_it(arguments, record):
    name, *options = arguments.split()
    done = command(name, record, *options)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_report_needs_no_torch_and_no_mpi(record, tmp_path):
    done = command("report", record, "-o", tmp_path / "report.html", "--truth", without=["run"])
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "report.html").stat().st_size > 1_000_000


def test_a_report_says_what_it_lacks(record, tmp_path):
    done = command("report", record, "-o", tmp_path / "report.html")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "is not installed; pip install 'fempi[analysis]'" in done.stderr


def test_a_disk_is_measured_without_any_of_it(tmp_path):
    done = command("bench", "record", "--cohort", 3, "--params", 100, "--rounds", 1, "--folder", tmp_path)
    assert (done.returncode, done.stderr, "sketch" in done.stdout) == (0, "", True)


def test_rules_can_be_listed(record):
    done = command("list", "aggregators")
    assert (done.returncode, "multi_krum" in done.stdout) == (0, True), done.stderr


def test_tables_need_pandas_only(record):
    code = "import fempi; print(len(fempi.open(sys.argv[1]).to_pandas()))"
    done = python(code, record, without=["run"])
    assert (done.returncode, done.stdout) == (0, "21\n"), done.stderr


@pytest.mark.parametrize("arguments", [("run", "x.toml"), ("resume", "x.run"), ("doctor",), ("list", "models")])
def test_what_needs_more_says_how_to_get_it(arguments):
    done = command(*arguments)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "is not installed; pip install 'fempi[run]'" in done.stderr
