"""The worked example runs, and what it prints is so."""

import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray
from records import make_runs

import fempi
from fempi.forensics import replay
from fempi.forensics.suspicion import examine

SCRIPT = Path(__file__).parents[2] / "analysis/worked_example.py"
CONFIG = """
name = "x"
rounds = 5
[data]
dataset = "synthetic"
size = 4
train_examples = 400
test_examples = 50
clients = 12
[model]
name = "mlp"
hidden = [6]
[train]
cohort = 8
local_epochs = 1
[attack]
name = "sign_flip"
malicious = 3
[aggregator]
name = "multi_krum"
num_byzantine = 2
"""


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    return make_runs(tmp_path_factory.mktemp("worked"), CONFIG) / "x.h5"


@pytest.fixture(scope="module")
def printed(record):
    """What the example prints of each thing, by what stands before the colon."""
    with pytest.MonkeyPatch.context() as patched:
        lines = []
        patched.setattr(sys, "argv", [SCRIPT.name, str(record)])
        patched.setattr("builtins.print", lambda *words: lines.append(" ".join(map(str, words))))
        runpy.run_path(str(SCRIPT), run_name="__main__")
    return {name: said for name, _, said in (line.partition(": ") for line in lines)}


@pytest.fixture
def run(record):
    with fempi.open(record) as run:
        yield run


def numbers(text):
    return [float(word) for word in re.findall(r"-?\d+(?:\.\d+)?(?:e[-+]\d+)?", text)]


def test_xarray_sees_named_dimensions(printed, record):
    with xarray.open_dataset(record, group="rounds", engine="h5netcdf") as rounds:
        sizes = {"round": 5, "slot": 8, "row": 9, "column": 9, "param": 172}  # 16 * 6 + 6 + 6 * 10 + 10
        assert dict(rounds.sizes) == sizes
        assert rounds["update"].dims == ("round", "slot", "param")
        assert rounds["gram"].dims == ("round", "row", "column")
        assert rounds["round"].values.tolist() == [1, 2, 3, 4, 5]
        assert rounds["selected"].dtype == bool
    said = dict(part.split() for part in printed["dimensions"].split(", "))
    assert said == {name: str(size) for name, size in sizes.items()}


def test_the_share_of_the_malicious_is_theirs(printed, run):
    share = (run.read("rounds/weight") * run.read("rounds/malicious")).sum(axis=1)
    assert numbers(printed["malicious share of the aggregate"]) == [round(share.mean(), 3), np.argmax(share) + 1]


def test_the_least_trusted_are_last_in_their_rounds(printed, run):
    clients, trust = run.read("rounds/client"), run.read("rounds/trust")
    rank = np.argsort(np.argsort(trust, axis=1), axis=1)
    means = {client: rank[clients == client].mean() for client in np.unique(clients)}
    assert numbers(printed["trusted least"]) == sorted(means, key=means.get)[:3]


def test_norms_and_the_auc_are_the_records(printed, run):
    norms, attacking = run.read("rounds/norm"), run.read("rounds/attacking")
    said = dict(part.split() for part in printed["median norm"].split(", "))
    assert float(said["attacking"]) == pytest.approx(np.median(norms[attacking]), rel=0.01)
    assert float(said["honest"]) == pytest.approx(np.median(norms[~attacking]), rel=0.01)
    assert numbers(printed["AUC of trust"])[0] == pytest.approx(run.read("rounds/trust_auc").mean(), abs=1e-3)


def test_the_two_most_alike_are(printed, run):
    rows = run["rounds/update"][-1].astype("f8")
    rows /= np.linalg.norm(rows, axis=1)[:, None]
    cosines = rows @ rows.T - 2 * np.eye(8)
    i, j = np.unravel_index(cosines.argmax(), cosines.shape)
    clients = run.read("rounds/client")[-1]
    first, second, cosine = numbers(printed["most alike in round 5"])
    assert {first, second} == {clients[i], clients[j]}
    assert cosine == pytest.approx(cosines.max(), abs=1e-3)


def test_a_client_goes_on_in_its_direction_as_its_updates_say(printed, run):
    (name,) = (name for name in printed if name.startswith("mean cosine of client"))
    client, count = map(int, numbers(name))
    rows = run["rounds/update"][...].astype("f8")[run.read("rounds/client") == client]
    rows /= np.linalg.norm(rows, axis=1)[:, None]
    assert len(rows) == count > 1
    assert numbers(printed[name])[0] == pytest.approx((rows @ rows.T)[np.triu_indices(count, 1)].mean(), abs=1e-3)


def test_who_stands_out_is_counted_by_the_truth(printed, run):
    (line,) = (line for line in printed if "stand out" in line)
    malicious = run.read("clients/malicious")
    suspects = [suspect.client for suspect in examine(run).suspects()]
    assert numbers(line) == [len(suspects), malicious[suspects].sum(), 3]
    assert malicious.sum() == 3


def test_rules_are_replayed(printed, run):
    weights = {name: numbers(printed[name])[0] for name in ("multi_krum", "mean", "krum")}
    recorded = (run.read("rounds/weight") * run.read("rounds/attacking")).sum(axis=1)
    assert weights["multi_krum"] == pytest.approx(
        100 * recorded[run.read("rounds/attacking").any(axis=1)].mean(), abs=0.06
    )
    assert weights["mean"] == pytest.approx(100 * run.read("rounds/attacking").mean(), abs=0.06)
    assert weights["krum"] <= weights["mean"]
    rule = replay.section_of(run, "krum")
    error = replay.summarize(rule, replay.replay(run, rule)).error
    assert numbers(printed["krum"])[1] == pytest.approx(error, rel=0.01)
