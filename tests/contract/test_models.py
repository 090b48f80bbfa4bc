"""What every model owes its callers, with its default hyper-parameters; a new model is tested unasked."""

import copy
from typing import cast

import pytest
import torch
from torch import nn
from torch.nn import functional

from fempi import registry
from fempi.models.flat import FlatModel
from fempi.rng import stream, torch_seed

SHAPE, CLASSES = (1, 28, 28), 10

every_model = pytest.mark.parametrize("name", registry.names("model"))


def flat(name: str) -> FlatModel:
    plugin = registry.find("model", name)
    torch.manual_seed(torch_seed(stream(0, "init")))
    return FlatModel(plugin.make(SHAPE, CLASSES, **plugin.bind({})), torch.device("cpu"))


def some_images(count: int = 3) -> torch.Tensor:
    return torch.from_numpy(stream(0, "images").random((count, *SHAPE), dtype="float32"))


@every_model
def test_logits_have_one_column_per_class(name: str) -> None:
    logits = flat(name)(some_images())
    assert (logits.shape, logits.dtype) == ((3, CLASSES), torch.float32)
    assert logits.isfinite().all()


@every_model
def test_an_image_is_judged_alone(name: str) -> None:
    model = flat(name)
    model.module.eval()
    images = some_images()
    torch.testing.assert_close(model(images)[1:2], model(images[1:2]), rtol=1e-5, atol=1e-6)


@every_model
@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 16, 20)])
def test_other_image_shapes_and_numbers_of_classes_work(name: str, shape: tuple[int, int, int]) -> None:
    plugin = registry.find("model", name)
    module = plugin.make(shape, 7, **plugin.bind({}))
    assert module(torch.zeros(2, *shape)).shape == (2, 7)


@every_model
def test_the_flat_vector_is_all_there_is(name: str) -> None:
    model = flat(name)
    model.module.eval()
    assert model.params.shape == model.gradient().shape == (model.d,)
    assert model.d == sum(p.numel() for p in model.module.parameters())
    before = model(some_images())
    saved = model.params.clone()
    model.params.mul_(1.5)
    assert not torch.allclose(model(some_images()), before)
    model.params.zero_()
    assert not model(some_images()).any()
    model.params.copy_(saved)
    assert torch.equal(model(some_images()), before)


@every_model
def test_gradients_and_steps_are_those_of_the_module(name: str) -> None:
    model, plugin = flat(name), registry.find("model", name)
    module = plugin.make(SHAPE, CLASSES, **plugin.bind({}))
    module.load_state_dict(model.module.state_dict())
    for each in (module, model.module):
        each.eval()  # without dropout
    parameters = list(module.parameters())
    loss = functional.cross_entropy(module(some_images()), torch.tensor([1, 2, 3]))
    gradient = torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)])

    def backward() -> None:
        functional.cross_entropy(model(some_images()), torch.tensor([1, 2, 3])).backward()  # type: ignore[no-untyped-call]

    backward()
    assert torch.allclose(model.gradient(), gradient, atol=1e-7)
    assert model.gradient().any()
    model.forget()
    assert not model.gradient().any()
    before = model.params.clone()
    backward()
    model.step(0.5)
    assert torch.allclose(model.params, before - 0.5 * gradient, atol=1e-6)
    assert not model.gradient().any()


@every_model
def test_layers_say_where_each_parameter_lies(name: str) -> None:
    model = flat(name)
    end = 0
    for layer, (its_name, parameter) in zip(model.layers, model.module.named_parameters(), strict=True):
        assert (layer.name, layer.shape, layer.offset) == (its_name, tuple(parameter.shape), end)
        end += parameter.numel()
        assert torch.equal(model.params[layer.offset : end], parameter.detach().flatten())
    assert end == model.d


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        # 32 * (25 + 1) + 64 * (32 * 25 + 1) + 512 * (3136 + 1) + 10 * (512 + 1), as in McMahan et al.
        ("cnn", 1_663_370),
        # 8 * (25 + 1) + 16 * (8 * 25 + 1) + 24 * (784 + 1) + 10 * (24 + 1)
        ("cnn_small", 22_514),
        # 200 * (784 + 1) + 200 * (200 + 1) + 10 * (200 + 1), as in McMahan et al.
        ("mlp", 199_210),
    ],
)
def test_number_of_parameters_on_mnist(name: str, parameters: int) -> None:
    assert flat(name).d == parameters


class Twice(nn.Module):
    """A large layer that is used twice, in front of one that shares its weights with another."""

    def __init__(self) -> None:
        super().__init__()
        self.once, self.twice, self.tied = (nn.Linear(200, 200) for _ in range(3))
        self.tied.weight = self.once.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows: torch.Tensor = self.once(self.twice(torch.tanh(self.twice(x))))
        return cast(torch.Tensor, self.tied(rows).sum(dim=1))


def test_large_layers_may_be_used_twice_or_share_weights_or_see_sequences() -> None:
    torch.manual_seed(0)
    module = Twice()
    plain = copy.deepcopy(module)
    model = FlatModel(module, torch.device("cpu"))
    assert len(model._dense) == 1  # the other weight has two owners
    inputs = torch.randn(3, 4, 200)
    plain(inputs).square().sum().backward()
    model(inputs).square().sum().backward()  # type: ignore[no-untyped-call]
    gradient = torch.cat([cast(torch.Tensor, p.grad).flatten() for p in plain.parameters()])
    before = model.params.clone()
    model.step(1e-3)
    assert torch.allclose(model.params, before - 1e-3 * gradient, atol=1e-4 * float(gradient.abs().max() * 1e-3))


class Scaled(nn.Module):
    """A large layer whose weight is used by itself, and one that is not to be trained."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.frozen, self.last = nn.Linear(10, 40), nn.Linear(40, 1000), nn.Linear(1000, 40)
        self.frozen.weight.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows: torch.Tensor = torch.tanh(self.frozen(self.first(x)))
        return functional.linear(rows, functional.normalize(self.last.weight)) + self.last(rows)


@pytest.mark.parametrize("whole", [False, True])
def test_a_large_weight_may_be_used_without_its_layer_or_be_frozen(whole: bool) -> None:
    torch.manual_seed(0)
    plain = Scaled()
    model = FlatModel(copy.deepcopy(plain), torch.device("cpu"))
    assert len(model._dense) == 2
    inputs = torch.randn(5, 10)
    for _ in range(2):
        plain.zero_grad()
        plain(inputs).square().sum().backward()
        model(inputs).square().sum().backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            for parameter in plain.parameters():
                if parameter.grad is not None:
                    parameter.sub_(1e-4 * parameter.grad)
        if whole:
            model.params.add_(model.gradient(), alpha=-1e-4)
            model.forget()
        else:
            model.step(1e-4)
    expected = torch.cat([parameter.detach().flatten() for parameter in plain.parameters()])
    torch.testing.assert_close(model.params, expected)


def test_nothing_is_kept_of_what_is_not_trained_on() -> None:
    model = flat("mlp")
    with torch.inference_mode():
        model(some_images())
    model.step(1.0)
    assert torch.equal(model.params, flat("mlp").params)


def test_wrapping_keeps_the_initial_parameters() -> None:
    module = nn.Linear(3, 2)
    weight, bias = module.weight.detach().clone(), module.bias.detach().clone()
    model = FlatModel(module, torch.device("cpu"))
    assert torch.equal(model.params, torch.cat([weight.flatten(), bias]))


def test_a_module_with_state_outside_its_parameters_is_refused() -> None:
    module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4))
    with pytest.raises(ValueError, match=r"1\.running_mean.*GroupNorm"):
        FlatModel(module, torch.device("cpu"))
    FlatModel(nn.Sequential(nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4)), torch.device("cpu"))
