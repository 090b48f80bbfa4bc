from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fempi.algebra import Int64
from fempi.placement import Placement, place


def loads(owners: Int64, costs: list[int], ranks: int) -> list[int]:
    return np.bincount(owners, weights=costs, minlength=ranks).astype(int).tolist()


def balanced(costs: list[int], ranks: int, root_cost: int = 0) -> Int64:
    clients = np.arange(len(costs))
    return place("balanced", clients, np.array(costs), ranks=ranks, total_clients=100, root_cost=root_cost)


@pytest.mark.parametrize("placement", ["balanced", "pinned"])
@given(cohort=st.sets(st.integers(0, 99), min_size=1), ranks=st.integers(1, 12), root_cost=st.integers(0, 500))
def test_every_client_of_the_cohort_has_one_valid_rank(
    placement: Placement, cohort: set[int], ranks: int, root_cost: int
) -> None:
    clients = np.array(sorted(cohort))
    owners = place(placement, clients, clients + 1, ranks=ranks, total_clients=100, root_cost=root_cost)
    assert owners.shape == clients.shape
    assert owners.dtype == np.int64
    assert ((owners >= 0) & (owners < ranks)).all()


def test_the_costliest_goes_first_to_the_rank_with_the_least_to_do() -> None:
    # 8 to rank 0, 7 to 1, 6 to 1 (13), 5 to 0 (13), 4 to 0 (17): the longest-first example of the textbooks.
    owners = balanced([4, 8, 5, 7, 6], ranks=2)
    assert owners.tolist() == [0, 0, 0, 1, 1]
    assert loads(owners, [4, 8, 5, 7, 6], 2) == [17, 13]


@given(costs=st.lists(st.integers(1, 50), min_size=1, max_size=7), ranks=st.integers(1, 3))
def test_the_busiest_rank_has_at_most_four_thirds_of_the_optimum(costs: list[int], ranks: int) -> None:
    # Graham 1969: longest processing time first is within 4/3 - 1/(3 ranks).
    optimum = min(max(loads(np.array(o), costs, ranks)) for o in product(range(ranks), repeat=len(costs)))
    assert 3 * ranks * max(loads(balanced(costs, ranks), costs, ranks)) <= (4 * ranks - 1) * optimum


def test_what_the_root_does_besides_shifts_work_to_the_others() -> None:
    equal = [10] * 9
    assert loads(balanced(equal, ranks=3), equal, 3) == [30, 30, 30]
    assert loads(balanced(equal, ranks=3, root_cost=20), equal, 3) == [20, 40, 30]  # 40, 40, 30 with the root's 20
    assert loads(balanced(equal, ranks=3, root_cost=1000), equal, 3) == [0, 50, 40]
    assert balanced(equal, ranks=1, root_cost=1000).tolist() == [0] * 9


def test_a_pinned_client_has_the_same_rank_in_every_cohort() -> None:
    owner = dict(enumerate(place("pinned", np.arange(10), np.ones(10, int), ranks=3, total_clients=10).tolist()))
    assert list(owner.values()) == [0, 0, 0, 0, 1, 1, 1, 2, 2, 2]  # contiguous shards, nearly equal
    for cohort in ([3, 4], [0, 6, 7, 9], [9]):
        costs, load = np.arange(len(cohort)) * 100, 10**6
        owners = place("pinned", np.array(cohort), costs, ranks=3, total_clients=10, root_cost=load)
        assert owners.tolist() == [owner[client] for client in cohort]


@given(ranks=st.integers(1, 20), total=st.integers(1, 200))
def test_pinned_shards_are_contiguous_and_nearly_equal(ranks: int, total: int) -> None:
    owners = place("pinned", np.arange(total), np.ones(total, int), ranks=ranks, total_clients=total)
    assert (np.diff(owners) >= 0).all()
    sizes = np.bincount(owners, minlength=ranks)
    assert sizes.max() - sizes.min() <= 1
