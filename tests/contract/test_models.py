"""What every model owes its callers, with its default hyper-parameters; a new model is tested unasked."""

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
    assert model.params.shape == model.grad.shape == (model.d,)
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
def test_gradients_land_in_the_flat_vector(name: str) -> None:
    model = flat(name)
    functional.cross_entropy(model(some_images()), torch.tensor([1, 2, 3])).backward()  # type: ignore[no-untyped-call]
    gradients = [p.grad for p in model.module.parameters() if p.grad is not None]
    assert torch.equal(torch.cat([g.flatten() for g in gradients]), model.grad)
    assert model.grad.any()
    model.grad.zero_()
    assert not any(g.any() for g in gradients)


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
