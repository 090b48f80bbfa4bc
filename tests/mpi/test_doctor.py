"""What the doctor tries on all ranks together."""

from pathlib import Path

import pytest
import torch
from mpi4py import MPI

from fempi import FempiError
from fempi.comm import Comm
from fempi.doctor import disk, hosts, network, work

pytestmark = pytest.mark.mpi
world = Comm(MPI.COMM_WORLD)
last = world.size - 1


class Faulty(Comm):
    """A network that changes a number on its way to the last rank."""

    def broadcast(self, array):
        super().broadcast(array)
        if self.rank == last:
            array[0] += 1


@pytest.fixture
def shared(tmp_path):
    """One folder for all ranks: root's."""
    yield Path(world.from_root(lambda: str(tmp_path)))
    world.describe("done")


@pytest.mark.parametrize(("d", "nbytes"), [(1, "4 B"), (5, "20 B"), (100_003, "400 kB")])
@pytest.mark.parametrize("cohort", [1, 10])
def test_the_network_carries_an_update_and_a_cohort(d, nbytes, cohort):
    found = list(network.examine(world, d, cohort))
    assert {f.level for f in found} == {"ok"}
    if world.is_root and world.size > 1:
        travelled = sum(slot % world.size != 0 for slot in range(cohort))
        assert f"broadcast to {world.size} ranks: {nbytes} in " in found[0].what
        assert f"a round's {travelled} update" in found[1].what


def test_a_network_that_changes_numbers_is_a_problem():
    found = list(network.examine(Faulty(MPI.COMM_WORLD), 1000, 10))
    if world.is_root and world.size > 1:
        assert [f.level for f in found] == ["problem"]


def test_every_rank_hears_what_every_rank_is():
    said = hosts.ask(world, torch.device("cpu"))
    assert [r.number for r in said] == list(range(world.size))
    assert len(hosts.clocks(world)) == world.size
    assert said[world.rank].host == world.host
    assert said[world.rank].local_rank == world.local_rank


def test_the_disk_is_tried_by_root_and_the_lock_by_all_and_nothing_is_left(shared):
    found = list(disk.examine(world, shared / "out" / "deeper", 40_000))
    world.describe("root has tidied up")
    assert {f.level for f in found} == {"ok"}
    assert list(shared.iterdir()) == []
    if world.is_root:
        assert any("40 kB in" in f.what for f in found)
        assert "keep two jobs" in found[-1].what


def test_a_disk_that_only_root_has_is_enough(shared, monkeypatch):
    if not world.is_root:
        monkeypatch.setattr(disk, "_seen", lambda path: "absent")
    found = list(disk.examine(world, shared, 40_000))
    assert {f.level for f in found} == {"ok"}


def test_a_lock_that_other_hosts_do_not_see_is_a_warning(shared, monkeypatch):
    if world.rank == last and last:
        monkeypatch.setattr(disk, "_seen", lambda path: "free")
    levels = [f.level for f in disk.examine(world, shared, 40_000)]
    if world.is_root:
        assert levels == ["ok", "ok", "warning" if last else "ok"]


@pytest.mark.parametrize("culprit", range(world.size))
def test_a_complaint_of_one_rank_is_a_problem_that_names_it(culprit):
    def study():
        if world.rank == culprit:
            raise FempiError("no data here")
        return work.Work(d=7, cohort=3)

    todo, said = work.ask(world, study)
    assert [complaint for _, complaint, _ in said] == [
        "no data here" if r == culprit else "" for r in range(world.size)
    ]
    (found,) = work.examine(todo, said, world.size)
    assert found.level == "problem"
    assert "no data here" in found.what
    assert (f"rank {culprit} on {world.host}: " in found.what) == (world.size > 1)
    everywhere = world.describe(str((todo.d, todo.cohort)))
    assert len(set(everywhere)) == 1, "the ranks would measure different things"


def test_ranks_that_build_different_problems_are_a_problem():
    todo, said = work.ask(world, lambda: work.Work(digest="a" if world.is_root else "b"))
    assert [f.level for f in work.examine(todo, said, world.size)] == (["problem"] if world.size > 1 else [])
