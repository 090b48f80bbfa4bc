"""What a test needs of the machine. Where it is missing the test is skipped, or fails if FEMPI_SKIP_NOTHING is set."""

import os
import shutil
from collections.abc import Sequence

import pytest


def missing(reason: str) -> None:
    """Skip the running test and say why; in CI, where everything must be there, fail it."""
    if os.environ.get("FEMPI_SKIP_NOTHING"):
        pytest.fail(f"cannot run here: {reason}")
    pytest.skip(reason)


def root_user() -> None:
    """Need to be root."""
    if os.geteuid() != 0:
        missing("needs root")


def programs(names: Sequence[str], package: str) -> None:
    """Need programs on PATH, which a Debian package has."""
    absent = [name for name in names if shutil.which(name) is None]
    if absent:
        missing(f"there is no {', '.join(absent)} (apt-get install {package})")
