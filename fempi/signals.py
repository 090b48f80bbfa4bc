"""Signals that ask a run to stop: it finishes its round, keeps its state and ends; asked once more, it ends at once."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from types import FrameType
from typing import Self

from fempi import launcher
from fempi.errors import FempiError

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
STATUS = 75
"""Exit status of a job that was stopped and can go on (EX_TEMPFAIL: try again later)"""
ONCE = 1.0
"""Seconds within which signals count as one: launchers and schedulers deliver the same request twice"""


class Interrupted(FempiError):  # noqa: N818 - reads as what it says
    """All ranks have agreed to stop, because one of them was asked to."""


class Stop:
    """Listens for signals, from any moment on, also while the program waits inside MPI. Use it in a `with` statement.

    Python's own handlers run only when the interpreter is back from C. So they do nothing here, and a thread reads what
    the C handler of each signal writes to a socket.
    """

    asked = 0
    """number of the first signal; 0 while there was none"""

    def __enter__(self) -> Self:
        self._out, self._in = socket.socketpair()
        self._in.setblocking(False)
        self._old_descriptor = signal.set_wakeup_fd(self._in.fileno(), warn_on_full_buffer=False)
        self._old = {number: signal.signal(number, _nothing) for number in SIGNALS}
        threading.Thread(target=self._listen, name="fempi-signals", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            # Once stopped, the way out is not to be disturbed: srun -K tells all ranks when the first is out.
            signal.signal(number, signal.SIG_IGN if self.asked else handler)
        signal.set_wakeup_fd(self._old_descriptor)
        self._in.close()

    def _listen(self) -> None:
        since = 0.0
        with contextlib.closing(self._out):
            while received := self._out.recv(1):
                (number,) = received
                if number not in SIGNALS:
                    continue
                if not self.asked:
                    self.asked, since = number, time.monotonic()
                    _say(number, "the run stops after this round; a second signal ends it at once")
                elif time.monotonic() - since > ONCE:
                    _say(number, "a second signal: ending at once; the checkpointed rounds are safe")
                    os.kill(os.getpid(), signal.SIGKILL)  # which every launcher takes for the end of the job


def _nothing(number: int, frame: FrameType | None) -> None:
    """Keep the signal from ending the process."""


def _say(number: int, what: str) -> None:
    if launcher.is_first():
        print(f"fempi: {signal.Signals(number).name}: {what}", file=sys.stderr, flush=True)
