"""Records that tests make, and what they know of a run's folder."""

from pathlib import Path

from fempi import cli


def make_runs(folder: Path, config: str) -> Path:
    """Make the runs of a configuration whose name is x, in this process; return where their records are."""
    (folder / "x.toml").write_text(config)
    assert cli.main(["run", str(folder / "x.toml"), "--output", str(folder)]) == 0
    return folder / "x"


def round_file(folder: Path, number: int) -> Path:
    """Return the file of a committed round, or a name that isn't there."""
    return next(folder.glob(f"round-*-{number:06d}.h5"), folder / f"no round {number}")
