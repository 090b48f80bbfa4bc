"""A user's folder with the scripts, a configuration and a brake, and what is the same in every record of it."""

import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
from cluster import REPOSITORY, SOON, wait_for
from records import round_file

HERE = Path(__file__).parent
SEEDS = (1, 2, 3, 4)
GRID = f"\n[grid]\nseed = {list(SEEDS)}\n"


class Field:
    """Where a user submits from."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.brake = folder / "brake"
        (folder / "jobs").symlink_to(REPOSITORY / "jobs")
        shutil.copy(HERE / "brake.py", folder)
        text = (HERE / "experiment.toml").read_text()
        (folder / "one.toml").write_text(text)
        (folder / "four.toml").write_text(text + GRID)
        self.records = folder / "results/x"
        self.run = self.records / "x.run"
        self.record = self.records / "x.h5"

    def pull(self, seconds: float | str = 0.1) -> None:
        """Let every client take some seconds."""
        new = self.brake.with_suffix(".new")
        new.write_text(str(seconds))
        new.replace(self.brake)

    def release(self) -> None:
        """Let them go on at full speed."""
        self.brake.unlink()

    def wait_for_round(self, number: int, running: Callable[[], object] = lambda: True) -> None:
        """Wait until a round of one.toml is committed; AssertionError if what makes it does not run any more."""

        def committed() -> bool:
            assert running()
            return round_file(self.run, number).exists()

        wait_for(committed, SOON, f"no round {number}")


def bits(record: Path) -> dict[str, bytes]:
    """Everything of a packed record that does not depend on who made it, and when."""
    found: dict[str, bytes] = {}
    with h5py.File(record) as file:
        for group in ("rounds", "evaluation", "final"):
            for name, dataset in file[group].items():
                if (group, name) != ("rounds", "rank"):
                    found[f"{group}/{name}"] = np.ascontiguousarray(dataset[...]).tobytes()
    assert {"rounds/update", "rounds/gram", "evaluation/confusion", "final/params"} <= found.keys()
    return found


def differences(record: Path, expected: dict[str, bytes]) -> list[str]:
    """Names of the datasets in which a record is not as expected; none if it is."""
    made = bits(record)
    return sorted(name for name in made.keys() | expected.keys() if made.get(name) != expected.get(name))
