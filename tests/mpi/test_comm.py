"""What ranks say to each other, on every number of ranks."""

import time

import numpy as np
import pytest
from mpi4py import MPI

from fempi.comm import Comm, Refused
from fempi.errors import FempiError
from fempi.exchange import RowGather

pytestmark = pytest.mark.mpi
world = Comm(MPI.COMM_WORLD)
everyone = list(range(world.size))
last = world.size - 1


def rows_of(n, d):
    """Rows that every rank can make: every float32 bit pattern may travel, NaN and Inf too."""
    rows = np.random.default_rng(7).standard_normal((n, d)).astype(np.float32)
    rows.flat[::97] = np.nan
    rows.flat[::89] = np.inf
    rows.flat[::83] = -0.0
    return rows


def gathered(owners, d):
    """Gather known rows from their owners; on root return what arrived."""
    sent = rows_of(len(owners), d)
    gather = RowGather(world, np.asarray(owners), d)
    assert gather.slots == [slot for slot, owner in enumerate(owners) if owner == world.rank]
    for slot in reversed(gather.slots):  # in any order
        gather.row(slot)[:] = sent[slot]
        gather.send(slot)
    return sent, gather.wait()


def test_one_communicator_sees_all_ranks():
    assert world.mpi.allgather(world.rank) == everyone
    assert world.is_root == (world.rank == 0)


def test_local_ranks_number_the_ranks_of_a_host():
    places = world.mpi.allgather((world.host, world.local_rank))
    for host in {host for host, _ in places}:
        local = [number for name, number in places if name == host]
        assert local == list(range(len(local)))


@pytest.mark.parametrize("d", [1, 100_003])
def test_broadcast_overwrites_with_roots_bits(d):
    array = rows_of(1, d)[0] if world.is_root else np.zeros(d, np.float32)
    world.broadcast(array)
    assert array.tobytes() == rows_of(1, d)[0].tobytes()


@pytest.mark.parametrize("dtype", [np.int64, np.float64])
def test_sum_to_root_adds_every_ranks_share_and_changes_none(dtype):
    share = np.full((3, 2), world.rank + 1, dtype)
    total = world.sum_to_root(share)
    assert (share == world.rank + 1).all()
    if world.is_root:
        assert total.dtype == dtype
        assert (total == sum(r + 1 for r in everyone)).all()


def test_stack_to_root_keeps_the_ranks_order():
    stacked = world.stack_to_root(np.array([world.rank, -world.rank], np.float64))
    if world.is_root:
        assert stacked.tolist() == [[r, -r] for r in everyone]


def test_describe_tells_every_rank_what_every_rank_said():
    assert world.describe(f"I am {world.rank}") == [f"I am {r}" for r in everyone]


@pytest.mark.parametrize(
    "owners",
    [
        pytest.param([0] * 5, id="all-on-root"),
        pytest.param([last] * 5, id="all-on-the-last"),
        pytest.param([slot % world.size for slot in range(11)], id="dealt-in-turn"),
        pytest.param([(7 * slot + 3) % world.size for slot in range(23)], id="many-more-slots-than-ranks"),
        pytest.param(list(range(last, -1, -1)), id="backwards"),
        pytest.param([last], id="one-slot"),
    ],
)
@pytest.mark.parametrize("d", [1, 1000, 70_001])
def test_rows_land_in_their_slots_bit_for_bit(owners, d):
    sent, received = gathered(owners, d)
    if world.is_root:
        assert received.shape == sent.shape
        assert received.tobytes() == sent.tobytes()
    else:
        assert len(received) == owners.count(world.rank)


def test_gathers_in_a_row_do_not_mix():
    for round_ in range(20):
        owners = [(slot + round_) % world.size for slot in range(6)]
        gather = RowGather(world, np.asarray(owners), 50)
        for slot in gather.slots:
            gather.row(slot)[:] = 100 * round_ + slot
            gather.send(slot)
        received = gather.wait()
        if world.is_root:
            assert received[:, 0].tolist() == [100 * round_ + slot for slot in range(6)]


def test_together_gives_each_rank_its_own_result():
    assert world.together(lambda: world.rank) == world.rank


@pytest.mark.parametrize("culprit", everyone)
def test_an_objection_of_one_rank_is_raised_on_all_and_names_it(culprit):
    def work():
        if world.rank == culprit:
            raise FempiError("no data here")

    with pytest.raises(Refused) as refused:
        world.together(work)
    assert str(refused.value) == ("no data here" if world.size == 1 else f"rank {culprit}: no data here")


def test_the_same_objection_of_all_ranks_is_said_once():
    def work():
        raise FempiError("no data anywhere")

    with pytest.raises(Refused, match=r"^no data anywhere$"):
        world.together(work)


def test_different_objections_are_all_said():
    def work():
        raise FempiError(f"I am {world.rank}")

    with pytest.raises(Refused) as refused:
        world.together(work)
    assert str(refused.value).splitlines() == [f"I am {r}" for r in everyone]


def test_from_root_works_on_root_alone_and_tells_all():
    calls = []
    result = world.from_root(lambda: calls.append(world.rank) or {"answer": 42})
    assert result == {"answer": 42}
    assert calls == ([0] if world.is_root else [])


def test_an_objection_of_root_is_raised_on_all():
    def work():
        raise FempiError("in the way")

    with pytest.raises(Refused, match=r"^in the way$"):
        world.from_root(work)


def test_the_ranks_are_still_in_step_after_all_that():
    assert world.describe("end") == ["end"] * world.size


@pytest.mark.parametrize("count", sorted({1, (world.size + 1) // 2, world.size}))
def test_the_first_ranks_work_by_themselves(count):
    found = world.on_first(count, lambda part: (part.size, part.rank, part.largest(world.rank)))
    assert found == ((count, world.rank, count - 1) if world.rank < count else None)


def test_what_the_first_ranks_refuse_is_refused_by_all():
    def refuse(part):
        part.together(lambda: (_ for _ in ()).throw(FempiError(f"not with {part.size}")))

    with pytest.raises(Refused, match=r"^not with 1$"):
        world.on_first(1, refuse)


def test_the_other_ranks_sleep_meanwhile():
    before = time.process_time()
    world.on_first(1, lambda _: time.sleep(2))
    assert time.process_time() - before < 1
