"""What a record holds: every dataset with its dimensions, type and meaning, and its shape in a given run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import h5py
import numpy as np

FORMAT = "fempi"
FORMAT_VERSION = 1
PHASES = ("broadcast", "train", "gather", "attack", "aggregate", "evaluate", "record")
"""What a rank's time in a round is divided into."""
DIGEST_SIZE = 32
"""Bytes of a SHA-256."""


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

PER_CLIENT = (
    Field("clients/num_test_examples", ("client",), "i8", "test examples in the client's part", 0),
    Field("evaluation/client_accuracy", ("evaluation", "client"), "f8", "on each client's part of the test set"),
    Field("evaluation/client_precision", ("evaluation", "client"), "f8", "macro average on the client's part"),
    Field("evaluation/client_recall", ("evaluation", "client"), "f8", "macro average on the client's part"),
    Field("evaluation/client_f1", ("evaluation", "client"), "f8", "macro average on the client's part"),
)
"""Datasets of records whose clients are tested one by one."""

PLUGINS = (
    Field("plugins/file", ("plugin",), "str", "plugin file, as the configuration names it"),
    Field("plugins/source", ("plugin",), "str", "its text"),
)
"""Datasets of records made with plugin files."""

CHECKSUMS = (
    Field("checksums/results", ("round", "byte"), "u1", "SHA-256 of the round's results, but the updates", 0),
    Field("checksums/updates", ("round", "byte"), "u1", "SHA-256 of the updates that are kept of the round", 0),
    Field("checksums/execution", ("round", "byte"), "u1", "SHA-256 of who made the round and how long it took", 0),
)
"""What tells whether a round still holds what was written; equal results and updates have equal sums."""
EXECUTION = ("rounds/rank", "timing/seconds")
"""What may differ between two runs with the same results"""

FIELDS = (
    Field("clients/malicious", ("client",), "bool", "whether the client is malicious (the truth)", 0),
    Field("clients/num_examples", ("client",), "i8", "examples the client holds", 0),
    Field("clients/label_counts", ("client", "class"), "i8", "examples the client holds of each class", 0),
    Field("layers/name", ("layer",), "str", "name of the parameter tensor"),
    Field("layers/shape", ("layer",), "str", "its shape, as a JSON list"),
    Field("layers/offset", ("layer",), "i8", "where it begins in the flat vector", -1),
    Field("launches/first_round", ("launch",), "i8", "first round made by this start of the program", -1),
    Field("launches/ranks", ("launch",), "i4", "MPI ranks it had", 0),
    Field("launches/started", ("launch",), "str", "when it began"),
    Field("launches/software", ("launch",), "str", "what computed its rounds, with versions"),
    Field("ranks/host", ("launch", "rank"), "str", "host of each MPI rank"),
    Field("ranks/device", ("launch", "rank"), "str", "its device, as torch names it"),
    Field("ranks/threads", ("launch", "rank"), "i4", "threads it computes with; 0 where there is no such rank", 0),
    *PLUGINS,
    Field("rounds/client", ("round", "slot"), "i4", "client in each slot of the cohort", -1),
    Field("rounds/malicious", ("round", "slot"), "bool", "whether it is malicious (the truth)", 0),
    Field("rounds/attacking", ("round", "slot"), "bool", "whether it attacks in this round (the truth)", 0),
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
    Field("rounds/true_positive_rate", ("round",), "f8", "share of the attacking rows that were not selected"),
    Field("rounds/false_positive_rate", ("round",), "f8", "share of the other rows that were not selected"),
    Field("rounds/trust_auc", ("round",), "f8", "probability that trust ranks an attacking row below another one"),
    Field("rounds/epsilon", ("round",), "f8", "privacy a client has spent so far; infinite where nothing bounds it"),
    Field("rounds/update", ("round", "slot", VECTOR), "f4", "update as sent: local minus global parameters"),
    Field(
        "rounds/trained_update", ("round", "slot", VECTOR), "f4", "update before the attack, if the client is malicious"
    ),
    Field("rounds/reference", ("round", VECTOR), "f4", "the server's own update, from its root data"),
    Field("rounds/aggregate", ("round", VECTOR), "f4", "what was added to the model"),
    Field("evaluation/loss", ("evaluation",), "f8", "mean cross-entropy on the test set", units="nat"),
    Field("evaluation/accuracy", ("evaluation",), "f8", "share of the test set classified correctly"),
    Field(
        "evaluation/precision",
        ("evaluation",),
        "f8",
        "macro average over the classes that occur; 0 for one never predicted",
    ),
    Field("evaluation/recall", ("evaluation",), "f8", "macro average over the classes that occur"),
    Field("evaluation/f1", ("evaluation",), "f8", "macro average over the classes that occur"),
    Field("evaluation/confusion", ("evaluation", "actual", "predicted"), "i8", "counts on the test set", -1),
    Field("evaluation/attack_success", ("evaluation",), "f8", "the attacker's own measure; NaN if it has none"),
    *PER_CLIENT,
    Field("timing/seconds", ("round", "rank", "phase"), "f8", "time in each phase, waiting included", units="s"),
    *CHECKSUMS,
    Field("final/params", ("param",), "f4", "parameters after the last round"),
)
VECTORS = [f.path for f in FIELDS if VECTOR in f.dims]
PER_ROUND = [f for f in FIELDS if f.dims[0] in ("round", "evaluation")]
STATIC = [f for f in FIELDS if f.dims[0] in ("client", "layer", "launch", "plugin")]
LAUNCH = [f for f in FIELDS if f.dims[0] == "launch"]
"""What each start of the program adds to."""
COORDINATES = (
    Field("rounds/round", ("round",), "i8", "number of the round, from 1"),
    Field("timing/round", ("round",), "i8", "number of the round, from 1"),
    Field("timing/phase", ("phase",), "str", "name of the phase"),
    Field("evaluation/round", ("evaluation",), "i8", "rounds done when the model was tested"),
)
"""Datasets that say what the places along a dimension are."""
_METADATA = 43_000
"""Bytes that any packed file needs for names, attributes and dimensions."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """All that fixes the shape of a record."""

    sizes: Mapping[str, int]
    """of the dimensions: round, slot, param, client, class, layer, plugin"""
    launches: Sequence[Sequence[int]]
    """(first round, ranks) of each start of the program: the first, and each that went on with the run"""
    evaluate_every: int = 1
    updates: str = "full"
    """full, float16, sketch or none"""
    every: int = 1
    sketch_size: int = 1024
    has_reference: bool = True
    per_client: bool = False
    """whether each client is tested on its part of the test set"""
    seed: int = 0

    @cached_property
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
            absent.update([*VECTORS, "checksums/updates"])
        if not self.has_reference:
            absent.add("rounds/reference")
        if not self.per_client:
            absent.update(f.path for f in PER_CLIENT)
        if not self.sizes["plugin"]:
            absent.update(f.path for f in PLUGINS)
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
            case "launch":
                return len(self.launches)
            case "rank":
                return max(ranks for _, ranks in self.launches)
            case "byte":
                return DIGEST_SIZE
            case _:
                return self.sizes[dim]

    def ranks(self, round: int) -> int:  # noqa: A002 - the field's word
        """How many ranks made a round."""
        return next(ranks for first, ranks in reversed(self.launches) if round >= first)

    def shape(self, f: Field) -> tuple[int, ...]:
        """Shape of a field over the whole run."""
        return tuple(self.size(dim) for dim in f.dims)

    def dtype(self, f: Field) -> np.dtype[Any]:
        """Stored type of a field; booleans are int8, as netCDF has none."""
        if VECTOR in f.dims and self.updates == "float16":
            return np.dtype("f2")
        stored: np.dtype[Any] = np.dtype({"str": h5py.string_dtype(), "bool": "i1"}.get(f.dtype, f.dtype))
        return stored

    @property
    def keeps_params(self) -> bool:
        """Whether updates are kept parameter by parameter, not as sketches."""
        return self.updates in ("full", "float16")

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


def name_dimensions(file: h5py.File, layout: Layout) -> None:
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
    values = {"round": np.arange(1, layout.sizes["round"] + 1), "phase": np.array(PHASES, dtype=h5py.string_dtype())}
    for f in COORDINATES:
        (dim,) = f.dims
        group, _, name = f.path.rpartition("/")
        if name == dim:
            file[f.path][...] = values[dim]
        else:
            file.create_dataset(f.path, data=np.asarray(layout.evaluated))
            file[f.path].dims[0].label = dim
            file[f.path].dims[0].attach_scale(file[group][dim])
        file[f.path].attrs["description"] = f.meaning


def _dimension(group: h5py.Group, layout: Layout, dim: str) -> h5py.Dataset:
    if dim in group and group[dim].is_scale:
        return group[dim]
    length = layout.size(dim)
    coordinate = {f.path: f for f in COORDINATES}.get(f"{group.name[1:]}/{dim}")
    if coordinate is not None:
        scale = group.create_dataset(dim, (length,), layout.dtype(coordinate))
        scale.make_scale(dim)
        return scale
    # A dimension without a coordinate: a dataset that is never written and so takes no space (netCDF's convention).
    scale = group.create_dataset(dim, (length,), ">f4")
    scale.make_scale(f"This is a netCDF dimension but not a netCDF variable. {length:10d}")
    return scale
