"""Which records are meant by the paths on a command line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fempi.errors import FempiError
from fempi.runfile import MASTER, RunFile


def find(paths: Sequence[Path]) -> list[Path]:
    """Return the records named, and all in the folders named, each once, by the time they were made.

    A record is a packed file or the folder of a run that has not been packed. FempiError if a path holds none.
    """
    found: list[Path] = []
    for path in paths:
        if not path.is_dir() or (path / MASTER).exists():
            found.append(path)
            continue
        inside = [*path.glob("*.h5"), *(master.parent for master in path.glob(f"*/{MASTER}"))]
        if not inside:
            raise FempiError(f"there are no records in {path}")
        found += inside
    unique = {path.resolve(): path for path in reversed(found)}
    return sorted(unique.values(), key=lambda path: (_created(path), path))


def _created(path: Path) -> str:
    with RunFile(path) as record:
        return str(record.attributes["created"])
