"""What tests know of a run's folder."""

from pathlib import Path


def round_file(folder: Path, number: int) -> Path:
    """Return the file of a committed round, or a name that isn't there."""
    return next(folder.glob(f"round-*-{number:06d}.h5"), folder / f"no round {number}")
