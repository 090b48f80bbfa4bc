"""Reading a record, be it one packed file or the folder of a run that goes on or was cut short."""

from __future__ import annotations

import hashlib
import json
import tomllib
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import h5py
import numpy as np

from fempi import lock
from fempi.digest import SEAL, seal
from fempi.errors import FempiError
from fempi.schema import COORDINATES, FIELDS, FORMAT, FORMAT_VERSION, PHASES, VECTORS, Layout

if TYPE_CHECKING:
    import pandas

MASTER = "run.h5"
_FIRST_DIMENSION = {f.path: f.dims[0] for f in (*FIELDS, *COORDINATES)}
_TABLES = {"updates": ("round", "slot"), "rounds": ("round",), "clients": ("client",)}
_ATTRIBUTES = ("config", "config_hash", "layout", "run_id", "status")


def round_name(run_id: str, round: int) -> str:  # noqa: A002 - the field's word
    """Name of a committed round's file."""
    return f"round-{run_id}-{round:06d}.h5"


def final_name(run_id: str) -> str:
    """Name of the file that ends a run."""
    return f"final-{run_id}.h5"


def folder_of(target: Path) -> Path:
    """Where a run's rounds are kept while it goes on, given where its packed record goes."""
    return target.with_suffix(".run")


def target_of(folder: Path) -> Path:
    """Where a run's packed record goes, given its folder."""
    return folder.with_suffix(".h5") if folder.suffix == ".run" else folder.with_name(f"{folder.name}.h5")


def lock_of(folder: Path) -> Path:
    """The lock of whoever works on a run, given its folder."""
    return target_of(folder).with_suffix(".lock")


class RunFile:
    """A record opened for reading: a packed file, or the folder of a run that goes on or was cut short.

    `run["rounds/trust"]` is the h5py dataset; nothing is read before it is indexed. Use it in a `with` statement.
    Raises FempiError for what is not a record, or one of a newer format.
    """

    config: dict[str, Any]
    """the complete configuration of the run"""
    layout: Layout
    """what fixes the record's shape"""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.is_folder = self.path.is_dir()
        try:
            self.file = opened(self.path / MASTER if self.is_folder else self.path)
        except (FileNotFoundError, NotADirectoryError):
            what = f"{self.path} holds no {MASTER}" if self.is_folder else f"there is no {self.path}"
            raise FempiError(f"{what}; name a run's .h5 file or its folder") from None
        try:
            self._examine()
        except FempiError:
            self.close()
            raise
        except Exception as error:  # a damaged file gives anything
            self.close()
            raise FempiError(f"{self.path} is damaged: {error}") from error

    def _examine(self) -> None:
        facts = self.file.attrs
        version = facts.get("format_version")
        if facts.get("format") != FORMAT or not isinstance(version, (int, np.integer)):
            raise FempiError(f"{self.path} is an HDF5 file, but not a record of fempi")
        if version > FORMAT_VERSION:
            raise FempiError(
                f"{self.path} has format version {version}, newer than this fempi knows ({FORMAT_VERSION}); "
                "install a newer fempi"
            )
        self.config = tomllib.loads(facts["config"])
        self.layout = Layout(**json.loads(facts["layout"]))
        missing = [name for name in _ATTRIBUTES if not isinstance(facts.get(name), str)]
        if missing:
            raise FempiError(f"{self.path} lacks its attribute {missing[0]}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self.file.close()

    def __getitem__(self, path: str) -> h5py.Dataset:
        try:
            return self.file[path]
        except KeyError:
            reason = ""
            if path in VECTORS:
                reason = f' (it was made with record.updates = "{self.config["record"]["updates"]}")'
            raise FempiError(f"{self.path} holds no {path}{reason}") from None

    def __contains__(self, path: str) -> bool:
        return path in self.file

    @property
    def attributes(self) -> dict[str, Any]:
        """The root attributes."""
        attributes = dict(self.file.attrs)
        if self.is_folder and self.status == "complete":
            with opened(self.path / final_name(self.run_id)) as final:
                attributes["wall_seconds"] = final.attrs["wall_seconds"]
        return attributes

    @property
    def is_sealed(self) -> bool:
        """Whether all but the rounds' own values is as it was written."""
        return bool(self.file.attrs.get(SEAL) == seal(self.file))

    @property
    def digest(self) -> str:
        """SHA-256 of the checksums of all committed rounds' results and updates: equal where every bit of these is."""
        sums = hashlib.sha256()
        for path in ("checksums/results", "checksums/updates"):
            if path in self:
                sums.update(self.read(path).tobytes())
        return sums.hexdigest()

    @property
    def run_id(self) -> str:
        """What tells this run's files from those of any other."""
        return str(self.file.attrs["run_id"])

    @property
    def status(self) -> str:
        """One of complete, running (a folder that a process works on) or interrupted."""
        if not self.is_folder:
            return str(self.file.attrs["status"])
        ended = (self.path / final_name(self.run_id)).exists()
        if ended and self.rounds_completed == self.rounds:
            return "complete"
        return "running" if self.holder else "interrupted"

    @property
    def holder(self) -> str:
        """The process that works on a folder, in words; empty if there is none that this machine knows of."""
        return lock.holder(lock_of(self.path.absolute())) if self.is_folder else ""

    @property
    def rounds(self) -> int:
        """Rounds the run was to have."""
        return int(self.file["rounds/round"].shape[0])

    @cached_property
    def rounds_completed(self) -> int:
        """Rounds committed, without a gap from the first: of a run that goes on, those that were when it was asked.

        So that all that is read through one RunFile is of the same rounds.
        """
        if not self.is_folder:
            return int(self.file.attrs["rounds_completed"])
        done = 0
        while (self.path / round_name(self.run_id, done + 1)).exists():
            done += 1
        return done

    @property
    def evaluations_completed(self) -> int:
        """Evaluations in the committed rounds."""
        return int((self.file["evaluation/round"][...] <= self.rounds_completed).sum())

    def read(self, path: str) -> np.ndarray:
        """Read a small dataset of the committed rounds; booleans as such."""
        dataset = self[path]
        match _FIRST_DIMENSION.get(path):  # the file's own name of it may be damaged, over which HDF5 crashes
            case "round":
                length: int | None = self.rounds_completed
            case "evaluation":
                length = self.evaluations_completed
            case _:
                length = None
        if length == 0:  # HDF5 cannot read nothing of a virtual dataset
            dtype = bool if dataset.attrs.get("dtype") == "bool" else dataset.dtype
            return np.empty((0, *dataset.shape[1:]), dtype)
        try:
            values: np.ndarray = dataset[:length]
        except OSError as error:
            raise FempiError(f"{path} of {self.path} cannot be read: {error}") from error
        return values.astype(bool) if dataset.attrs.get("dtype") == "bool" else values

    def to_pandas(self, table: Literal["updates", "rounds", "clients"] = "updates") -> pandas.DataFrame:
        """Return all that is one number each as a table: of each update sent, each round, or each client.

        The rows are the committed ones. Rounds without a test have NaN there; timings are the longest of all ranks (s).
        Needs pandas (the `analysis` extra).
        """
        import pandas

        rounds = np.arange(1, self.rounds_completed + 1)
        columns = {f.path: self.read(f.path) for f in self.layout.fields() if f.dims == _TABLES[table]}
        if table == "clients":
            index = pandas.RangeIndex(self.layout.size("client"), name="client")
        elif table == "rounds":
            index = pandas.Index(rounds, name="round")
        else:
            slots = range(self.layout.size("slot"))
            index = pandas.MultiIndex.from_product([rounds, slots], names=["round", "slot"])
        frame = pandas.DataFrame(
            {path.rpartition("/")[2]: values.ravel() for path, values in columns.items()}, index=index
        )
        if table != "rounds":
            return frame
        tested = pandas.Index(self.read("evaluation/round"), name="round")
        tests = {
            f.path.rpartition("/")[2]: self.read(f.path) for f in self.layout.fields() if f.dims == ("evaluation",)
        }
        seconds = np.fmax.reduce(self.read("timing/seconds"), axis=1)
        timing = pandas.DataFrame(seconds, columns=[f"{phase}_seconds" for phase in PHASES], index=index)
        return frame.join(pandas.DataFrame(tests, index=tested)).join(timing)


def open(path: Path | str) -> RunFile:  # noqa: A001 - read as fempi.open
    """Open a record: a packed file, or the folder of a run; see RunFile."""
    return RunFile(path)


def opened(path: Path) -> h5py.File:
    """Open an HDF5 file for reading; FempiError if it is none that can be read."""
    try:
        # Blocks of columns are narrower than chunks, which a cache would read whole each time: four times slower.
        return h5py.File(path, "r", rdcc_nbytes=0)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise FempiError(f"{path} is not an HDF5 file that can be read: {error}") from error
