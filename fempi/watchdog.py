"""Ends a rank that makes no progress, says where it was, and takes its launcher with it."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import subprocess
import sys
import threading
import time
from typing import Self

from fempi import launcher

_BACKSTOP = 10
"""Seconds after which a timer in C does what the thread could not, because something holds the interpreter"""
_GRACE = 1.0
"""Seconds that a launcher has to pass on what was said"""
_PATIENCE = 2
"""Seconds that a launcher has to notice the end of its rank and to end the job, with a status that says so"""


class Watchdog:
    """Ends this rank, and so the job, if it is not patted for some seconds. Use it in a `with` statement.

    Its thread runs while the rank is blocked inside MPI, waiting for one that is gone. A launcher may wait as long as
    that rank would have, for a host that is cut off, so it is ended too if it does not end by itself.
    """

    def __init__(self, seconds: int, who: str) -> None:
        self.seconds = seconds
        self._who = who
        self._deadline = float("inf")
        self._changed = threading.Condition()

    def pat(self) -> None:
        """Start anew."""
        self._set(time.monotonic() + self.seconds)
        faulthandler.dump_traceback_later(self.seconds + _BACKSTOP, exit=True)

    def rest(self) -> None:
        """Do nothing until the next pat."""
        faulthandler.cancel_dump_traceback_later()
        self._set(float("inf"))

    def __enter__(self) -> Self:
        self._over = False
        self._thread = threading.Thread(target=self._watch, name="fempi-watchdog", daemon=True)
        self._thread.start()
        self.pat()
        return self

    def __exit__(self, *_: object) -> None:
        self._over = True
        self.rest()
        self._thread.join()

    def _set(self, deadline: float) -> None:
        with self._changed:
            self._deadline = deadline
            self._changed.notify()

    def _watch(self) -> None:
        with self._changed:
            while not self._over:
                left = self._deadline - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(left if left < threading.TIMEOUT_MAX else None)
            else:
                return
        print(f"fempi: {self._who} made no progress in {self.seconds} s; it was here:", file=sys.stderr)
        faulthandler.dump_traceback(all_threads=True)
        sys.stderr.flush()
        time.sleep(_GRACE)
        # The rank first: should a daemon of Open MPI's on another host be gone before it can report a rank that was
        # killed, mpirun ends with status 0.
        if waited_for := [*launcher.helpers(), *reversed(launcher.ancestors())]:
            _kill_later(waited_for)
        os.kill(os.getpid(), signal.SIGKILL)


def _kill_later(pids: list[int]) -> None:
    """Leave behind a process that kills those that are still there, in a session that is not ended with this one's."""
    command = f"sleep {_PATIENCE}; kill -KILL {' '.join(map(str, pids))}"
    with contextlib.suppress(OSError):  # no memory, or too many processes: the launcher is left to itself
        subprocess.Popen(
            ["/bin/sh", "-c", command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
