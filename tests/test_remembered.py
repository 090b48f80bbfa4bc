"""The memory of a round's updates, which later rounds use again: nobody who remembers some of them sees it change."""

import numpy as np
import pytest

from fempi import RunFile, cli
from fempi.exchange import Memory

CONFIG = """
name = "x"
rounds = 5

[data]
dataset = "synthetic"
size = 8
train_examples = 200
test_examples = 50
clients = 9
root_examples = 0

[model]
name = "mlp"
hidden = [8]

[train]
cohort = 6
local_epochs = 1

[attack]
name = "remembers"
malicious = 3

[aggregator]
name = "remembers"

[record]
updates = "{updates}"

[plugins]
files = ["remembers.py"]

[[arm]]
name = "views"

[[arm]]
name = "copies"
set = {{ "attack.copy_it" = true, "aggregator.copy_it" = true }}
"""
PLUGIN = """
from dataclasses import dataclass
import numpy as np
import fempi

@fempi.register("attack", "remembers")
@dataclass(frozen=True, kw_only=True)
class Remembers(fempi.Attack):
    copy_it: bool = False

    def poison_updates(self, updates, malicious, knowledge):
        before = knowledge.memory.get("first", np.zeros(updates.shape[1], np.float32)).copy()
        knowledge.memory["first"] = updates[0].copy() if self.copy_it else updates[0]
        return np.tile(before, (malicious.sum(), 1))

@fempi.register("aggregator", "remembers")
def remembers(updates, context, *, copy_it: bool = False):
    row = updates._rows[-1]
    before = context.state.get("last", np.zeros_like(row))
    weights = 1 + np.sin(np.arange(updates.n) + 1000 * float(before.sum()))
    weights /= weights.sum()
    everybody = np.ones(updates.n, bool)
    last = row.copy() if copy_it else row
    return fempi.Decision(weights=weights, trust=weights, selected=everybody, state={"last": last})
"""


@pytest.mark.parametrize("updates", ["full", "none"])
def test_what_rules_and_attacks_remember_stays_as_it_was(tmp_path, own_registry, updates):
    (tmp_path / "remembers.py").write_text(PLUGIN)
    (tmp_path / "x.toml").write_text(CONFIG.format(updates=updates))
    assert cli.main(["run", str(tmp_path / "x.toml"), "--output", str(tmp_path)]) == 0
    params = []
    for arm in ("views", "copies"):
        with RunFile(tmp_path / f"x/{arm}.h5") as run:
            params.append(run.read("final/params"))
    assert np.array_equal(*params)


def test_a_matrix_is_used_again_when_it_is_its_turn():
    memory = Memory(turns=2)
    first, second = memory.matrix(3, 4), memory.matrix(3, 4)
    first[:], second[:] = 1, 2
    assert not np.shares_memory(first, second)
    third = memory.matrix(2, 4)
    assert third.shape == (2, 4)
    assert np.shares_memory(first, third)
    larger = memory.matrix(30, 4)
    assert larger.shape == (30, 4)
    assert (second == 2).all()  # whoever still has it keeps it
