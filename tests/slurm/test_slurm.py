"""The batch scripts of jobs/ on a real Slurm: they complete, stop, come back, and go on to the same bits."""

import json
import re
import sys
from pathlib import Path

import h5py
import pytest
import torch
from cluster import SOON, wait_for
from field import differences

from fempi import RunFile

LAUNCHERS = ("mpirun", "srun")
DONE = "COMPLETED"
FEMPI = str(Path(sys.executable).with_name("fempi"))


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_job_completes_and_says_that_its_record_is_whole(launcher, slurm, field, uninterrupted):
    job = slurm.submit("single.sbatch", "one.toml", cwd=field.folder, FEMPI_LAUNCHER=launcher)
    job.wait(DONE)
    assert "x: 30 rounds of 8 clients on 2 ranks" in job.output
    assert re.search(r"x\.h5.*whole", job.output), job.output
    assert differences(field.record, uninterrupted[1]) == []


@pytest.mark.parametrize(
    ("launcher", "arguments", "said", "status"),
    [
        ("mpirun", ("one.toml",), "KeyError: 'a fault in a client'", "1:0"),
        ("srun", ("one.toml",), "KeyError: 'a fault in a client'", "1:0"),
        ("mpirun", ("one.toml", "--set", "rouns=3"), "rouns", "2:0"),
    ],
)
def test_a_program_that_fails_is_a_job_that_failed(launcher, arguments, said, status, slurm, field):
    field.pull("fail")
    job = slurm.submit("requeue.sbatch", *arguments, cwd=field.folder, FEMPI_LAUNCHER=launcher)
    facts = job.wait("FAILED")
    assert facts["ExitCode"] == status, job.output
    assert facts["Restarts"] == "0"
    assert said in job.output
    wait_for(lambda: not slurm.programs(), 20, "something lives on")


def test_singletons_of_the_wrong_srun_refuse_to_run(slurm, field):
    """Without --mpi=pmix each of Open MPI's processes believes to be alone, and would exit with 0."""
    ended = slurm.attempt("srun", "--mpi=none", "-n2", FEMPI, "run", "one.toml", cwd=field.folder)
    assert ended.returncode != 0
    assert "the launcher started 2 processes, but MPI sees 1" in ended.stderr
    assert not field.records.exists()


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_stopped_job_comes_back_and_goes_on_to_the_same_bits(launcher, slurm, field, uninterrupted):
    field.pull()
    job = slurm.submit("requeue.sbatch", "one.toml", cwd=field.folder, FEMPI_LAUNCHER=launcher)
    field.wait_for_round(3, lambda: job.wait("PENDING", "RUNNING"))
    job.stop()
    job.wait("PENDING")
    with RunFile(field.run) as run:
        assert run.status == "interrupted"
        assert 3 <= run.rounds_completed < run.rounds
        done = run.rounds_completed
    field.release()
    job.start_soon()
    assert job.wait(DONE)["Restarts"] == "1"
    assert "start 1," in job.output  # the log was appended to
    assert f"going on after round {done}" in job.output
    assert differences(field.record, uninterrupted[1]) == []


def test_the_time_limit_stops_a_job_soon_enough_to_come_back(slurm, field, uninterrupted):
    field.pull(0.5)  # a minute for all rounds; Slurm, which looks every half minute, signals after 29 to 59 seconds
    job = slurm.submit("requeue.sbatch", "one.toml", cwd=field.folder, options=("--time=1", "--signal=B:USR1@1"))
    job.wait("RUNNING")
    job.wait("PENDING")
    assert "stopped by SIGUSR1" in job.output
    assert not field.record.exists()
    field.release()
    job.start_soon()
    job.wait(DONE)
    assert differences(field.record, uninterrupted[1]) == []


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_cancelled_job_stays_cancelled_and_can_be_gone_on_with(launcher, slurm, field, uninterrupted):
    field.pull()
    job = slurm.submit("requeue.sbatch", "one.toml", cwd=field.folder, FEMPI_LAUNCHER=launcher)
    field.wait_for_round(3, lambda: job.wait("PENDING", "RUNNING"))
    slurm.run("scancel", job.id)
    assert job.wait("CANCELLED")["Restarts"] == "0"
    wait_for(lambda: not slurm.programs(), 20, "something lives on")
    assert slurm.run("squeue", "--noheader").stdout == ""
    with RunFile(field.run) as run:
        assert run.rounds_completed >= 3
        assert run.status == "interrupted"
    slurm.run(FEMPI, "check", str(field.run), cwd=field.folder)
    field.release()
    again = slurm.submit("single.sbatch", "one.toml", cwd=field.folder, FEMPI_LAUNCHER=launcher)
    again.wait(DONE)
    assert "going on after round" in again.output
    assert differences(field.record, uninterrupted[1]) == []


def test_an_array_shares_the_runs_and_a_stopped_task_comes_back(slurm, field, uninterrupted):
    field.pull()
    array = slurm.submit("array.sbatch", "four.toml", cwd=field.folder, options=("--array=0-3",))
    tasks = slurm.tasks(array, 4)
    begun = re.compile(r"(\S+): 30 rounds of 8 clients on 1 rank$", re.MULTILINE)
    wait_for(lambda: all(begun.search(task.output) for task in tasks), SOON, "not all tasks have begun a run")
    *others, stopped = tasks
    assert stopped.facts()["JobId"] == array.id  # which also means the whole array, and must not be taken for it
    stopped.stop()
    stopped.wait("PENDING")
    field.release()
    for task in others:
        assert task.wait(DONE)["Restarts"] == "0"
    stopped.start_soon()
    assert stopped.wait(DONE)["Restarts"] == "1"
    runs = [run for task in tasks for run in begun.findall(task.output)]
    assert len(set(runs)) == len(runs) == 4  # each task began another one, and none was begun twice
    assert "whole" in stopped.output
    records = list(field.records.glob("*.h5"))
    assert len(records) == len(list(field.records.iterdir())) == 4
    for record in records:
        with h5py.File(record) as file:
            seed = int(file.attrs["seed"])
        assert differences(record, uninterrupted[seed]) == []


def test_a_task_of_an_array_that_fails_is_not_covered_up_by_the_others(slurm, field):
    field.pull("fail")
    array = slurm.submit("array.sbatch", "four.toml", cwd=field.folder, options=("--array=0-1",))
    for task in slurm.tasks(array, 2):
        task.wait("FAILED")


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_scaling_is_measured_for_every_number_of_ranks_and_leaves_the_figures(launcher, slurm, field):
    arguments = ("one.toml", "--rounds", "3")
    job = slurm.submit("scaling.sbatch", *arguments, cwd=field.folder, options=("--ntasks=2",), FEMPI_LAUNCHER=launcher)
    job.wait(DONE)
    (figures,) = (field.folder / "results").iterdir()
    found = json.loads(figures.read_text())
    assert [(row["ranks"], row["cohort"]) for row in found["strong"]] == [(1, 8), (2, 8)], job.output
    assert [(row["ranks"], row["cohort"]) for row in found["weak"]] == [(1, 4), (2, 8)], job.output
    for title in ("strong scaling: a cohort of 8", "weak scaling: 4 clients a rank"):
        assert job.output.count(title) == 2, job.output  # measured, and predicted


def test_a_gpu_job_without_a_device_says_so_unless_the_cores_will_do(slurm, field, uninterrupted):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU; test_gpu.py is about that")
    job = slurm.submit("gpu.sbatch", "one.toml", cwd=field.folder)
    assert job.wait("FAILED")["ExitCode"] == "2:0"
    assert re.search("devices on .*: 0,1", job.output), job.output
    assert "torch sees no CUDA device here" in job.output
    job = slurm.submit("gpu.sbatch", "one.toml", "--device", "cpu", cwd=field.folder, FEMPI_LAUNCHER="srun")
    job.wait(DONE)
    assert differences(field.record, uninterrupted[1]) == []
