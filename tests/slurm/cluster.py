"""A real Slurm on this machine: one node, its controller and its daemons, in namespaces of their own.

Nothing of it has a name or a port outside. It lives as long as this process holds a pipe to it; the kernel then removes
all that runs in it, jobs and daemons, however this process ends.
"""

import contextlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from launch import clean_env

REPOSITORY = Path(__file__).parents[2]
BOOT_SECONDS = 30
SOON = 300
"""Seconds within which a job of a few rounds is done on a busy machine"""

NAMESPACES = ("--pid", "--mount", "--ipc", "--net")
# The first process: it says its id as it is known outside, starts the daemons, and collects orphans while `cat` waits
# for the end of the pipe. The address is for the resolver, to which a machine with none but 127.0.0.1 has no IPv4.
INIT = """
read -r outside rest </proc/self/stat
mount -t proc proc /proc
mount -t tmpfs tmpfs /dev/shm
ip link set lo up
ip address add 10.0.0.1/32 dev lo
munged --force --key-file={here}/munge.key --socket={here}/munge/s --pid-file={here}/munge/pid \
    --log-file={here}/munge/log --seed-file={here}/munge/seed
slurmctld
slurmd
echo "$outside"
cat
"""

# Four CPUs whatever there are, and two GPUs that are none. KillWait is what a cancelled job has between TERM and KILL.
CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
AuthInfo=socket={here}/munge/s
SlurmUser=root
StateSaveLocation={here}/state
SlurmdSpoolDir={here}/spool
TmpFS={here}/tmp
SlurmctldPidFile={here}/slurmctld.pid
SlurmdPidFile={here}/slurmd.pid
SlurmctldLogFile={here}/slurmctld.log
SlurmdLogFile={here}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,sched_interval=1
ReturnToService=2
KillWait=10
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 RealMemory=64000 Gres=gpu:2 State=UNKNOWN
PartitionName=test Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
GRES = "NodeName={host} Name=gpu Count=2 File=/dev/tty[1-2]\n"


@dataclass(frozen=True)
class Job:
    """A job that was submitted, or a task of an array (its id is then that of the task)."""

    cluster: "Cluster"
    id: str
    log: Path

    def facts(self) -> dict[str, str]:
        """What `scontrol show job` says."""
        said = self.cluster.run("scontrol", "show", "job", "--oneliner", self.id).stdout
        return dict(re.findall(r"(\w+)=(\S*)", said))

    @property
    def output(self) -> str:
        """What it has printed so far."""
        return self.log.read_text(errors="replace") if self.log.exists() else "(no log)"

    def wait(self, *states: str, seconds: float = SOON) -> dict[str, str]:
        """Return the facts as soon as the job is in one of these states; AssertionError if it ends in another."""
        end = time.monotonic() + seconds
        while True:
            facts = self.facts()
            if facts["JobState"] in states:
                return facts
            told = f"job {self.id}: {facts['JobState']}, ExitCode {facts['ExitCode']}\n{self.output}"
            assert facts["JobState"] in ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING"), told
            assert time.monotonic() < end, f"not {states} within {seconds} s; {told}"
            time.sleep(0.2)

    def stop(self) -> None:
        """Ask the batch script to stop, as Slurm does before the time limit."""
        self.cluster.run("scancel", "--batch", "--signal=USR1", self.id)

    def start_soon(self) -> None:
        """Let a requeued job start in some seconds; Slurm would wait two minutes.

        Not at once: slurmd is still clearing away its last start, and would take the script of the next one with it.
        """
        step = f"slurmstepd: [{self.facts()['JobId']}."
        wait_for(lambda: not any(step in line for line in self.cluster.programs().values()), SOON, "still there")
        self.cluster.run("scontrol", "update", f"JobId={self.id}", "StartTime=now+3seconds")


class Cluster:
    """The running Slurm."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        names = {"here": folder, "host": socket.gethostname().partition(".")[0]}
        for name in ("munge", "state", "spool", "tmp"):
            (folder / name).mkdir()
        key = folder / "munge.key"
        key.touch(0o600)
        key.write_bytes(b"not a secret: nothing outside can reach this cluster")
        (folder / "slurm.conf").write_text(CONF.format(**names))
        (folder / "gres.conf").write_text(GRES.format(**names))
        self._env = {
            **clean_env(),
            "SLURM_CONF": str(folder / "slurm.conf"),
            "TMPDIR": str(folder / "tmp"),
            "FEMPI_VENV": sys.prefix,
        }
        with (folder / "log").open("wb") as log:
            self._keeper = subprocess.Popen(
                ["unshare", "--fork", "--kill-child", *NAMESPACES, "sh", "-ec", INIT.format(**names)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=self._env,
                start_new_session=True,
            )
        said = self._keeper.stdout.readline()
        if not said:
            self.end()
            raise RuntimeError(f"Slurm did not start: {self.logs()}")
        self._first = int(said)
        self._namespace = _namespace_of(self._first)
        self._daemons: set[int] = set()

    def wait_until_ready(self) -> None:
        """Wait until the node is there for jobs."""
        end = time.monotonic() + BOOT_SECONDS
        while self.attempt("sinfo", "--noheader", "--format=%T").stdout.strip() != "idle":
            assert time.monotonic() < end, f"no idle node after {BOOT_SECONDS} s: {self.logs()}"
            time.sleep(0.1)
        self._daemons = set(self.programs())

    def run(
        self, *command: str, cwd: Path = REPOSITORY, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess:
        """Run a command in there; AssertionError if it fails."""
        done = self.attempt(*command, cwd=cwd, env=env)
        assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done

    def attempt(
        self, *command: str, cwd: Path = REPOSITORY, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess:
        """Run a command in there and return how it ended."""
        enter = ["nsenter", f"--target={self._first}", *NAMESPACES]
        return subprocess.run(
            [*enter, "sh", "-c", 'cd "$0" && exec "$@"', str(cwd), *command],
            stdin=subprocess.DEVNULL,
            env={**self._env, **(env or {})},
            capture_output=True,
            text=True,
            timeout=SOON,
            check=False,
        )

    def submit(self, script: str, *arguments: str, cwd: Path, options: tuple[str, ...] = (), **env: str) -> Job:
        """Submit a script of jobs/ from `cwd`, which has a jobs folder, as a user would."""
        said = self.run("sbatch", "--parsable", *options, f"jobs/{script}", *arguments, cwd=cwd, env=env).stdout
        job = Job(self, said.strip(), Path())
        log = job.facts()["StdOut"]
        return Job(self, job.id, Path(log))

    def tasks(self, array: Job, count: int) -> list[Job]:
        """Return the tasks of an array, each as a job."""
        each = [f"{array.id}_{n}" for n in range(count)]
        return [Job(self, task, array.log.with_name(f"fempi-{task}.out")) for task in each]

    def programs(self) -> dict[int, str]:
        """Command lines of all that runs in there but the daemons; a process on its way out has an empty one."""
        found = {}
        for pid in (int(process.name) for process in Path("/proc").glob("[0-9]*")):
            with contextlib.suppress(OSError):  # ended
                if _namespace_of(pid) == self._namespace and pid not in self._daemons:
                    words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                    found[pid] = b" ".join(words).decode(errors="replace")
        return found

    def cancel_all(self) -> None:
        """Cancel every job and wait until nothing is left of them."""
        self.run("scancel", "--quiet", "--user=root")
        wait_for(lambda: not self.programs(), SOON, "jobs live on")

    def logs(self) -> str:
        """What the daemons have said."""
        files = [self._folder / name for name in ("log", "slurmctld.log", "slurmd.log", "munge/log")]
        return "\n".join(f"{file.name}:\n{file.read_text()[-3000:]}" for file in files if file.exists())

    def end(self) -> None:
        """Let the kernel take everything down, and wait until it has."""
        self._keeper.stdin.close()
        try:
            self._keeper.wait(10)
        except subprocess.TimeoutExpired:
            self._keeper.send_signal(signal.SIGKILL)  # --kill-child
            self._keeper.wait()
        self._keeper.stdout.close()


@contextlib.contextmanager
def running() -> Iterator[Cluster]:
    """Start a Slurm, and leave nothing of it."""
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))  # its path is short because sockets' paths must be
    folder.chmod(0o755)  # munge trusts no other
    try:
        cluster = Cluster(folder)
        try:
            cluster.wait_until_ready()
            yield cluster
        finally:
            cluster.end()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def wait_for(condition: Callable[[], object], seconds: float, otherwise: str) -> None:
    """Wait until something is true; AssertionError after some seconds."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            pytest.fail(f"{otherwise} after {seconds} s")
        time.sleep(0.1)


def _namespace_of(pid: int) -> int:
    return Path(f"/proc/{pid}/ns/pid").stat().st_ino
