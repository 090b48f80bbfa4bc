from pathlib import Path

import pytest

from fempi import registry

HERE = Path(__file__).parent
UNDER_MPIRUN = HERE / "mpi"
CAMPAIGNS = [HERE / name for name in ("faults", "fuzz", "hosts", "ranks", "slurm")]
"""Folders that take minutes, or a machine that may be taken over: collected when named, by targets of their own."""


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave tests/mpi to test_under_mpirun.py: collected here they would only be skipped, one silent line each."""
    above = (collection_path, *collection_path.parents)
    if UNDER_MPIRUN in above and not config.getoption("--with-mpi"):
        return True
    named = [config.invocation_params.dir / str(argument).partition("::")[0] for argument in config.args]
    if any(campaign in above and not any(campaign in (n, *n.parents) for n in named) for campaign in CAMPAIGNS):
        return True
    return None


@pytest.fixture
def own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what a test registers go with it."""
    for kind in registry.KINDS:
        registry.names(kind)
    monkeypatch.setattr(registry, "_plugins", dict(registry._plugins))
    monkeypatch.setattr(registry, "_loaded", dict(registry._loaded))
