"""The record of a run in HDF5: how it is written while the run goes on, and packed when it ends.

While it runs, a run is a folder: `round-ID-000001.h5`, ... one complete file a round, and `run.h5`, a master written
before the first round whose virtual datasets map them all; rounds not there yet read as fill values. A round is
committed when its file has its name, so that no kill can damage it; the checkpoint beside it, replaced after each
round, lets a run that was cut short go on. When the run ends, `pack` joins the folder into one plain file. The schema
is the same, and `RunFile` reads both.

ID is the run's own, because HDF5 looks for a missing source of a virtual dataset in the working folder too, where
another run's rounds may lie.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from fempi import atomic, checkpoint
from fempi.checkpoint import Checkpoint
from fempi.digest import SEAL, RoundSums, seal
from fempi.errors import FempiError
from fempi.runfile import MASTER, RunFile, final_name, opened, round_name
from fempi.schema import (
    CHECKSUMS,
    FORMAT,
    FORMAT_VERSION,
    LAUNCH,
    PER_ROUND,
    STATIC,
    VECTOR,
    Field,
    Layout,
    name_dimensions,
)
from fempi.sketch import Sketch

Arrays = Mapping[str, Any]
"""By path, arrays; rows of updates may come from an iterator"""


@dataclass(frozen=True, kw_only=True)
class Description:
    """What a record says beside its rounds."""

    layout: Layout
    attributes: Mapping[str, Any]
    static: Arrays
    """by path, the datasets that don't change in a run"""


class Recorder:
    """Writes a run's folder. Rounds are written by a thread, so that training doesn't wait for the disk."""

    def __init__(
        self, folder: Path, description: Description, *, checkpoint_every: int = 1, seconds: float = 0
    ) -> None:
        """Write the folder's master, for a new run or one that goes on after `seconds` of wall time (see `reopen`)."""
        self.folder = folder
        self.software = list(description.static["launches/software"])
        self._layout = description.layout
        self._encode = _encoder(self._layout)
        self._thread = ThreadPoolExecutor(1, "fempi-recorder")
        self._last: Future[None] | None = None
        self._every = checkpoint_every
        self._unwritten: Checkpoint | None = None
        self._began = time.monotonic() - seconds
        self._id = description.attributes.get("run_id") or uuid.uuid4().hex[:12]
        attributes = {**description.attributes, "run_id": self._id}
        if "run_id" not in description.attributes:
            folder.mkdir(parents=True)
        atomic.write(
            folder / MASTER,
            lambda file: _write_master(file, self._layout, attributes, description.static),
            summed=True,
        )

    def wait(self) -> None:
        """Return when all rounds handed over are committed; what went wrong in the thread is raised here."""
        if self._last is not None:
            last, self._last = self._last, None
            last.result()

    def write(
        self,
        round: int,  # noqa: A002 - the field's word
        arrays: Arrays,
        state: Checkpoint | None = None,
        *,
        wait: bool = False,
    ) -> None:
        """Hand over a round's arrays by their paths, without the leading dimension, and what the next one depends on.

        They must not change any more. Fields of an evaluation that did not take place are left out. With `wait` the
        round is committed on return, and by this thread: the only one that may ask other ranks for their part of a row.
        """
        self.wait()
        if state is not None:
            state = dataclasses.replace(state, seconds=time.monotonic() - self._began)
        if wait:
            self._commit(round, arrays, state)
        else:
            self._last = self._thread.submit(self._commit, round, arrays, state)

    def keep(self) -> None:
        """Return when the last round handed over is committed, and a checkpoint too, whatever its turn."""
        self.wait()
        if self._unwritten is not None:
            self._unwritten.save(self.folder, self._id)
            self._unwritten = None

    def finish(self, params: np.ndarray) -> None:
        """Commit the final parameters, which is what makes a run complete."""
        self.wait()

        def fill(file: h5py.File) -> None:
            file.attrs["wall_seconds"] = time.monotonic() - self._began
            file.create_dataset("final/params", data=params)
            file.attrs[SEAL] = seal(file)

        atomic.write(self.folder / final_name(self._id), fill)
        self._thread.shutdown()

    def _commit(self, round: int, arrays: Arrays, state: Checkpoint | None) -> None:  # noqa: A002 - the field's word
        def fill(file: h5py.File) -> None:
            sums = RoundSums(round)
            for f in self._layout.fields():
                if f.path not in arrays:
                    continue
                if VECTOR not in f.dims:
                    values = arrays[f.path].astype(self._layout.dtype(f))
                    file.create_dataset(f.path, data=values)
                    sums.add(f, values)
                elif self._layout.keeps_vectors(round):
                    rows = np.flatnonzero(arrays["rounds/malicious"]) if f.path == "rounds/trained_update" else None
                    self._write_vectors(file, f, arrays[f.path], rows, sums)
            for path, digest in sums.digests().items():
                file.create_dataset(path, data=digest)

        try:
            atomic.write(self.folder / round_name(self._id, round), fill)
            self._unwritten = state
            if state is not None and round % self._every == 0:
                state.save(self.folder, self._id)
                self._unwritten = None
        except OSError as error:
            error.add_note(f"round {round} could not be recorded; the rounds before it are safe in {self.folder}")
            raise

    def _write_vectors(self, file: h5py.File, f: Field, values: Any, rows: np.ndarray | None, sums: RoundSums) -> None:
        shape = self._layout.shape(f)[1:]
        dataset = file.create_dataset(f.path, shape, self._layout.dtype(f), chunks=_chunks(shape), fillvalue=f.fill)
        if len(shape) == 1:
            encoded = self._encode(values)
            dataset[...] = encoded
            sums.add(f, encoded)
        else:
            rows = np.arange(len(dataset)) if rows is None else rows
            for row, value in zip(rows, values, strict=True):
                encoded = self._encode(value)
                dataset[row] = encoded
                sums.add(f, encoded)


def reopen(folder: Path, launch: Description) -> tuple[Description, Checkpoint | None]:
    """Return what a folder's master is to say when `launch` goes on with its run, and from where.

    Rounds after the checkpoint are removed, and will be made again; without a checkpoint, which is None then, the whole
    folder is. FempiError if the run is not that of `launch`, or cannot go on.
    """
    with open_whole(folder) as run:
        before = run.layout
        attributes = {name: value for name, value in run.attributes.items() if name not in _MASTERS_OWN}
        static = {f.path: _array(run[f.path]) for f in before.fields() if f in STATIC}
    for name, what in (("config_hash", "configuration"), ("problem", "data, model or clients")):
        if attributes[name] != launch.attributes[name]:
            raise FempiError(f"{folder} is of a run with another {what}; it cannot go on with this one")
    state = checkpoint.load(folder, attributes["run_id"])
    if state is None:
        remove(folder)
        return launch, None
    there = rounds_there(folder, attributes["run_id"])
    lacking = sorted(set(range(1, state.round + 1)) - there)
    if lacking:
        raise FempiError(f"{folder} lacks round {lacking[0]}, but its checkpoint is of round {state.round}")
    for round_ in sorted(there, reverse=True):
        if round_ > state.round:
            (folder / round_name(attributes["run_id"], round_)).unlink()
    for leftover in folder.glob(".*.tmp"):
        leftover.unlink()

    if state.round == before.sizes["round"]:
        return Description(layout=before, attributes=attributes, static=static), state
    (_, ranks), first = launch.layout.launches[0], state.round + 1
    past = [[begun, size] for begun, size in before.launches if begun < first]
    layout = dataclasses.replace(before, launches=[*past, [first, ranks]])
    for f in LAUNCH:
        rows = [*static[f.path][: len(past)], launch.static[f.path][0]]
        if "rank" in f.dims:  # of which each launch has its own number
            width, fill = layout.size("rank"), "" if f.dtype == "str" else f.fill
            rows = [[*row[:width], *[fill] * (width - len(row))] for row in rows]
        static[f.path] = np.array(rows, object if f.dtype == "str" else f.dtype)
    static["launches/first_round"][-1] = first
    return Description(layout=layout, attributes=attributes, static=static), state


def open_whole(folder: Path) -> RunFile:
    """Open a run's folder to go on with it; FempiError if its master is damaged, before HDF5 sees that."""
    if (folder / MASTER).exists() and not atomic.is_whole(folder / MASTER):
        raise FempiError(f"{folder / MASTER} is damaged, so this run cannot go on; make it anew (fempi run --force)")
    return RunFile(folder)


def open_record(
    folder: Path, launch: Description, state: Checkpoint, checkpoint_every: int
) -> tuple[Recorder, Checkpoint]:
    """Return the recorder of a run and from where it goes on: from `state` if it is new, else from its checkpoint."""
    description, found = launch, None
    if (folder / MASTER).exists():
        description, found = reopen(folder, launch)
    elif folder.exists():
        remove(folder)  # the rest of a run that was being removed
    state = found or state
    return Recorder(folder, description, checkpoint_every=checkpoint_every, seconds=state.seconds), state


def committed(folder: Path, run_id: str) -> tuple[int, int | None]:
    """Return how many rounds have a file, without a gap from the first, and the first that has one after a gap."""
    there = rounds_there(folder, run_id)  # one look at a folder that may be written to
    done = next(round_ for round_ in itertools.count() if round_ + 1 not in there)
    return done, min((round_ for round_ in there if round_ > done), default=None)


def rounds_there(folder: Path, run_id: str) -> set[int]:
    """Return the numbers of the rounds that have a file."""
    names = (re.fullmatch(rf"round-{run_id}-(\d+)\.h5", path.name) for path in folder.iterdir())
    return {int(name[1]) for name in names if name}


_MASTERS_OWN = ("format", "format_version", "status", "layout", SEAL)
"""Attributes that writing a master adds"""


def _array(dataset: h5py.Dataset) -> np.ndarray:
    values: np.ndarray = dataset.asstr()[...] if dataset.dtype == object else dataset[...]
    return values


def pack(folder: Path, target: Path) -> None:
    """Join a run's folder into one plain file, put in place with one rename; the folder stays.

    A run that did not end is packed as "interrupted", with all its committed rounds. Raises FempiError if a round is
    missing before others, or a file cannot be read or no longer holds what was written.
    """
    with RunFile(folder) as run:
        layout = run.layout
        rounds, later = committed(folder, run.run_id)
        if later:
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
                path = folder / round_name(run.run_id, round_)
                with opened(path) as source:
                    try:
                        _copy_round(source, file, layout, round_)
                    except (OSError, KeyError, ValueError, TypeError) as error:
                        raise FempiError(f"{path} is damaged: {error}") from error
            if run.status == "complete":
                file["final/params"][...] = run["final/params"][...]
            name_dimensions(file, layout)
            file.attrs[SEAL] = seal(file)

        atomic.write(target, fill)


def is_run_folder(folder: Path) -> bool:
    """Whether a folder holds nothing but what a Recorder writes, finished or not."""
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else ["a file"]
    return all(
        re.fullmatch(r"run\.h5|checkpoint\.h5|final-\w+\.h5|round-\w+-\d+\.h5|\..*\.tmp|\.nfs\w+", name)
        for name in names
    )


def size(folder: Path) -> int:
    """Bytes that a folder's files have, or a file; 0 if there is none."""
    total = 0
    with contextlib.suppress(FileNotFoundError):  # files of a run that goes on come and go
        for file in folder.iterdir() if folder.is_dir() else [folder]:
            with contextlib.suppress(FileNotFoundError):
                total += file.stat().st_size
    return total


def remove(folder: Path) -> None:
    """Delete a run's folder; the master goes first, so that half a folder is never taken for a run."""
    (folder / MASTER).unlink(missing_ok=True)
    shutil.rmtree(folder)


def _encoder(layout: Layout) -> Callable[[np.ndarray], np.ndarray]:
    if layout.updates == "sketch":
        return Sketch(layout.seed, layout.size("param"), layout.sketch_size)
    if layout.updates == "float16":
        return to_half
    return lambda vector: vector


def to_half(vector: np.ndarray) -> np.ndarray:
    """Round to the nearest halves; what exceeds 65504 becomes Inf, but norms and Gram matrices keep its size."""
    # numpy raises a flag for each entry that it rounds to a subnormal half, most entries of an update of a large model,
    # and takes 40 times as long. So these get on the halves' grid first: beside 0.75, floats are 2**-24 apart.
    with np.errstate(over="ignore", invalid="ignore"):
        small = np.copysign((vector + np.float32(0.75)) - np.float32(0.75), vector)
        return np.where(np.abs(vector) < 2.0**-14, small, vector).astype(np.float16)


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
    """Copy a round's file to its places in the packed one; FempiError if its sums are not those of what is copied."""
    sums = RoundSums(round_)
    for f in PER_ROUND:
        if f.path not in source or f in CHECKSUMS:
            continue
        place = round_ - 1 if f.dims[0] == "round" else layout.evaluated.index(round_)
        for inner, values in pieces(source, f):
            target[f.path][(place, *inner, *(slice(length) for length in values.shape))] = values
            sums.add(f, values)
    for path, digest in sums.digests().items():
        if path not in target:
            continue
        if source[path][...].tobytes() != digest.tobytes():
            raise ValueError("its checksum is wrong")
        target[path][round_ - 1] = digest


def pieces(source: h5py.File, f: Field) -> Iterator[tuple[tuple[int, ...], np.ndarray]]:
    """Yield a field of a round's file in the parts that were written: whole, or a row of updates at a time."""
    if f.path not in ("rounds/update", "rounds/trained_update"):
        yield (), source[f.path][...]
        return
    for slot, malicious in enumerate(source["rounds/malicious"][...]):
        if malicious or f.path == "rounds/update":
            yield (slot,), source[f.path][slot]


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
        for place, name, shape in _sources(layout, f, attributes["run_id"]):
            virtual[(*place, *(slice(length) for length in shape))] = h5py.VirtualSource(name, f.path, shape)
        file.create_virtual_dataset(f.path, virtual, fillvalue=layout.dtype(f).type(f.fill))
    name_dimensions(file, layout)
    file.attrs[SEAL] = seal(file)


def _sources(layout: Layout, f: Field, run_id: str) -> Iterator[tuple[tuple[int, ...], str, tuple[int, ...]]]:
    """Yield (place in the virtual dataset, file that holds it, shape it has there)."""
    if f.path == "final/params":
        yield (), final_name(run_id), layout.shape(f)
        return
    rounds = range(1, layout.sizes["round"] + 1) if f.dims[0] == "round" else layout.evaluated
    for place, round_ in enumerate(rounds):
        if VECTOR not in f.dims or layout.keeps_vectors(round_):
            # A round made by fewer ranks than another fills the places of its own.
            inner = (layout.ranks(round_) if dim == "rank" else layout.size(dim) for dim in f.dims[1:])
            yield (place,), round_name(run_id, round_), tuple(inner)
