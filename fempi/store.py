"""The record of a run in HDF5: how it is written while the run goes on, and how it is read.

While it runs, a run is a folder: `round-ID-000001.h5`, ... one complete file a round, and `run.h5`, a master written
before the first round whose virtual datasets map them all; rounds not there yet read as fill values. A round is
committed when its file has its name, so that no kill can damage it. When the run ends, `pack` joins the folder into
one plain file. The schema is the same, and `RunFile` reads both.

ID is the run's own, because HDF5 looks for a missing source of a virtual dataset in the working folder too, where
another run's rounds may lie.
"""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import time
import tomllib
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import h5py
import numpy as np

from fempi import atomic
from fempi.errors import FempiError
from fempi.schema import FORMAT, FORMAT_VERSION, PER_ROUND, STATIC, VECTOR, VECTORS, Field, Layout, name_dimensions
from fempi.sketch import Sketch

MASTER = "run.h5"

Arrays = Mapping[str, np.ndarray]


def round_name(run_id: str, round: int) -> str:  # noqa: A002 - the field's word
    """Name of a committed round's file."""
    return f"round-{run_id}-{round:06d}.h5"


def final_name(run_id: str) -> str:
    """Name of the file that ends a run."""
    return f"final-{run_id}.h5"


class Recorder:
    """Writes a run's folder. Rounds are written by a thread, so that training doesn't wait for the disk."""

    def __init__(self, folder: Path, layout: Layout, attributes: Mapping[str, Any], static: Arrays) -> None:
        self.folder = folder
        self._layout = layout
        self._encode = _encoder(layout)
        self._thread = ThreadPoolExecutor(1, "fempi-recorder")
        self._last: Future[None] | None = None
        self._began = time.monotonic()
        self._id = uuid.uuid4().hex[:12]
        described = {**attributes, "run_id": self._id}
        folder.mkdir(parents=True)
        atomic.write(folder / MASTER, lambda file: _write_master(file, layout, described, static))

    def wait(self) -> None:
        """Return when all rounds handed over are committed; what went wrong in the thread is raised here."""
        if self._last is not None:
            self._last.result()
            self._last = None

    def write(self, round: int, arrays: Arrays) -> None:  # noqa: A002 - the field's word
        """Hand over a round's arrays by their paths, without the leading dimension.

        They must not change any more. Fields of an evaluation that did not take place are left out.
        """
        self.wait()
        self._last = self._thread.submit(self._commit, round, arrays)

    def finish(self, params: np.ndarray) -> None:
        """Commit the final parameters, which is what makes a run complete."""
        self.wait()

        def fill(file: h5py.File) -> None:
            file.attrs["wall_seconds"] = time.monotonic() - self._began
            file.create_dataset("final/params", data=params)

        atomic.write(self.folder / final_name(self._id), fill)
        self._thread.shutdown()

    def _commit(self, round: int, arrays: Arrays) -> None:  # noqa: A002 - the field's word
        def fill(file: h5py.File) -> None:
            for f in self._layout.fields():
                if f.path not in arrays:
                    continue
                if VECTOR not in f.dims:
                    file.create_dataset(f.path, data=arrays[f.path].astype(self._layout.dtype(f)))
                elif self._layout.keeps_vectors(round):
                    rows = np.flatnonzero(arrays["rounds/malicious"]) if f.path == "rounds/trained_update" else None
                    self._write_vectors(file, f, arrays[f.path], rows)

        try:
            atomic.write(self.folder / round_name(self._id, round), fill)
        except OSError as error:
            error.add_note(f"round {round} could not be recorded; the rounds before it are safe in {self.folder}")
            raise

    def _write_vectors(self, file: h5py.File, f: Field, values: np.ndarray, rows: np.ndarray | None) -> None:
        shape = self._layout.shape(f)[1:]
        dataset = file.create_dataset(f.path, shape, self._layout.dtype(f), chunks=_chunks(shape), fillvalue=f.fill)
        if values.ndim == 1:
            dataset[...] = self._encode(values)
        else:
            rows = np.arange(len(dataset)) if rows is None else rows
            for row, value in zip(rows, values, strict=True):
                dataset[row] = self._encode(value)


def pack(folder: Path, target: Path) -> None:
    """Join a run's folder into one plain file, put in place with one rename; the folder stays.

    A run that did not end is packed as "interrupted", with all its committed rounds. Raises FempiError if a round is
    missing before others, or a file cannot be read.
    """
    with RunFile(folder) as run:
        layout, rounds = run.layout, run.rounds_completed
        there = len(list(folder.glob(f"round-{run.run_id}-*.h5")))
        if there > rounds:
            raise FempiError(f"{folder} lacks round {rounds + 1}, but has later ones; it is not as it was left")
        attributes = {
            **run.attributes,
            "status": "complete" if run.status == "complete" else "interrupted",
            "rounds_completed": rounds,
        }

        def fill(file: h5py.File) -> None:
            file.attrs.update(attributes)
            for f in layout.fields():
                dataset = _create(file, layout, f)
                if f in STATIC:
                    dataset[...] = run[f.path][...]
            for round_ in range(1, rounds + 1):
                with _opened(folder / round_name(run.run_id, round_)) as source:
                    _copy_round(source, file, layout, round_)
            if run.status == "complete":
                file["final/params"][...] = run["final/params"][...]
            name_dimensions(file, layout)

        atomic.write(target, fill)


def is_run_folder(folder: Path) -> bool:
    """Whether a folder holds nothing but what a Recorder writes, finished or not."""
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else ["a file"]
    return all(re.fullmatch(r"run\.h5|final-\w+\.h5|round-\w+-\d+\.h5|\..*\.tmp", name) for name in names)


def remove(folder: Path) -> None:
    """Delete a run's folder; the master goes first, so that half a folder is never taken for a run."""
    (folder / MASTER).unlink(missing_ok=True)
    shutil.rmtree(folder)


class RunFile:
    """A record opened for reading: a packed file, or the folder of a run that goes on or was cut short.

    `file["rounds/trust"]` is the h5py dataset; nothing is read before it is indexed. Use it in a `with` statement.
    Raises FempiError for what is not a record, or one of a newer format.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.is_folder = self.path.is_dir()
        try:
            self._file = _opened(self.path / MASTER if self.is_folder else self.path)
        except FileNotFoundError:
            what = f"{self.path} holds no {MASTER}" if self.is_folder else f"there is no {self.path}"
            raise FempiError(f"{what}; name a run's .h5 file or its folder") from None
        version = self._file.attrs.get("format_version")
        if self._file.attrs.get("format") != FORMAT or not isinstance(version, (int, np.integer)):
            self.close()
            raise FempiError(f"{self.path} is an HDF5 file, but not a record of fempi")
        if version > FORMAT_VERSION:
            self.close()
            raise FempiError(
                f"{self.path} has format version {version}, newer than this fempi knows ({FORMAT_VERSION}); "
                "install a newer fempi"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __getitem__(self, path: str) -> h5py.Dataset:
        try:
            return self._file[path]
        except KeyError:
            reason = ""
            if path in VECTORS:
                reason = f' (it was made with record.updates = "{self.config["record"]["updates"]}")'
            raise FempiError(f"{self.path} holds no {path}{reason}") from None

    def __contains__(self, path: str) -> bool:
        return path in self._file

    @property
    def attributes(self) -> dict[str, Any]:
        """The root attributes."""
        attributes = dict(self._file.attrs)
        if self.is_folder and self.status == "complete":
            with _opened(self.path / final_name(self.run_id)) as final:
                attributes.update(final.attrs)
        return attributes

    @property
    def run_id(self) -> str:
        """What tells this run's files from those of any other."""
        return str(self._file.attrs["run_id"])

    @property
    def config(self) -> dict[str, Any]:
        """The complete configuration of the run."""
        return tomllib.loads(self._file.attrs["config"])

    @property
    def status(self) -> str:
        """One of running (a folder that lacks rounds or the final parameters), complete or interrupted."""
        ended = self.is_folder and (self.path / final_name(self.run_id)).exists()
        return "complete" if ended and self.rounds_completed == self.rounds else str(self._file.attrs["status"])

    @property
    def rounds(self) -> int:
        """Rounds the run was to have."""
        return int(self._file["rounds/round"].shape[0])

    @property
    def rounds_completed(self) -> int:
        """Rounds committed, without a gap from the first."""
        if not self.is_folder:
            return int(self._file.attrs["rounds_completed"])
        done = 0
        while (self.path / round_name(self.run_id, done + 1)).exists():
            done += 1
        return done

    @property
    def evaluations_completed(self) -> int:
        """Evaluations in the committed rounds."""
        return int((self._file["evaluation/round"][...] <= self.rounds_completed).sum())

    @property
    def layout(self) -> Layout:
        """What fixes the record's shape."""
        return Layout(**json.loads(self._file.attrs["layout"]))

    def read(self, path: str) -> np.ndarray:
        """Read a small dataset of the committed rounds; booleans as such."""
        dataset = self[path]
        match dataset.dims[0].label:
            case "round":
                length: int | None = self.rounds_completed
            case "evaluation":
                length = self.evaluations_completed
            case _:
                length = None
        try:
            values: np.ndarray = dataset[:length]
        except OSError as error:
            raise FempiError(f"{path} of {self.path} cannot be read: {error}") from error
        return values.astype(bool) if dataset.attrs.get("dtype") == "bool" else values


def _opened(path: Path) -> h5py.File:
    try:
        return h5py.File(path, "r")
    except FileNotFoundError:
        raise
    except OSError as error:
        raise FempiError(f"{path} is not an HDF5 file that can be read: {error}") from error


def _encoder(layout: Layout) -> Callable[[np.ndarray], np.ndarray]:
    if layout.updates == "sketch":
        return Sketch(layout.seed, layout.size("param"), layout.sketch_size)
    if layout.updates == "float16":

        def to_half(vector: np.ndarray) -> np.ndarray:
            with np.errstate(over="ignore"):  # beyond 65504 a half is Inf; norms and Gram keep the size
                return vector.astype(np.float16)

        return to_half
    return lambda vector: vector


def _chunks(shape: tuple[int, ...]) -> tuple[int, ...]:
    """One row a chunk, or a divisor of it: a chunk that doesn't divide the row would be padded on disk."""
    length, most, least = shape[-1], 1 << 18, 1 << 12
    divisor = next((c for c in range(min(length, most), least, -1) if length % c == 0), length)
    return (*(1 for _ in shape[:-1]), divisor)


def _create(file: h5py.File, layout: Layout, f: Field) -> h5py.Dataset:
    shape, dtype = layout.shape(f), layout.dtype(f)
    if f.dtype == "str":
        return file.create_dataset(f.path, shape, dtype)
    # Chunks that nobody writes take no space: updates of honest clients in trained_update, rounds not kept.
    chunks = _chunks(shape) if VECTOR in f.dims else None
    return file.create_dataset(f.path, shape, dtype, chunks=chunks, fillvalue=dtype.type(f.fill))


def _copy_round(source: h5py.File, target: h5py.File, layout: Layout, round_: int) -> None:
    for f in PER_ROUND:
        if f.path not in source:
            continue
        place = round_ - 1 if f.dims[0] == "round" else layout.evaluated.index(round_)
        if f.path in ("rounds/update", "rounds/trained_update"):
            malicious_only = f.path == "rounds/trained_update"
            for slot, malicious in enumerate(source["rounds/malicious"][...]):
                if malicious or not malicious_only:
                    target[f.path][place, slot] = source[f.path][slot]
        else:
            target[f.path][place] = source[f.path][...]


def _write_master(file: h5py.File, layout: Layout, attributes: Mapping[str, Any], static: Arrays) -> None:
    described = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        **attributes,
        "status": "running",
        "layout": json.dumps(dataclasses.asdict(layout)),
    }
    file.attrs.update(described)
    for f in layout.fields():
        if f in STATIC:
            _create(file, layout, f)[...] = static[f.path]
            continue
        virtual = h5py.VirtualLayout(layout.shape(f), layout.dtype(f))
        for place, name in _sources(layout, f, attributes["run_id"]):
            virtual[place] = h5py.VirtualSource(name, f.path, virtual.shape if place is ... else virtual.shape[1:])
        file.create_virtual_dataset(f.path, virtual, fillvalue=layout.dtype(f).type(f.fill))
    name_dimensions(file, layout)


def _sources(layout: Layout, f: Field, run_id: str) -> Iterator[tuple[Any, str]]:
    """Yield (place in the virtual dataset, file that holds it)."""
    if f.path == "final/params":
        yield ..., final_name(run_id)
        return
    rounds = range(1, layout.sizes["round"] + 1) if f.dims[0] == "round" else layout.evaluated
    for place, round_ in enumerate(rounds):
        if VECTOR not in f.dims or layout.keeps_vectors(round_):
            yield place, round_name(run_id, round_)
