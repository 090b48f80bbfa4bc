"""What a client does: train the model it received on its own examples and return the difference."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from fempi.algebra import Float32
from fempi.models.flat import FlatModel
from fempi.rng import torch_seed


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
) -> float:
    """Train from `params` (d,) by SGD; write local minus global, float32 (d,), to `out`; return the mean loss.

    `images` (m, channels, height, width) are uint8 and `labels` (m,) int64, on the model's device. Every epoch visits
    all examples in an order of its own; its last batch may be smaller. All randomness comes from `rng`. Momentum and
    weight decay are those of torch.optim.SGD, and momentum begins at 0. `prox` is the mu of FedProx: the loss has
    mu / 2 times the squared distance from `params` besides (Li et al., Federated Optimization in Heterogeneous
    Networks, MLSys 2020).
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
    total = torch.zeros((), device=model.device)
    start = 0
    for end in ends:
        while start < end:
            batch = batches[start : min(start + batch_size, end)]
            start += len(batch)
            loss = functional.cross_entropy(model(pixels[batch]), labels[batch])
            loss.backward()  # type: ignore[no-untyped-call]
            if plain:
                model.step(lr)
            else:
                step = model.gradient()
                if weight_decay:
                    step.add_(model.params, alpha=weight_decay)
                if prox:
                    step.add_(model.params, alpha=prox).sub_(params, alpha=prox)
                if velocity is not None:
                    step = velocity.mul_(momentum).add_(step)
                model.params.add_(step, alpha=-lr)
                model.forget()
            total += loss.detach() * len(batch)
    torch.from_numpy(out).copy_(torch.sub(model.params, params))
    return float(total) / len(order)
