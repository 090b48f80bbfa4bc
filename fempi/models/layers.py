"""Layers that take each copy's examples to that copy's parameters, for as many copies of a model as there are.

What a copy gets has the same bits on a CPU whatever the others do and however many they are: every call of a library is
for one copy, or always for the same number, and the memory of all copies is aligned alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

ALIGNED = 64
"""Bytes that the beginning of each copy's matrix is a multiple of; its product's last bits may depend on that."""


@dataclass(frozen=True, kw_only=True)
class Copies:
    """The copies at work: their parameters (k, d), and what a backward pass finds."""

    params: Tensor
    convolved_at_once: int | None
    """how many always are, as a library may convolve more or fewer of them in another way; None: all"""
    anchor: Tensor
    """any tensor that requires a gradient: autograd passes by what has none among its inputs"""
    found: list[Callable[[Tensor, float], None]] = field(default_factory=list)
    """each adds a multiple of some parameters' gradients to rows (k, d)"""

    @property
    def dtype(self) -> torch.dtype:
        """What to compute in."""
        kind = self.params.device.type
        return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else self.params.dtype


@dataclass(frozen=True, kw_only=True)
class Part:
    """Where a layer's weight or bias lies in every row of d parameters."""

    offset: int
    shape: tuple[int, ...]
    trained: bool

    def of(self, rows: Tensor) -> Tensor:
        """View it in rows (k, d)."""
        return rows[:, self.offset : self.offset + prod(self.shape)].view(len(rows), *self.shape)


@dataclass(frozen=True, kw_only=True)
class How:
    """How a convolution goes over images."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int


def dense(rows: Tensor, copies: Copies, weight: Part, bias: Part | None) -> Tensor:
    """Return each copy's rows (k, n, inputs) times its own weight, plus its bias: (k, n, outputs)."""
    out: Tensor = _Dense.apply(rows, copies.anchor, copies, weight, bias)
    return out


def convolve(images: Tensor, copies: Copies, weight: Part, bias: Part | None, how: How) -> Tensor:
    """Return each copy's images (k * b, channels, height, width) convolved with its own weight, plus its bias."""
    out: Tensor = _Convolution.apply(images, copies.anchor, copies, weight, bias, how)
    return out


def scale(images: Tensor, copies: Copies, part: Part) -> Tensor:
    """Return images (k * b, channels, ...) times a factor for each copy and channel."""
    out: Tensor = _Scale.apply(images, copies.anchor, copies, part)
    return out


def shift(images: Tensor, copies: Copies, part: Part) -> Tensor:
    """Return images (k * b, channels, ...) plus a number for each copy and channel."""
    out: Tensor = _Shift.apply(images, copies.anchor, copies, part)
    return out


class _Dense(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, anchor: Tensor, copies: Copies, weight: Part, bias: Part | None) -> Tensor:
        matrix, rows = weight.of(copies.params), align(rows.to(copies.dtype))
        if matrix.dtype != rows.dtype:
            matrix = align(matrix.to(rows.dtype))
        out = matrices(len(rows), rows.shape[1], matrix.shape[1], like=rows)
        if bias is not None:
            out.copy_(bias.of(copies.params)[:, None])
        multiply(rows, matrix.transpose(1, 2), out, keep=bias is not None)
        ctx.save_for_backward(rows, matrix)
        ctx.found, ctx.weight, ctx.bias = copies.found, weight, bias
        return out

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        grad = align(outputs[0])
        rows, matrix = ctx.saved_tensors
        if ctx.weight.trained:
            ctx.found.append(partial(_add_product, ctx.weight, grad.transpose(1, 2), rows))
        if ctx.bias is not None and ctx.bias.trained:
            ones = torch.ones(1, 1, grad.shape[1], dtype=grad.dtype, device=grad.device)
            ctx.found.append(partial(_add_product, ctx.bias, ones.expand(len(grad), -1, -1), grad))
        inputs = None
        if ctx.needs_input_grad[0]:
            inputs = matrices(*rows.shape, like=rows)
            multiply(grad, matrix, inputs)
        return inputs, None, None, None, None


def _add_product(part: Part, left: Tensor, right: Tensor, rows: Tensor, alpha: float) -> None:
    """Add alpha times left (k, a, n) @ right (k, n, b) to a part of the rows (k, d); it is never formed if it need not.

    That saves more memory traffic than anything else in a step.
    """
    into = part.of(rows)
    into = into[:, None] if into.ndim == 2 else into
    if left.dtype == rows.dtype:
        multiply(left, right, into, alpha=alpha, keep=True)
    else:
        product = matrices(*into.shape, like=left)
        multiply(left, right, product)
        into.add_(product, alpha=alpha)


class _Convolution(torch.autograd.Function):
    """Copies share a call of the library, as groups of channels, which is far faster than one alone."""

    @staticmethod
    def forward(
        ctx: Any, images: Tensor, anchor: Tensor, copies: Copies, weight: Part, bias: Part | None, how: How
    ) -> Tensor:
        params, dtype = copies.params, copies.dtype
        each = images.to(dtype).chunk(len(params))
        saved: list[Tensor] = []
        parts: list[Tensor] = []
        for at_once in _sets(copies):
            inputs = _side_by_side(each, at_once)
            own = weight.of(params)[at_once].flatten(0, 1).to(dtype)
            plus = None if bias is None else bias.of(params)[at_once].flatten().to(dtype)
            groups = len(at_once) * how.groups
            out = functional.conv2d(inputs, own, plus, how.stride, how.padding, how.dilation, groups)
            parts += out.chunk(len(at_once), dim=1)
            saved += [inputs, own]
        ctx.save_for_backward(*saved)
        ctx.copies, ctx.parts, ctx.how = copies, (weight, bias), how
        return torch.cat(parts[: len(params)])

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        k, how = len(ctx.copies.params), ctx.how
        each, sets = outputs[0].chunk(k), _sets(ctx.copies)
        wanted = [ctx.needs_input_grad[0], *(part is not None and part.trained for part in ctx.parts)]
        found: list[list[Tensor]] = [[], [], []]
        for at_once, inputs, own in zip(sets, ctx.saved_tensors[::2], ctx.saved_tensors[1::2], strict=True):
            grad, groups = _side_by_side(each, at_once), len(at_once) * how.groups
            gradients = torch.ops.aten.convolution_backward(
                grad, inputs, own, [len(own)], how.stride, how.padding, how.dilation, False, [0, 0], groups, wanted
            )
            for there, gradient, dim in zip(found, gradients, (1, 0, 0), strict=True):
                if gradient is not None:
                    there += gradient.chunk(len(at_once), dim)
        for part, parts in zip(ctx.parts, found[1:], strict=True):
            if parts:
                ctx.copies.found.append(partial(_add, part, torch.stack(parts[:k])))
        return torch.cat(found[0][:k]) if wanted[0] else None, *(None,) * 5


def _sets(copies: Copies) -> list[list[int]]:
    """Say which copies are convolved at once; where there are too few, the last is again and again."""
    k = len(copies.params)
    at_once = copies.convolved_at_once or k
    return [[min(first + i, k - 1) for i in range(at_once)] for first in range(0, k, at_once)]


def _side_by_side(images: Sequence[Tensor], which: list[int]) -> Tensor:
    """Join some copies' images into each other's channels, and these last in memory, as libraries like it best."""
    joined = torch.cat([images[i] for i in which], dim=1)
    return joined.contiguous(memory_format=torch.channels_last)


def _add(part: Part, values: Tensor, rows: Tensor, alpha: float) -> None:
    """Add alpha times values (k, ...) to a part of the rows (k, d)."""
    part.of(rows).add_(values, alpha=alpha)


class _Scale(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, anchor: Tensor, copies: Copies, part: Part) -> Tensor:
        factors = _spread(part.of(copies.params), images)
        ctx.save_for_backward(images, factors)
        ctx.found, ctx.part = copies.found, part
        return images * factors

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        images, factors = ctx.saved_tensors
        if ctx.part.trained:
            ctx.found.append(partial(_add_sums, ctx.part, outputs[0] * images))
        return outputs[0] * factors, None, None, None


class _Shift(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, anchor: Tensor, copies: Copies, part: Part) -> Tensor:
        ctx.found, ctx.part = copies.found, part
        return images + _spread(part.of(copies.params), images)

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.part.trained:
            ctx.found.append(partial(_add_sums, ctx.part, outputs[0]))
        return outputs[0], None, None, None


def _spread(values: Tensor, images: Tensor) -> Tensor:
    """Values (k, channels) as factors or terms of images (k * b, channels, ...)."""
    each = values.repeat_interleave(len(images) // len(values), dim=0)
    return each.reshape(*each.shape, *[1] * (images.ndim - 2))


def _add_sums(part: Part, images: Tensor, rows: Tensor, alpha: float) -> None:
    """Add alpha times each copy's sums over images (k * b, channels, ...) to a part of the rows (k, d)."""
    for into, own in zip(part.of(rows), images.chunk(len(rows)), strict=True):
        into.add_(own.transpose(0, 1).flatten(1).sum(1), alpha=alpha)


def matrices(count: int, rows: int, columns: int, *, like: Tensor) -> Tensor:
    """Memory for so many matrices of the kind of `like`, all aligned alike."""
    step = ALIGNED // like.element_size()
    size = -(-rows * columns // step) * step
    return like.new_empty(count, size)[:, : rows * columns].view(count, rows, columns)


def align(given: Tensor) -> Tensor:
    """Return matrices (k, rows, columns), each contiguous and all aligned alike."""
    k, size = len(given), given.element_size()
    begins = given.data_ptr() % ALIGNED == 0 and (k == 1 or given.stride(0) * size % ALIGNED == 0)
    if begins and given.stride()[1:] == (given.shape[2], 1):
        return given
    return matrices(*given.shape, like=given).copy_(given)


def multiply(left: Tensor, right: Tensor, out: Tensor, *, alpha: float = 1.0, keep: bool = False) -> None:
    """Write alpha times left (k, a, n) @ right (k, n, b) to `out` (k, a, b), or add it to what that holds.

    On a CPU one by one: what a library computes for a batch of products may depend on their number.
    """
    if out.device.type == "cpu":
        for into, one, other in zip(out.unbind(), left.unbind(), right.unbind(), strict=True):
            into.addmm_(one, other, beta=float(keep), alpha=alpha)
    else:
        out.baddbmm_(left, right, beta=float(keep), alpha=alpha)
