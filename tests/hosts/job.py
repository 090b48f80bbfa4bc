"""A job of two ranks on one host or on two, and what is left of it."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import launch
from mpis import Mpi
from network import Network

EXPERIMENT = Path(__file__).with_name("experiment.toml")
STARTED_SECONDS = 60  # until the third round; a few suffice, but machines are busy at times

# What whoever comes by ssh finds on a host. /run is the host's own, so what killed jobs leave behind goes with it.
LOGIN = {"PATH": os.environ["PATH"], "TMPDIR": "/run"}
LOGIN |= {name: value for name, value in launch.OURS.items() if name.startswith("OMPI_ALLOW")}


class Job:
    """`fempi run` of the experiment on two ranks, the first on `hosts[0]`, started there."""

    def __init__(self, network: Network, mpi: Mpi, hosts: int, output: Path, fault: str, *options: str) -> None:
        self._network = network
        self._scratch = Path(tempfile.mkdtemp(dir=output.parent))
        self.output = output
        self.mark = self._scratch / "mark"
        self.log = self._scratch / "log"
        names = [network.hosts[0].name, network.hosts[hosts - 1].name]
        command = mpi.command(names, [*fempi_run(output, fault, self.mark), *options])
        with self.log.open("wb") as log:
            self.launcher = subprocess.Popen(
                network.hosts[0].command(command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=mpi.environment() | LOGIN,
                start_new_session=True,
            )

    @property
    def said(self) -> str:
        """What launcher and ranks have printed."""
        return self.log.read_bytes().replace(b"\0", b"").decode(errors="replace")

    @property
    def left(self) -> dict[str, list[str]]:
        """Command lines of what runs, by host."""
        return {host.name: list(host.processes().values()) for host in self._network.hosts if host.processes()}

    def wait_for_the_fault(self) -> None:
        """Return as soon as rank 1 has come to its fault."""
        end = time.monotonic() + STARTED_SECONDS
        while not self.mark.exists():
            assert self.launcher.poll() is None, f"ended before its fault:\n{self.said}"
            assert time.monotonic() < end, f"no third round in {STARTED_SECONDS} s:\n{self.said}"
            time.sleep(0.02)

    def wait_until_gone(self, seconds: float) -> float:
        """Return how many seconds it took until nothing of the job was left on any host; fail after `seconds`."""
        begun = time.monotonic()
        while self.launcher.poll() is None or self.left:
            waited = time.monotonic() - begun
            assert waited < seconds, f"after {waited:.1f} s there is still {self.left}:\n{self.said}"
            time.sleep(0.02)
        return time.monotonic() - begun

    def signal_launcher(self, number: int) -> None:
        """Send a signal to the process that started the ranks."""
        entered = f"PPid:\t{self.launcher.pid}\n"  # what we have started waits outside for what it started there
        (pid,) = (p for p in self._network.hosts[0].processes() if entered in Path(f"/proc/{p}/status").read_text())
        os.kill(pid, number)

    def end(self) -> None:
        """Forget the job; the network takes down what is left of it."""
        self.launcher.kill()
        self.launcher.wait()


def fempi_run(output: Path, fault: str = "none", mark: Path = Path()) -> list[str]:
    """Return the command that runs the experiment."""
    command = [sys.executable, "-m", "fempi", "run", str(EXPERIMENT), "--output", str(output)]
    return [*command, "--set", f'attack.kind="{fault}"', "--set", f'attack.mark="{mark}"']
