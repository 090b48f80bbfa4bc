"""What clients do: train the model they received on their own examples and return the difference."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from fempi.algebra import Float32, Int64
from fempi.models.batched import BatchedModel
from fempi.models.flat import FlatModel
from fempi.rng import torch_seed

Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True, kw_only=True)
class Task:
    """What one client trains on, and where its update goes; see `train`."""

    images: Tensor
    labels: Tensor
    rng: np.random.Generator
    out: Float32


def train(
    model: FlatModel,
    params: Tensor,
    images: Tensor,
    labels: Tensor,
    *,
    epochs: int,
    batch_size: int,
    lr: float,
    rng: np.random.Generator,
    out: Float32,
    momentum: float = 0,
    weight_decay: float = 0,
    prox: float = 0,
    precision: Precision = "float32",
) -> float:
    """Train from `params` (d,) by SGD; write local minus global, float32 (d,), to `out`; return the mean loss.

    `images` (m, channels, height, width) are uint8 and `labels` (m,) int64, on the model's device. Every epoch visits
    all examples in an order of its own; its last batch may be smaller. All randomness comes from `rng`. Momentum and
    weight decay are those of torch.optim.SGD, and momentum begins at 0. `prox` is the mu of FedProx: the loss has
    mu / 2 times the squared distance from `params` besides (Li et al., Federated Optimization in Heterogeneous
    Networks, MLSys 2020). With `precision` "bfloat16", layers compute as torch.autocast has it; parameters and steps
    remain float32.
    """
    torch.manual_seed(torch_seed(rng))  # for the module's dropout
    order = np.concatenate([rng.permutation(len(labels)) for _ in range(epochs)])
    ends = np.arange(1, epochs + 1) * len(labels)
    pixels = images.to(torch.float32).div_(255)
    batches = torch.from_numpy(order).to(model.device)

    model.module.train()
    model.params.copy_(params)
    model.forget()
    velocity = torch.zeros_like(model.params) if momentum else None
    plain = not (momentum or weight_decay or prox)
    computing = _computing(precision, model.device)
    total = torch.zeros((), device=model.device)
    start = 0
    for end in ends:
        while start < end:
            batch = batches[start : min(start + batch_size, end)]
            start += len(batch)
            with computing:
                loss = functional.cross_entropy(model(pixels[batch]), labels[batch])
            loss.backward()  # type: ignore[no-untyped-call]
            if plain:
                model.step(lr)
            else:
                _descend(model.params, model.gradient(), params, velocity, lr, momentum, weight_decay, prox)
                model.forget()
            total += loss.detach() * len(batch)
    _hand_over(torch.sub(model.params, params)[None], [out])
    return float(total) / len(order)


def train_together(
    model: BatchedModel,
    params: Tensor,
    tasks: Sequence[Task],
    *,
    epochs: int,
    batch_size: int,
    lr: float,
    momentum: float = 0,
    weight_decay: float = 0,
    prox: float = 0,
    precision: Precision = "float32",
) -> list[float]:
    """Do what `train` does, up to rounding, for at most `model.clients` clients at once; return their mean losses.

    A client's numbers are the same, as those of `BatchedModel` are, whoever else is trained with it. On a GPU its
    dropout draws other numbers than alone.
    """
    seeds = [torch_seed(task.rng) for task in tasks]
    visits = [_visits(task.rng, len(task.labels), epochs, batch_size) for task in tasks]
    # Who has most steps to take comes first, so that those who have not finished are always the first so many.
    ranking = sorted(range(len(tasks)), key=lambda i: -len(visits[i][0]))
    steps = np.array([len(visits[i][0]) for i in ranking])
    places = np.zeros((steps[0], len(tasks), batch_size), np.int64)
    counts = np.zeros((steps[0], len(tasks)), np.int64)
    first = 0
    for row, i in enumerate(ranking):
        places[: steps[row], row], counts[: steps[row], row] = visits[i][0] + first, visits[i][1]
        first += len(tasks[i].labels)
    images = torch.cat([tasks[i].images for i in ranking])
    labels = torch.cat([tasks[i].labels for i in ranking])
    batches = torch.from_numpy(places).to(model.device)
    real = torch.from_numpy(np.arange(batch_size) < counts[:, :, None]).to(model.device)
    shares = real / torch.from_numpy(counts).to(model.device, torch.float32)[:, :, None].clamp_(min=1)

    model.train()
    model.params[: len(tasks)] = params
    model.forget()
    model.seed([seeds[i] for i in ranking])
    velocity = torch.zeros_like(model.params) if momentum else None
    plain = not (momentum or weight_decay or prox)
    computing = _computing(precision, model.device)
    total = torch.zeros(len(tasks), batch_size, device=model.device)
    for step in range(steps[0]):
        active = int(np.count_nonzero(steps > step))
        model.expect(counts[step, :active].tolist())
        batch = batches[step, :active].flatten()
        pixels = images[batch].to(torch.float32).div_(255)
        with computing:
            losses = functional.cross_entropy(model(pixels), labels[batch], reduction="none")
        losses.backward(shares[step, :active].flatten())  # type: ignore[no-untyped-call]
        if plain:
            model.step(lr)
        else:
            local, speed = model.params[:active], velocity[:active] if velocity is not None else None
            _descend(local, model.gradient(), params, speed, lr, momentum, weight_decay, prox)
        total[:active] += torch.where(real[step, :active], losses.detach().view(active, -1), 0)
    _hand_over(torch.sub(model.params[: len(tasks)], params), [tasks[i].out for i in ranking])
    means = total.cpu().numpy().astype(np.float64).sum(axis=1) / counts.sum(axis=0)
    return [float(means[ranking.index(i)]) for i in range(len(tasks))]


def _visits(rng: np.random.Generator, examples: int, epochs: int, batch_size: int) -> tuple[Int64, Int64]:
    """Return which examples (steps, b) a client trains on in each step, and how many (steps,) of them.

    A smaller batch is filled up with its last example.
    """
    orders = np.stack([rng.permutation(examples) for _ in range(epochs)])
    batches = -(-examples // batch_size)
    filled = orders[:, np.minimum(np.arange(batches * batch_size), examples - 1)]
    counts = np.minimum(batch_size, examples - batch_size * np.arange(batches))
    return filled.reshape(-1, batch_size), np.tile(counts, epochs)


def _descend(
    local: Tensor,
    step: Tensor,
    start: Tensor,
    velocity: Tensor | None,
    lr: float,
    momentum: float,
    weight_decay: float,
    prox: float,
) -> None:
    """Change the local parameters by a step of SGD, of which `step` is the loss's gradient; it is used up."""
    if weight_decay:
        step.add_(local, alpha=weight_decay)
    if prox:
        step.add_(local, alpha=prox).sub_(start, alpha=prox)
    if velocity is not None:
        step = velocity.mul_(momentum).add_(step)
    local.add_(step, alpha=-lr)


def _computing(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """Return what forward passes and losses are computed in."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bfloat16" else nullcontext()


def _hand_over(updates: Tensor, outs: Sequence[Float32]) -> None:
    """Copy updates (k, d) to where they go on the host."""
    if updates.is_cuda:
        # From a GPU, only memory that cannot be paged out is written to at full speed; torch keeps it for the next.
        updates = torch.empty(updates.shape, pin_memory=True).copy_(updates)
    for out, update in zip(outs, updates, strict=True):
        torch.from_numpy(out).copy_(update)
