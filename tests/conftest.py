from pathlib import Path

import pytest

from fempi import registry

UNDER_MPIRUN = Path(__file__).parent / "mpi"


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave tests/mpi to test_under_mpirun.py: collected here they would only be skipped, one silent line each."""
    if UNDER_MPIRUN in (collection_path, *collection_path.parents) and not config.getoption("--with-mpi"):
        return True
    return None


@pytest.fixture
def own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what a test registers go with it."""
    for kind in registry.KINDS:
        registry.names(kind)
    monkeypatch.setattr(registry, "_plugins", dict(registry._plugins))
    monkeypatch.setattr(registry, "_loaded", dict(registry._loaded))
