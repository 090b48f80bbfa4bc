import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from fempi.algebra import Float32
from fempi.client import Task, train, train_together
from fempi.models.batched import BatchedModel
from fempi.models.flat import FlatModel
from fempi.rng import stream

EXAMPLES, EPOCHS, BATCH, LR = 23, 3, 5, 0.05
CPU = torch.device("cpu")


def some_model(dropout: float = 0.0, width: int = 12) -> FlatModel:
    torch.manual_seed(1)
    layers = [nn.Flatten(), nn.Linear(16, width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, 4)]
    return FlatModel(nn.Sequential(*layers), CPU)


def some_data() -> tuple[Tensor, Tensor]:
    """Examples whose first pixel is their number, so that a batch can be recognised."""
    rng = stream(0, "data")
    images = torch.from_numpy(rng.integers(0, 256, (EXAMPLES, 1, 4, 4), np.uint8))
    images[:, 0, 0, 0] = torch.arange(EXAMPLES)
    return images, torch.from_numpy(rng.integers(0, 4, EXAMPLES))


@dataclass
class Trained:
    """What one call of `train` did, and the examples it visited, batch by batch."""

    update: Float32 = field(default_factory=lambda: np.full(0, np.nan, np.float32))
    loss: float = float("nan")
    batches: list[list[int]] = field(default_factory=list)


def trained(
    model: FlatModel,
    params: Tensor,
    seed: int = 0,
    *,
    epochs: int = EPOCHS,
    batch_size: int = BATCH,
    **options: float,
) -> Trained:
    result = Trained(update=np.full(model.d, np.nan, np.float32))

    def note(module: nn.Module, inputs: tuple[Tensor]) -> None:
        result.batches.append((inputs[0][:, 0, 0, 0] * 255).round().int().tolist())

    hook = model.module.register_forward_pre_hook(note)
    rng = stream(seed, "train")
    result.loss = train(
        model, params, *some_data(), epochs=epochs, batch_size=batch_size, lr=LR, rng=rng, out=result.update, **options
    )
    hook.remove()
    return result


def test_training_is_plain_sgd_on_the_same_batches() -> None:
    model = some_model()
    params = model.params.clone()
    plain = copy.deepcopy(model.module)
    result = trained(model, params)

    images, labels = some_data()
    optimizer = torch.optim.SGD(plain.parameters(), lr=LR)
    loss_sum = 0.0
    for batch in result.batches:
        optimizer.zero_grad()
        loss = functional.cross_entropy(plain(images[batch] / 255), labels[batch])
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        loss_sum += loss.item() * len(batch)
    local = torch.cat([p.detach().flatten() for p in plain.parameters()])
    np.testing.assert_allclose(result.update, (local - params).numpy(), rtol=0, atol=1e-6)
    assert result.loss == pytest.approx(loss_sum / (EPOCHS * EXAMPLES), rel=1e-5)
    assert np.abs(result.update).max() > 0.01  # something was learned


@pytest.mark.parametrize("width", [12, 3000])  # a layer whose gradient is formed, and one whose is not
@pytest.mark.parametrize(
    "options",
    [
        {"momentum": 0.9},
        {"weight_decay": 0.1},
        {"prox": 0.5},
        {"momentum": 0.5, "weight_decay": 0.2, "prox": 0.3},
        {},
    ],
)
def test_momentum_weight_decay_and_prox_are_those_of_the_optimizer(options: dict[str, float], width: int) -> None:
    model = some_model(width=width)
    params = model.params.clone()
    plain = copy.deepcopy(some_model(width=width).module)
    weights = list(plain.parameters())
    for weight in weights:
        weight.requires_grad_()
    result = trained(model, params, **options)

    images, labels = some_data()
    prox = options.pop("prox", 0.0)
    optimizer = torch.optim.SGD(weights, lr=LR, **options)
    start = [weight.detach().clone() for weight in weights]
    for batch in result.batches:
        shown = images[batch] / 255
        logits = functional.linear(torch.relu(functional.linear(shown.flatten(1), *weights[:2])), *weights[2:])
        away = sum((weight - begun).square().sum() for weight, begun in zip(weights, start, strict=True))
        loss = functional.cross_entropy(logits, labels[batch]) + prox / 2 * away
        for weight, gradient in zip(weights, torch.autograd.grad(loss, weights), strict=True):
            weight.grad = gradient
        optimizer.step()
    local = torch.cat([weight.detach().flatten() for weight in weights])
    np.testing.assert_allclose(result.update, (local - params).numpy(), rtol=0, atol=2e-6)
    assert np.abs(result.update).max() > 0.01


def test_the_update_is_local_minus_global_in_the_memory_given() -> None:
    model = some_model()
    params = model.params.clone()
    result = trained(model, params)
    np.testing.assert_array_equal(result.update, (model.params - params).numpy())
    assert np.isfinite(result.update).all()


def test_every_epoch_visits_all_examples_in_an_order_of_its_own() -> None:
    model = some_model()
    batches = trained(model, model.params.clone()).batches
    assert [len(batch) for batch in batches] == [5, 5, 5, 5, 3] * EPOCHS  # 23 examples: the last batch is smaller
    visited = [example for batch in batches for example in batch]
    epochs = [visited[EXAMPLES * i : EXAMPLES * (i + 1)] for i in range(EPOCHS)]
    assert all(sorted(epoch) == list(range(EXAMPLES)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == EPOCHS


@pytest.mark.parametrize(("batch_size", "sizes"), [(1, [1] * 23), (22, [22, 1]), (23, [23]), (100, [23])])
def test_any_batch_size_works(batch_size: int, sizes: list[int]) -> None:
    model = some_model()
    result = trained(model, model.params.clone(), epochs=1, batch_size=batch_size)
    assert [len(batch) for batch in result.batches] == sizes
    assert np.isfinite(result.update).all()


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_the_generator_alone_decides_the_bits(dropout: float) -> None:
    model = some_model(dropout)
    params = model.params.clone()
    one = trained(model, params)
    torch.manual_seed(99)  # neither torch's own generator nor what the model did before matters
    again = trained(model, params)
    np.testing.assert_array_equal(one.update, again.update)
    assert (one.loss, one.batches) == (again.loss, again.batches)
    other = trained(model, params, seed=1)
    assert other.batches != one.batches
    assert (other.update != one.update).any()


def test_dropout_is_drawn_from_the_generator_and_is_on_while_training() -> None:
    model = some_model(dropout=0.5)
    params = model.params.clone()
    model.module.eval()  # as a test of the model leaves it

    def whole_batch(seed: int) -> Float32:
        """One step on all examples: their order plays no part beyond rounding."""
        return trained(model, params, seed, epochs=1, batch_size=EXAMPLES).update

    assert np.abs(whole_batch(0) - whole_batch(1)).max() > 1e-4
    np.testing.assert_array_equal(whole_batch(0), whole_batch(0))


def test_global_parameters_and_data_are_not_changed() -> None:
    model = some_model()
    params = model.params.clone()
    before = params.clone()
    images, labels = some_data()
    out = np.empty(model.d, np.float32)
    train(model, params, images, labels, epochs=1, batch_size=BATCH, lr=LR, rng=stream(0, "train"), out=out)
    assert torch.equal(params, before)
    assert torch.equal(images, some_data()[0])
    assert torch.equal(labels, some_data()[1])


def test_training_starts_from_the_parameters_given() -> None:
    model = some_model()
    params = model.params.clone()
    expected = trained(model, params).update
    model.params.fill_(7)
    model.gradient().fill_(np.nan)
    np.testing.assert_array_equal(trained(model, params).update, expected)


SIZES = [23, 5, 1, 40, 12, 23]
"""Examples of clients that are trained together: whole batches, less than one, other numbers of steps."""
OPTIONS = [{}, {"momentum": 0.9}, {"weight_decay": 0.1}, {"prox": 0.5}]
OPTIONS += [{"momentum": 0.5, "weight_decay": 0.2, "prox": 0.3}]


def convolutional(dropout: float) -> FlatModel:
    torch.manual_seed(1)
    layers = [nn.Conv2d(1, 6, 3, padding=1), nn.GroupNorm(2, 6), nn.GELU(), nn.MaxPool2d(2), nn.Flatten()]
    return FlatModel(nn.Sequential(*layers, nn.Dropout(dropout), nn.Linear(24, 4)), CPU)


def examples(client: int) -> tuple[Tensor, Tensor]:
    rng = stream(0, "data", 0, client)
    images = torch.from_numpy(rng.integers(0, 256, (SIZES[client], 1, 4, 4), np.uint8))
    return images, torch.from_numpy(rng.integers(0, 4, SIZES[client]))


def together(
    model: FlatModel, whom: Sequence[int], *, epochs: int = EPOCHS, batch_size: int = BATCH, **options: Any
) -> dict[int, Trained]:
    tasks = []
    for client in whom:
        images, labels = examples(client)
        out = np.full(model.d, np.nan, np.float32)
        tasks.append(Task(images=images, labels=labels, rng=stream(client, "train"), out=out))
    batched = BatchedModel(model, len(SIZES))
    options |= {"epochs": epochs, "batch_size": batch_size, "lr": LR}
    losses = train_together(batched, model.params.clone(), tasks, **options)
    return {client: Trained(update=task.out, loss=loss) for client, task, loss in zip(whom, tasks, losses, strict=True)}


def alone(model: FlatModel, client: int, *, epochs: int = EPOCHS, batch_size: int = BATCH, **options: Any) -> Trained:
    params, result = model.params.clone(), Trained(update=np.full(model.d, np.nan, np.float32))
    rng = stream(client, "train")
    options |= {"epochs": epochs, "batch_size": batch_size, "lr": LR}
    result.loss = train(model, params, *examples(client), rng=rng, out=result.update, **options)
    model.params.copy_(params)
    return result


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("make", [some_model, convolutional])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_together_clients_learn_what_they_learn_alone(
    make: Callable[[float], FlatModel], dropout: float, options: dict[str, float]
) -> None:
    model = make(dropout)
    found = together(model, range(len(SIZES)), **options)
    for client, result in found.items():
        expected = alone(model, client, **options)
        np.testing.assert_allclose(result.update, expected.update, rtol=0, atol=5e-6)
        assert result.loss == pytest.approx(expected.loss, rel=1e-5)
        assert np.abs(result.update).max() > 0.005


@pytest.mark.parametrize("options", [OPTIONS[0], OPTIONS[-1]])
@pytest.mark.parametrize("make", [some_model, convolutional])
def test_a_clients_bits_depend_neither_on_the_others_nor_on_its_place(
    make: Callable[[float], FlatModel], options: dict[str, float]
) -> None:
    model, found = make(0.5), {}
    for whom in ([0, 1, 2, 3, 4, 5], [5, 3, 1], [2, 4, 1, 0], [0, 5], *([client] for client in range(6))):
        for client, result in together(model, whom, **options).items():
            first = found.setdefault(client, result)
            np.testing.assert_array_equal(result.update, first.update)
            assert result.loss == first.loss


@pytest.mark.parametrize("batch_size", [1, 12, 40, 100])
def test_together_any_batch_size_works(batch_size: int) -> None:
    model = some_model()
    for client, result in together(model, range(len(SIZES)), batch_size=batch_size).items():
        expected = alone(model, client, batch_size=batch_size)
        np.testing.assert_allclose(result.update, expected.update, rtol=0, atol=5e-6)


def test_a_client_that_diverges_takes_nobody_along() -> None:
    model = FlatModel(nn.Sequential(nn.Flatten(), nn.Linear(16, 4, bias=False)), CPU)
    outs = [np.full(model.d, np.nan, np.float32) for _ in range(2)]
    tasks = [
        Task(
            images=torch.full((count, 1, 4, 4), value, dtype=torch.uint8),
            labels=torch.arange(count) % 4,
            rng=stream(value, "train"),
            out=out,
        )
        for count, value, out in zip((10, 7), (255, 0), outs, strict=True)
    ]
    train_together(BatchedModel(model, 2), model.params.clone(), tasks, epochs=1, batch_size=5, lr=1e38)
    assert not np.isfinite(outs[0]).all()
    assert not outs[1].any()  # black images teach such a model nothing


@pytest.mark.parametrize("width", [12, 3000])  # a layer whose gradient is formed, and one whose is not
def test_in_half_precision_training_learns_nearly_the_same(width: int) -> None:
    model = some_model(width=width)
    for client in (0, 3):
        exact, rough = alone(model, client), alone(model, client, precision="bfloat16")
        batched = together(model, [client], precision="bfloat16")[client]
        for result in (rough, batched):
            assert (result.update != exact.update).any()
            assert result.update.dtype == np.float32
            away = np.linalg.norm(result.update - exact.update) / np.linalg.norm(exact.update)
            assert away < 0.05
            assert result.loss == pytest.approx(exact.loss, rel=0.02)
