"""Killed at any moment, on any rank, as often as you like: no job stays, no committed round is lost, no bit changes.

FEMPI_FAULTS=N sets how many kills there are, FEMPI_FAULTS_SEED the first of the seeds that everything is drawn from; a
run's own seed repeats it alone (FEMPI_FAULTS=1). With FEMPI_FAULTS_LOG=FILE what happened is added to a file, and the
same command goes on with the campaign.
"""

import random
import time

import pytest
from campaign import FIRST_SEED, KILLS, LOG, MOMENTS, Kill, Launch, Outcome
from experiments import EXPERIMENTS, assert_same_bits, differences, fempi, rounds_of, write
from victims import Job, wait_for

from fempi import checkpoint, lock
from fempi.runfile import RunFile, lock_of

GONE = 10  # seconds within which nothing of a job may be left
START = 8  # seconds that a start takes at most, where nothing else runs


class Run:
    """A run in a folder of its own, and the same run made in one go."""

    def __init__(self, place, experiment, whole):
        self.config = write(experiment, place)
        self.output = place / "out"
        self.target = self.output / "x/x.h5"
        self.folder = self.output / "x/x.run"
        self.rounds = EXPERIMENTS[experiment]["rounds"]
        self.whole = whole

    def command(self, how: Launch):
        """Return the command that starts the run or goes on with it; a folder without a master cannot be resumed."""
        options = ["--placement", how.placement, "--checkpoint-every", how.checkpoint_every]
        if how.by_folder and (self.folder / "run.h5").exists():
            return ["resume", self.folder, "--allow-plugins", *options]
        return ["run", self.config, "--output", self.output, *options]

    def checkpointed(self):
        """Return the round of the checkpoint; 0 if there is none."""
        try:
            with RunFile(self.folder) as run:
                state = checkpoint.load(self.folder, run.run_id)
        except Exception:  # the folder comes and goes
            return 0
        return state.round if state else 0

    def assert_nothing_is_lost(self, least: int) -> int:
        """Whatever is there is whole, and says what it is; return the number of committed rounds."""
        wait_for(lambda: not lock.holder(lock_of(self.folder)), "the dead let go of the lock", GONE)
        if self.target.exists():
            assert_same_bits(self.target, self.whole)
            return self.rounds
        if not (self.folder / "run.h5").exists():
            assert least == 0, "the run is gone"
            told = fempi("info", self.folder)
            assert (told.returncode, told.stderr.count("\n")) == (2, 1), told.stderr
            assert "holds no run.h5" in told.stderr or "there is no" in told.stderr
            return 0

        check, info = fempi("check", self.folder), fempi("info", self.folder)
        assert check.returncode == 0, check.stdout + check.stderr
        assert info.returncode == 0, info.stderr
        with RunFile(self.folder) as run:
            done, status = run.rounds_completed, run.status
        assert rounds_of(self.folder) == set(range(1, done + 1))
        assert done >= self.checkpointed() >= least
        assert differences(self.folder, self.whole) == []
        assert status == ("complete" if list(self.folder.glob("final-*.h5")) else "interrupted")
        assert status == "interrupted" or done == self.rounds
        assert f"{status}{', `fempi resume` goes on' if status == 'interrupted' else ''}; {done} of" in info.stdout
        return done


@pytest.mark.parametrize("plan", LOG.plans(KILLS, FIRST_SEED), ids=str)
def test_a_run_that_is_killed_goes_on_to_the_same_bits(plan, made_in_one_go, tmp_path):
    run = Run(tmp_path, plan.experiment, made_in_one_go(plan.experiment))
    outcome = Outcome(seed=plan.seed, experiment=plan.experiment)
    try:
        for number, kill in enumerate(plan.kills):
            killed(run, kill, random.Random(f"{plan.seed} {number}"), outcome)
        outcome.launches += 1
        with Job(*run.command(plan.last), ranks=plan.last.ranks) as job:
            assert job.end() == 0, job.said
        if run.target.exists():
            outcome.differences = differences(run.target, run.whole)
        assert_same_bits(run.target, run.whole)
        assert list(run.output.rglob("*")) == [run.target.parent, run.target]
        outcome.ended = True
    finally:
        LOG.add(outcome)


def killed(run: Run, kill: Kill, draw: random.Random, outcome: Outcome) -> None:
    """Start the run, or go on with it, kill it, and see what is left."""
    report = {"moment": kill.moment, "victim": kill.victim}
    outcome.kills.append(report)
    outcome.launches += 1
    with Job(*run.command(kill.launch), ranks=kill.launch.ranks, brake=brake(run, kill)) as job:
        there = waited(run, kill, job)
        least = run.checkpointed()
        if not there or not job.kill(kill.victim, draw):
            assert job.end() == 0, job.said
            assert_same_bits(run.target, run.whole)
            report["late"] = True
            return
        job.release()
        report["seconds"] = round(job.waits(job.is_gone, "nothing is left of the job", GONE), 3)
        # Root may have done its last act already; but then the record must be there.
        assert job.process.returncode != 0 or run.target.exists(), job.said
        report["committed"] = run.assert_nothing_is_lost(0 if run.target.exists() else least)


def brake(run: Run, kill: Kill) -> str:
    """Return the file that is being written when the kill comes, and which of its kind."""
    name = MOMENTS[kill.moment]
    files = 1
    if name in ("round-", "checkpoint.h5"):
        files = run.rounds - len(rounds_of(run.folder))
    if name == "checkpoint.h5":
        files //= kill.launch.checkpoint_every
    return f"{name} {1 + int(kill.share * files)}" if name else ""


def waited(run: Run, kill: Kill, job: Job) -> bool:
    """Wait until it is time for a kill; False if the job ended before."""
    before = rounds_of(run.folder)
    ready = job.reaches(lambda: len(job.ranks()) == job.size, "all ranks are there")
    match kill.moment:
        case "starting":
            time.sleep(kill.share * START)
        case "any time":
            time.sleep(kill.share * 2 * START)
        case "training":
            wanted = 1 + int(kill.share * (run.rounds - len(before)))
            ready = job.reaches(lambda: len(rounds_of(run.folder)) >= len(before) + wanted, f"{wanted} rounds")
        case "clearing":
            ready = job.reaches(run.target.exists, "packed")
        case _:
            ready = job.reaches_brake()
    time.sleep(kill.delay)
    return ready
