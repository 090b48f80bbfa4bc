"""What a run carries from one round to the next, and the file that keeps it, so that the run can go on later."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np

from fempi import atomic
from fempi.algebra import Float32
from fempi.errors import FempiError

NAME = "checkpoint.h5"

State = Mapping[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """All that the next round depends on besides the configuration; d parameters."""

    params: Float32
    """(d,) the model after the round"""
    round: int = 0
    """rounds done"""
    rule: State = field(default_factory=dict)
    """what the aggregation rule remembers"""
    attack: State = field(default_factory=dict)
    """what the attack remembers"""
    epsilon: float = 0.0
    """privacy spent so far"""
    seconds: float = 0.0
    """wall time spent so far"""

    def save(self, folder: Path, run_id: str) -> None:
        """Write the checkpoint in place of the last one, at once or not at all."""
        facts = {"run_id": run_id, "round": self.round, "epsilon": self.epsilon, "seconds": self.seconds}

        def fill(file: h5py.File) -> None:
            file.attrs.update(facts)
            file.create_dataset("params", data=self.params)
            for group in ("rule", "attack"):
                # Numbered, because a name may hold a slash, which HDF5 takes for a group.
                for number, (name, values) in enumerate(getattr(self, group).items()):
                    file.create_dataset(f"{group}/{number}", data=values).attrs["name"] = name

        atomic.write(folder / NAME, fill, summed=True)


def load(folder: Path, run_id: str) -> Checkpoint | None:
    """Return a folder's checkpoint, None if it has none; FempiError if it is damaged, or another run's."""
    path = folder / NAME
    try:
        content = atomic.whole(path)
    except FileNotFoundError:
        return None
    if content is None:
        raise FempiError(
            f"{path} is damaged, so this run cannot go on; its rounds can be packed (fempi pack), or the run be made "
            "anew (fempi run --force)"
        )
    with h5py.File(io.BytesIO(content), "r") as file:
        if file.attrs["run_id"] != run_id:
            raise FempiError(f"{path} is of another run, so this one cannot go on")
        return Checkpoint(
            params=file["params"][...],
            round=int(file.attrs["round"]),
            rule=_state(file, "rule"),
            attack=_state(file, "attack"),
            epsilon=float(file.attrs["epsilon"]),
            seconds=float(file.attrs["seconds"]),
        )


def _state(file: h5py.File, group: str) -> State:
    stored = file.get(group, {})
    return {stored[number].attrs["name"]: stored[number][...] for number in sorted(stored, key=int)}
