"""fempi: as a user runs it, `fempi run` under mpirun on as many ranks as there are workers."""

import sys
from pathlib import Path

import launch
import workload

from fempi.runfile import RunFile
from fempi.schema import PHASES

CONFIG = """\
name = "peers"
seed = {seed}
rounds = {rounds}

[data]
dataset = "mnist"
clients = {clients}
partition = "shards"
shards_per_client = {shards}
root_examples = 0

[model]
name = "{model}"
{dropout}

[train]
cohort = {cohort}
local_epochs = {epochs}
batch_size = {batch}
lr = {lr}
clients_per_batch = "auto"

[aggregator]
name = "mean"

[record]
updates = "{updates}"

[evaluation]
every = {rounds}
"""


def config(given: workload.Options, updates: str) -> str:
    """Write the workload as fempi's configuration."""
    return CONFIG.format(
        seed=workload.SEED,
        rounds=given.rounds + 1,
        clients=workload.CLIENTS,
        shards=workload.SHARDS,
        model=given.model,
        dropout="dropout = 0.0" if given.model == "cnn" else "",
        cohort=workload.COHORT,
        epochs=workload.EPOCHS,
        batch=workload.BATCH,
        lr=workload.LR,
        updates=updates,
    )


def run(given: workload.Options, updates: str, folder: Path, *, timeout: float, env: dict[str, str]) -> launch.Result:
    """Make the run in a folder."""
    file = folder / "peers.toml"
    file.write_text(config(given, updates))
    command = [sys.executable, "-m", "fempi", "run", str(file), "--output", str(folder), "--device", "cpu"]
    return launch.run_ranks(given.workers, command, timeout=timeout, cwd=folder, env=env)


def read(record: Path, given: workload.Options) -> dict:
    """Return the result that a record holds.

    A round took what root's phases did without the test, which the peers make outside their rounds, and an equal part
    of the wall time that is in no phase: so nothing else from the first round to the end of the record is left out.
    """
    with RunFile(record) as run:
        phases = run.read("timing/seconds")[:, 0]
        between = (float(run.attributes["wall_seconds"]) - phases.sum()) / len(phases)
        phases[:, PHASES.index("evaluate")] = 0
        return workload.result(
            "fempi",
            (phases.sum(axis=1) + between).tolist(),
            given=given,
            params=int(run.layout.size("param")),
            accuracy=float(run.read("evaluation/accuracy")[-1]),
        )
