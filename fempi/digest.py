"""SHA-256 sums that tell whether a record still holds what was written.

Each round has three: of its results, of its updates, so that what is small can be checked without reading what is
large, and of what may differ between two runs with the same results. A file's seal covers the rest of it: attributes,
names, shapes, whatever does not belong to one round, and the rounds' sums; so of a packed file it covers everything.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import h5py
import numpy as np

from fempi.schema import CHECKSUMS, EXECUTION, PER_ROUND, VECTOR, Field

SEAL = "sha256"
"""The root attribute that holds a file's seal"""
_REFERENCES = ("DIMENSION_LIST", "REFERENCE_LIST", "CLASS", "NAME", "_Netcdf4Dimid")
"""Attributes with addresses inside the file, or that other libraries add"""


class RoundSums:
    """The sums of a round, of which the values are added in the schema's order as they are stored."""

    def __init__(self, round: int) -> None:  # noqa: A002 - the field's word
        # With its number, so that a round's file in the place of another's is found out.
        self._sums = {f.path: hashlib.sha256(f"round {round}".encode()) for f in CHECKSUMS}

    def add(self, f: Field, values: np.ndarray) -> None:
        """Add the values of a field, or of a row of it."""
        sums = self._sums[checksum_of(f)]
        sums.update(f.path.encode())
        sums.update(np.ascontiguousarray(values).data)

    def digests(self) -> dict[str, np.ndarray]:
        """Return the sums by the paths of their datasets."""
        return {path: np.frombuffer(sums.digest(), np.uint8) for path, sums in self._sums.items()}


def checksum_of(f: Field) -> str:
    """Path of the dataset with the sums that a field of the rounds goes into."""
    if VECTOR in f.dims:
        return "checksums/updates"
    return "checksums/execution" if f.path in EXECUTION else "checksums/results"


def seal(file: h5py.File) -> str:
    """Return the sum of everything in a file but the rounds' own values, and but the seal itself."""
    sums = hashlib.sha256(json.dumps(_plain(file.attrs), sort_keys=True).encode())
    per_round = {f.path for f in PER_ROUND} - {f.path for f in CHECKSUMS}

    def add(path: str, item: h5py.Dataset | h5py.Group) -> None:
        if not isinstance(item, h5py.Dataset):
            return
        dimensions = [(dim.label, list(dim.keys())) for dim in item.dims]
        what = [path, list(item.shape), str(item.dtype), _plain(item.attrs), dimensions]
        sums.update(json.dumps(what, sort_keys=True).encode())
        if path in per_round or item.is_virtual:
            return
        if item.dtype == object:
            sums.update(json.dumps(item.asstr()[...].tolist()).encode())
        else:
            sums.update(np.ascontiguousarray(item[...]).data)

    file.visititems(add)
    return sums.hexdigest()


def _plain(attributes: h5py.AttributeManager) -> dict[str, str]:
    """Return attributes that mean something by themselves, as text."""
    found: dict[str, str] = {}
    for name in attributes:
        if name not in (SEAL, *_REFERENCES):
            value: Any = attributes[name]
            found[name] = repr(value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value)
    return found
