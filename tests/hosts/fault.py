"""A plugin that lets rank 1 fail in its third round, in one of many ways."""

import ctypes
import os
import resource
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import fempi
import fempi.comm

trained = 0


@fempi.register("attack", "fault")
@dataclass(frozen=True, kw_only=True)
class Fault(fempi.Attack):
    """Poisons nothing; `mark` is a file that appears just before the fault."""

    kind: str = "none"
    mark: str = ""

    def poison_data(self, images, labels, num_classes, rng):
        """Called for every client in every round, with its 25 examples; before the first round with fewer."""
        global trained
        trained += len(labels) == 25
        if trained == 10 and fempi.comm.MPI.COMM_WORLD.rank == 1 and self.kind != "none":  # it has 4 clients a round
            Path(self.mark).touch()
            FAULTS[self.kind]()
        return images, labels


def raise_exception():
    raise KeyError("a fault on one rank")


def run_out_of_memory():
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 10_000_000, used + 10_000_000))
    np.ones(100_000_000)


FAULTS = {
    "is killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "segfaults": lambda: ctypes.string_at(0),
    "calls os._exit(3)": lambda: os._exit(3),
    "calls sys.exit(3)": lambda: sys.exit(3),
    "raises an exception": raise_exception,
    "runs out of memory": run_out_of_memory,
    "sleeps for ever": lambda: time.sleep(10_000),
    "loses its launcher": lambda: os.kill(os.getppid(), signal.SIGKILL),  # mpirun, prted or hydra_pmi_proxy
    "pauses": lambda: time.sleep(1),  # time enough to do something to the job in the middle of a round
}
