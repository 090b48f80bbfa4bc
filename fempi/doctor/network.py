"""How fast an update's size of parameters goes out to all ranks, and a round's updates come in."""

from __future__ import annotations

import time
from collections.abc import Iterator
from statistics import median

import numpy as np

from fempi.algebra import Float32
from fempi.comm import Comm
from fempi.doctor.finding import Finding, count, ok, problem, speed
from fempi.exchange import RowGather

_REPETITIONS = 3


def examine(comm: Comm, d: int, cohort: int) -> Iterator[Finding]:
    """Broadcast d parameters and gather a cohort's updates, as a round does; all ranks must call it."""
    if comm.size == 1:
        yield ok("one rank has nothing to send; start several to measure the network")
        return
    params = np.arange(d, dtype=np.float32) if comm.is_root else np.zeros(d, np.float32)
    owners = np.arange(cohort) % comm.size
    out, back, wrong = [], [], 0
    for _ in range(_REPETITIONS):
        comm.describe("ready")
        began = time.perf_counter()
        comm.broadcast(params)
        comm.describe("received")
        out.append(time.perf_counter() - began)
        gather = RowGather(comm, owners, d)
        for slot in gather.slots:
            gather.row(slot)[:] = params
            gather.row(slot)[-1] = slot
        comm.describe("ready")
        began = time.perf_counter()  # before anybody else may send
        comm.from_root(lambda: "go")
        for slot in gather.slots:
            gather.send(slot)
        updates = gather.wait()
        back.append(time.perf_counter() - began)
        wrong += comm.is_root and not _arrived(updates, params)
    if wrong:
        yield problem(
            "the ranks' messages arrived with other numbers in them", "tell who runs the network of this machine"
        )
        return
    yield ok(f"broadcast to {count(comm.size, 'rank')}: {speed(4 * d, median(out))}")
    travelled = int((owners != 0).sum())
    yield ok(
        f"gather of a round's {count(travelled, 'update')} from other ranks: {speed(4 * d * travelled, median(back))}"
    )


def _arrived(updates: Float32, params: Float32) -> bool:
    rows_right = all(np.array_equal(row[:-1], params[:-1]) for row in updates)
    return rows_right and updates[:, -1].tolist() == list(range(len(updates)))
