"""Two jobs that start at the same moment on the same records make each round once, and both end well."""

from collections import Counter

import pytest
from experiments import assert_same_bits, fempi, write
from victims import Job

from fempi.runfile import RunFile
from fempi.signals import STATUS

ROUNDS = 12
GRID = "\n[grid]\nseed = [1, 2, 3, 4]"


@pytest.mark.parametrize("ranks", [None, 2])
@pytest.mark.parametrize("grid", ["", GRID], ids=["one run", "four runs"])
def test_two_jobs_that_start_at_once_make_each_round_once(ranks, grid, tmp_path, made_in_one_go):
    config, diary = write("clipping", tmp_path, rounds=ROUNDS), tmp_path / "diary"
    config.write_text(config.read_text() + grid)
    command, diary_at = ["run", config, "--output", tmp_path / "out"], {"FEMPI_FAULTS_DIARY": str(diary)}
    with Job(*command, ranks=ranks, env=diary_at) as one, Job(*command, ranks=ranks, env=diary_at) as other:
        statuses = [one.end(), other.end()]
        said = one.said + other.said
    assert set(statuses) <= {0, STATUS}, said
    assert "Traceback" not in said
    if STATUS in statuses:  # the runs of one job were left to the other, and only the other can say that all are there
        last = fempi(*command)
        assert last.returncode == 0, last.stderr

    records = sorted((tmp_path / "out/x").iterdir())
    assert [path.suffix for path in records] == [".h5"] * (4 if grid else 1)
    written = Counter(line for line in diary.read_text().splitlines() if "/round-" in line)
    assert set(written.values()) == {1}
    assert len(written) == ROUNDS * len(records)  # also of a run that was begun by each of them, under two names
    for record in records:
        check = fempi("check", record, "--complete")
        assert check.returncode == 0, check.stdout + check.stderr
        with RunFile(record) as run:
            assert list(run["launches/first_round"]) == [1]
    if not grid:
        assert_same_bits(records[0], made_in_one_go("clipping", rounds=ROUNDS))
