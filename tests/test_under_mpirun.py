"""Every file of tests/mpi, on one to four ranks under a real mpirun.

A file must hold at least one test for every number of ranks: a rank that skips all it has counts as failed.
"""

from pathlib import Path

import pytest
from launch import check_under_mpirun

FILES = sorted((Path(__file__).parent / "mpi").glob("test_*.py"))
assert FILES, "tests/mpi is empty"


@pytest.mark.parametrize("n", [1, 2, 3, 4])
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_under_mpirun(file, n, tmp_path):
    check_under_mpirun(file, n, tmp_path)
