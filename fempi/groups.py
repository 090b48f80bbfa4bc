"""Groups of ranks, each with a run of its own: they take runs from one list, and whoever is asked to stop tells all.

The roots of the groups send each other small messages, which lie there until they are read, so that no group waits for
another's round. A thread of the first root hands out the runs while its ranks train. (One-sided MPI needs the attention
of the rank that holds the counter, too: under MPICH others waited until it had ended its computation.)
"""

from __future__ import annotations

import itertools
import math
import signal
import threading
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from fempi.comm import Comm, Letters, Refused, threads_may_speak
from fempi.progress import Share, Stint
from fempi.signals import Interrupted, Stop
from fempi.watchdog import Watchdog

S = TypeVar("S")
T = TypeVar("T")

_NAP = 0.02
"""Seconds between two looks at what has arrived, of a group that has nothing else to do"""
_ATTENTION = 0.05
"""Seconds between those of the thread that hands out runs: it takes the interpreter from the training of its rank"""
_REFUSED = int(signal.NSIG)
"""Stands where a signal's number may, when a group has to give up"""


class Groups:
    """The ranks of a job in groups of `size`, in their order, the last one of what is left; None makes one of all.

    Every rank makes it, in the same moment. Raises `Refused` on all of them if there are fewer than `size`.
    """

    def __init__(self, world: Comm, size: int | None, stop: Stop) -> None:
        size = world.size if size is None else size
        if size > world.size:
            ranks = "1 rank" if world.size == 1 else f"{world.size} ranks"
            raise Refused(f"--group-size {size} is more than there are: this job has {ranks}")
        self.world = world
        self.size = size
        """ranks of a group; the last one may have fewer"""
        self.count = math.ceil(world.size / size)
        self.comm = world if self.count == 1 else world.split(world.rank // size)
        """this rank's group"""
        self.shares: list[Share] = []
        """what each group has made, on every rank, as far as it was known when `share` last returned"""
        first, hosts = world.rank - self.comm.rank, dict.fromkeys(self.comm.describe(world.host))
        self._name = f"rank {first}" if self.comm.size == 1 else f"ranks {first}-{first + self.comm.size - 1}"
        self._hosts = ", ".join(hosts)
        self._roots = world if self.count == 1 else world.split(min(self.comm.rank, 1))
        self._stop = stop
        self._stints: list[Stint] = []
        self._began = time.monotonic()
        self._post: _Post | None = None

    @property
    def place(self) -> str:
        """Where this group is, in words."""
        return f"{self._name} on {self._hosts}"

    @property
    def seconds(self) -> float:
        """How long there have been groups."""
        return time.monotonic() - self._began

    def divide(self, things: Sequence[S], work: Callable[[S], T]) -> list[T]:
        """Return `work` of each thing, on every rank. With several groups, the ranks of each host share the things."""
        if self.count == 1:
            return [work(thing) for thing in things]
        host = self.world.on_this_host()
        first, end = (len(things) * rank // host.size for rank in (host.rank, host.rank + 1))
        return [result for part in host.describe([work(thing) for thing in things[first:end]]) for result in part]

    def share(self, things: Sequence[S], work: Callable[[S], T], watchdog: Watchdog) -> list[T]:
        """Return `work` of each thing on every rank; all ranks of a group do it, of the first that is free.

        All ranks must call it, and `work` must call `heed` often. A group that finds nothing left to do sleeps until
        all are through. If one raises `Refused`, the others stop as if they were asked to; it is raised on all ranks,
        as is `Interrupted`.
        """
        if self.count == 1:
            return [work(thing) for thing in things]
        results: dict[int, T] = {}
        refused = interrupted = ""
        self._post = _Post(self._roots, watchdog.seconds) if self.comm.is_root else None
        try:
            while (number := self._next(watchdog)) < len(things):
                results[number] = work(things[number])
        except Refused as error:
            refused = str(error)
            self._listen(_REFUSED)
        except Interrupted as error:
            interrupted = str(error)
        through = self._post.through() if self._post else _never
        self._until(through, watchdog)
        if self._post:
            self._post.close()
        self._post = None

        mine = Share(ranks=self._name, hosts=self._hosts, stints=self._stints)
        said = self.comm.from_root(lambda: self._roots.describe((mine, results, refused, interrupted)))
        self.shares = [share for share, _, _, _ in said]
        if refusals := list(dict.fromkeys(refused for _, _, refused, _ in said if refused)):
            raise Refused("\n".join(refusals))
        if stops := [interrupted for _, _, _, interrupted in said if interrupted]:
            raise Interrupted(stops[0])
        everything = {number: result for _, results, _, _ in said for number, result in results.items()}
        return [everything[number] for number in range(len(things))]

    def heed(self) -> None:
        """Raise `Interrupted` on all ranks of this group if a rank of any group was asked to stop."""
        asked = self._listen(self._stop.asked)
        if asked == _REFUSED:
            raise Interrupted("another group had to give up")
        if asked:
            name = signal.Signals(asked).name
            raise Interrupted(f"stopped by {name}; `fempi resume` goes on, or the same command without --force")

    def rest(self) -> None:
        """Let the other groups know that this one may show no sign of life before it calls `heed` again."""
        if self._post:
            self._post.sign(rest=True)

    def made(self, label: str, began: float) -> None:
        """Note that this group has made a run, `began` being what `time.monotonic` said at its beginning."""
        self._stints.append(Stint(label=label, started=began - self._began, seconds=time.monotonic() - began))

    def _next(self, watchdog: Watchdog) -> int:
        """Take the next number of all."""
        if self._post:
            self._post.ask()
        self._until(self._post.answered if self._post else _never, watchdog)
        return self.comm.from_root(lambda: self._post.given if self._post else 0)

    def _until(self, over: Callable[[], bool], watchdog: Watchdog) -> None:
        """Return when the group's root says that it is over, and sleep until then, but listen."""
        while True:
            done, alive = self.comm.from_root(lambda: (over(), self._post is not None and self._post.others_live()))
            if done:
                return
            time.sleep(_NAP)
            self._listen(self._stop.asked)
            if alive:
                watchdog.pat()

    def _listen(self, number: int) -> int:
        """Return what anybody in any group was asked, as far as it is known here, and pass on what is new."""
        asked = self.comm.largest(max(number, self._post.heard() if self._post else 0))
        if self._post:
            self._post.pass_on(asked)
        return asked


def _never() -> bool:
    return False


class _Post:
    """What the root of a group has to do with those of the others. The first of them hands out numbers."""

    _STOP, _ASK, _GIVE, _SIGN = range(4)
    """what letters are about: a signal's number; nothing; a number taken; whether the sender will be silent"""

    def __init__(self, roots: Comm, watchdog_seconds: int) -> None:
        self._letters = Letters(roots)
        self._first = roots.is_root
        self._others = [rank for rank in range(roots.size) if rank != roots.rank]
        self._numbers = itertools.count()
        self._known = 0
        self.given = 0
        """the number that was handed to this group last"""
        # The first root, whose host has the launcher, watches all; the others watch the first.
        self._watched = self._others if self._first else [0]
        self._seconds = watchdog_seconds
        self._due = dict.fromkeys(self._watched, time.monotonic() + 2 * watchdog_seconds)
        self._signed = -math.inf
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def ask(self) -> None:
        """Ask for a number, or take it. The first to take one is the first group, which then begins to hand out."""
        if not self._first:
            self._letters.send(0, to=0, about=self._ASK)
            return
        self.given = next(self._numbers)
        if self._thread is None and threads_may_speak():
            self._thread = threading.Thread(target=self._attend, name="fempi-groups", daemon=True)
            self._thread.start()

    def answered(self) -> bool:
        """Whether the number is `given`."""
        for _, number in [] if self._first else self._letters.read(self._GIVE):
            self.given = number
            return True
        return self._first

    def through(self) -> Callable[[], bool]:
        """Say that this group takes no more; return what tells whether all have said so."""
        return self._letters.meet()

    def heard(self) -> int:
        """Return what others were asked, and show a sign of life."""
        if self._first and self._thread is None:
            self._hand_out()
        for _, number in self._letters.read(self._STOP):
            self._known = max(self._known, number)
        self.sign()
        return self._known

    def pass_on(self, asked: int) -> None:
        """Tell all others what this group was asked, unless that is known."""
        if asked > self._known:
            self._known = asked
            for other in self._others:
                self._letters.send(asked, to=other, about=self._STOP)

    def sign(self, *, rest: bool = False) -> None:
        """Tell those who watch this group that it is alive, if it is time; with `rest`, that it will be silent."""
        now = time.monotonic()
        if rest or now > self._signed + self._seconds / 4:
            self._signed = -math.inf if rest else now
            for other in self._watched:
                self._letters.send(rest, to=other, about=self._SIGN)

    def others_live(self) -> bool:
        """Whether all who are watched have shown signs of life lately, or need not."""
        now = time.monotonic()
        for sender, rest in self._letters.read(self._SIGN):
            self._due[sender] = math.inf if rest else now + 2 * self._seconds
        return now < min(self._due.values())

    def close(self) -> None:
        """Read what is left."""
        self._over.set()
        if self._thread is not None:
            self._thread.join()
        self._letters.close()

    def _attend(self) -> None:
        while not self._over.wait(_ATTENTION):
            self._hand_out()

    def _hand_out(self) -> None:
        for asker, _ in self._letters.read(self._ASK):
            self._letters.send(next(self._numbers), to=asker, about=self._GIVE)
