import os

import numpy as np
import pytest
from mpi4py import MPI

pytestmark = pytest.mark.mpi
world = MPI.COMM_WORLD


def test_the_world_is_as_large_as_the_launcher_was_told():
    assert world.size == int(os.environ["FEMPI_TEST_RANKS"])


def test_every_rank_has_a_number_of_its_own():
    assert world.allgather(world.rank) == list(range(world.size))


def test_allreduce_adds_every_ranks_share_in_place():
    share = np.full(1000, world.rank + 1, dtype=np.float64)
    world.Allreduce(MPI.IN_PLACE, share, op=MPI.SUM)
    assert (share == world.size * (world.size + 1) / 2).all()
