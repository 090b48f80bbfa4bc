"""Jobs whose every process can be found, killed, and seen to be gone."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path

import launch

PATIENCE = 120  # seconds for anything that is bound to happen


def wait_for(condition: Callable[[], object], what: str, seconds: float = PATIENCE) -> float:
    """Return the seconds until a condition holds; AssertionError if it does not hold in time."""
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < seconds, f"not within {seconds} s: {what}"
        time.sleep(0.005)
    return time.monotonic() - start


class Job:
    """A command of fempi's under mpirun, or alone where `ranks` is None. Use it in a `with` statement.

    Its processes are known by a mark in their environment, whatever their parents and sessions. `brake` names a file
    in the middle of which its writer stops (`checkpoint.h5 3`: the third one), once; see `grudge.braked`.
    """

    def __init__(
        self, *arguments: object, ranks: int | None = None, brake: str = "", env: Mapping[str, str] | None = None
    ) -> None:
        self._mark = f"FEMPI_FAULTS_MARK={uuid.uuid4().hex}".encode()
        self._scratch = tempfile.TemporaryDirectory(prefix="ranks-", ignore_cleanup_errors=True)
        self._sign = Path(self._scratch.name, "braked")
        self._log = Path(self._scratch.name, "log")
        name, _, value = self._mark.decode().partition("=")
        places = {"TMPDIR": self._scratch.name, "OMPI_MCA_btl_sm_backing_directory": self._scratch.name, name: value}
        if brake:
            places["FEMPI_FAULTS_BRAKE"] = f"{brake} {self._sign}"
        mpirun = [] if ranks is None else [launch.launcher(), "-n", str(ranks)]
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [*mpirun, sys.executable, "-m", "fempi", *map(str, arguments)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=launch.clean_env() | places | dict(env or {}),
                start_new_session=True,
            )
        self.size = ranks or 1
        self._alone = ranks is None

    def __enter__(self) -> "Job":
        return self

    def __exit__(self, *_: object) -> None:
        for _ in range(100):
            for pid in self.members():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if self.is_gone():
                break
            time.sleep(0.05)
        self.process.wait()
        self._scratch.cleanup()

    @property
    def said(self) -> str:
        """All that it has printed so far."""
        return self._log.read_bytes().replace(b"\0", b"").decode(errors="replace")

    def members(self) -> dict[int, int | None]:
        """Return the ids of its living processes, each with its rank; None for those that are none."""
        found: dict[int, int | None] = {}
        for pid, (state, _) in launch.processes().items():
            with contextlib.suppress(OSError):
                variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
                if state not in "ZX" and self._mark in variables:
                    said = next((v for v in variables if v.startswith(b"OMPI_COMM_WORLD_RANK=")), None)
                    found[pid] = 0 if self._alone else None if said is None else int(said.partition(b"=")[2])
        return found

    def ranks(self) -> dict[int, int]:
        """Return the process ids of its living ranks, by their number."""
        return {rank: pid for pid, rank in self.members().items() if rank is not None}

    def is_gone(self) -> bool:
        """Whether no process of it is left."""
        return self.process.poll() is not None and not self.members()

    def reaches(self, condition: Callable[[], object], what: str) -> bool:
        """Return True once a condition holds, False if the job ended before."""
        wait_for(lambda: condition() or self.process.poll() is not None, what)
        return self.process.poll() is None

    def reaches_brake(self) -> bool:
        """Return True once a rank has stopped in the middle of the file that was named, False if the job ended."""
        return self.reaches(self._sign.exists, f"stopped at its brake; it said:\n{self.said}")

    def release(self) -> None:
        """Let the rank at the brake go on."""
        self._sign.unlink(missing_ok=True)

    def kill(self, victim: str, draw: random.Random) -> bool:
        """Kill processes: root, another rank, all ranks at once, the launcher, or everything; False if none is left."""
        ranks = self.ranks()
        chosen = {
            "root": [ranks[0]] if 0 in ranks else [],
            "another": [ranks[draw.choice(sorted(ranks.keys() - {0}))]] if ranks.keys() - {0} else [],
            "all ranks": list(ranks.values()),
            "launcher": [self.process.pid] if self.process.poll() is None else [],
            "everything": list(self.members()),
        }[victim]
        hit = False
        for pid in chosen:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                hit = True
        return hit

    def end(self, seconds: float = PATIENCE) -> int:
        """Wait for the job to end by itself, and return its exit status."""
        wait_for(self.is_gone, f"the job ended; it said:\n{self.said[-3000:]}", seconds)
        return self.process.wait()
