"""How long a sweep has to go."""

import re
import sys

import pytest
import torch
from launch import run_ranks

from fempi import experiment
from fempi.config import ConfigError
from fempi.outlook import Pace, work_of
from fempi.prepare import prepare

CONFIG = """
name = "{name}"
rounds = {rounds}

[data]
dataset = "synthetic"
size = 4
train_examples = 60
test_examples = 20
clients = 4
root_examples = 0

[model]
name = "mlp"
hidden = [4]

[train]
cohort = 4
local_epochs = 1

[grid]
seed = [1, 2]
"""


@pytest.fixture
def files(tmp_path):
    paths = [tmp_path / "short.toml", tmp_path / "long.toml"]
    for path, rounds in zip(paths, (1, 5), strict=True):
        path.write_text(CONFIG.format(name=path.stem, rounds=rounds))
    return paths


def test_time_is_in_proportion_to_work():
    pace = Pace([1.0, 2.0, 3.0], groups=1)
    first = pace.made(0, seconds=10)
    assert (first.run, first.runs, first.seconds) == (1, 3, 50)
    assert pace.made(1, seconds=50).seconds == 3 * 60 / 3  # the mean of both, by work
    assert pace.made(2, seconds=1).seconds == 0


def test_work_is_what_clients_and_the_server_train_on(files, tmp_path):
    def work(*overrides):
        config = experiment.load(files[0], overrides=overrides)[0]
        return work_of(prepare(config, tmp_path, torch.device("cpu")))

    reference = ["data.root_examples=30", 'aggregator={name="fltrust"}']
    alone, with_reference, with_more = work(), work(*reference), work(*reference, "train.root_epochs=3")
    # 4 clients of 15 examples each, or of 7.5 since the server has its own 30
    assert with_reference / alone == pytest.approx((30 + 30) / 60)
    assert with_more / alone == pytest.approx((30 + 3 * 30) / 60)


def test_groups_share_what_is_left():
    pace = Pace([4.0, 4.0, 4.0, 4.0], groups=2)
    outlook = pace.made(1, seconds=8)  # the other group is at run 0
    assert (outlook.run, outlook.runs, outlook.seconds) == (2, 4, 8)


def test_records_that_are_there_already_cost_nothing_and_do_not_count():
    outlook = Pace([0, 5.0, 0, 5.0, 0], groups=1).made(1, seconds=7)
    assert (outlook.run, outlook.runs, outlook.seconds) == (1, 2, 7)


def test_files_are_made_one_after_another_by_one_command(files, tmp_path):
    command = [sys.executable, "-m", "fempi", "run", *map(str, files), "--output", "out"]
    job = run_ranks(1, command, timeout=120, cwd=tmp_path)
    assert job.returncode == 0, job.output
    found = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.h5"))
    assert found == [f"{name}/{name}+seed={seed}.h5" for name in ("long", "short") for seed in (1, 2)]
    assert re.findall(r"^(\d) of 4 runs made, about \d+:\d\d left", job.output, re.MULTILINE) == ["1", "2", "3"]
    assert "long/long+seed=1: 5 rounds" in job.output
    assert job.output.count("precision") == 2  # a table of each
    again = run_ranks(1, command, timeout=120, cwd=tmp_path)
    assert again.output.count("is there already") == 4
    assert "runs made" not in again.output


def test_two_files_may_not_mean_the_same_record(files):
    with pytest.raises(ConfigError, match=r"two runs are called short/short\+seed=1"):
        experiment.load_all([files[0], files[1], files[0]])


def test_settings_of_the_command_line_are_for_all_files(files):
    assert [run.rounds for run in experiment.load_all(files, overrides=["rounds=7"])] == [7] * 4
