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
) -> float:
    """Train from `params` (d,) by plain SGD; write local minus global, float32 (d,), to `out`; return the mean loss.

    `images` (m, channels, height, width) are uint8 and `labels` (m,) int64, on the model's device. Every epoch visits
    all examples in an order of its own; its last batch may be smaller. All randomness comes from `rng`.
    """
    torch.manual_seed(torch_seed(rng))  # for the module's dropout
    order = np.concatenate([rng.permutation(len(labels)) for _ in range(epochs)])
    ends = np.arange(1, epochs + 1) * len(labels)
    pixels = images.to(torch.float32).div_(255)
    batches = torch.from_numpy(order).to(model.device)

    model.module.train()
    model.params.copy_(params)
    total = torch.zeros((), device=model.device)
    start = 0
    for end in ends:
        while start < end:
            batch = batches[start : min(start + batch_size, end)]
            start += len(batch)
            model.grad.zero_()
            loss = functional.cross_entropy(model(pixels[batch]), labels[batch])
            loss.backward()  # type: ignore[no-untyped-call]
            model.params.add_(model.grad, alpha=-lr)
            total += loss.detach() * len(batch)
    torch.sub(model.params, params, out=model.grad)  # the gradient is spent: its memory serves for the update
    torch.from_numpy(out).copy_(model.grad)
    return float(total) / len(order)
