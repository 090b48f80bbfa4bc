"""Runs whose clients are trained together: the same bits wherever they are trained, and nearly those of one by one."""

import sys

import numpy as np
import pytest
import torch
from launch import run_ranks
from test_resume import assert_same_results, of_my_own

from fempi import RunFile
from fempi.experiment import load
from fempi.prepare import prepare

CONFIG = """
name = "x"
rounds = 2

[data]
dataset = "synthetic"
size = 12
train_examples = 300
test_examples = 50
clients = 9
partition = "dirichlet"
alpha = 1.0
min_examples = 3
root_examples = 20

[train]
cohort = 7
local_epochs = 2
clients_per_batch = 3

[attack]
name = "label_flip"
malicious = 3

[aggregator]
name = "dual"

[[arm]]
name = "mlp"
set = { "model.name" = "mlp", "model.hidden" = [9, 5], "train.momentum" = 0.5, "train.prox" = 0.1 }

[[arm]]
name = "small"
set.model = { name = "cnn_small" }
set.privacy = { clip = 1.0, noise_multiplier = 0.01 }
set."train.precision" = "bfloat16"

[[arm]]
name = "dropout"
set = { "model.name" = "cnn", "train.weight_decay" = 0.01, "train.local_epochs" = 1 }
"""
ARMS = ["mlp", "small", "dropout"]


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("together") / "x.toml"
    path.write_text(CONFIG)
    return path


@pytest.fixture(scope="module")
def on_one_rank(config):
    assert of_my_own("run", config, "--output", config.parent / "one") == 0
    return config.parent / "one/x"


@pytest.mark.parametrize(("ranks", "placement"), [(2, "balanced"), (3, "pinned"), (4, "balanced")])
def test_every_bit_is_that_of_one_rank(config, on_one_rank, tmp_path, ranks, placement):
    command = [sys.executable, "-m", "fempi", "run", str(config), "--output", str(tmp_path), "--placement", placement]
    job = run_ranks(ranks, command, timeout=120)
    assert job.returncode == 0, job.output
    for arm in ARMS:
        assert_same_results(on_one_rank / f"{arm}.h5", tmp_path / f"x/{arm}.h5")


def updates(path):
    with RunFile(path) as record:
        return record.read("rounds/update"), record.read("rounds/train_loss"), record.read("rounds/num_examples")


def test_results_are_nearly_those_of_one_by_one(config, on_one_rank, tmp_path):
    assert of_my_own("run", config, "--output", tmp_path, "--set", "train.clients_per_batch=1") == 0
    for arm, tolerance in {"mlp": 1e-4, "small": 0.05, "dropout": 1e-4}.items():
        (found, losses, sizes), (expected, others, _) = (
            updates(folder / f"{arm}.h5") for folder in (on_one_rank, tmp_path / "x")
        )
        assert len(set(sizes.flat)) > 3  # and so are the numbers of steps
        assert not np.array_equal(found, expected)
        away = np.linalg.norm(found - expected, axis=2) / np.linalg.norm(expected, axis=2)
        assert away.max() < tolerance
        np.testing.assert_allclose(losses, others, rtol=tolerance)


OWN_MODEL = """
import fempi
from torch import nn

@fempi.register("model", "normal")
def normal(image_shape, num_classes):
    size = image_shape[0] * image_shape[1] * image_shape[2]
    return nn.Sequential(nn.Flatten(), nn.LayerNorm(size), nn.Linear(size, num_classes))
"""


def test_what_cannot_be_trained_together_is_refused_before_the_first_round(config, tmp_path, capfd):
    (tmp_path / "x.toml").write_text(CONFIG.replace("[data]", '[plugins]\nfiles = ["mine.py"]\n\n[data]'))
    (tmp_path / "mine.py").write_text(OWN_MODEL)
    own = ["--set", "arm=[]", "--set", 'model.name="normal"', "--output", tmp_path / "out"]
    assert of_my_own("run", tmp_path / "x.toml", *own) == 2
    said = capfd.readouterr().err
    assert "train.clients_per_batch: clients of this model cannot be trained together: layer 1 is a LayerNorm" in said
    assert not (tmp_path / "out").exists()
    assert of_my_own("run", tmp_path / "x.toml", *own, "--set", 'train.clients_per_batch="auto"') == 0


@pytest.mark.parametrize(
    ("settings", "clients"),
    [
        (["train.clients_per_batch=1"], None),
        (["train.clients_per_batch=5"], 5),
        (["train.clients_per_batch=50"], 7),
        (["train.clients_per_batch='auto'"], 7),
        (["train.clients_per_batch='auto'", "train.cohort=1"], None),
        (["train.clients_per_batch=2", "train.cohort=1"], 1),
        (["train.clients_per_batch='auto'", "model={name='cnn'}", "train.batch_size=100"], None),
    ],
)
def test_how_many_there_is_room_for(config, settings, clients):
    run = load(config, overrides=["arm=[]", "model={name='mlp'}", *settings])[0]
    batched = prepare(run, config.parent, torch.device("cpu")).batched
    assert (batched.clients if batched else None) == clients


@pytest.mark.parametrize("value", ["0", "-1", '"all"', "1.5", "true"])
def test_a_wrong_number_is_told_in_a_line(config, capfd, value):
    assert of_my_own("run", config, "--set", f"train.clients_per_batch={value}", "--set", "arm=[]") == 2
    said = capfd.readouterr().err
    assert said.count("train.clients_per_batch") == 1
    assert 'must be a number from 1 up, or "auto"' in said
