"""An attack with a memory, brakes, and a diary: a plugin file, so that a run carries all of it along in its folder."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import fempi
from fempi import atomic

PATIENCE = 30  # seconds after which a brake that nobody releases gives way


@fempi.register("attack", "grudge")
@dataclass(frozen=True, kw_only=True)
class Grudge(fempi.Attack):
    """Sends the opposite of what honest clients have sent so far, what is long ago counting less.

    The sum is kept in memory: if it were lost, the next update would have other bits.
    """

    pace: float = 0.02

    def poison_updates(self, updates: np.ndarray, malicious: np.ndarray, knowledge: fempi.Knowledge) -> np.ndarray:
        time.sleep(self.pace)
        memory = knowledge.memory
        drift = 0.9 * memory.get("drift", np.zeros(updates.shape[1], np.float32))
        if not malicious.all():
            drift = drift + updates[~malicious].mean(axis=0)
        memory["drift"] = drift.astype(np.float32)
        return np.tile(-memory["drift"], (int(malicious.sum()), 1))


def braked(write: Callable, name: str, count: int, sign: Path) -> Callable:
    """Return `write`, which stops in the middle of its `count`-th file called `name`..., until `sign` is removed."""
    left = count

    def write_slowly(path: Path, fill: Callable, **options: object) -> None:
        nonlocal left
        left -= path.name.startswith(name)

        def fill_slowly(file: object) -> None:
            fill(file)
            sign.touch()
            end = time.monotonic() + PATIENCE
            while sign.exists() and time.monotonic() < end:
                time.sleep(0.01)

        write(path, fill_slowly if left == 0 and path.name.startswith(name) else fill, **options)

    return write_slowly


def noted(write: Callable, diary: Path) -> Callable:
    """Return `write`, which adds the path of each file that it has put in place to a diary."""

    def write_and_say_so(path: Path, fill: Callable, **options: object) -> None:
        write(path, fill, **options)
        with diary.open("a") as file:
            file.write(f"{path}\n")

    return write_and_say_so


if "FEMPI_FAULTS_BRAKE" in os.environ:
    name, count, sign = os.environ["FEMPI_FAULTS_BRAKE"].split(" ", 2)
    atomic.write = braked(atomic.write, name, int(count), Path(sign))
if "FEMPI_FAULTS_DIARY" in os.environ:
    atomic.write = noted(atomic.write, Path(os.environ["FEMPI_FAULTS_DIARY"]))
