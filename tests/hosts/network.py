"""Hosts on a switch, made of namespaces: each has its own network, name, processes, shared memory and ssh daemon.

Nothing here has a name outside itself, so two campaigns on one machine cannot collide. A host lives as long as this
process holds a pipe to it; the kernel removes all that runs on it and its network, however this process ends.
"""

import contextlib
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import needs

BOOT_SECONDS = 20
SUBNET = "10.77.0"
NAMESPACES = ("--net", "--uts", "--mount", "--ipc", "--pid")

# The first process of a host: it says its id as it is known outside, prepares the host, and collects orphans while
# `cat` waits for the end of the pipe. /etc/ssh is replaced, so plain `ssh HOST` works as it does on a cluster.
INIT = """
read -r outside rest </proc/self/stat
mount -t proc proc /proc
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /dev/shm
mount --bind {etc}/ssh /etc/ssh
mount --bind {etc}/hosts /etc/hosts
echo {name} >/proc/sys/kernel/hostname
ip link set lo up
mkdir /run/sshd
"$(command -v sshd)" -D -e &
echo "$outside"
cat
"""

SSHD = """
HostKey /etc/ssh/key
AuthorizedKeysFile /etc/ssh/key.pub
StrictModes no
PermitRootLogin yes
UsePAM no
PrintMotd no
{login}
"""

SSH = """
IdentityFile /etc/ssh/key
GlobalKnownHostsFile /etc/ssh/known_hosts
UserKnownHostsFile /dev/null
StrictHostKeyChecking yes
BatchMode yes
"""


class Host:
    """A machine, as far as MPI can tell."""

    def __init__(self, name: str, etc: Path) -> None:
        self.name = name
        with (etc / f"{name}.log").open("wb") as log:
            self._keeper = subprocess.Popen(
                ["unshare", "--fork", *NAMESPACES, "sh", "-ec", INIT.format(name=name, etc=shlex.quote(str(etc)))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        said = self._keeper.stdout.readline()
        if not said:
            self.end()
            raise RuntimeError(f"{name} did not start: {(etc / f'{name}.log').read_text()}")
        self.pid = int(said)
        self._namespace = _pid_namespace(self.pid)
        _wait_for(self._answers, BOOT_SECONDS, f"{name} has no ssh daemon")
        self._own = set(self._all())

    def command(self, command: Sequence[str]) -> list[str]:
        """Return what runs a command on this host when it is run here."""
        return ["nsenter", f"--target={self.pid}", *NAMESPACES, "--", *command]

    def output(self, *command: str) -> str:
        """Run a short command here and return what it prints."""
        return subprocess.run(self.command(command), check=True, capture_output=True, text=True, timeout=20).stdout

    def processes(self) -> dict[int, str]:
        """Command lines of all that runs here, by process id, but the host's own and its ssh daemon's."""
        found = {}
        for pid in self._all():
            with contextlib.suppress(OSError):
                if pid not in self._own and _name(pid) != "sshd":
                    words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                    found[pid] = b" ".join(words).decode(errors="replace").strip()
        return found

    def traffic(self) -> tuple[int, int]:
        """Bytes received and sent over the network so far."""
        lines = Path(f"/proc/{self.pid}/net/dev").read_text().splitlines()
        counters = next(line.partition(":")[2].split() for line in lines if line.strip().startswith("eth0:"))
        return int(counters[0]), int(counters[8])

    def end(self) -> None:
        """Let the kernel take the host down, and wait until it has."""
        self._keeper.stdin.close()
        try:
            self._keeper.wait(5)
        except subprocess.TimeoutExpired:
            os.kill(self.pid, signal.SIGKILL)
            self._keeper.wait()
        self._keeper.stdout.close()

    def _all(self) -> list[int]:
        pids = (int(entry.name) for entry in Path("/proc").glob("[0-9]*"))
        return [pid for pid in pids if _pid_namespace(pid) == self._namespace and _runs(pid)]

    def _answers(self) -> bool:
        """Whether something listens on port 22."""
        sockets = (line.split() for line in Path(f"/proc/{self.pid}/net/tcp").read_text().splitlines()[1:])
        return any(local.endswith(":0016") and state == "0A" for _, local, _, state, *_ in sockets)


class Network:
    """Some hosts on a switch, `host1`, `host2` and so on, for a `with` statement.

    `etc` takes keys and logs. `variables` are in the environment of who comes by ssh, and nothing else of ours is.
    """

    def __init__(self, size: int, etc: Path, variables: Mapping[str, str]) -> None:
        needs.root_user()
        needs.programs(["unshare", "nsenter"], "util-linux")
        needs.programs(["ip"], "iproute2")
        needs.programs(["ssh", "sshd", "ssh-keygen"], "openssh-server")
        self._names = [f"host{i + 1}" for i in range(size)]
        self._etc = etc
        self._variables = variables
        self.hosts: list[Host] = []

    def __enter__(self) -> Self:
        self._write_etc()
        with contextlib.ExitStack() as stack:  # what has started goes again if the rest doesn't start
            self._switch = Host("switch", self._etc)
            stack.callback(self._switch.end)
            self._switch.output("ip", "link", "add", "bridge", "type", "bridge")
            self._switch.output("ip", "link", "set", "bridge", "up")
            for i, name in enumerate(self._names):
                host = Host(name, self._etc)
                stack.callback(host.end)
                self.hosts.append(host)
                self._plug_in(host, f"{SUBNET}.{i + 1}")
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def cut(self, host: Host) -> None:
        """Pull the host's cable."""
        self._switch.output("ip", "link", "set", host.name, "down")

    def mend(self, host: Host) -> None:
        """Plug it in again."""
        self._switch.output("ip", "link", "set", host.name, "up")

    def _plug_in(self, host: Host, address: str) -> None:
        ends = ["eth0", "netns", str(host.pid), "type", "veth", "peer", "name", host.name, "netns"]
        subprocess.run(["ip", "link", "add", *ends, str(self._switch.pid)], check=True)
        self._switch.output("ip", "link", "set", host.name, "master", "bridge", "up")
        host.output("ip", "address", "add", f"{address}/24", "dev", "eth0")
        host.output("ip", "link", "set", "eth0", "up")

    def _write_etc(self) -> None:
        ssh = self._etc / "ssh"
        ssh.mkdir(parents=True)
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", ssh / "key"], check=True)
        login = " ".join(["SetEnv", *(f'"{name}={value}"' for name, value in self._variables.items())])
        (ssh / "sshd_config").write_text(SSHD.format(login=login if self._variables else ""))
        (ssh / "ssh_config").write_text(SSH)
        key = (ssh / "key.pub").read_text()
        (ssh / "known_hosts").write_text("".join(f"{name} {key}" for name in self._names))
        addresses = [f"{SUBNET}.{i + 1} {name}\n" for i, name in enumerate(self._names)]
        (self._etc / "hosts").write_text("".join(["127.0.0.1 localhost\n", *addresses]))


def _pid_namespace(pid: int) -> int | None:
    try:
        return Path(f"/proc/{pid}/ns/pid").stat().st_ino
    except OSError:
        return None


def _runs(pid: int) -> bool:
    """Whether one of its threads is not dead; the first one alone may be, and the others still hold open files."""
    states = []
    for stat in Path(f"/proc/{pid}/task").glob("*/stat"):
        with contextlib.suppress(OSError):
            states.append(stat.read_text().rpartition(")")[2].split()[0])
    return any(state not in "ZX" for state in states)


def _name(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()


def _wait_for(condition, seconds: float, otherwise: str) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise RuntimeError(otherwise)
        time.sleep(0.01)
