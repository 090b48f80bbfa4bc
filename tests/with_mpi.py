"""Run every test that starts ranks under another MPI than this Python's own.

    python tests/with_mpi.py MPIEXEC LIBRARY NAME [PYTEST OPTION]...

LIBRARY is a path, or a name for the dynamic loader; NAME is how the library's version begins, which a test compares.
"""

import os
import re
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
STARTS_RANKS = re.compile(r"^(from|import) launch\b", re.MULTILINE)


class Passed:
    """Remembers the files that had a test pass."""

    def __init__(self):
        self.files = set()

    def pytest_runtest_logreport(self, report):
        if report.when == "call" and report.passed:
            self.files.add(Path(report.fspath).name)


def main(mpiexec, library, name, *options):
    """Return an exit status: that of pytest, or a message if it is not true that every file had a test pass."""
    library = str(Path(library).absolute()) if "/" in library else library
    os.environ |= {
        "FEMPI_TEST_MPIEXEC": str(Path(mpiexec).absolute()),
        "FEMPI_TEST_MPI": name,
        "MPI4PY_LIBMPI": library,  # mpi4py's own
    }
    found = sorted([*HERE.glob("test_*.py"), *HERE.glob("ranks/test_*.py")])
    files = [path for path in found if STARTS_RANKS.search(path.read_text())]
    assert files, "no test starts ranks"  # without a file's name pytest would run them all
    passed = Passed()
    status = pytest.main([*map(str, files), *options], plugins=[passed])
    idle = [path.name for path in files if path.name not in passed.files]
    return status or (f"under {name} no test passed of {', '.join(idle)}" if idle else 0)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
