"""How the updates of a round come from the ranks that trained them to where they are judged.

In the layout "root" that is root, which gets whole rows. In the layout "sharded" it is every rank, and each gets some
columns of all rows: nobody holds more than its share of the matrix.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
from mpi4py import MPI

from fempi.algebra import Float32, Float64, Int64
from fempi.columns import BLOCK, Columns
from fempi.comm import Comm

_PIECE = 1 << 16
"""Numbers of a sum that go from rank to rank at once, so that the next rank adds while this one receives more"""


class SpreadColumns(Columns):
    """Columns spread over the ranks in whole blocks, as evenly as these allow; with few blocks some ranks have none."""

    spread = True

    def __init__(self, comm: Comm, d: int) -> None:
        blocks = -(-d // BLOCK)
        edges = [min(rank * blocks // comm.size * BLOCK, d) for rank in range(comm.size + 1)]
        super().__init__(d, edges[comm.rank], edges[comm.rank + 1])
        self.parts = [slice(*part) for part in pairwise(edges)]
        self._mpi, self._rank = comm.mpi, comm.rank
        self._holders = [rank for rank, part in enumerate(self.parts) if part.start < part.stop]

    def sum(self, terms: Iterable[Any]) -> Float64:
        """Add up as one rank alone would: each adds its terms one by one to what those before it have summed up."""
        mine = list(map(np.asarray, terms))  # all ranks find theirs before any waits for another
        last = self._holders[-1]
        shape = self._mpi.bcast(mine[0].shape if self._rank == last else None, root=last)
        total = np.zeros(shape)
        flat = total.reshape(-1)
        if mine:
            place = self._holders.index(self._rank)
            before, after = self._holders[max(place - 1, 0)], self._holders[min(place + 1, len(self._holders) - 1)]
            for start in range(0, flat.size, _PIECE):
                piece = slice(start, start + _PIECE)
                if before != self._rank:
                    self._mpi.Recv(flat[piece], source=before)
                for term in mine:
                    flat[piece] += term.reshape(-1)[piece]
                if after != self._rank:
                    self._mpi.Send(flat[piece], dest=after)
        self._mpi.Bcast(total, root=last)
        return total

    def join(self, piece: Float32) -> Float32:
        """Return the vector (d,) on every rank."""
        whole = np.empty(self.d, np.float32)
        starts = [part.start for part in self.parts]
        widths = [part.stop - part.start for part in self.parts]
        self._mpi.Allgatherv(piece, [whole, widths, starts, MPI.FLOAT])
        return whole

    def largest(self, values: Float64) -> Float64:
        """Return the largest over the ranks (k,); NaN where any says NaN."""
        each = np.empty((self._mpi.size, *values.shape))
        self._mpi.Allgather(values, each)
        largest: Float64 = each.max(axis=0)
        return largest

    def overlaid(self, values: Float32) -> Float32:
        """Return the array with every rank's entries; an entry that a rank does not give has all bits 0 there."""
        self._mpi.Allreduce(MPI.IN_PLACE, values.view(np.uint32), op=MPI.BOR)  # a sum would lose the sign of -0
        return values

    def whole(self, rows: Float32) -> Iterator[Float32]:
        """Yield the rows (d,) on root, one after the other in one buffer; others return when root has taken all."""
        if self._rank == 0:
            return self._received(rows)
        for row in rows if self.width else []:
            self._mpi.Send(row, dest=0)
        return iter(())

    def _received(self, rows: Float32) -> Iterator[Float32]:
        whole = np.empty(self.d, np.float32)
        others = [rank for rank in self._holders if rank != 0]
        for row in rows:
            pending = [self._mpi.Irecv(whole[self.parts[rank]], source=rank) for rank in others]
            whole[self.here] = row
            MPI.Request.Waitall(pending)
            yield whole


class Memory:
    """Matrices for the rows of rounds, so many in turn: memory that is used again need not be found and cleared."""

    def __init__(self, turns: int = 1) -> None:
        self._kept = [np.empty(0, np.float32) for _ in range(turns)]
        self._turn = 0

    def matrix(self, rows: int, columns: int) -> Float32:
        """Return a matrix with anything in it; the one before it, of the same turn, is no more."""
        self._turn = (self._turn + 1) % len(self._kept)
        if self._kept[self._turn].size < rows * columns:
            self._kept[self._turn] = np.empty(0, np.float32)  # let go before there is another
            self._kept[self._turn] = np.empty(rows * columns, np.float32)
        return self._kept[self._turn][: rows * columns].reshape(rows, columns)


class RowGather:
    """Collects the rows of a round at root, each straight into its place.

    Root receives into `updates` (n, d), which it may fill itself for the slots it owns; every other rank fills
    `row(slot)` and sends it as soon as it is ready. One message holds one row, so counts stay small however large
    n times d is, and no row is copied twice.
    """

    def __init__(self, comm: Comm, owners: Int64, d: int, memory: Memory | None = None) -> None:
        self._comm = comm
        self.columns = Columns(d)
        self._pending: list[MPI.Request] = []
        mine = np.flatnonzero(owners == comm.rank)
        self.updates = (memory or Memory()).matrix(len(owners) if comm.is_root else len(mine), d)
        self._places = {int(slot): int(slot) if comm.is_root else i for i, slot in enumerate(mine)}
        if comm.is_root:
            for slot in np.flatnonzero(owners != 0):
                request = comm.mpi.Irecv(self.updates[slot], source=int(owners[slot]), tag=int(slot))
                self._pending.append(request)

    @property
    def slots(self) -> list[int]:
        """The slots this rank fills."""
        return list(self._places)

    @property
    def judges(self) -> bool:
        """Whether the updates are judged on this rank."""
        return self._comm.is_root

    def row(self, slot: int) -> Float32:
        """Where this rank writes the update (d,) of a slot it owns."""
        row: Float32 = self.updates[self._places[slot]]
        return row

    def send(self, slot: int) -> None:
        """Hand a finished row over; it must not change any more."""
        if not self._comm.is_root:
            self._pending.append(self._comm.mpi.Isend(self.row(slot), dest=0, tag=slot))

    def wait(self) -> Float32:
        """Return when all rows are where they belong; root's result is (n, d)."""
        MPI.Request.Waitall(self._pending)
        return self.updates


class ColumnGather:
    """Spreads the rows of a round over all ranks: each receives its columns of every row, straight into their place.

    A row that a rank has trained is let go as soon as its parts are with the others.
    """

    judges = True

    def __init__(self, comm: Comm, owners: Int64, d: int, memory: Memory | None = None) -> None:
        self._comm = comm
        self.columns = SpreadColumns(comm, d)
        self.slots = [int(slot) for slot in np.flatnonzero(owners == comm.rank)]
        self.updates = (memory or Memory()).matrix(len(owners), self.columns.width)
        self._rows: dict[int, Float32] = {}
        self._sent: dict[int, list[MPI.Request]] = {}
        self._received = [
            comm.mpi.Irecv(self.updates[slot], source=int(owners[slot]), tag=int(slot))
            for slot in (np.flatnonzero(owners != comm.rank) if self.columns.width else [])
        ]

    def row(self, slot: int) -> Float32:
        """Where this rank writes the update (d,) of a slot it owns."""
        return self._rows.setdefault(slot, np.empty(self.columns.d, np.float32))

    def send(self, slot: int) -> None:
        """Hand a finished row over; it must not change any more."""
        row = self._rows[slot]
        self.updates[slot] = row[self.columns.here]
        self._sent[slot] = [
            self._comm.mpi.Isend(row[part], dest=rank, tag=slot)
            for rank, part in enumerate(self.columns.parts)
            if rank != self._comm.rank and part.start < part.stop
        ]
        for earlier in [slot for slot, requests in self._sent.items() if MPI.Request.Testall(requests)]:
            del self._sent[earlier], self._rows[earlier]

    def wait(self) -> Float32:
        """Return when all columns are where they belong: (n, width) on every rank."""
        MPI.Request.Waitall([*self._received, *(request for requests in self._sent.values() for request in requests)])
        self._rows.clear()
        return self.updates


Gather = RowGather | ColumnGather


def gatherv(comm: Comm, rows: Float32, whole: Float32, counts: Int64) -> None:
    """Gather all ranks' rows at once into root's `whole`, as a yardstick: `counts` says how many numbers each has."""
    send = rows.ravel()
    comm.mpi.Gatherv(send, [whole.ravel(), (counts, None)] if comm.is_root else None, root=0)
