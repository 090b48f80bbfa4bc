"""Every file of tests/mpi, on one to four ranks under a real mpirun; and whose mpirun that is.

A file must hold at least one test for every number of ranks: a rank that skips all it has counts as failed.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from launch import check_under_mpirun, clean_env, launcher, run_ranks

FILES = sorted((Path(__file__).parent / "mpi").glob("test_*.py"))
assert FILES, "tests/mpi is empty"


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_under_mpirun(n, tmp_path):
    check_under_mpirun(FILES, n, tmp_path)


def test_the_library_is_of_the_launchers_version_and_the_one_that_was_asked_for():
    told = subprocess.run([launcher(), "--version"], capture_output=True, text=True, check=True, env=clean_env()).stdout
    version = re.search(r"[0-9]+(\.[0-9]+)+", told)[0]
    program = """
from mpi4py import MPI
libraries = MPI.COMM_WORLD.gather(MPI.Get_library_version().splitlines()[0])
if libraries:
    print(*libraries, sep="\\n")
"""
    libraries = run_ranks(2, [sys.executable, "-c", program], timeout=60).output.splitlines()
    assert len(libraries) == 2, libraries
    for library in libraries:
        assert re.search(rf"\b{re.escape(version)}\b", library)
        assert " ".join(library.split()).startswith(os.environ.get("FEMPI_TEST_MPI", ""))
