import pytest
from mpi4py import MPI


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Give each rank a report of its own: in one file the last writer would speak for all."""
    if config.option.xmlpath:
        config.option.xmlpath += f".{MPI.COMM_WORLD.rank}"
