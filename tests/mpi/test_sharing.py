"""Letters between ranks, and things that groups of ranks share among them, on every number of ranks."""

import itertools
import signal
import time
from types import SimpleNamespace

import pytest
from mpi4py import MPI

from fempi.comm import Comm, Letters, Refused, threads_may_speak
from fempi.groups import Groups
from fempi.signals import Interrupted
from fempi.watchdog import Watchdog

pytestmark = pytest.mark.mpi
world = Comm(MPI.COMM_WORLD)
everyone = list(range(world.size))
sizes = pytest.mark.parametrize("size", [None, *range(1, world.size + 1)])


@pytest.fixture
def stop():
    return SimpleNamespace(asked=0)


@pytest.fixture
def watchdog():
    with Watchdog(50, "a test") as dog:
        yield dog


# Letters


def test_letters_lie_until_they_are_read_in_each_senders_order():
    letters = Letters(world)
    for other in everyone:
        for number in (3, 1, 2):
            letters.send(10 * number + world.rank, to=other, about=7)
    world.describe("sent")
    got = []
    while len(got) < 3 * world.size:
        got += letters.read(7)
    for sender in everyone:
        assert [number for source, number in got if source == sender] == [30 + sender, 10 + sender, 20 + sender]
    assert letters.read(7) == []
    letters.close()


def test_letters_about_something_else_are_left():
    letters = Letters(world)
    letters.send(1, to=world.rank, about=1)
    letters.send(2, to=world.rank, about=2)
    got = []
    while not got:
        got = letters.read(2)
    assert got == [(world.rank, 2)]
    letters.close()  # the other is read here


def test_meeting_does_not_wait():
    letters = Letters(world)
    if world.is_root and world.size > 1:
        all_are_here = letters.meet()
        assert not all_are_here()  # nobody else says so before root has
        for other in everyone[1:]:
            letters.send(0, to=other, about=0)
    else:
        while world.size > 1 and not letters.read(0):
            pass
        all_are_here = letters.meet()
    while not all_are_here():
        pass
    letters.close()


# Groups


@sizes
def test_groups_hold_the_ranks_in_their_order_and_the_last_what_is_left(size, stop):
    groups = Groups(world, size, stop)
    size = size or world.size
    parts = [everyone[first : first + size] for first in range(0, world.size, size)]
    mine = parts[world.rank // size]
    assert (groups.count, groups.size) == (len(parts), size)
    assert groups.comm.describe(world.rank) == mine
    named = f"rank {mine[0]}" if len(mine) == 1 else f"ranks {mine[0]}-{mine[-1]}"
    assert groups.place == f"{named} on {world.host}"


@sizes
@pytest.mark.parametrize("count", [0, 1, 2, 20])
def test_each_thing_is_done_by_one_group_and_everybody_gets_all_results(size, count, stop, watchdog):
    groups, done = Groups(world, size, stop), []

    def work(thing):
        groups.heed()
        assert len(set(groups.comm.describe(thing))) == 1
        done.append(thing)
        groups.made(f"run {thing}", time.monotonic())
        return -thing

    things = list(range(100, 100 + count))
    assert groups.share(things, work, watchdog) == [-thing for thing in things]
    by_group = [numbers for root, numbers in world.describe((groups.comm.is_root, done)) if root]
    assert sorted(itertools.chain(*by_group)) == things
    if groups.count > 1:
        assert [[stint.label for stint in share.stints] for share in groups.shares] == [
            [f"run {thing}" for thing in numbers] for numbers in by_group
        ]
    assert groups.share(["again"], lambda thing: thing * 2, watchdog) == ["againagain"]


@sizes
def test_a_refusal_stops_all_and_is_raised_by_all(size, stop, watchdog):
    groups = Groups(world, size, stop)

    def work(thing):
        if thing == 0:
            raise Refused("nothing can be done about it")
        end = time.monotonic() + 30
        while time.monotonic() < end:
            groups.heed()
        raise AssertionError("nobody said stop")

    with pytest.raises(Refused, match=r"^nothing can be done about it$"):
        groups.share(everyone, work, watchdog)


@sizes
@pytest.mark.parametrize("asked", [0, world.size - 1])
def test_a_stop_of_any_rank_at_work_or_not_is_raised_by_all(size, asked, stop, watchdog):
    groups = Groups(world, size, stop)
    if world.rank == asked:
        stop.asked = signal.SIGUSR1

    def work(thing):
        end = time.monotonic() + 30
        while time.monotonic() < end:
            groups.heed()
        raise AssertionError("nobody said stop")

    with pytest.raises(Interrupted, match="stopped by SIGUSR1; "):
        groups.share([1], work, watchdog)


@sizes
def test_a_host_divides_things_among_its_ranks_and_all_get_all_results(size, stop):
    groups, done = Groups(world, size, stop), []
    things = list(range(7))
    assert groups.divide(things, lambda thing: done.append(thing) or 2 * thing) == [2 * thing for thing in things]
    everything = world.describe(done)
    assert sorted(itertools.chain(*everything)) == sorted(things * (world.size if groups.count == 1 else 1))


def test_a_group_larger_than_the_job_is_refused_on_all_ranks(stop):
    with pytest.raises(Refused, match=f"--group-size {world.size + 1} is more than there are"):
        Groups(world, world.size + 1, stop)


def test_several_threads_may_speak():
    assert threads_may_speak()  # mpi4py asks for it, and no MPI that is tested here says no
