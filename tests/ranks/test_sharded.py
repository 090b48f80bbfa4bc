"""Runs whose updates are spread over the ranks by columns: they go on like others, in a share of the memory."""

import os
import sys

import pytest
from launch import run_ranks
from test_resume import assert_same_results, of_my_own

from fempi.experiment import load
from fempi.signals import STATUS

STOP = "FEMPI_TEST_STOP"
"""The round in which the experiment's attack asks its process to stop, in the environment"""
CONFIG = """
name = "x"
rounds = 5

[data]
dataset = "synthetic"
size = 8
train_examples = 200
test_examples = 50
clients = 9
root_examples = 20

[model]
name = "mlp"
hidden = [400, 100]

[train]
cohort = 7
local_epochs = 1

[aggregator]
name = "{rule}"
num_byzantine = 1

[attack]
name = "{attack}"
malicious = 2

[evaluation]
every = 2

[plugins]
files = ["mine.py"]
"""
PLUGIN = f"""
import os, signal, time
from dataclasses import dataclass
import numpy as np
import fempi

@fempi.register("attack", "drift")
@dataclass(frozen=True, kw_only=True)
class Drift(fempi.Attack):
    knows_columns = True

    def poison_updates(self, updates, malicious, knowledge):
        seen = knowledge.memory["rounds seen"] = knowledge.memory.get("rounds seen", np.zeros(1)) + 1
        if str(knowledge.round) == os.environ.get("{STOP}"):
            os.kill(os.getpid(), signal.SIGUSR1)
            time.sleep(0.2)
        return (updates[malicious] * seen).astype(np.float32)

@fempi.register("attack", "unaware")
@dataclass(frozen=True, kw_only=True)
class Unaware(fempi.Attack):
    def poison_updates(self, updates, malicious, knowledge):
        return updates[malicious] / np.linalg.norm(updates[malicious])
"""
SHARDED = ("--set", 'aggregator.layout="sharded"')


@pytest.fixture
def config(tmp_path):
    (tmp_path / "mine.py").write_text(PLUGIN)

    def write(rule="centered_clipping", attack="drift"):
        path = tmp_path / "x.toml"
        path.write_text(CONFIG.format(rule=rule, attack=attack))
        return path

    return write


def run(ranks, *arguments, **options):
    return run_ranks(ranks, [sys.executable, "-m", "fempi", *map(str, arguments)], timeout=120, **options)


@pytest.mark.parametrize(("before", "after"), [(3, 2), (1, 4)])
def test_a_run_that_was_stopped_goes_on_to_the_same_bits_in_either_layout(config, tmp_path, before, after):
    path = config()
    whole = tmp_path / "whole"
    assert run(1, "run", path, "--output", whole).returncode == 0
    for layout in (SHARDED, ()):
        out = tmp_path / f"cut-{len(layout)}"
        stopped = run(before, "run", path, "--output", out, *SHARDED, env={**os.environ, STOP: "3"})
        assert stopped.returncode == STATUS, stopped.output
        assert list(out.glob("x/x*/round-*-000003.h5"))
        went_on = run(after, "run", path, "--output", out, *layout)
        assert went_on.returncode == 0, went_on.output
        assert_same_results(whole / "x/x.h5", out / "x/x.h5")


def test_the_layout_is_no_part_of_what_a_record_holds(config, own_registry):
    hashes = {load(config(), overrides=overrides)[0].hash for overrides in ([], SHARDED[1:])}
    assert len(hashes) == 1


@pytest.mark.parametrize("rule", ["foolsgold", "fl_detector"])
def test_a_rule_that_wants_whole_updates_is_refused(config, tmp_path, capfd, rule):
    assert of_my_own("run", config(rule=rule), "--output", tmp_path / "out", *SHARDED) == 2
    assert 'aggregator.layout = "root"' in capfd.readouterr().err
    assert not (tmp_path / "out").exists()


def test_so_is_an_attack_that_does_not_say_that_it_can_do_with_less(config, tmp_path, capfd):
    assert of_my_own("run", config(attack="unaware"), "--output", tmp_path / "out", *SHARDED) == 2
    said = capfd.readouterr().err
    assert "attack: it wants whole updates" in said
    assert "knows_columns" in said
    assert not (tmp_path / "out").exists()


LIMIT = 2_000_000
"""Kilobytes of data that a rank may have: less than the updates of LARGE, which are 150 x 14.9 megabytes"""
LARGE = """
name = "x"
rounds = 1

[data]
dataset = "synthetic"
train_examples = 770
test_examples = 50
clients = 150
root_examples = 20

[model]
name = "mlp"
hidden = [2048, 1024]

[train]
cohort = 150
local_epochs = 1

[aggregator]
name = "multi_krum"

[attack]
name = "sign_flip"
malicious = 30
"""


def test_updates_too_large_for_a_rank_are_spread_over_four(tmp_path):
    (tmp_path / "x.toml").write_text(LARGE)
    limited = f"ulimit -d {LIMIT}; exec '{sys.executable}' -m fempi run x.toml "
    root = run_ranks(4, ["sh", "-c", limited + "--output root"], timeout=240, cwd=tmp_path)
    assert root.returncode not in (0, "timeout")
    assert "MemoryError" in root.output
    spread = run_ranks(
        4, ["sh", "-c", limited + "--output spread --set 'aggregator.layout=\"sharded\"'"], timeout=240, cwd=tmp_path
    )
    assert spread.returncode == 0, spread.output
    assert (tmp_path / "spread/x/x.h5").stat().st_size > 150 * 14_800_000
