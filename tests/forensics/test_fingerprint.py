"""What kind of attack it was, with its parameters, from what was received."""

import numpy as np
import pytest
from records import make_runs

import fempi
from fempi.forensics.fingerprint import Traits, classify, traits

CONFIG = """
name = "x"
rounds = 8
[data]
dataset = "synthetic"
size = 12
train_examples = 900
test_examples = 50
clients = 12
partition = "{partition}"
[model]
name = "mlp"
hidden = [8]
[train]
cohort = 10
local_epochs = 2
batch_size = 10
lr = 0.05
[attack]
{attack}
malicious = 3
[aggregator]
name = "multi_krum"
num_byzantine = 3
[record]
updates = "none"
"""
ATTACKS = {
    'name = "sign_flip"\nscale = 3.0': ("sign flip", {"scale": 3.0}),
    'name = "scale"\nfactor = 5.0': ("scale", {"factor": 5.0}),
    'name = "gaussian_noise"\nstd = 0.1': ("gaussian noise", {"std": 0.1}),
    'name = "gaussian"\nstd = 0.1': ("gaussian", {"std": 0.1}),
    'name = "alie"\nz = 1.5': ("alie", {"z": 1.5}),
    'name = "ipm"\nepsilon = 0.7': ("ipm", {"epsilon": 0.7}),
    'name = "mimic"': ("mimic", {}),
    'name = "nan"': ("not finite", {}),
    'name = "inf"': ("not finite", {}),
    'name = "zero"': ("zero", {}),
    'name = "random_large"': ("random large", {}),
    'name = "none"': ("unusual data", {}),
}


@pytest.mark.parametrize("partition", ["iid", "dirichlet"])
@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_is_known_by_its_rows_and_its_parameter_is_estimated(attack, partition, tmp_path):
    records = make_runs(tmp_path, CONFIG.format(attack=attack, partition=partition))
    with fempi.open(records / "x.h5") as run:
        malicious = run.read("clients/malicious")
        if not malicious.any():
            malicious = np.arange(12) < 3  # honest clients that somebody suspects
        measured = traits(run, malicious)
    found = classify(measured)
    kind, parameters = ATTACKS[attack]
    assert found.kind == kind, measured
    # How long an update is depends on the client's data too: of few clients with unlike data, the factor is vague.
    vague = partition == "dirichlet" and parameters.keys() & {"scale", "factor"}
    for name, value in parameters.items():
        assert found.parameters[name] == pytest.approx(value, rel=0.6 if vague else 0.2)


def test_what_is_sent_together_gives_its_parameter_exactly(tmp_path):
    for attack, name, value in ('name = "alie"\nz = 1.5', "z", 1.5), ('name = "ipm"\nepsilon = 0.7', "epsilon", 0.7):
        (tmp_path / name).mkdir()
        records = make_runs(tmp_path / name, CONFIG.format(attack=attack, partition="iid"))
        with fempi.open(records / "x.h5") as run:
            found = classify(traits(run, run.read("clients/malicious")))
        assert found.parameters[name] == pytest.approx(value, rel=1e-4)


def test_nobody_suspected_has_no_traits(tmp_path):
    records = make_runs(tmp_path, CONFIG.format(attack='name = "none"', partition="iid"))
    with fempi.open(records / "x.h5") as run:
        measured = traits(run, np.zeros(12, bool))
    assert measured.rows == 0
    assert all(np.isnan(value) for name, value in vars(measured).items() if name != "rows")
    assert isinstance(measured, Traits)
    assert classify(measured).kind == "unusual data"
