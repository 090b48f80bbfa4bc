"""A model whose parameters and gradients are views into two flat vectors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Layer:
    """Where one parameter tensor lies in the flat vector."""

    name: str
    shape: tuple[int, ...]
    offset: int


class FlatModel:
    """A torch module that lives in one vector.

    `params` and `grad` are float32 (d,) tensors on the device; the module's parameters and their `.grad` are views
    into them. Sending a model, setting it, and a step of SGD are then one operation each. Raises ValueError for a
    module with buffers (batch norm's running statistics): they would be state outside the vector.
    """

    def __init__(self, module: nn.Module, device: torch.device) -> None:
        buffers = [name for name, _ in module.named_buffers()]
        if buffers:
            raise ValueError(
                f"the model keeps state outside its parameters ({', '.join(buffers)}); use layers without "
                "running statistics, such as GroupNorm"
            )
        self.module = module.to(device)
        self.device = device
        named = list(module.named_parameters())
        self.layers: list[Layer] = []
        offset = 0
        for name, parameter in named:
            self.layers.append(Layer(name, tuple(parameter.shape), offset))
            offset += parameter.numel()
        self.d = offset
        self.params = torch.empty(offset, device=device)
        self.grad = torch.zeros(offset, device=device)
        for layer, (_, parameter) in zip(self.layers, named, strict=True):
            here = slice(layer.offset, layer.offset + parameter.numel())
            self.params[here] = parameter.detach().flatten()
            parameter.data = self.params[here].view(layer.shape)
            parameter.grad = self.grad[here].view(layer.shape)

    def __call__(self, images: Tensor) -> Tensor:
        """Logits (batch, classes) of images (batch, channels, height, width), float32 in [0, 1]."""
        logits: Tensor = self.module(images)
        return logits
