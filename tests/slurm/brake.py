"""An attack that changes nothing, but while there is a file `brake`, takes the seconds it says, or fails."""

import contextlib
import time
from dataclasses import dataclass
from pathlib import Path

import fempi
from fempi.comm import MPI


@fempi.register("attack", "brake")
@dataclass(frozen=True, kw_only=True)
class Brake(fempi.Attack):
    """Sleep in each client, or fail on the last rank."""

    def poison_data(self, images, labels, num_classes, rng):
        """Look at the brake."""
        said = ""
        with contextlib.suppress(FileNotFoundError):
            said = Path("brake").read_text()
        in_a_round = len(labels) > 10  # each client has 25 examples, the trial at the start 10
        if said == "fail":
            if in_a_round and MPI.COMM_WORLD.rank == MPI.COMM_WORLD.size - 1:
                raise KeyError("a fault in a client")
        elif in_a_round:
            time.sleep(float(said or 0))
        return images, labels

    def poison_updates(self, updates, malicious, knowledge):
        """Send what was trained."""
        return updates[malicious]
