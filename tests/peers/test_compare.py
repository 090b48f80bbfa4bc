"""The comparison with peers compares what it says; the peers themselves are not installed for this."""

import json
import sys

import compare
import launch
import numpy as np
import pytest
import torch
import with_fempi
import workload
from click.testing import CliRunner
from compare import Contender, Peer, PeerError
from launch import Result
from rich.console import Console

from fempi import registry
from fempi.datasets import idx
from fempi.datasets.partition.shards import shards
from fempi.experiment import load


@pytest.fixture
def digits(tmp_path, monkeypatch):
    """Lay down something like MNIST, a thirtieth as large, and return its root."""
    rng = np.random.default_rng(0)
    raw = tmp_path / "data" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part, count in (("train", 2000), ("test", 200)):
        images, labels = workload.FILES[part]
        idx.write(raw / images, rng.integers(0, 256, (count, 28, 28), np.uint8))
        idx.write(raw / labels, np.arange(count, dtype=np.uint8) % 10)
    monkeypatch.setenv("FEMPI_DATA", str(tmp_path / "data"))
    workload.examples.cache_clear()
    workload.clients.cache_clear()
    yield tmp_path / "data"
    workload.examples.cache_clear()
    workload.clients.cache_clear()


def made_up(name, rates, key="clients_per_second"):
    found = [{key: rate, "version": "1.2", "accuracy": 0.5} for rate in rates]
    return Contender(name=name, key=key, once=dict, found=found)


def shown(table):
    console = Console(width=200)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


# ---------------------------------------------------------------------------------------------------- the workload


def test_clients_hold_what_fempis_hold():
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(10), 6000))
    ours = shards(labels, workload.CLIENTS, np.random.default_rng(1), shards_per_client=workload.SHARDS)
    theirs = workload.split(labels)
    assert {len(own) for own in theirs} == {len(own) for own in ours} == {600}
    assert sorted(np.concatenate(theirs)) == list(range(60_000))
    counts = [np.bincount(labels[own], minlength=10) for own in theirs]
    assert all(set(count) <= {0, 300, 600} for count in counts)
    assert all(np.flatnonzero(np.diff(labels[own])).size > 100 for own in theirs if len(set(labels[own])) == 2)


@pytest.mark.parametrize(("name", "size"), [("cnn", 1_663_370), ("cnn_small", 22_514), ("mlp", 199_210)])
def test_a_model_is_fempis(name, size):
    plain = workload.model(name)
    plugin = registry.find("model", name)
    ours = plugin.make((1, 28, 28), 10, **plugin.bind({"dropout": 0.0} if name == "cnn" else {}))
    assert workload.params(plain) == size
    with torch.no_grad():
        for mine, other in zip(ours.parameters(), plain.parameters(), strict=True):
            mine.copy_(other)
        images = torch.rand(3, 1, 28, 28)
        torch.testing.assert_close(ours(images), plain(images))


@pytest.mark.parametrize("name", list(workload.MODELS))
def test_fempi_is_told_the_same(name, tmp_path):
    file = tmp_path / "peers.toml"
    file.write_text(with_fempi.config(workload.Options(model=name, rounds=3), "none"))
    (config,) = load(file)
    assert (config.rounds, config.data.clients, config.data.root_examples) == (4, 100, 0)
    assert config.parameters("partition") == {"shards_per_client": 2}
    train = config.train
    assert (train.cohort, train.local_epochs, train.batch_size, train.lr) == (10, 5, 10, 0.01)
    assert (train.momentum, train.weight_decay, train.prox) == (0, 0, 0)
    assert config.parameters("model").get("dropout", 0) == 0
    assert (config.aggregator.name, config.attack.name, config.evaluation.every) == ("mean", "none", 4)


def test_batches_are_all_examples_in_another_order_each_time():
    data = torch.utils.data.TensorDataset(torch.arange(40.0)[:, None], torch.arange(40))
    loader = workload.batches(data)
    epochs = [[labels for _, labels in loader] for _ in range(2)]
    assert [len(batch) for batch in epochs[0]] == [10] * 4
    assert [sorted(torch.cat(epoch).tolist()) for epoch in epochs] == [list(range(40))] * 2
    assert torch.cat(epochs[0]).tolist() != torch.cat(epochs[1]).tolist()


def test_images_are_read_as_fempi_reads_them(digits):
    ours = idx.read_folder(digits / "MNIST" / "raw")
    images, labels = workload.examples().tensors
    assert np.array_equal(images.numpy(), ours.train_images.astype(np.float32) / 255)
    assert np.array_equal(labels.numpy(), ours.train_labels)


def test_where_there_are_no_images_it_says_how_to_get_them(tmp_path, monkeypatch):
    monkeypatch.setenv("FEMPI_DATA", str(tmp_path))
    with pytest.raises(SystemExit, match="fempi fetch mnist"):
        workload.folder()


def test_the_first_round_does_not_count():
    given = workload.Options(rounds=3)
    found = workload.result("fempi", [100.0, 2.0, 4.0, 5.0], given=given, params=1, accuracy=0.5)
    assert found["clients_per_second"] == 10 / 4


# ------------------------------------------------------------------------------------------------------- the turns


def test_everybody_has_a_turn_before_anybody_has_two():
    said, order = [], []

    def once(name):
        order.append(name)
        if name == "b":
            raise PeerError("it fell over")
        return {"rate": len(order)}

    all_ = [Contender(name=name, key="rate", once=lambda name=name: once(name)) for name in "abc"]
    compare.in_turns(all_, 2, said.append)
    assert order == ["a", "b", "c", "a", "c"]
    assert [each.values for each in all_] == [[1, 4], [], [3, 5]]
    assert all_[1].failed == "it fell over"
    assert said[1] == "turn 1 of 2: b: it fell over"


def test_ratios_are_of_the_same_turn():
    # The machine was half as fast in the second turn. Medians of each would say 2 / 1.5, which was never so.
    assert compare.ratios([4, 2, 1], [2, 1, 0.5]) == [2, 2, 2]


def test_the_table_says_how_much_faster():
    failed = Contender(name="stone", key="clients_per_second", once=dict, failed="it is one")
    first, other = made_up("fempi", [4.0, 8.0, 6.0]), made_up("snail", [2.0, 2.0, 2.0])
    lines = shown(compare.training_table([first, other, failed])).splitlines()
    row = {line.split()[0]: line for line in lines if line.split()}
    assert "6 (4 to 8)" in row["fempi"]
    assert "2 (2 to 2)" in row["snail"]
    assert "3 (2 to 4)" in row["snail"]
    assert row["stone"].split() == ["stone", "-", "-", "-", "-"]


def test_rules_are_compared_by_time():
    ours, theirs = made_up("median", [0.5, 1.0], "seconds"), made_up("Median", [2.0, 2.0], "seconds")
    for each, seconds in zip(theirs.found, (1.0, 1.0), strict=True):
        each["kinds"] = {"torch": 2.0, "numpy": seconds}
    lines = shown(compare.rules_table([(ours, theirs)]))
    assert "3 (2 to 4)" in lines  # with torch
    assert "1.5 (1 to 2)" in lines  # with numpy


def test_a_rule_that_needs_too_much_memory_in_one_way_is_timed_in_the_other():
    ours, theirs = made_up("nnm", [0.5], "seconds"), made_up("NNM", [2.0], "seconds")
    theirs.found[0]["kinds"] = {"numpy": 2.0}
    (row,) = [line for line in shown(compare.rules_table([(ours, theirs)])).splitlines() if "nnm" in line]
    assert row.split() == ["nnm", "0.5", "(0.5", "to", "0.5)", "-", "-", "2", "(2", "to", "2)", "4", "(4", "to", "4)"]


def test_every_rule_is_fempis():
    for rule in compare.RULES:
        *before, last = rule.split(" > ")
        assert last in registry.names("aggregator")
        assert set(before) <= set(registry.names("pre_aggregator"))


# --------------------------------------------------------------------------------------------------- what is started


def test_the_result_is_found_among_what_else_is_printed():
    line = json.dumps({"package": "x", "clients_per_second": 2.0})
    assert compare.result_of(Result(0, f"noise\n{line}\nServer terminated.\n"))["clients_per_second"] == 2.0


@pytest.mark.parametrize(
    ("returncode", "output", "said"),
    [
        (
            1,
            "Traceback\n  x\nModuleNotFoundError: No module named 'x'\n----\nprterun detected\n",
            "ModuleNotFoundError",
        ),
        (1, "ERROR: No matching distribution found for x==9\n\n[notice] a new pip\n", "ERROR: No matching"),
        (2, "fempi: x.toml: 1 problem\n  rounds: too many\n---\n", "fempi: x.toml: 1 problem; rounds: too many$"),
        (1, "Killed\n", "Killed"),
        (1, "", "it said nothing"),
        ("timeout", "ValueError: an old one\n", "took too long"),
    ],
)
def test_what_went_wrong_is_a_line(returncode, output, said):
    with pytest.raises(PeerError, match=said):
        compare.result_of(Result(returncode, output))


@pytest.mark.parametrize("timeout", [60, 0.5])
def test_nothing_is_left_of_what_is_started(timeout, tmp_path):
    # A daemon, and for the second case a parent that waits for it.
    source = (
        "import subprocess, sys\n"
        "daemon = subprocess.Popen(['sleep', '3600'], start_new_session=True)\n"
        "print(daemon.pid, flush=True)\n"
        f"{timeout} < 1 and daemon.wait()\n"
    )
    done = compare.alone([sys.executable, "-c", source], timeout=timeout, cwd=tmp_path, env={})
    assert done.returncode == (0 if timeout > 1 else "timeout")
    (daemon,) = map(int, done.output.split())
    state, _ = launch.processes().get(daemon, ("gone", 0))
    assert state in ("gone", "Z"), f"{daemon} lives"  # Z: nobody asked yet how it ended


def test_an_environment_is_made_once_and_anew_for_other_packages(tmp_path, monkeypatch):
    asked = []

    def installed(command):
        asked.append(command)
        if "venv" in command:
            (tmp_path / "snail/bin").mkdir(parents=True)
            (tmp_path / "snail/bin/python").touch()
            (tmp_path / "snail/pyvenv.cfg").touch()
            (tmp_path / "snail/lib/python3.x/site-packages").mkdir(parents=True)

    monkeypatch.setattr(compare, "_installed", installed)
    for _ in range(2):
        python = compare.environment("snail", ["snail==1"], tmp_path)
    assert (python, len(asked)) == (tmp_path / "snail/bin/python", 2)
    assert asked[1][-1] == "snail==1"
    compare.environment("snail", ["snail==2"], tmp_path)
    assert len(asked) == 4


def test_a_folder_that_is_no_environment_is_left_alone(tmp_path):
    (tmp_path / "snail").mkdir()
    (tmp_path / "snail" / "thesis.tex").touch()
    with pytest.raises(PeerError, match="--venvs"):
        compare.environment("snail", [], tmp_path)
    assert (tmp_path / "snail" / "thesis.tex").exists()


def test_a_peer_that_cannot_be_installed_has_a_row_that_says_why(digits, tmp_path, monkeypatch):
    peers = {"stone": Peer(requires=[str(tmp_path / "stone-1-py3-none-any.whl")], script="with_stone.py")}
    monkeypatch.setattr(compare, "PEERS", peers)
    monkeypatch.setattr(compare, "train_fempi", lambda *_: made_up("fempi", [5.0]).found[0])
    out = tmp_path / "found.json"
    done = CliRunner().invoke(
        compare.main, ["--repeats=2", "--model=mlp", f"--venvs={tmp_path / 'venvs'}", f"--json={out}"]
    )
    assert done.exit_code == 0, done.output
    assert "mlp, 199,210 parameters" in done.output
    assert "5 (5 to 5)" in done.output
    assert "stone: cannot be installed: ERROR" in done.output
    said = {each["name"]: each for each in json.loads(out.read_text())["contenders"]}
    assert [len(each["found"]) for each in said.values()] == [2, 2, 0]
    assert "stone-1-py3-none-any.whl" in said["stone"]["failed"]


def test_fempi_is_run_under_mpirun(digits):
    given = workload.Options(model="mlp", rounds=2)
    found = compare.train_fempi(given, "full", 120)
    assert (found["package"], found["params"], found["workers"]) == ("fempi", 199_210, 2)
    assert len(found["seconds"]) == 3
    assert min(found["seconds"]) > 0
    assert found["clients_per_second"] == pytest.approx(10 / np.median(found["seconds"][1:]))
    assert 0 <= found["accuracy"] <= 1


def test_what_fempi_says_is_wrong_is_passed_on(digits, monkeypatch):
    monkeypatch.setattr(with_fempi, "CONFIG", with_fempi.CONFIG.replace("local_epochs", "local_epoch"))
    with pytest.raises(PeerError, match="local_epoch"):
        compare.train_fempi(workload.Options(model="mlp"), "none", 120)
