"""What mpirun or srun says in the environment, for what must be known before MPI is, or in spite of it."""

from __future__ import annotations

import os

_SIZE = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS")
_RANK = ("OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "SLURM_PROCID")
# The most specific come first: under mpirun inside a Slurm job, Slurm's numbers describe mpirun's helper.


def world_size() -> int | None:
    """How many processes the launcher started; None without a launcher."""
    return _first(_SIZE)


def is_first() -> bool:
    """Whether this is the process that prints, as far as can be known without MPI."""
    return (_first(_RANK) or 0) == 0


def gives_a_terminal() -> bool:
    """Whether ranks are given a pseudo-terminal whatever the launcher's own output is, as Open MPI does."""
    return "OMPI_COMM_WORLD_SIZE" in os.environ


def _first(variables: tuple[str, ...]) -> int | None:
    return next((int(os.environ[v]) for v in variables if v in os.environ), None)
