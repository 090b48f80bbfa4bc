"""Many copies of one model that take their steps together, each with parameters and examples of its own.

A small model spends most of a step outside arithmetic, and a GPU most of it waiting. Here the examples of all copies
lie one after another in one batch, so that layers without parameters need not know; layers with parameters take every
copy's examples to that copy's parameters.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from fempi.models.flat import FlatModel
from fempi.models.layers import Copies, How, Part, convolve, dense, matrices, scale, shift

CONVOLVED = 5
"""Most copies that are convolved at once on a CPU, where as many always are: of fewer, some again for nothing"""
AS_ONE = (
    nn.Identity,
    nn.Flatten,
    nn.Unflatten,
    nn.ReLU,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.Hardtanh,
    nn.MaxPool2d,
    nn.ZeroPad2d,
)
"""Layers whose results have the same bits wherever in a batch an example is. A sigmoid's, for one, have not: vector
units compute it another way than what is left over at the end of the memory."""


class BatchedModel:
    """`clients` copies of a model, of which the first `active` are at work.

    Each row of `params` (clients, d), float32, is laid out as `FlatModel.params`. On a CPU, a copy's bits depend
    neither on its row nor on how many others are at work, nor on what they do. Raises ValueError for a module with
    parameters outside Linear, Conv2d and GroupNorm.
    """

    def __init__(self, model: FlatModel, clients: int) -> None:
        self.clients = self.active = clients
        self.d, self.device = model.d, model.device
        self.params = matrices(clients, 1, self.d, like=model.params)[:, 0]
        self._grad: Tensor | None = None
        self._generators = [torch.Generator(self.device) for _ in range(clients)]
        self._examples: Sequence[int] = ()
        self._batch = 1
        self.apart = False
        """whether a layer is at work on each copy's part of the batch by itself"""
        self._copies = Copies(
            params=self.params,
            convolved_at_once=-(-clients // -(-clients // CONVOLVED)) if self.device.type == "cpu" else None,
            anchor=torch.empty(0, device=self.device, requires_grad=True),
        )
        # Without values, so that code which uses a parameter in another way than its layer does fails at once.
        self._module = copy.deepcopy(model.module).to("meta").train()
        offsets = {id(p): layer.offset for layer, p in zip(model.layers, model.module.parameters(), strict=True)}
        for (name, layer), copied in zip(model.module.named_modules(), self._module.modules(), strict=True):
            own = {
                key: Part(offset=offsets[id(p)], shape=tuple(p.shape), trained=p.requires_grad)
                for key, p in layer.named_parameters(recurse=False)
            }
            self._take_over(name, copied, own)

    def __call__(self, images: Tensor) -> Tensor:
        """Logits (active * b, classes) of images (active * b, channels, height, width): b of each copy, in turn."""
        self._batch = len(images) // self.active
        logits: Tensor = self._module(images)
        return logits

    def train(self, mode: bool = True) -> None:
        """Switch dropout on or off."""
        self._module.train(mode)

    def seed(self, seeds: Sequence[int]) -> None:
        """Let each copy's dropout begin as it does after `torch.manual_seed`."""
        for generator, seed in zip(self._generators, seeds, strict=False):
            generator.manual_seed(seed)

    def expect(self, examples: Sequence[int]) -> None:
        """Say how many active copies there are from now on, and how many of its b examples each really has.

        The others only fill the batch: dropout draws nothing for them.
        """
        self.active, self._examples = len(examples), examples
        self._copies = replace(self._copies, params=self.params[: self.active])

    def step(self, lr: float) -> None:
        """Take a step of plain SGD along what the backward pass found, and forget that."""
        self._add_found(self.params[: self.active], -lr)

    def gradient(self) -> Tensor:
        """Return what the backward pass found, (active, d), and forget it; the caller may change the result."""
        if self._grad is None:
            self._grad = matrices(self.clients, 1, self.d, like=self.params)[:, 0]
        grad = self._grad[: self.active].zero_()
        self._add_found(grad, 1.0)
        return grad

    def forget(self) -> None:
        """Forget what backward passes found."""
        self._copies.found.clear()

    @torch.no_grad()
    def _add_found(self, rows: Tensor, alpha: float) -> None:
        for add in self._copies.found:
            add(rows, alpha)
        self.forget()

    def _take_over(self, name: str, layer: nn.Module, own: dict[str, Part]) -> None:
        """Have a layer do its work for each copy by itself if that is not the same as for all at once."""
        usual = own.keys() <= {"weight", "bias"}
        what, method = None, "forward"
        if type(layer) is nn.Dropout:
            what = partial(self._dropout, layer)
        elif usual and type(layer) is nn.Linear:
            what = partial(self._linear, own)
        elif usual and type(layer) is nn.GroupNorm:
            what = partial(self._group_norm, layer, own)
        elif usual and isinstance(layer, nn.Conv2d) and type(layer)._conv_forward is nn.Conv2d._conv_forward:
            what, method = partial(self._convolution, layer, own), "_conv_forward"  # what a subclass adds remains
        elif own:
            kind = f"layer {name or 'model'} is a {type(layer).__name__}"
            raise ValueError(f"clients of this model cannot be trained together: {kind} with parameters")
        elif self.device.type == "cpu" and not [*layer.children()] and type(layer) not in AS_ONE:
            what = partial(self._one_by_one, layer.forward)
        if what is not None:
            vars(layer)[method] = partial(self._apart, what)

    def _apart(self, what: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        self.apart = True
        try:
            return what(*inputs)
        finally:
            self.apart = False

    def _one_by_one(self, forward: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        return torch.cat([forward(*own) for own in zip(*(each.chunk(self.active) for each in inputs), strict=True)])

    def _linear(self, own: dict[str, Part], inputs: Tensor) -> Tensor:
        rows = inputs.reshape(self.active, -1, inputs.shape[-1])
        return dense(rows, self._copies, own["weight"], own.get("bias")).reshape(*inputs.shape[:-1], -1)

    def _convolution(
        self, layer: nn.Conv2d, own: dict[str, Part], images: Tensor, _weight: Tensor, _bias: Tensor | None
    ) -> Tensor:
        padding = layer.padding
        if isinstance(padding, str) or layer.padding_mode != "zeros":
            mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
            images, padding = functional.pad(images, layer._reversed_padding_repeated_twice, mode), (0, 0)
        how = How(stride=layer.stride, padding=padding, dilation=layer.dilation, groups=layer.groups)
        return convolve(images, self._copies, own["weight"], own.get("bias"), how)

    def _group_norm(self, layer: nn.GroupNorm, own: dict[str, Part], images: Tensor) -> Tensor:
        normal = functional.group_norm(images, layer.num_groups, eps=layer.eps)
        for key, part in own.items():
            normal = (scale if key == "weight" else shift)(normal, self._copies, part)
        return normal

    def _dropout(self, layer: nn.Dropout, inputs: Tensor) -> Tensor:
        if not (layer.training and layer.p):
            return inputs
        kept = torch.zeros_like(inputs)
        for rows, generator, count in zip(kept.chunk(self.active), self._generators, self._examples, strict=False):
            rows[: len(rows) * count // self._batch].bernoulli_(1 - layer.p, generator=generator)
        return inputs * kept.div_(1 - layer.p)
