from functools import partial

import numpy as np
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from fempi import registry
from fempi.datasets.partition import Partition, split
from fempi.datasets.partition import dirichlet as dirichlet_module
from fempi.datasets.partition.dirichlet import dirichlet
from fempi.datasets.partition.iid import iid
from fempi.datasets.partition.shards import shards
from fempi.errors import FempiError
from fempi.rng import stream

LABELS = np.random.default_rng(0).permutation(np.arange(2000) % 10)
PARTITIONS = {
    "iid": iid,
    "shards": shards,
    "one shard": partial(shards, shards_per_client=1),
    "dirichlet": partial(dirichlet, min_examples=1),
}
every_partition = pytest.mark.parametrize("partition", PARTITIONS.values(), ids=PARTITIONS.keys())


def counts(labels: NDArray[np.int64], parts: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    """(clients, classes) how many examples of each class each client holds."""
    return np.array([np.bincount(labels[part], minlength=labels.max() + 1) for part in parts])


def test_all_partitions_are_registered() -> None:
    assert {"dirichlet", "iid", "shards"} <= set(registry.names("partition"))


@every_partition
@given(data=st.data())
def test_every_example_goes_to_one_client_and_every_client_has_one(partition: Partition, data: st.DataObject) -> None:
    labels = np.array(data.draw(st.lists(st.integers(0, 9), min_size=40, max_size=200)), np.int64)
    clients = data.draw(st.integers(1, 4))
    parts = partition(labels, clients, stream(data.draw(st.integers(0, 99)), "partition"))
    assert len(parts) == clients
    assert min(map(len, parts)) >= 1
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(len(labels)))
    assert {part.dtype for part in parts} == {np.dtype(np.int64)}


@every_partition
def test_a_partition_depends_on_its_generator_only(partition: Partition) -> None:
    def parts(seed: int) -> list[list[int]]:
        return [part.tolist() for part in partition(LABELS, 10, stream(seed, "partition"))]

    assert parts(1) == parts(1)
    assert parts(1) != parts(2)


@every_partition
def test_too_few_examples_are_refused_with_advice(partition: Partition) -> None:
    with pytest.raises(ValueError, match=r"5 examples are too few for 6 clients.*; lower data\.clients"):
        partition(LABELS[:5], 6, stream(1, "partition"))


def test_iid_shares_are_nearly_equal_and_alike() -> None:
    table = counts(LABELS, iid(LABELS, 7, stream(1, "partition")))
    assert set(table.sum(axis=1)) == {285, 286}
    assert (table > 0).all()


@given(clients=st.integers(1, 30), shards_per_client=st.integers(1, 4), size=st.integers(120, 300))
def test_shards_are_equal_and_hold_few_labels(clients: int, shards_per_client: int, size: int) -> None:
    labels = LABELS[:size]
    parts = shards(labels, clients, stream(1, "partition"), shards_per_client=shards_per_client)
    shard, longer = divmod(size, clients * shards_per_client)
    assert {len(part) // shards_per_client for part in parts} <= {shard, shard + 1}
    assert sum(len(part) - shard * shards_per_client for part in parts) == longer
    if shard < np.bincount(labels).min():  # then a shard ends before the class after next begins
        held = (counts(labels, parts) > 0).sum(axis=1)
        assert held.max() <= 2 * shards_per_client


def test_mcmahans_hundred_clients_hold_at_most_two_digits_each() -> None:
    labels = np.random.default_rng(0).permutation(np.arange(60_000) % 10)
    table = counts(labels, shards(labels, 100, stream(1, "partition")))
    assert (table.sum(axis=1) == 600).all()
    assert ((table > 0).sum(axis=1) <= 2).all()


def test_shards_keep_the_order_within_a_label() -> None:
    (part,) = shards(LABELS, 1, stream(1, "partition"), shards_per_client=1)
    assert part.tolist() == [place for label in range(10) for place in np.flatnonzero(label == LABELS)]


def test_a_small_alpha_is_more_skewed_than_a_large_one() -> None:
    def largest_share(alpha: float) -> float:
        parts = dirichlet(LABELS, 10, stream(1, "partition"), alpha=alpha, min_examples=1)
        table = counts(LABELS, parts)
        return float((table.max(axis=1) / table.sum(axis=1)).mean())

    shares = [largest_share(alpha) for alpha in (0.1, 1, 10, 1000)]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > 0.5
    assert shares[-1] < 0.15


@given(min_examples=st.integers(1, 60), seed=st.integers(0, 99))
def test_dirichlet_draws_until_each_client_has_enough(min_examples: int, seed: int) -> None:
    parts = dirichlet(LABELS, 10, stream(seed, "partition"), min_examples=min_examples)
    assert min(map(len, parts)) >= min_examples


def test_dirichlet_gives_up_with_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dirichlet_module, "MAX_DRAWS", 3)
    with pytest.raises(ValueError, match=r"3 draws from Dir\(0\.001\).*; raise data\.alpha, or lower data\.min_ex"):
        dirichlet(LABELS, 100, stream(1, "partition"), alpha=0.001)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [("iid", {"alpha": 1.0}), ("shards", {"shards_per_client": 0}), ("dirichlet", {"alpha": 0.0})],
)
def test_hyper_parameters_have_bounds(name: str, wrong: dict[str, float]) -> None:
    with pytest.raises(pydantic.ValidationError):
        registry.find("partition", name).bind(wrong)


@every_partition
@given(root_examples=st.integers(0, 500), seed=st.integers(0, 99))
def test_root_data_and_clients_share_the_training_set(partition: Partition, root_examples: int, seed: int) -> None:
    result = split(LABELS, clients=5, root_examples=root_examples, partition=partition, seed=seed)
    assert len(result.root) == root_examples
    assert len(result.clients) == 5
    everything = np.concatenate([result.root, *result.clients])
    np.testing.assert_array_equal(np.sort(everything), np.arange(len(LABELS)))
    assert everything.dtype == np.int64


def test_clients_hold_the_labels_their_partition_gave_them() -> None:
    result = split(LABELS, clients=20, root_examples=100, partition=shards, seed=1)
    assert (counts(LABELS, result.clients) > 0).sum(axis=1).max() <= 4


def test_root_data_do_not_depend_on_the_partition() -> None:
    one = split(LABELS, clients=5, root_examples=100, partition=iid, seed=1)
    other = split(LABELS, clients=9, root_examples=100, partition=shards, seed=1)
    np.testing.assert_array_equal(one.root, other.root)
    assert np.bincount(LABELS[one.root], minlength=10).min() > 0  # drawn from everywhere


@pytest.mark.parametrize("root_examples", [1996, 2000, 5000])
def test_too_much_root_data_is_refused_with_advice(root_examples: int) -> None:
    with pytest.raises(FempiError, match=r"of 2000 .* 5 clients; lower data\.root_examples or data\.clients"):
        split(LABELS, clients=5, root_examples=root_examples, partition=iid, seed=1)


def test_a_partition_that_gives_an_example_twice_is_a_bug() -> None:
    def overlapping(labels: NDArray[np.int64], clients: int, rng: np.random.Generator) -> list[NDArray[np.int64]]:
        return [np.arange(3)] * clients

    with pytest.raises(AssertionError, match="in two places"):
        split(LABELS, clients=2, root_examples=0, partition=overlapping, seed=1)
