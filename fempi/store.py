"""The record of a run in HDF5: what it holds, how it is written while the run goes on, how it is read.

While it runs, a run is a folder: `round-000001.h5`, ... one complete file a round, and `run.h5`, a master written
before the first round whose virtual datasets map them all; rounds not there yet read as fill values. A round is
committed when its file has its name, so that no kill can damage it. When the run ends, `pack` joins the folder into
one plain file. The schema is the same, and `RunFile` reads both.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import tomllib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Self

import h5py
import numpy as np

from fempi.errors import FempiError
from fempi.sketch import Sketch

FORMAT = "fempi"
FORMAT_VERSION = 1
MASTER = "run.h5"
FINAL = "final.h5"
PHASES = ("broadcast", "train", "gather", "attack", "aggregate", "evaluate", "record")

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Field:
    """One dataset of the schema; `dims` names its dimensions, the first being the one that grows with the run."""

    path: str
    dims: tuple[str, ...]
    dtype: str
    meaning: str
    fill: float = np.nan
    units: str = ""


VECTOR = "vector"
"""Stands for the last dimension of an update: `param`, or `sketch` where sketches are kept."""

FIELDS = (
    Field("clients/malicious", ("client",), "bool", "whether the client is malicious (the truth)", 0),
    Field("clients/num_examples", ("client",), "i8", "examples the client holds", 0),
    Field("clients/label_counts", ("client", "class"), "i8", "examples the client holds of each class", 0),
    Field("layers/name", ("layer",), "str", "name of the parameter tensor"),
    Field("layers/shape", ("layer",), "str", "its shape, as a JSON list"),
    Field("layers/offset", ("layer",), "i8", "where it begins in the flat vector", -1),
    Field("rounds/client", ("round", "slot"), "i4", "client in each slot of the cohort", -1),
    Field("rounds/malicious", ("round", "slot"), "bool", "whether it is malicious (the truth)", 0),
    Field("rounds/rank", ("round", "slot"), "i4", "MPI rank that trained it", -1),
    Field("rounds/num_examples", ("round", "slot"), "i8", "examples it says it trained on", -1),
    Field("rounds/train_loss", ("round", "slot"), "f8", "mean cross-entropy over its local steps", units="nat"),
    Field("rounds/norm", ("round", "slot"), "f8", "Euclidean norm of the update as sent; NaN if not finite"),
    Field("rounds/trust", ("round", "slot"), "f8", "the rule's own score, higher = more trusted; NaN if not finite"),
    Field("rounds/weight", ("round", "slot"), "f8", "its share of the aggregate; a round's shares sum to 1 or 0"),
    Field("rounds/scale", ("round", "slot"), "f8", "factor the rule rescaled it by before taking its share"),
    Field("rounds/selected", ("round", "slot"), "bool", "whether the rule let it in", 0),
    Field("rounds/finite", ("round", "slot"), "bool", "whether the update as sent holds neither NaN nor Inf", 0),
    Field(
        "rounds/gram",
        ("round", "row", "column"),
        "f8",
        "inner products of the updates as sent; last row and column: the reference update, NaN where there is none",
    ),
    Field("rounds/update", ("round", "slot", VECTOR), "f4", "update as sent: local minus global parameters"),
    Field("rounds/trained_update", ("round", "slot", VECTOR), "f4", "update as trained, of malicious clients only"),
    Field("rounds/reference", ("round", VECTOR), "f4", "the server's own update, from its root data"),
    Field("rounds/aggregate", ("round", VECTOR), "f4", "what was added to the model"),
    Field("evaluation/loss", ("evaluation",), "f8", "mean cross-entropy on the test set", units="nat"),
    Field("evaluation/accuracy", ("evaluation",), "f8", "share of the test set classified correctly"),
    Field("evaluation/precision", ("evaluation",), "f8", "macro average; 0 for a class never predicted"),
    Field("evaluation/recall", ("evaluation",), "f8", "macro average"),
    Field("evaluation/f1", ("evaluation",), "f8", "macro average"),
    Field("evaluation/confusion", ("evaluation", "actual", "predicted"), "i8", "counts on the test set", -1),
    Field("evaluation/attack_success", ("evaluation",), "f8", "the attacker's own measure; NaN if it has none"),
    Field("timing/seconds", ("round", "rank", "phase"), "f8", "time in each phase, waiting included", units="s"),
    Field("final/params", ("param",), "f4", "parameters after the last round"),
)
_VECTORS = [f.path for f in FIELDS if VECTOR in f.dims]
_PER_ROUND = [f for f in FIELDS if f.dims[0] in ("round", "evaluation")]
_STATIC = [f for f in FIELDS if f.path.startswith(("clients/", "layers/"))]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """All that fixes the shape of a record."""

    sizes: Mapping[str, int]
    """of the dimensions: round, slot, param, client, class, layer, rank"""
    evaluate_every: int = 1
    updates: str = "full"
    """full, float16, sketch or none"""
    every: int = 1
    sketch_size: int = 1024
    has_reference: bool = True
    seed: int = 0

    @property
    def evaluated(self) -> list[int]:
        """Rounds, counted from 1, after which the model is tested: every k-th, and the last."""
        last = self.sizes["round"]
        return [r for r in range(1, last + 1) if r % self.evaluate_every == 0 or r == last]

    @property
    def vector(self) -> str:
        """The dimension of a stored update."""
        return "sketch" if self.updates == "sketch" else "param"

    def fields(self) -> list[Field]:
        """Return the fields that a record of this layout has."""
        absent = set()
        if self.updates == "none":
            absent.update(_VECTORS)
        if not self.has_reference:
            absent.add("rounds/reference")
        return [f for f in FIELDS if f.path not in absent]

    def size(self, dim: str) -> int:
        """Length of a dimension."""
        match dim:
            case "row" | "column":
                return self.sizes["slot"] + 1  # the reference comes last
            case "actual" | "predicted":
                return self.sizes["class"]
            case "evaluation":
                return len(self.evaluated)
            case "phase":
                return len(PHASES)
            case "vector":
                return self.size(self.vector)
            case "sketch":
                return self.sketch_size
            case _:
                return self.sizes[dim]

    def shape(self, f: Field) -> tuple[int, ...]:
        """Shape of a field over the whole run."""
        return tuple(self.size(dim) for dim in f.dims)

    def dtype(self, f: Field) -> np.dtype[Any]:
        """Stored type of a field; booleans are int8, as netCDF has none."""
        if VECTOR in f.dims and self.updates == "float16":
            return np.dtype("f2")
        stored: np.dtype[Any] = np.dtype({"str": h5py.string_dtype(), "bool": "i1"}.get(f.dtype, f.dtype))
        return stored

    def keeps_vectors(self, round: int) -> bool:  # noqa: A002 - the field's word
        """Whether a round's updates are kept."""
        return self.updates != "none" and round % self.every == 0

    def nbytes(self, malicious_rows: int) -> int:
        """Bytes of data in the packed file, given how many rows of the kept rounds are malicious."""
        total = _METADATA
        kept = sum(self.keeps_vectors(r) for r in range(1, self.sizes["round"] + 1))
        for f in self.fields():
            entries = prod(self.shape(f))
            if VECTOR in f.dims:
                entries = entries // self.sizes["round"] * kept
            if f.path == "rounds/trained_update":
                entries = malicious_rows * self.size(VECTOR)
            total += entries * self.dtype(f).itemsize
        return total


_METADATA = 43_000
"""Bytes that any packed file needs for names, attributes and dimensions."""


def round_file(folder: Path, round: int) -> Path:  # noqa: A002 - the field's word
    """Name of a committed round's file."""
    return folder / f"round-{round:06d}.h5"


class Recorder:
    """Writes a run's folder. Rounds are written by a thread, so that training doesn't wait for the disk."""

    def __init__(self, folder: Path, layout: Layout, attributes: Mapping[str, Any], static: Arrays) -> None:
        self.folder = folder
        self._layout = layout
        self._encode = _encoder(layout)
        self._thread = ThreadPoolExecutor(1, "fempi-recorder")
        self._last: Future[None] | None = None
        folder.mkdir(parents=True)
        _replace(folder / MASTER, lambda file: _write_master(file, layout, attributes, static))

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
        _replace(self.folder / FINAL, lambda file: file.create_dataset("final/params", data=params))
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
            _replace(round_file(self.folder, round), fill)
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

    A run that did not end is packed as "interrupted", with all its committed rounds.
    """
    with RunFile(folder) as run:
        layout, rounds = run.layout, run.rounds_completed
        attributes = {
            **run.attributes,
            "status": "complete" if run.status == "complete" else "interrupted",
            "rounds_completed": rounds,
        }

        def fill(file: h5py.File) -> None:
            _write_attributes(file, attributes)
            for f in layout.fields():
                dataset = _create(file, layout, f)
                if f in _STATIC:
                    dataset[...] = run[f.path][...]
            for round_ in range(1, rounds + 1):
                with h5py.File(round_file(folder, round_)) as source:
                    _copy_round(source, file, layout, round_)
            if run.status == "complete":
                file["final/params"][...] = run["final/params"][...]
            _attach_dimensions(file, layout)

        _replace(target, fill)


def is_run_folder(folder: Path) -> bool:
    """Whether a folder holds nothing but what a Recorder writes, finished or not."""
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else ["a file"]
    return all(re.fullmatch(r"run\.h5|final\.h5|round-\d+\.h5|\..*\.tmp", name) for name in names)


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
            self._file = h5py.File(self.path / MASTER if self.is_folder else self.path, "r")
        except FileNotFoundError:
            what = f"{self.path} holds no {MASTER}" if self.is_folder else f"there is no {self.path}"
            raise FempiError(f"{what}; name a run's .h5 file or its folder") from None
        except OSError as error:
            raise FempiError(f"{self.path} is not an HDF5 file that can be read: {error}") from error
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
            if path in _VECTORS:
                reason = f' (it was made with record.updates = "{self.config["record"]["updates"]}")'
            raise FempiError(f"{self.path} holds no {path}{reason}") from None

    def __contains__(self, path: str) -> bool:
        return path in self._file

    @property
    def attributes(self) -> dict[str, Any]:
        """The root attributes."""
        return dict(self._file.attrs)

    @property
    def config(self) -> dict[str, Any]:
        """The complete configuration of the run."""
        return tomllib.loads(self._file.attrs["config"])

    @property
    def status(self) -> str:
        """One of running (a folder without its final parameters), complete or interrupted."""
        if self.is_folder and (self.path / FINAL).exists():
            return "complete"
        return str(self._file.attrs["status"])

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
        while round_file(self.path, done + 1).exists():
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
        lengths = {"round": self.rounds_completed, "evaluation": self.evaluations_completed}
        dataset = self[path]
        values: np.ndarray = dataset[: lengths.get(dataset.dims[0].label)]
        return values.astype(bool) if dataset.attrs.get("dtype") == "bool" else values


class _Disk(io.FileIO):
    """A file that goes on after an error and keeps the first: HDF5 itself may crash when a write fails."""

    error: OSError | None = None

    def write(self, data: Any) -> int:
        """Write all of `data`, or remember why not."""
        view = memoryview(data).cast("B")
        try:
            written = 0
            while written < len(view):
                written += super().write(view[written:]) or 0
        except OSError as error:
            self.error = self.error or error
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        """Set the length, or remember why not."""
        try:
            return super().truncate(size)
        except OSError as error:
            self.error = self.error or error
            return size or 0


def _replace(path: Path, fill: Callable[[h5py.File], Any]) -> None:
    """Write an HDF5 file that appears under its name complete and on disk, or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with _Disk(temporary, "w+") as disk:
            with h5py.File(disk, "w") as file:
                fill(file)
            if disk.error is not None:
                raise disk.error
            os.fsync(disk.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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
    for f in _PER_ROUND:
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
        "layout": json.dumps({**vars(layout), "sizes": dict(layout.sizes)}),
    }
    _write_attributes(file, described)
    for f in layout.fields():
        if f in _STATIC:
            _create(file, layout, f)[...] = static[f.path]
            continue
        virtual = h5py.VirtualLayout(layout.shape(f), layout.dtype(f))
        for place, name in _sources(layout, f):
            virtual[place] = h5py.VirtualSource(name, f.path, virtual.shape if place is ... else virtual.shape[1:])
        file.create_virtual_dataset(f.path, virtual, fillvalue=layout.dtype(f).type(f.fill))
    _attach_dimensions(file, layout)


def _sources(layout: Layout, f: Field) -> Iterator[tuple[Any, str]]:
    """Yield (place in the virtual dataset, file that holds it)."""
    if f.path == "final/params":
        yield ..., FINAL
        return
    rounds = range(1, layout.sizes["round"] + 1) if f.dims[0] == "round" else layout.evaluated
    for place, round_ in enumerate(rounds):
        if VECTOR not in f.dims or layout.keeps_vectors(round_):
            yield place, round_file(Path(), round_).name


def _write_attributes(file: h5py.File, attributes: Mapping[str, Any]) -> None:
    for key, value in attributes.items():
        is_text = isinstance(value, (list, tuple)) and value and isinstance(value[0], str)
        file.attrs[key] = np.array(value, dtype=h5py.string_dtype()) if is_text else value


def _attach_dimensions(file: h5py.File, layout: Layout) -> None:
    """Name every dimension, as netCDF does, and say what each dataset means."""
    for f in layout.fields():
        dataset = file[f.path]
        dataset.attrs["description"] = f.meaning
        if f.units:
            dataset.attrs["units"] = f.units
        if f.dtype == "bool":
            dataset.attrs["dtype"] = "bool"  # xarray turns the int8 back into booleans
        for axis, dim in enumerate(f.dims):
            scale = _dimension(file[f.path].parent, layout, layout.vector if dim == VECTOR else dim)
            dataset.dims[axis].label = scale.name.rpartition("/")[2]
            dataset.dims[axis].attach_scale(scale)


def _dimension(group: h5py.Group, layout: Layout, dim: str) -> h5py.Dataset:
    if dim in group and group[dim].is_scale:
        return group[dim]
    coordinates: dict[str, Any] = {
        "round": np.arange(1, layout.sizes["round"] + 1),
        "phase": np.array(PHASES, dtype=h5py.string_dtype()),
    }
    if dim in coordinates:
        scale = group.create_dataset(dim, data=coordinates[dim])
        scale.make_scale(dim)
        return scale
    # A dimension without a coordinate: a dataset that is never written and so takes no space (netCDF's convention).
    length = layout.size(dim)
    scale = group.create_dataset(dim, (length,), ">f4")
    scale.make_scale(f"This is a netCDF dimension but not a netCDF variable. {length:10d}")
    if dim == "evaluation":
        rounds = group.create_dataset("round", data=np.asarray(layout.evaluated))
        rounds.attrs["description"] = "rounds done when the model was tested"
        rounds.dims[0].label = dim
        rounds.dims[0].attach_scale(scale)
    return scale
