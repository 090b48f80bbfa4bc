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
        self._mark = f"FEMPI_FAULTS_JOB_{uuid.uuid4().hex}"
        self._scratch = tempfile.TemporaryDirectory(prefix="ranks-", ignore_cleanup_errors=True)
        self._sign = Path(self._scratch.name, "braked")
        self._log = Path(self._scratch.name, "log")
        places = {self._mark: "1", **dict.fromkeys(("TMPDIR", *launch.BACKING), self._scratch.name)}
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
        launch.kill(self.members)
        self.process.wait()
        self._scratch.cleanup()

    @property
    def said(self) -> str:
        """All that it has printed so far."""
        return self._log.read_bytes().replace(b"\0", b"").decode(errors="replace")

    def members(self) -> dict[int, int | None]:
        """Return the ids of its living processes, each with its rank; None for those that are none."""
        found: dict[int, int | None] = {}
        for pid, variables in launch.members(self._mark).items():
            said = next((variables[name] for name in launch.RANK if name in variables), None)
            found[pid] = 0 if self._alone else None if said is None else int(said)
        return found

    def ranks(self) -> dict[int, int]:
        """Return the process ids of its living ranks, by their number."""
        return {rank: pid for pid, rank in self.members().items() if rank is not None}

    def waits(self, condition: Callable[[], object], what: str, seconds: float = PATIENCE) -> float:
        """Do as `wait_for` does; if it is in vain, tell what the job said."""
        try:
            return wait_for(condition, what, seconds)
        except AssertionError as error:
            error.add_note(f"The job said:\n{self.said[-5000:]}")
            raise

    def is_gone(self) -> bool:
        """Whether no process of it is left."""
        return self.process.poll() is not None and not self.members()

    def reaches(self, condition: Callable[[], object], what: str) -> bool:
        """Return True once a condition holds, False if the job ended before."""
        self.waits(lambda: condition() or self.process.poll() is not None, what)
        return self.process.poll() is None

    def reaches_brake(self) -> bool:
        """Return True once a rank has stopped in the middle of the file that was named, False if the job ended."""
        return self.reaches(self._sign.exists, "stopped at its brake")

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
        self.waits(self.is_gone, "the job ended, and nothing is left of it", seconds)
        return self.process.wait()
