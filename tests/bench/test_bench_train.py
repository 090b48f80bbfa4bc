"""What `fempi bench train` says is what it measured."""

import json
import sys

import pytest
from launch import run_ranks

from fempi import cli

OPTIONS = ["--examples", "40", "--epochs", "2", "--batch-size", "10", "--repeats", "3"]


def checked(found, ranks):
    for times in [found["client"]]:
        assert 0 < times["least"] <= times["median"] <= times["most"]
    assert found["ranks"] == ranks
    assert found["flops"] == pytest.approx(found["flops_per_client"] / found["client"]["median"])
    assert found["imbalance"] >= 1
    most = ranks / found["client"]["least"]
    assert ranks / found["client"]["most"] <= found["clients_per_second"] <= most
    assert 0 < found["flops"] < 2 * found["sgemm"]


def test_operations_are_those_of_the_model_by_hand(tmp_path, capfd):
    out = tmp_path / "x.json"
    assert cli.main(["bench", "train", "--model", "mlp", *OPTIONS, "--json", str(out)]) == 0
    found = json.loads(out.read_text())
    forward = 2 * (784 * 200 + 200 * 200 + 200 * 10)
    backward = 2 * forward - 2 * 784 * 200  # the images need no gradient
    assert found["flops_per_client"] == 2 * 40 * (forward + backward)
    checked(found, 1)
    said = capfd.readouterr().out
    assert "mlp, 199,210 parameters: 2 epochs of 40 examples in batches of 10; 1 rank of 1 thread (cpu)" in said
    assert f"{found['flops'] / found['sgemm']:.0%}" in said


def test_every_rank_trains(tmp_path):
    out = tmp_path / "x.json"
    command = [sys.executable, "-m", "fempi", "bench", "train", "--model", "cnn_small", *OPTIONS, "--json", str(out)]
    job = run_ranks(2, command, timeout=120)
    assert (job.returncode, job.output.count("a client")) == (0, 1), job.output
    checked(json.loads(out.read_text()), 2)


def test_several_clients_are_trained_at_once(tmp_path, capfd):
    out = tmp_path / "x.json"
    options = [*OPTIONS, "--clients-per-batch", "3", "--json", str(out)]
    assert cli.main(["bench", "train", "--model", "cnn_small", *options]) == 0
    found = json.loads(out.read_text())
    assert found["clients_per_batch"] == 3
    checked(found, 1)
    assert "in batches of 10, 3 clients at once; 1 rank" in capfd.readouterr().out


def test_an_unknown_model_is_said_once(capfd):
    assert cli.main(["bench", "train", "--model", "cnn_smal"]) == 2
    assert "did you mean 'cnn_small'" in capfd.readouterr().err
