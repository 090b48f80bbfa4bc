"""What some clients' rows did to the model, against the same by numpy on whole matrices."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from records import make_runs

import fempi
from fempi import registry
from fempi.forensics import attribution
from fempi.forensics.attribution import attribute

CONFIG = """
name = "x"
rounds = 4
[data]
dataset = "synthetic"
size = 6
train_examples = 400
test_examples = 50
clients = 10
[model]
name = "mlp"
hidden = [5]
[train]
cohort = 8
local_epochs = 1
lr = 0.1
[attack]
name = "{attack}"
malicious = 3
[aggregator]
name = "{aggregator}"
[record]
updates = "{updates}"
"""


def make(folder, *, attack="scale", aggregator="mean", updates="full"):
    config = CONFIG.format(attack=attack, aggregator=aggregator, updates=updates)
    return fempi.open(make_runs(folder, config) / "x.h5")


def test_shares_of_a_mean_are_those_of_its_sum(tmp_path):
    with make(tmp_path) as run:
        malicious = run.read("clients/malicious")
        found = attribute(run, malicious)
        updates, clients = run.read("rounds/update").astype(float), run.read("rounds/client")
        weights, aggregates = run.read("rounds/weight"), run.read("rounds/aggregate").astype(float)
    for place in range(4):
        parts = weights[place][:, None] * updates[place]
        theirs = parts[malicious[clients[place]]].sum(axis=0)
        whole = parts.sum(axis=0)
        assert whole == pytest.approx(aggregates[place], abs=1e-6)
        assert found.direction_share[place] == pytest.approx(theirs @ whole / (whole @ whole), rel=1e-5)
        norms = np.linalg.norm(parts, axis=1)
        assert found.norm_share[place] == pytest.approx(norms[malicious[clients[place]]].sum() / norms.sum(), rel=1e-5)


def test_everybody_has_all_of_it_and_nobody_nothing(tmp_path):
    with make(tmp_path) as run:
        for clients, share in (np.ones(10, bool), 1), (np.zeros(10, bool), 0):
            found = attribute(run, clients)
            assert found.norm_share == pytest.approx(np.full(4, share))
            assert found.direction_share == pytest.approx(np.full(4, share))
            assert np.isnan(found.layers).all()  # there is nobody to compare with


def test_who_is_pulled_along_backwards_has_a_negative_share(tmp_path):
    with make(tmp_path, attack="sign_flip") as run:
        malicious = run.read("clients/malicious")
        theirs, others = attribute(run, malicious), attribute(run, ~malicious)
    assert theirs.direction_share + others.direction_share == pytest.approx(np.ones(4))
    assert theirs.norm_share + others.norm_share == pytest.approx(np.ones(4))
    assert (others.direction_share < 0).any()  # five times the update, the other way: they win
    assert (others.norm_share > 0).all()


def test_layers_and_classes_differ_as_by_hand(tmp_path):
    with make(tmp_path) as run:
        malicious = run.read("clients/malicious")
        found = attribute(run, malicious)
        updates, clients = run.read("rounds/update").astype(float), run.read("rounds/client")
        offsets = run.read("layers/offset")
        sizes = [int(np.prod(json.loads(shape))) for shape in run.read("layers/shape")]
        K = run.layout.size("class")

    def difference(part):
        each = []
        for place in range(4):
            theirs = malicious[clients[place]]
            mine, others = updates[place][theirs, part], updates[place][~theirs, part]
            spread = np.sqrt(np.mean(np.sum((others - others.mean(axis=0)) ** 2, axis=1)))
            each.append(np.linalg.norm(mine.mean(axis=0) - others.mean(axis=0)) / spread)
        return np.median(each)

    assert found.layer_names == ("1.weight", "1.bias", "3.weight", "3.bias")
    for layer, start, size in zip(found.layers, offsets, sizes, strict=True):
        assert layer == pytest.approx(difference(slice(start, start + size)))
    rows = [slice(start, start + 5) for start in range(offsets[2], offsets[2] + 5 * K, 5)]
    assert found.classes == pytest.approx([difference(row) for row in rows])


def test_what_is_not_kept_is_unknown(tmp_path):
    with make(tmp_path, updates="none", aggregator="median") as run:
        found = attribute(run, run.read("clients/malicious"))
    assert np.isnan(found.direction_share).all()  # a median is no sum of rows
    assert np.isfinite(found.norm_share).all()
    assert np.isnan(found.layers).all()
    assert len(found.layers) == len(found.layer_names) == 4


PLUGIN = """
from fempi import Context, Decision, Updates, register

@register("aggregator", "first_row")
def first_row(updates: Updates, context: Context) -> Decision:
    weights = (updates.norms == updates.norms).astype(float)
    return Decision(weights=weights / weights.sum(), trust=-updates.norms, selected=weights > 0)
"""


def test_a_rule_that_is_not_known_here_has_norm_shares_only(tmp_path, monkeypatch, own_registry):
    (tmp_path / "rule.py").write_text(PLUGIN)
    config = CONFIG.format(attack="scale", aggregator="first_row", updates="none")
    path = make_runs(tmp_path, config + '[plugins]\nfiles = ["rule.py"]\n') / "x.h5"
    monkeypatch.delitem(registry._plugins, ("aggregator", "first_row"))
    with fempi.open(path) as run:
        found = attribute(run, run.read("clients/malicious"))
    assert np.isnan(found.direction_share).all()
    assert np.isfinite(found.norm_share).all()


def test_rows_that_are_not_finite_have_no_share(tmp_path):
    with make(tmp_path, attack="nan") as run:
        found = attribute(run, run.read("clients/malicious"))
    assert found.norm_share == pytest.approx(np.zeros(4))
    assert np.isnan(found.layers).all()


@pytest.mark.parametrize(
    ("accuracy", "fell"),
    [
        ([0.1, 0.5, 0.9, 0.6, 0.55], []),
        ([0.1, 0.5, 0.9, 0.4, 0.3], [8]),  # the middle is 0.5
        ([0.1, 0.9, 0.2, 0.8, 0.1], [6, 10]),
        ([0.1, 0.1, 0.1, 0.1, 0.1], []),
        ([], []),
    ],
)
def test_a_round_broke_the_model_where_accuracy_first_fell_by_half(accuracy, fell):
    values = {"evaluation/accuracy": np.array(accuracy), "evaluation/round": np.arange(1, len(accuracy) + 1) * 2}
    run = SimpleNamespace(read=values.get, layout=SimpleNamespace(size=lambda _: 10))
    assert attribution._broken(run).tolist() == fell
