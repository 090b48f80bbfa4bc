"""How fast updates come to root, beside a bare MPI_Gatherv of as many bytes: `fempi bench gather`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

import fempi
from fempi.algebra import Float32
from fempi.bench import times
from fempi.comm import Comm, library
from fempi.display import console
from fempi.errors import FempiError
from fempi.exchange import RowGather, gatherv


@dataclass(frozen=True, kw_only=True)
class Measured:
    """All that was measured, and of what."""

    fempi_version: str
    mpi_library: str
    ranks: int
    hosts: int
    cohort: int
    params: int
    bytes_sent: int
    """by all ranks but root"""
    rows: times.Seconds
    """as a run does it: each row by itself, straight into its place"""
    bare: times.Seconds
    """all rows of a rank at once, by MPI_Gatherv"""


def require_others(comm: Comm) -> None:
    """Raise FempiError for a rank alone, who gathers nothing."""
    if comm.size < 2:
        raise FempiError("there is nothing to gather from one rank; start it under mpirun -n 2, or more")


def measure(comm: Comm, *, cohort: int, params: int, repeats: int) -> Measured:
    """Gather so many times in both ways, in turns, after once that does not count."""
    owners = np.sort(np.arange(cohort) % comm.size)  # neighbours have one owner: Gatherv has no gaps to fill
    mine = int((owners == comm.rank).sum())
    rows = np.full((mine, params), 1 + comm.rank, np.float32)
    whole = np.zeros((cohort if comm.is_root else 0, params), np.float32)
    seconds = np.zeros((repeats + 1, 2))
    for row in seconds:
        comm.largest(0)  # all ranks begin together
        gather = RowGather(comm, owners, params)
        if not comm.is_root:
            gather.updates[:] = rows
        comm.largest(0)
        row[0] = times.timed(_rows, gather)
        comm.largest(0)
        row[1] = times.timed(gatherv, comm, rows, whole, np.bincount(owners, minlength=comm.size) * params)
    if comm.is_root:
        expected = 1 + owners[owners != 0]
        for received in (gather.updates, whole):
            if not np.array_equal(received[owners != 0, 0], expected) or not np.array_equal(
                received[owners != 0, -1], expected
            ):
                raise FempiError("rows came to other places than theirs")
    return Measured(
        fempi_version=fempi.__version__,
        mpi_library=library(),
        ranks=comm.size,
        hosts=len(set(comm.describe(comm.host))),
        cohort=cohort,
        params=params,
        bytes_sent=int((owners != 0).sum()) * params * 4,
        rows=times.of(seconds[1:, 0].tolist()),
        bare=times.of(seconds[1:, 1].tolist()),
    )


def show(measured: Measured) -> None:
    """Print what was measured, as root saw it."""
    out, m = console(), measured
    hosts = "one host" if m.hosts == 1 else f"{m.hosts} hosts"
    out.print(
        f"{m.cohort} updates of {m.params:,} parameters from {m.ranks} ranks on {hosts}; {m.mpi_library}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    table = times.table("", "ms", "GB/s", "of Gatherv's speed")
    for name, seconds in ("rows", m.rows), ("MPI_Gatherv", m.bare):
        speed = f"{m.bytes_sent / seconds.median / 1e9:.2f}"
        table.add_row(name, times.milliseconds(seconds), speed, f"{m.bare.median / seconds.median:.0%}")
    out.print(table)


def _rows(gather: RowGather) -> Float32:
    for slot in gather.slots:
        gather.send(slot)
    return gather.wait()
