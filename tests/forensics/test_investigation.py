"""Who did what, without the truth: suspects, the kind of their attack, and who acts together."""

import h5py
import numpy as np
import pytest
from records import make_runs

import fempi
from fempi import cli
from fempi.forensics.fingerprint import Fingerprint
from fempi.forensics.investigation import investigate, together

CONFIG = """
name = "x"
rounds = 16
seed = 2
[data]
dataset = "synthetic"
size = 8
train_examples = 2400
test_examples = 100
clients = 24
[model]
name = "mlp"
hidden = [32]
[train]
cohort = 12
local_epochs = 2
batch_size = 10
lr = 0.1
[attack]
name = "{attack}"
malicious = 6
{parameters}
[aggregator]
name = "multi_krum"
[record]
updates = "{updates}"
"""


@pytest.fixture
def record(tmp_path):
    """Return a function that makes a run and returns its record."""

    def make(attack, parameters="", updates="full"):
        return make_runs(tmp_path, CONFIG.format(attack=attack, parameters=parameters, updates=updates)) / "x.h5"

    return make


FLIP = 'mode = "targeted"\nsource = 2\ntarget = 5'


def test_a_label_flip_is_told_with_its_classes_and_clients(record, capfd):
    path = record("label_flip", FLIP)
    with fempi.open(path) as run:
        malicious = np.flatnonzero(run.read("clients/malicious")).tolist()
        found = investigate(run)
    assert found.fingerprint == Fingerprint(kind="label flip", parameters={"source": 2, "target": 5})
    assert sorted(each.suspect.client for each in found.findings if each.accused) == malicious
    assert "6 of 24 clients seem to attack: label flip (2 -> 5)" in found.verdict
    capfd.readouterr()
    assert cli.main(["examine", str(path)]) == 0
    said = capfd.readouterr().out
    assert found.verdict in said
    assert said.count("label flip (2 -> 5)") == 7
    assert "what they teach of classes 2, 5" in said


@pytest.mark.parametrize("updates", ["full", "none"])
@pytest.mark.parametrize(
    ("attack", "kind"), [("alie", "alie"), ("sign_flip", "sign flip"), ("scale", "scale"), ("nan", "not finite")]
)
def test_a_kind_is_told_from_the_gram_matrices_alone(attack, kind, updates, record, capfd):
    path = record(attack, "z = 1.5" if attack == "alie" else "", updates)
    with fempi.open(path) as run:
        malicious = np.flatnonzero(run.read("clients/malicious")).tolist()
        found = investigate(run)
    accused = {each.suspect.client: each for each in found.findings if each.accused}
    assert found.fingerprint.kind == kind
    assert len(accused.keys() & set(malicious)) >= 5
    assert not accused.keys() - set(malicious)
    assert found.groups == ((tuple(malicious),) if attack == "alie" else ())
    assert {each.group for each in accused.values()} == {int(attack == "alie")}
    assert bool(found.limits) == (updates == "none")
    capfd.readouterr()
    assert cli.main(["examine", str(path), "--truth"]) == 0
    said = capfd.readouterr().out
    assert (f'record.updates = "{updates}"' in said) == (updates == "none")
    assert ("send nearly the same" in said) == (attack == "alie")


def test_a_backdoor_is_told_with_its_target(record):
    """It may be told as a flip of the class whose features the trigger resembles."""
    with fempi.open(record("backdoor", "target = 3")) as run:
        malicious = run.read("clients/malicious")
        found = investigate(run)
    assert found.fingerprint.kind in ("backdoor", "label flip")
    assert found.fingerprint.parameters["target"] == 3
    assert malicious[[each.suspect.client for each in found.findings if each.accused]].all()


def test_copies_are_told_and_who_makes_them(record):
    with fempi.open(record("mimic")) as run:
        malicious = tuple(np.flatnonzero(run.read("clients/malicious")).tolist())
        found = investigate(run)
    assert found.groups == (malicious,)
    assert found.fingerprint.kind == "mimic"


def test_nobody_is_accused_of_a_clean_run(record):
    with fempi.open(record("none")) as run:
        found = investigate(run)
    assert found.fingerprint is None
    assert not any(each.accused for each in found.findings)
    assert found.verdict.startswith("None of 24 clients attacks in a way that is seen.")
    assert found.groups == ()
    assert found.flips == ()


def test_sent_the_same_in_the_rounds_they_share(record):
    with fempi.open(record("ipm")) as run:
        malicious = tuple(np.flatnonzero(run.read("clients/malicious")).tolist())
        assert together(run) == (malicious,)


@pytest.mark.parametrize("command", ["examine", "report"])
@pytest.mark.parametrize(
    ("dataset", "value"), [("layers/shape", "[5"), ("layers/offset", 10**9), ("rounds/client", 77)]
)
def test_a_damaged_record_is_said_to_be_damaged(command, dataset, value, record, capfd):
    path = record("label_flip", FLIP)
    with h5py.File(path, "r+") as file:
        place = (len(file[dataset]) - 2,) if dataset.startswith("layers") else (3, 3)
        file[dataset][place] = value
    capfd.readouterr()
    options = ["-o", str(path.with_suffix(".html"))] if command == "report" else []
    assert cli.main([command, str(path), *options]) == 2
    said = capfd.readouterr().err
    assert (said.count("is damaged"), said.count("\n")) == (1, 1)


def test_a_run_that_goes_on_is_read_as_it_was_when_it_was_opened(tmp_path):
    config = CONFIG.format(attack="sign_flip", parameters="", updates="full")
    folder = make_runs(tmp_path, config + "pack = false\n") / "x.run"
    last = next(folder.glob("round-*-000016.h5"))
    hidden = last.rename(last.with_suffix(".later"))
    with fempi.open(folder) as run:
        assert run.rounds_completed == 15
        hidden.rename(last)  # a round is committed
        assert len(investigate(run).examination.clients) == 15
    with fempi.open(folder) as run:
        assert run.rounds_completed == 16
