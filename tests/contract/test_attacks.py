"""What every attack owes its callers, with its default hyper-parameters; a new attack is tested unasked."""

import numpy as np
import pytest
import torch
from torch import Tensor

from fempi import registry
from fempi.algebra import Float32
from fempi.attacks import Attack, Knowledge, poison
from fempi.rng import stream

N, D, K = 9, 40, 10
MALICIOUS = {"none": [], "one": [4], "some": [0, 3, 8], "all": list(range(N))}

every_attack = pytest.mark.parametrize("name", registry.names("attack"))


def attack_of(name: str) -> Attack:
    plugin = registry.find("attack", name)
    attack = plugin.make(**plugin.bind({}))
    assert isinstance(attack, Attack)
    return attack


def sent(name: str, updates: Float32, malicious: list[int], params: Float32) -> Float32:
    mask = np.zeros(len(updates), bool)
    mask[malicious] = True
    knowledge = Knowledge(round=3, clients=np.arange(len(updates)) * 2, params=params, rng=stream(0, "attack", 3))
    return attack_of(name).poison_updates(updates, mask, knowledge)


def some_updates() -> tuple[Float32, Float32]:
    rng = stream(0, "updates")
    return rng.standard_normal((N, D)).astype(np.float32), rng.standard_normal(D).astype(np.float32)


def some_data(m: int = 50) -> tuple[Tensor, Tensor]:
    rng = stream(0, "data")
    images = torch.from_numpy(rng.integers(0, 256, (m, 1, 8, 8), np.uint8))
    return images, torch.from_numpy(rng.integers(0, K, m))


@every_attack
@pytest.mark.parametrize("malicious", MALICIOUS.values(), ids=MALICIOUS.keys())
def test_each_malicious_client_sends_one_float32_row(name: str, malicious: list[int]) -> None:
    updates, params = some_updates()
    rows = sent(name, updates, malicious, params)
    assert (rows.shape, rows.dtype) == ((len(malicious), D), np.float32)


@every_attack
def test_what_clients_trained_and_the_model_are_not_written(name: str) -> None:
    updates, params = some_updates()
    updates.flags.writeable = params.flags.writeable = False  # so that writing raises
    rows = sent(name, updates, [1, 2], params)
    rows[:] = 0  # what is sent may be written over, and is no view of what was trained
    np.testing.assert_array_equal(updates, some_updates()[0])
    np.testing.assert_array_equal(params, some_updates()[1])


@every_attack
def test_an_attack_depends_on_its_generator_only(name: str) -> None:
    updates, params = some_updates()
    torch.manual_seed(1)
    one = sent(name, updates, [1, 2], params)
    torch.manual_seed(2)
    np.testing.assert_array_equal(sent(name, updates, [1, 2], params), one)


@every_attack
@pytest.mark.parametrize("m", [0, 1, 50])
def test_poisoned_data_have_the_same_shapes_and_types_and_valid_labels(name: str, m: int) -> None:
    images, labels = some_data(m)
    poisoned = attack_of(name).poison_data(images, labels, K, stream(0, "poison data"))
    for new, old in zip(poisoned, (images, labels), strict=True):
        assert (new.shape, new.dtype, new.device) == (old.shape, old.dtype, old.device)
    assert ((poisoned[1] >= 0) & (poisoned[1] < K)).all()


@every_attack
def test_poisoning_leaves_the_given_data_alone(name: str) -> None:
    images, labels = some_data()
    attack_of(name).poison_data(images, labels, K, stream(0, "poison data"))
    assert torch.equal(images, some_data()[0])
    assert torch.equal(labels, some_data()[1])


@every_attack
def test_a_client_tells_the_same_lie_in_every_round(name: str) -> None:
    torch.manual_seed(1)
    one = attack_of(name).poison_data(*some_data(), K, stream(0, "poison data"))
    torch.manual_seed(2)
    other = attack_of(name).poison_data(*some_data(), K, stream(0, "poison data"))
    assert torch.equal(one[0], other[0])
    assert torch.equal(one[1], other[1])


@every_attack
def test_success_is_a_share_or_nan(name: str) -> None:
    random = stream(0, "confusion").integers(1, 100, (K, K))
    for confusion in (random, np.eye(K, dtype=np.int64), np.ones((K, K), np.int64)):
        success = attack_of(name).success(confusion)
        assert isinstance(success, float)
        assert np.isnan(success) or 0 <= success <= 1


@pytest.mark.parametrize("target", ["clients", "malicious", "params"])
def test_what_the_adversary_knows_is_not_its_to_change(target):
    class Forger(Attack):
        def poison_updates(self, updates, malicious, knowledge):
            array = malicious if target == "malicious" else getattr(knowledge, target)
            array[:] = 0
            return updates[malicious]

    knowledge = Knowledge(round=1, clients=np.arange(3), params=np.ones(4, np.float32), rng=stream(0, "x"))
    with pytest.raises(ValueError, match="read-only"):
        poison(Forger(), np.ones((3, 4), np.float32), np.array([True, False, True]), knowledge)
