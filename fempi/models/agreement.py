"""Whether clients of a model can be trained together, with the same results as alone; and whether they should."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from fempi.models.batched import BatchedModel
from fempi.models.flat import FlatModel

LITTLE_ARITHMETIC = 3e7
"""Operations of a forward pass on a batch, up to which a step on a CPU is mostly something else"""
MOST_ON_CPU = 10
MOST_ON_GPU = 64
NUMBERS_ON_GPU = 1 << 28
"""How many clients are trained at once where that is decided here, and how many parameters at most on a GPU"""
TOLERANCE = 0.01
"""Of the largest entry: low precision may differ as much, a mistake differs by more"""

SAME_BITS = """
add add_ sub sub_ mul mul_ neg abs relu relu_ leaky_relu hardtanh clamp clamp_min maximum minimum where
max_pool2d_with_indices constant_pad_nd cat stack clone copy_ _to_copy view _unsafe_view _reshape_alias reshape
as_strided expand permute transpose t squeeze unsqueeze slice select split chunk unbind alias detach contiguous
empty empty_like new_empty zeros zeros_like new_zeros ones ones_like new_ones full full_like new_full
"""
"""PyTorch's functions whose results have the same bits wherever in a batch an example is; there may be more"""


def suitable(model: FlatModel, image_shape: Sequence[int], batch_size: int) -> int:
    """Say how many clients are well trained at once; 1 where arithmetic takes most of the time, as it is.

    It depends on nothing but the model, the kind of its device and the batch size.
    """
    if model.device.type != "cpu":
        return max(1, min(MOST_ON_GPU, NUMBERS_ON_GPU // model.d))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, *image_shape, device=model.device))
    return MOST_ON_CPU if counter.get_total_flops() * batch_size <= LITTLE_ARITHMETIC else 1


def batched_model(model: FlatModel, clients: int, image_shape: Sequence[int]) -> BatchedModel:
    """Make copies of a model for so many clients; ValueError if these would not be trained as one by one."""
    batched = BatchedModel(model, clients)
    require_agreement(batched, model, image_shape)
    return batched


def require_agreement(batched: BatchedModel, model: FlatModel, image_shape: Sequence[int]) -> None:
    """Raise ValueError unless copies of `model`, which keeps its parameters, find what it finds itself.

    So not if it mixes the examples of a batch or draws random numbers in its own way; nor if, on a CPU, the bits that a
    copy finds could depend on the others.
    """
    start, was_training = model.params.clone(), model.module.training
    try:
        _compare(batched, model, image_shape)
        batched.train()
        state = _random_state(batched.device)
        with _Calls(batched) as calls:
            batched(torch.zeros(batched.active * 2, *image_shape, device=batched.device))
        if not torch.equal(state, _random_state(batched.device)):
            raise ValueError("it draws random numbers by another way than nn.Dropout")
        if calls.others and batched.device.type == "cpu":
            raise ValueError(
                f"it calls {', '.join(sorted(calls.others))} outside of layers, whose last bits may depend on which "
                "clients are trained together; use a layer, such as nn.Tanh()"
            )
    except (ValueError, RuntimeError, NotImplementedError) as error:
        raise ValueError(f"clients of this model cannot be trained together: {error}") from error
    finally:
        batched.forget()
        model.forget()
        model.params.copy_(start)
        model.module.train(was_training)


def _compare(batched: BatchedModel, model: FlatModel, image_shape: Sequence[int]) -> None:
    """Raise ValueError if two copies, the second without half of its batch, find anything else than the model."""
    counts = [2, 1][: batched.clients]
    images = torch.rand(2 * len(counts), *image_shape, generator=torch.Generator().manual_seed(0)).to(batched.device)
    for copied in range(len(counts)):
        batched.params[copied] = model.params * (1 + copied / 8)
    model.module.eval()
    batched.train(False)  # without dropout
    batched.expect(counts)
    each = batched(images).chunk(len(counts))
    torch.cat([logits[:count].sin() for logits, count in zip(each, counts, strict=True)]).sum().backward()  # type: ignore[no-untyped-call]
    gradients = batched.gradient()
    for copied, count in enumerate(counts):
        model.params.copy_(batched.params[copied])
        model.forget()
        logits = model(images.chunk(len(counts))[copied][:count])
        logits.sin().sum().backward()  # type: ignore[no-untyped-call]
        same = _are_close(each[copied][:count].detach(), logits.detach())
        if not (same and _are_close(gradients[copied], model.gradient())):
            raise ValueError("what one learns depends on the others")


class _Calls(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes what is called for all copies at once besides what gives the same bits for each as alone."""

    def __init__(self, batched: BatchedModel) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.others: set[str] = set()
        self._batched = batched

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if not (self._batched.apart or name in SAME_BITS.split()):
            self.others.add(name)
        return func(*args, **(kwargs or {}))


def _are_close(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, rtol=0, atol=TOLERANCE * float(other.abs().max()), equal_nan=True)


def _random_state(device: torch.device) -> Tensor:
    """State of the generator that is used where none is named."""
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()
