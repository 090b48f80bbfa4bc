"""What forensics says of many runs, held against the truth."""

import subprocess
import sys
from pathlib import Path

from launch import clean_env
from records import make_runs

from fempi.forensics.evaluation import evaluate, tables
from fempi.forensics.records import find

CONFIG = """
name = "x"
rounds = 6
[data]
dataset = "synthetic"
size = 4
train_examples = 600
test_examples = 50
clients = 12
[model]
name = "mlp"
hidden = [4]
[train]
cohort = 10
local_epochs = 1
[attack]
malicious = 3
[aggregator]
name = "mean"
[record]
updates = "none"
[[arm]]
name = "none"
set = { "attack.name" = "none", "attack.malicious" = 0 }
[[arm]]
name = "alie"
set = { "attack.name" = "alie", "attack.z" = 1.25 }
[grid]
seed = [1, 2]
"""
SCRIPT = Path(__file__).parents[2] / "analysis" / "forensics_table.py"


def test_the_truth_is_counted_and_not_used(tmp_path):
    folder = make_runs(tmp_path, CONFIG)
    runs = sorted((evaluate(record) for record in find([folder])), key=lambda run: run.label, reverse=True)
    assert [run.label for run in runs] == ["none", "none", "alie", "alie"]
    for run in runs[:2]:
        assert (run.malicious, run.named, run.wronged, run.told.kind, run.right) == (0, 0, 0, "nothing", True)
        assert run.honest == 12
    for run in runs[2:]:
        assert (run.malicious, run.named, run.honest, run.wronged, run.right) == (3, 3, 9, 0, True)
        assert run.auc["nearest"][1] == 1
    done = subprocess.run(
        [sys.executable, SCRIPT, folder], capture_output=True, text=True, env=clean_env(), check=True
    ).stdout
    assert "from 4 runs" in done
    assert "| alie | iid | 2 | 6 of 6 | 0 of 18 | 0 | 2 of 2 | z 1.25, 1.25 (1.25) |" in done
    assert "| none | iid | 2 |  | 0 of 24 | 0 | 2 of 2 |  |" in done
    assert "| none | 2 |" in tables(runs)
    assert "| alie |  | 2 |" in tables(runs)
