from pathlib import Path

import pytest

UNDER_MPIRUN = Path(__file__).parent / "mpi"


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave tests/mpi to test_under_mpirun.py: collected here they would only be skipped, one silent line each."""
    if UNDER_MPIRUN in (collection_path, *collection_path.parents) and not config.getoption("--with-mpi"):
        return True
    return None
