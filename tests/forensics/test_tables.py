"""A record as tables: of each update, each round and each client."""

import shutil

import numpy as np
import pandas
import pytest
from records import make_runs

import fempi
from fempi.schema import PHASES

CONFIG = """
name = "x"
rounds = 5
[data]
dataset = "synthetic"
size = 4
train_examples = 300
test_examples = 50
clients = 9
root_examples = 20
[model]
name = "mlp"
hidden = [4]
[train]
cohort = 6
local_epochs = 1
[attack]
name = "nan"
malicious = 3
[record]
pack = false
[evaluation]
every = 2
per_client = true
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run that was cut short after four of its five rounds."""
    folder = make_runs(tmp_path_factory.mktemp("tables"), CONFIG) / "x.run"
    next(folder.glob("round-*-000005.h5")).unlink()
    return folder


def test_a_row_for_each_update_that_was_sent(folder):
    with fempi.open(folder) as run:
        table = run.to_pandas()
        assert list(table.index.names) == ["round", "slot"]
        assert table.index.tolist() == [(r, s) for r in (1, 2, 3, 4) for s in range(6)]
        for name in ("client", "rank", "norm", "trust", "weight", "scale", "train_loss", "num_examples"):
            assert np.array_equal(table[name], run.read(f"rounds/{name}").ravel(), equal_nan=True)
        for name in ("malicious", "attacking", "selected", "finite"):
            assert table[name].dtype == bool
            assert np.array_equal(table[name], run.read(f"rounds/{name}").ravel())
    assert table.loc[~table["finite"], "norm"].isna().all()


def test_a_row_for_each_round_with_tests_where_there_were_any_and_the_slowest_rank(folder):
    with fempi.open(folder) as run:
        table = run.to_pandas("rounds")
        assert table.index.tolist() == [1, 2, 3, 4]
        assert np.isnan(table["accuracy"]).tolist() == [True, False, True, False]
        assert table["accuracy"].dropna().tolist() == run.read("evaluation/accuracy").tolist()
        assert np.array_equal(table["trust_auc"], run.read("rounds/trust_auc"), equal_nan=True)
        slowest = run.read("timing/seconds").max(axis=1)
    assert np.array_equal(table[[f"{phase}_seconds" for phase in PHASES]], slowest)


def test_a_row_for_each_client(folder):
    with fempi.open(folder) as run:
        table = run.to_pandas("clients")
        assert table.index.equals(pandas.RangeIndex(9, name="client"))
        assert table["malicious"].sum() == 3
        assert np.array_equal(table["num_examples"], run.read("clients/num_examples"))
        assert np.array_equal(table["num_test_examples"], run.read("clients/num_test_examples"))


def test_a_run_without_a_round_has_tables_without_rows(folder, tmp_path):
    empty = tmp_path / "x.run"
    shutil.copytree(folder, empty)
    for file in empty.glob("round-*"):
        file.unlink()
    with fempi.open(empty) as run:
        assert len(run.to_pandas()) == len(run.to_pandas("rounds")) == 0
        assert len(run.to_pandas("clients")) == 9
