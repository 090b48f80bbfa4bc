"""How fast clients are trained, beside what matrix multiplication alone reaches: `fempi bench train`.

Every rank trains clients of its own at the same time, on made-up images: time does not depend on what they show. In
turns with that, it multiplies matrices for a while, which is the most that its core or GPU can do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

import fempi
from fempi import client, registry
from fempi.bench import times
from fempi.comm import Comm
from fempi.display import console
from fempi.errors import FempiError
from fempi.models.agreement import batched_model
from fempi.models.batched import BatchedModel
from fempi.models.flat import FlatModel
from fempi.rng import stream

SHAPE, CLASSES = (1, 28, 28), 10
SIZE = 1024
"""Rows and columns of the matrices that are multiplied"""
MULTIPLY = 20
"""How often they are"""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """All that was measured, and of what."""

    fempi_version: str
    torch_version: str
    device: str
    ranks: int
    threads: int
    model: str
    params: int
    examples: int
    epochs: int
    batch_size: int
    clients_per_batch: int
    """clients that a rank trains at once"""
    flops_per_client: float
    """multiplications and additions of a client's training, as PyTorch counts them"""
    client: times.Seconds
    """a client, or a client's part of those at once, over ranks and repetitions"""
    clients_per_second: float
    """of all ranks together: each round of clients takes as long as its slowest"""
    imbalance: float
    """longest by mean time of ranks that train equal clients; median over the repetitions"""
    flops: float
    """operations a second of a rank in training, by the median"""
    sgemm: float
    """operations a second of a rank that only multiplies matrices, by the median"""


def measure(
    comm: Comm,
    device: torch.device,
    *,
    model: str,
    examples: int,
    epochs: int,
    batch_size: int,
    repeats: int,
    clients_per_batch: int = 1,
) -> Measured:
    """Train so many times `clients_per_batch` clients on every rank, after some examples that do not count.

    FempiError if clients of the model cannot be trained together.
    """
    plugin = comm.together(lambda: registry.find("model", model))
    torch.manual_seed(0)
    flat = FlatModel(plugin.make(SHAPE, CLASSES, **plugin.bind({})), device)
    batched = comm.together(lambda: _batched(flat, clients_per_batch)) if clients_per_batch > 1 else None
    rng = stream(0, "bench", comm.rank)
    images = torch.from_numpy(rng.integers(0, 256, (examples, *SHAPE), np.uint8)).to(device)
    labels = torch.from_numpy(rng.integers(0, CLASSES, examples)).to(device)
    start, outs = flat.params.clone(), np.empty((clients_per_batch, flat.d), np.float32)

    def train(some: int) -> None:
        tasks = [
            client.Task(
                images=images[:some], labels=labels[:some], rng=stream(0, "bench train", comm.rank, number), out=out
            )
            for number, out in enumerate(outs)
        ]
        how: Any = {"epochs": epochs, "batch_size": min(batch_size, some), "lr": 0.01}
        if batched is not None:
            client.train_together(batched, start, tasks, **how)
            return
        for task in tasks:
            client.train(flat, start, task.images, task.labels, rng=task.rng, out=task.out, **how)

    square = torch.rand(SIZE, SIZE, device=device)

    def multiply() -> None:
        for _ in range(MULTIPLY):
            torch.mm(square, square)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    train(-(-examples // 10))
    multiply()
    seconds = np.zeros((repeats, 2))
    for row in seconds:
        comm.largest(0)  # all ranks begin together
        row[0] = times.timed(multiply)
        comm.largest(0)
        row[1] = times.timed(train, examples) / clients_per_batch
    each = comm.stack_to_root(seconds)  # (ranks, repeats, 2)
    trained = each[:, :, 1] if comm.is_root else seconds[None, :, 1]
    of_client = times.of(trained.ravel().tolist())
    flops = _flops(model, examples, batch_size) * epochs
    return Measured(
        fempi_version=fempi.__version__,
        torch_version=torch.__version__,
        device=str(device),
        ranks=comm.size,
        threads=torch.get_num_threads(),
        model=model,
        params=flat.d,
        examples=examples,
        epochs=epochs,
        batch_size=batch_size,
        clients_per_batch=clients_per_batch,
        flops_per_client=flops,
        client=of_client,
        clients_per_second=comm.size / float(np.median(trained.max(axis=0))),
        imbalance=float(np.median(trained.max(axis=0) / trained.mean(axis=0))),
        flops=flops / of_client.median,
        sgemm=2 * SIZE**3 * MULTIPLY / float(np.median(each[:, :, 0] if comm.is_root else seconds[:, 0])),
    )


def _batched(model: FlatModel, clients: int) -> BatchedModel:
    try:
        return batched_model(model, clients, SHAPE)
    except ValueError as error:
        raise FempiError(str(error)) from error


def show(measured: Measured) -> None:
    """Print what was measured."""
    out, m = console(), measured
    of = f"{times.many(m.epochs, 'epoch')} of {m.examples} examples in batches of {m.batch_size}"
    of += f", {m.clients_per_batch} clients at once" if m.clients_per_batch > 1 else ""
    on = f"{times.many(m.ranks, 'rank')} of {times.many(m.threads, 'thread')} ({m.device})"
    out.print(f"{m.model}, {m.params:,} parameters: {of}; {on}", highlight=False, soft_wrap=True)
    table = times.table("", "ms", "clients/s", "imbalance", "GFLOP/s a rank", "of sgemm's")
    table.add_row(
        "a client",
        times.milliseconds(m.client),
        f"{m.clients_per_second:.3g}",
        f"{m.imbalance:.3f}",
        f"{m.flops / 1e9:.1f}",
        f"{m.flops / m.sgemm:.0%}",
    )
    table.add_row("sgemm", "", "", "", f"{m.sgemm / 1e9:.1f}", "")
    out.print(table)


def _flops(model: str, examples: int, batch_size: int) -> float:
    """Operations of one epoch, forward and backward, of the model as its plugin makes it."""
    plugin = registry.find("model", model)
    module = plugin.make(SHAPE, CLASSES, **plugin.bind({}))
    with FlopCounterMode(display=False) as counter:
        logits = module(torch.zeros(batch_size, *SHAPE))
        functional.cross_entropy(logits, torch.zeros(batch_size, dtype=torch.int64)).backward()  # type: ignore[no-untyped-call]
    return float(counter.get_total_flops()) * examples / batch_size
