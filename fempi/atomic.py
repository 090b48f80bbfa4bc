"""HDF5 files that appear under their names complete and on disk, or not at all."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py

_DIGEST = hashlib.sha256().digest_size
_SMALL = 1 << 16
"""HDF5's own bookkeeping comes in smaller pieces than these bytes; larger ones are data."""


class _Disk(io.FileIO):
    """A file that goes on after an error and keeps the first: HDF5 itself may crash when a write fails.

    It also crashes over bookkeeping that it wrote and reads back as something else. So after an error small pieces are
    kept in memory, and read from there; data are dropped, as the file will be.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, "w+")
        self.error: OSError | None = None
        self._unwritten: list[tuple[int, bytes]] = []

    def write(self, data: Any) -> int:
        """Write all of `data`, or remember why not."""
        view = memoryview(data).cast("B")
        start = self.tell()
        try:
            written = 0
            while self.error is None and written < len(view):
                written += super().write(view[written:]) or 0
        except OSError as error:
            self.error = error
        if self.error is not None:
            if len(view) < _SMALL:
                self._unwritten.append((start, bytes(view)))
            self.seek(start + len(view))
        return len(view)

    def readinto(self, buffer: Any) -> int:
        """Read what was written, or would have been; zeros where data were dropped."""
        view = memoryview(buffer).cast("B")
        start = self.tell()
        count = super().readinto(view) or 0
        if self.error is None:
            return count
        view[count:] = bytes(len(view) - count)
        for place, data in self._unwritten:
            first, last = max(start, place), min(start + len(view), place + len(data))
            if first < last:
                view[first - start : last - start] = data[first - place : last - place]
        self.seek(start + len(view))
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        """Set the length, or remember why not."""
        try:
            return super().truncate(size)
        except OSError as error:
            self.error = self.error or error
            return size or 0


def write(path: Path, fill: Callable[[h5py.File], Any], *, summed: bool = False) -> None:
    """Let `fill` write an HDF5 file under a temporary name, bring it to the disk and put it in place of `path`.

    Whatever goes wrong, a full disk included, is raised, and leaves what was there. A summed file ends with the SHA-256
    of all its other bytes, for `is_whole`; HDF5 does not mind.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with _Disk(temporary) as disk:
            try:
                with h5py.File(disk, "w") as file:
                    fill(file)
            except Exception:
                if disk.error is None:  # else HDF5 stumbled over what could not be written
                    raise
            if summed:
                disk.seek(0)
                digest = hashlib.sha256(disk.readall()).digest()
                disk.write(digest)
            if disk.error is not None:
                raise disk.error
            os.fsync(disk.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def is_whole(path: Path) -> bool:
    """Whether a summed file holds what was written; HDF5, which may crash over damage, need not see it."""
    return whole(path) is not None


def whole(path: Path) -> bytes | None:
    """Return the bytes of a summed file, None if they are not those that were written."""
    text = path.read_bytes()
    content, digest = text[:-_DIGEST], text[-_DIGEST:]
    return content if hashlib.sha256(content).digest() == digest else None


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
