"""A disk that is full, or cannot be written, costs no committed round; with room again, the run goes on to its bits."""

import os
import subprocess

import needs
import pytest
from experiments import assert_same_bits, fempi, rounds_of, write
from victims import Job

from fempi import checkpoint
from fempi.runfile import RunFile

SHORT = {"rounds": 8}  # of 2 MB each
SIZE = 48  # MB: the folder of rounds and the packed record fit at once


@pytest.fixture
def disk(tmp_path):
    """A small file system of its own."""
    needs.root_user()
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SIZE}m", "tmpfs", place], capture_output=True, check=False
    )
    if mounted.returncode:
        needs.missing(f"cannot mount: {mounted.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def fill(disk):
    """Leave no byte free, and return the file to delete for room."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12):
            try:
                while file.write(bytes(size)):
                    pass
            except OSError:
                continue
    return filler


# The file that is being written when the disk is full, and how many rounds may be committed then: of a file that is
# almost done, the rest may fit.
MOMENTS = {"run.h5 1": [0], "round- 4": [3, 4], "checkpoint.h5 4": [4], "final- 1": [8], "x.h5 1": [8]}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_disk_that_is_full_ends_the_job_and_the_run_goes_on_when_there_is_room(
    moment, disk, tmp_path, made_in_one_go
):
    config, output = write("wide", tmp_path, **SHORT), disk / "out"
    with Job("run", config, "--output", output, ranks=2, brake=moment) as job:
        assert job.reaches_brake(), job.said
        filler = fill(disk)
        job.release()
        assert job.end() not in (0, 2, 75), job.said
        assert "No space left on device" in job.said
        assert job.said.count("Traceback") == 1
    folder = output / "x/x.run"
    committed = len(rounds_of(folder))
    assert committed in MOMENTS[moment]
    assert rounds_of(folder) == set(range(1, committed + 1))
    assert [path.name for path in output.rglob("*") if path.name.endswith((".tmp", ".lock"))] == []
    if committed:
        check = fempi("check", folder)
        assert check.returncode == 0, check.stdout + check.stderr
        with RunFile(folder) as run:
            assert checkpoint.load(folder, run.run_id).round == (committed if committed == 8 else 3)
            assert run.status == ("complete" if moment == "x.h5 1" else "interrupted")

    filler.unlink()
    again = ["resume", folder, "--allow-plugins"] if committed else ["run", config, "--output", output]
    ended = fempi(*again)
    assert ended.returncode == 0, ended.stderr
    assert list((output / "x").iterdir()) == [output / "x/x.h5"]
    assert_same_bits(output / "x/x.h5", made_in_one_go("wide", **SHORT))


def test_a_folder_that_became_read_only_is_read_and_refused_and_goes_on_when_it_is_not(disk, tmp_path, made_in_one_go):
    config, output = write("wide", tmp_path, **SHORT), disk / "out"
    folder = output / "x/x.run"
    with Job("run", config, "--output", output, ranks=2, brake="round- 5") as job:
        assert job.reaches_brake(), job.said
        os.kill(job.ranks()[0], 9)
        assert job.end(10) != 0
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)

    for command in (["resume", folder, "--allow-plugins"], ["run", config, "--output", output]):
        with Job(*command, ranks=2) as job:
            assert job.end() == 2, job.said
            assert job.said.count("cannot write to") == job.said.count("read-only") == 1, job.said
            assert "Traceback" not in job.said
    check, info = fempi("check", folder), fempi("info", folder)
    assert (check.returncode, info.returncode) == (0, 0), check.stderr + info.stderr
    assert "interrupted" in info.stdout
    assert "4 of 8 rounds" in info.stdout

    subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
    ended = fempi("resume", folder, "--allow-plugins")
    assert ended.returncode == 0, ended.stderr
    assert_same_bits(output / "x/x.h5", made_in_one_go("wide", **SHORT))


# What is in the way, and what lies there.
OBSTACLES = {
    "x/x.run": "a file where the run's folder goes",
    "x": "a file where the experiment's folder goes",
    "x/x.h5": "a file that is no record where the record goes",
    "x/x.run/thesis.tex": "a folder that holds something else where the run's folder goes",
    "x/x.h5/thesis.tex": "a folder where the record goes",
    "x/x.lock/thesis.tex": "a folder where the lock goes",
}


@pytest.mark.parametrize("options", [[], ["--force"]], ids=["", "force"])
@pytest.mark.parametrize("obstacle", OBSTACLES)
def test_what_is_in_the_way_is_named_in_one_message_and_left_alone(obstacle, options, tmp_path):
    there = tmp_path / "out" / obstacle
    there.parent.mkdir(parents=True)
    there.write_text("years of work")
    before = sorted((tmp_path / "out").rglob("*"))
    ended = fempi("run", write("clipping", tmp_path), "--output", tmp_path / "out", *options)
    assert ended.returncode == 2, ended.stderr
    assert ended.stderr.count("fempi:") == 1
    assert str(tmp_path / "out" / "x") in ended.stderr
    assert "Traceback" not in ended.stderr
    assert sorted((tmp_path / "out").rglob("*")) == before
    assert there.read_text() == "years of work"
