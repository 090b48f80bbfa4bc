"""What every attack owes its callers, with its default hyper-parameters; a new attack is tested unasked."""

import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from fempi import registry
from fempi.aggregators import Context, decide
from fempi.aggregators.krum import krum
from fempi.algebra import Bool, Float32, Updates
from fempi.attacks import Attack, Knowledge, honest, poison, poison_data
from fempi.columns import Columns
from fempi.rng import stream

N, D, K = 9, 40, 10
MALICIOUS = {"none": [], "one": [4], "some": [0, 3, 8], "all": list(range(N))}
NOT_FINITE = ("nan", "inf")

Aggregate = Callable[[Float32], Float32]


def mean(rows: Float32) -> Float32:
    return rows.mean(axis=0, dtype=np.float64).astype(np.float32)


def krum_of_three(rows: Float32) -> Float32:
    context = Context(
        round=3,
        clients=np.arange(len(rows)),
        num_examples=np.ones(len(rows), np.int64),
        num_byzantine=3,
        rng=stream(0, "aggregate", 3),
    )
    update = decide(krum, Updates(rows), context).update
    assert update is not None
    return update


every_attack = pytest.mark.parametrize("name", registry.names("attack"))
every_rule = pytest.mark.parametrize("aggregate", [mean, krum_of_three])
every_malicious = pytest.mark.parametrize("malicious", MALICIOUS.values(), ids=MALICIOUS.keys())


def attack_of(name: str) -> Attack:
    plugin = registry.find("attack", name)
    attack = plugin.make(**plugin.bind({}))
    assert isinstance(attack, Attack)
    return attack


def knowledge_of(params: Float32, n: int, aggregate: Aggregate = mean) -> Knowledge:
    return Knowledge(
        round=3,
        clients=np.arange(n) * 2,
        params=params,
        aggregate=aggregate,
        columns=Columns(len(params)),
        rng=stream(0, "attack", 3),
    )


def mask_of(malicious: list[int], n: int) -> Bool:
    mask = np.zeros(n, bool)
    mask[malicious] = True
    return mask


def sent(name: str, updates: Float32, malicious: list[int], params: Float32, aggregate: Aggregate = mean) -> Float32:
    n = len(updates)
    return attack_of(name).poison_updates(updates, mask_of(malicious, n), knowledge_of(params, n, aggregate))


def some_updates() -> tuple[Float32, Float32]:
    rng = stream(0, "updates")
    return rng.standard_normal((N, D)).astype(np.float32), rng.standard_normal(D).astype(np.float32)


def some_data(m: int = 50) -> tuple[Tensor, Tensor]:
    rng = stream(0, "data")
    images = torch.from_numpy(rng.integers(0, 256, (m, 1, 8, 8), np.uint8))
    return images, torch.from_numpy(rng.integers(0, K, m))


def assert_sound(name: str, rows: Float32, k: int, d: int) -> None:
    assert (rows.shape, rows.dtype) == ((k, d), np.float32)
    assert np.isfinite(rows).all() == (k == 0 or name not in NOT_FINITE)


@every_attack
@every_malicious
@every_rule
def test_each_malicious_client_sends_one_float32_row(name: str, malicious: list[int], aggregate: Aggregate) -> None:
    updates, params = some_updates()
    assert_sound(name, sent(name, updates, malicious, params, aggregate), len(malicious), D)


@every_attack
@every_malicious
@every_rule
@pytest.mark.parametrize("value", [0, 0.1])
def test_rows_that_are_equal_or_zero_can_be_attacked_from(
    name: str, malicious: list[int], aggregate: Aggregate, value: float
) -> None:
    updates = np.full((N, D), value, np.float32)
    assert_sound(name, sent(name, updates, malicious, np.ones(D, np.float32), aggregate), len(malicious), D)


@every_attack
@every_malicious
@every_rule
def test_one_coordinate_is_enough(name: str, malicious: list[int], aggregate: Aggregate) -> None:
    updates, params = some_updates()
    rows = sent(name, updates[:, :1].copy(), malicious, params[:1].copy(), aggregate)
    assert_sound(name, rows, len(malicious), 1)


@every_attack
@pytest.mark.parametrize("n", [1, 2, 3, 10])
@pytest.mark.parametrize("d", [1, D])
def test_any_number_of_clients_can_be_attacked_among(name: str, n: int, d: int) -> None:
    updates, params = some_updates()
    rows = np.resize(updates[:, :d], (n, d))
    assert_sound(name, sent(name, rows, [0], params[:d].copy()), 1, d)


@every_attack
@pytest.mark.parametrize("value", [3e38, 1e-42, np.nan, np.inf])
@pytest.mark.parametrize("malicious", [[1, 2], list(range(N))], ids=["two", "all"])
@every_rule
def test_a_client_whose_training_broke_does_not_stop_the_round(
    name: str, value: float, malicious: list[int], aggregate: Aggregate
) -> None:
    updates, params = some_updates()
    updates[0] = value
    mask, knowledge = mask_of(malicious, N), knowledge_of(params, N, aggregate)
    assert poison(attack_of(name), updates, mask, knowledge).shape == (len(malicious), D)


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
    attack = attack_of(name)
    has_trigger = attack.trigger(some_data()[0]) is not None
    for confusion in (random, np.eye(K, dtype=np.int64), np.ones((K, K), np.int64)):
        success = attack.success(confusion, confusion.T if has_trigger else None)
        assert isinstance(success, float)
        assert np.isnan(success) or 0 <= success <= 1


@every_attack
def test_a_trigger_is_put_on_a_copy(name: str) -> None:
    images = some_data()[0]
    marked = attack_of(name).trigger(images)
    assert torch.equal(images, some_data()[0])
    if marked is not None:
        assert (marked.shape, marked.dtype) == (images.shape, images.dtype)
        assert not torch.equal(marked, images)


@every_malicious
def test_honest_rows_are_those_of_the_others_or_everybodys_where_all_attack(malicious: list[int]) -> None:
    updates, _ = some_updates()
    rows = honest(updates, mask_of(malicious, N), knowledge_of(np.zeros(D, np.float32), N))
    expected = [i for i in range(N) if i not in malicious] or list(range(N))
    np.testing.assert_array_equal(rows, updates[expected])


@pytest.mark.parametrize("target", ["clients", "malicious", "params"])
def test_what_the_adversary_knows_is_not_its_to_change(target):
    class Forger(Attack):
        def poison_updates(self, updates, malicious, knowledge):
            array = malicious if target == "malicious" else getattr(knowledge, target)
            array[:] = 0
            return updates[malicious]

    knowledge = knowledge_of(np.ones(4, np.float32), 3)
    with pytest.raises(ValueError, match="read-only"):
        poison(Forger(), np.ones((3, 4), np.float32), np.array([True, False, True]), knowledge)


BAD_DATA = {
    "labels of (3,), not": lambda images, labels: (images, labels[:3]),
    "images of shape (2, 1, 8, 8)": lambda images, labels: (images[:2], labels),
    "labels outside 0 to 9": lambda images, labels: (images, labels + K),
}


@pytest.mark.parametrize("said", BAD_DATA)
def test_poisoned_data_that_do_not_fit_are_refused(said):
    class Careless(Attack):
        def poison_data(self, images, labels, num_classes, rng):
            return BAD_DATA[said](images, labels)

    with pytest.raises(ValueError, match=re.escape(said)):
        poison_data(Careless(), *some_data(5), K, stream(0, "poison data"))
