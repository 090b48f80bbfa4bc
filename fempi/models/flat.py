"""A model whose parameters and gradients are views into two flat vectors."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

LARGE = 1 << 15
"""Entries from which a dense layer's gradient is better left in its factors: forming it would take longer than that"""


@dataclass(frozen=True)
class Layer:
    """Where one parameter tensor lies in the flat vector."""

    name: str
    shape: tuple[int, ...]
    offset: int


@dataclass(frozen=True)
class _Dense:
    """The weight of a large dense layer, and its gradient: the sum of outer^T inner over the factors.

    What uses the weight in another way than its layer does leaves the parameter a gradient besides.
    """

    parameter: nn.Parameter
    weight: Tensor
    grad: Tensor
    factors: list[tuple[Tensor, Tensor]] = field(default_factory=list)


class FlatModel:
    """A torch module that lives in one vector.

    `params` is a float32 (d,) tensor on the device, and the module's parameters are views into it: sending a model and
    setting it are one operation each. What a backward pass found is for `step`, which takes it at once, or `gradient`.
    Raises ValueError for a module with buffers (batch norm's running statistics): they would be state elsewhere.
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
        self._grad = torch.zeros(offset, device=device)
        large = _large(module)
        self._dense: list[_Dense] = []
        self._others: list[tuple[Tensor, Tensor]] = []
        start = 0
        for layer, (_, parameter) in zip(self.layers, named, strict=True):
            here = slice(layer.offset, layer.offset + parameter.numel())
            self.params[here] = parameter.detach().flatten()
            parameter.data = self.params[here].view(layer.shape)
            parameter.grad = self._grad[here].view(layer.shape)
            if parameter in large:
                dense = _Dense(parameter, parameter.data, parameter.grad)
                parameter.grad = None
                vars(large[parameter])["forward"] = partial(_forward, large[parameter], dense.factors)
                self._dense.append(dense)
                self._others.append((self.params[start : here.start], self._grad[start : here.start]))
                start = here.stop
        self._others.append((self.params[start:], self._grad[start:]))

    def __call__(self, images: Tensor) -> Tensor:
        """Logits (batch, classes) of images (batch, channels, height, width), float32 in [0, 1]."""
        logits: Tensor = self.module(images)
        return logits

    def step(self, lr: float) -> None:
        """Take a step of plain SGD along what the backward pass found, and forget that.

        The gradient of a large dense layer, of as many entries as its weight, is never formed: the product of its two
        factors is added to the weight, which saves more memory traffic than anything else in the step.
        """
        for params, grad in self._others:
            params.add_(grad, alpha=-lr)
            grad.zero_()
        for dense in self._dense:
            for outer, inner in dense.factors:
                _add_product(dense.weight, outer, inner, -lr)
            dense.factors.clear()
            if dense.parameter.grad is not None:
                dense.weight.add_(dense.parameter.grad, alpha=-lr)
                dense.parameter.grad = None

    def gradient(self) -> Tensor:
        """Return what the backward pass found, (d,), until it is told to `forget`; the caller may change it."""
        for dense in self._dense:
            for outer, inner in dense.factors:
                _add_product(dense.grad, outer, inner, 1)
            dense.factors.clear()
            if dense.parameter.grad is not None:
                dense.grad.add_(dense.parameter.grad)
                dense.parameter.grad = None
        return self._grad

    def forget(self) -> None:
        """Forget what backward passes found."""
        self._grad.zero_()
        for dense in self._dense:
            dense.factors.clear()
            dense.parameter.grad = None


def _large(module: nn.Module) -> dict[nn.Parameter, nn.Linear]:
    """Find the large dense layers that share their weights with no other module."""
    owners = Counter(id(p) for each in module.modules() for p in each.parameters(recurse=False))
    found: dict[nn.Parameter, nn.Linear] = {}
    for each in module.modules():
        if type(each) is nn.Linear and each.weight.numel() >= LARGE and owners[id(each.weight)] == 1:
            found[cast(nn.Parameter, each.weight)] = each
    return found


def _add_product(into: Tensor, outer: Tensor, inner: Tensor, alpha: float) -> None:
    """Add alpha times outer^T inner, whose factors may be of a lower precision."""
    if outer.dtype == into.dtype:
        into.addmm_(outer.t(), inner, alpha=alpha)
    else:
        into.add_(outer.t() @ inner, alpha=alpha)


def _forward(layer: nn.Linear, factors: list[tuple[Tensor, Tensor]], inputs: Tensor) -> Tensor:
    """Stands for the forward method of a large dense layer."""
    if not torch.is_grad_enabled():
        return functional.linear(inputs, layer.weight, layer.bias)
    out: Tensor = _Factored.apply(inputs, layer.weight, layer.bias, factors)
    return out


class _Factored(torch.autograd.Function):
    """A dense layer whose weight gets no gradient, but leaves the two factors of it."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None, factors: list[Any]) -> Tensor:
        ctx.save_for_backward(inputs, weight)
        ctx.factors = factors
        return functional.linear(inputs, weight, bias)

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, None, Tensor | None, None]:
        (grad,) = outputs
        inputs, weight = ctx.saved_tensors
        rows = grad.reshape(-1, grad.shape[-1])
        if ctx.needs_input_grad[1]:
            seen = inputs.detach().reshape(-1, inputs.shape[-1])
            ctx.factors.append((rows.detach(), seen.to(rows.dtype)))  # under autocast, that of the product
        return (
            grad @ weight.to(grad.dtype) if ctx.needs_input_grad[0] else None,
            None,
            rows.sum(dim=0) if ctx.needs_input_grad[2] else None,
            None,
        )
