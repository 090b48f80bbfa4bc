"""Copies of a model in one batch: each is the model itself, and none of them knows of the others."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from fempi import registry
from fempi.models.agreement import require_agreement, suitable
from fempi.models.batched import BatchedModel
from fempi.models.flat import FlatModel

CPU = torch.device("cpu")
COPIES, EXAMPLES, CLASSES = 5, 7, 10


def flat(module: nn.Module) -> FlatModel:
    return FlatModel(module, CPU)


def made(name: str, shape: Sequence[int], **options: object) -> nn.Module:
    plugin = registry.find("model", name)
    torch.manual_seed(1)
    module: nn.Module = plugin.make(shape, CLASSES, **plugin.bind(options))
    return module


class Residual(nn.Module):
    """Layers that are used twice, share their weights, see more than one row an example, or are frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.twice, self.tied = nn.Linear(3, 7), nn.Linear(7, 7), nn.Linear(7, 7, bias=False)
        self.tied.weight = self.twice.weight
        self.frozen, self.last, self.dropout = nn.Linear(7, 7), nn.Linear(7, CLASSES), nn.Dropout(0.3)
        self.tanh = nn.Tanh()
        self.frozen.requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        rows = self.first(images.flatten(1).unflatten(1, (-1, 3)))
        rows = self.tied(self.tanh(self.twice(rows + self.twice(self.dropout(rows)))))
        logits: Tensor = self.last(self.frozen(rows)[:, 0] + rows[:, 1])
        return logits


def convolutions() -> nn.Module:
    """Everything a convolution may be asked for, on images that are not square."""
    return nn.Sequential(
        nn.Conv2d(1, 6, (3, 2), stride=(2, 1), padding=(2, 1), dilation=(1, 2)),
        nn.GELU(),
        nn.Conv2d(6, 5, 3, padding="same", bias=False),
        nn.GroupNorm(1, 5),
        nn.AvgPool2d(2),
        nn.Conv2d(5, 6, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(6, 4, 1, stride=2, groups=2),
        nn.GroupNorm(2, 4, affine=False),
        nn.Flatten(),
        nn.LazyLinear(CLASSES),
    )


def without_lazy(module: nn.Module, shape: Sequence[int]) -> nn.Module:
    torch.manual_seed(1)
    module(torch.zeros(1, *shape))
    return module


MODELS = {
    "mlp": lambda: (made("mlp", (1, 6, 6), hidden=[9, 5]), (1, 6, 6)),
    "cnn_small": lambda: (made("cnn_small", (1, 28, 28)), (1, 28, 28)),
    "cnn": lambda: (made("cnn", (1, 12, 12)), (1, 12, 12)),
    "resnet": lambda: (made("resnet", (3, 8, 8), groups=8), (3, 8, 8)),
    "residual": lambda: (Residual(), (1, 4, 6)),
    "convolutions": lambda: (without_lazy(convolutions(), (1, 9, 12)), (1, 9, 12)),
}
every_model = pytest.mark.parametrize("name", MODELS)


class Bench:
    """A model, copies of it with parameters of their own, and examples for each."""

    def __init__(self, name: str, copies: int = COPIES, examples: int = EXAMPLES) -> None:
        torch.manual_seed(0)
        module, shape = MODELS[name]()
        self.model = flat(module)
        self.params = self.model.params * (1 + 0.1 * torch.randn(copies, self.model.d))
        self.images = torch.rand(copies, examples, *shape)
        self.labels = torch.randint(0, CLASSES, (copies, examples))

    def alone(self, copied: int, count: int = EXAMPLES) -> tuple[Tensor, Tensor]:
        """Losses and gradient of the model itself with a copy's parameters and its first examples."""
        self.model.module.train()
        self.model.params.copy_(self.params[copied])
        self.model.forget()
        torch.manual_seed(copied)
        logits = self.model(self.images[copied][:count])
        losses = functional.cross_entropy(logits, self.labels[copied][:count], reduction="none")
        losses.mean().backward()  # type: ignore[no-untyped-call]
        return losses.detach(), self.model.gradient().clone()

    def together(self, copies: Sequence[int], counts: Sequence[int] | None = None) -> tuple[BatchedModel, Tensor]:
        """Copies after a backward pass of their mean losses, and their losses (k, examples)."""
        batched = BatchedModel(self.model, len(self.params))
        examples = self.images.shape[1]
        counts = counts or [examples] * len(copies)
        batched.params[: len(copies)] = self.params[list(copies)]
        batched.expect(counts)
        batched.seed(copies)
        labels = self.labels[list(copies)].flatten()
        losses = functional.cross_entropy(batched(self.images[list(copies)].flatten(0, 1)), labels, reduction="none")
        shares = [(torch.arange(examples) < count) / count for count in counts]
        losses.backward(torch.cat(shares))  # type: ignore[no-untyped-call]
        return batched, losses.detach().view(len(copies), -1)


@every_model
def test_a_copy_finds_what_the_model_finds(name: str) -> None:
    bench = Bench(name)
    batched, losses = bench.together(range(COPIES))
    gradients = batched.gradient()
    for copied in range(COPIES):
        expected, gradient = bench.alone(copied)
        torch.testing.assert_close(losses[copied], expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(gradients[copied], gradient, rtol=1e-3, atol=1e-5 * float(gradient.abs().max()))


@every_model
def test_examples_that_fill_the_batch_change_nothing(name: str) -> None:
    bench, counts = Bench(name), [7, 1, 4, 6, 3]
    batched, losses = bench.together(range(COPIES), counts)
    gradients = batched.gradient()
    for copied, count in enumerate(counts):
        expected, gradient = bench.alone(copied, count)
        torch.testing.assert_close(losses[copied, :count], expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(gradients[copied], gradient, rtol=1e-3, atol=1e-5 * float(gradient.abs().max()))


@every_model
def test_a_step_is_the_gradient_times_the_rate(name: str) -> None:
    bench = Bench(name)
    batched, _ = bench.together(range(COPIES))
    gradients = batched.gradient().clone()
    batched, _ = bench.together(range(COPIES))
    batched.step(0.5)
    torch.testing.assert_close(batched.params, bench.params - 0.5 * gradients)
    batched.step(0.5)  # nothing has been found since
    torch.testing.assert_close(batched.params, bench.params - 0.5 * gradients)


@every_model
@pytest.mark.parametrize("counts", [[7, 2, 7, 5, 1, 7], [1] * 6])
def test_bits_of_a_copy_depend_on_no_other(name: str, counts: list[int]) -> None:
    k, found = len(counts), dict[int, Tensor]()
    bench = Bench(name, copies=k, examples=max(counts))
    for whom in ([0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0], [3, 1, 4], [2, 0], [5, 2, 1, 3, 0], *([i] for i in range(k))):
        batched, losses = bench.together(whom, [counts[i] for i in whom])
        gradients = batched.gradient().clone()
        batched, _ = bench.together(whom, [counts[i] for i in whom])
        batched.step(0.1)
        for row, copied in enumerate(whom):
            now = torch.cat([losses[row, : counts[copied]], gradients[row], batched.params[row]])
            assert torch.equal(found.setdefault(copied, now), now), (whom, copied)


def test_copies_that_do_nothing_stay_as_they_are() -> None:
    bench = Bench("cnn_small")
    batched = BatchedModel(bench.model, COPIES)
    batched.params[:] = bench.params
    batched.expect([EXAMPLES] * 2)
    batched(bench.images[:2].flatten(0, 1)).sum().backward()  # type: ignore[no-untyped-call]
    batched.step(1.0)
    assert (batched.params[:2] != bench.params[:2]).any(dim=1).all()
    assert torch.equal(batched.params[2:], bench.params[2:])


def test_the_model_keeps_its_parameters_and_its_own_ways() -> None:
    model = flat(made("cnn", (1, 28, 28)))
    before, images = model.params.clone(), torch.rand(2, 1, 28, 28)
    model.module.eval()
    logits = model(images)
    batched = BatchedModel(model, 3)
    require_agreement(batched, model, (1, 28, 28))
    model.module.eval()
    assert torch.equal(model.params, before)
    assert torch.equal(model(images), logits)
    assert not model.gradient().any()


@every_model
def test_all_these_are_accepted_and_the_others_refused(name: str) -> None:
    module, shape = MODELS[name]()
    model = flat(module)
    require_agreement(BatchedModel(model, 2), model, shape)
    require_agreement(BatchedModel(model, 1), model, shape)


class Mixed(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images - images.mean(dim=0)


class Noisy(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return functional.dropout(images, 0.1, self.training)


class Tanh(nn.Module):
    """Not a layer of its own, as it has one."""

    def __init__(self) -> None:
        super().__init__()
        self.nothing = nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        return torch.tanh(images)


class Own(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, images: Tensor) -> Tensor:
        return images * self.scale


class ByHand(nn.Linear):
    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs) * 2


class PastItsLayer(nn.Module):
    """A layer's weight, used by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(16, 16)

    def forward(self, images: Tensor) -> Tensor:
        return functional.linear(images.flatten(1), self.linear.weight).view_as(images)


class Unrolled(nn.Conv2d):
    """A convolution that adds something to what its kind does."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images).abs()


@pytest.mark.parametrize(
    ("module", "why"),
    [
        (Mixed(), "depends on the others"),
        (nn.BatchNorm2d(1, affine=False, track_running_stats=False), "depends on the others"),
        (Noisy(), "random numbers"),
        (nn.AlphaDropout(0.2), "random numbers"),
        (Tanh(), r"calls tanh outside of layers.*nn\.Tanh"),
        (Own(), "layer 0 is a Own with parameters"),
        (nn.LayerNorm(4), "LayerNorm"),
        (PastItsLayer(), "meta"),
        (nn.Sequential(nn.Flatten(), ByHand(16, 16)), "layer 0.1 is a ByHand"),
        (nn.ConvTranspose2d(1, 2, 3), "ConvTranspose2d"),
    ],
)
def test_what_cannot_be_batched_is_refused_with_a_reason(module: nn.Module, why: str) -> None:
    shape = (1, 4, 4)
    size = module(torch.rand(3, *shape)).flatten(1).shape[1]
    model = flat(nn.Sequential(module, nn.Flatten(), nn.Linear(size, 3)))
    before = model.params.clone()

    def accept() -> None:
        require_agreement(BatchedModel(model, 2), model, shape)

    with pytest.raises(ValueError, match=f"clients of this model cannot be trained together: .*{why}"):
        accept()
    assert torch.equal(model.params, before)


def test_what_a_subclass_of_a_convolution_adds_remains() -> None:
    module = nn.Sequential(Unrolled(1, 2, 3), nn.Flatten(), nn.Linear(8, 3))
    model = flat(module)
    require_agreement(BatchedModel(model, 2), model, (1, 4, 4))


def test_on_a_cpu_models_with_little_arithmetic_suit() -> None:
    sizes = {
        name: suitable(flat(made(name, (1, 28, 28))), (1, 28, 28), 10) for name in ("mlp", "cnn_small", "cnn", "resnet")
    }
    assert sizes["mlp"] > 1
    assert sizes["cnn_small"] > 1
    assert sizes["cnn"] == sizes["resnet"] == 1
    assert suitable(flat(made("mlp", (1, 28, 28))), (1, 28, 28), 1000) == 1
