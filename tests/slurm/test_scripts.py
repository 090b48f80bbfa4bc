"""The scripts of jobs/, without a Slurm."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from cluster import REPOSITORY, SOON, wait_for
from field import differences
from launch import clean_env, kill_session, processes
from needs import programs

JOBS = REPOSITORY / "jobs"


def test_every_script_is_clean_for_shellcheck():
    programs(["shellcheck"], "shellcheck")
    scripts = [
        str(file.relative_to(REPOSITORY)) for file in sorted(JOBS.iterdir()) if file.suffix in (".sh", ".sbatch")
    ]
    assert len(scripts) >= 8
    checked = subprocess.run(
        ["shellcheck", "--external-sources", *scripts, ".ci/packages"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize("script", sorted(JOBS.glob("*.sbatch")), ids=lambda file: file.name)
def test_a_batch_script_asks_for_nothing_that_only_one_site_has(script):
    asked = [line for line in script.read_text().splitlines() if line.startswith("#SBATCH")]
    assert any("--time=" in line for line in asked)
    for option in ("--account", "--partition", "--qos", "--constraint", "--mail", "--chdir"):
        assert not any(option in line for line in asked)


@pytest.fixture
def terminal(virtual_environment, field):
    """Return a function that starts local.sh on a terminal of its own, and gives a key to it."""
    begun = []

    def start(*arguments):
        ours, theirs = os.openpty()
        env = clean_env() | {"FEMPI_VENV": sys.prefix, "FEMPI_PAUSE": "1", "TMPDIR": str(field.folder)}
        with (field.folder / "log").open("ab") as log:
            job = subprocess.Popen(
                # As a user's shell has it: tests started in the background ignore Ctrl-C, and so would the script.
                ["setsid", "--ctty", "env", "--default-signal=INT", "jobs/local.sh", "one.toml", *arguments],
                cwd=field.folder,
                stdin=theirs,
                stdout=log,
                stderr=log,
                env=env,
            )
        os.close(theirs)
        begun.append((job, ours))
        return job, lambda key: os.write(ours, key)

    yield start
    for job, ours in begun:
        kill_session(job.pid)
        job.wait()
        os.close(ours)


def test_on_a_workstation_runs_survive_a_kill_and_a_key_stops_them(terminal, field, uninterrupted):
    log = field.folder / "log"
    field.pull()
    job, press = terminal()
    field.wait_for_round(3)
    os.kill(ranks_of(job)[1], signal.SIGKILL)
    wait_for(lambda: "going on after round" in log.read_text(), SOON, f"not started again: {log.read_text()}")
    press(b"\x03")  # Ctrl-C
    assert job.wait(SOON) == 75, log.read_text()
    assert "Traceback" not in log.read_text()
    assert ranks_of(job) == []
    field.release()
    job, _ = terminal()
    assert job.wait(SOON) == 0, log.read_text()
    assert differences(field.record, uninterrupted[1]) == []


@pytest.mark.parametrize(("arguments", "status"), [((), 1), (("--set", "rouns=3"), 2)])
def test_on_a_workstation_a_fault_is_not_tried_again(arguments, status, terminal, field):
    field.pull("fail")
    job, _ = terminal(*arguments)
    assert job.wait(SOON) == status
    assert "starting again" not in (field.folder / "log").read_text()


def ranks_of(job):
    """Process ids of the living ranks of a script's session."""
    found = []
    for pid, (state, session) in processes().items():
        with contextlib.suppress(OSError):
            variables = Path(f"/proc/{pid}/environ").read_bytes()
            if session == job.pid and state not in "ZX" and b"OMPI_COMM_WORLD_RANK=" in variables:
                found.append(pid)
    return found
