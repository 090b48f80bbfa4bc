"""What `fempi bench gather` says is what it measured, of rows that arrived."""

import json
import sys

import pytest
from launch import run_ranks

from fempi import cli


@pytest.mark.parametrize("ranks", [2, 3])
def test_rows_come_to_root_in_both_ways(ranks, tmp_path):
    out = tmp_path / "x.json"
    options = ["--cohort", "7", "--params", "1000", "--repeats", "3", "--json", str(out)]
    job = run_ranks(ranks, [sys.executable, "-m", "fempi", "bench", "gather", *options], timeout=60)
    assert (job.returncode, job.output.count("MPI_Gatherv")) == (0, 1), job.output
    found = json.loads(out.read_text())
    assert (found["ranks"], found["hosts"], found["cohort"], found["params"]) == (ranks, 1, 7, 1000)
    assert found["bytes_sent"] == 4 * 1000 * (7 - len(range(0, 7, ranks)))
    for seconds in found["rows"], found["bare"]:
        assert 0 < seconds["least"] <= seconds["median"] <= seconds["most"]
    assert f"{found['bare']['median'] / found['rows']['median']:.0%}" in job.output


def test_one_rank_alone_has_nothing_to_gather(capfd):
    assert cli.main(["bench", "gather"]) == 2
    assert "mpirun -n 2" in capfd.readouterr().err
