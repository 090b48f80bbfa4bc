"""What mpirun or srun says in the environment, for what must be known before MPI is, or in spite of it."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

_SIZE = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS")
_RANK = ("OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "SLURM_PROCID")
# The most specific come first: under mpirun inside a Slurm job, Slurm's numbers describe mpirun's helper.

_LAUNCHERS = ("mpirun", "mpiexec", "prterun", "prted", "orterun", "orted", "mpiexec.hydra", "hydra_pmi_proxy")


def world_size() -> int | None:
    """How many processes the launcher started; None without a launcher."""
    return _first(_SIZE)


def is_first() -> bool:
    """Whether this is the process that prints, as far as can be known without MPI."""
    return (_first(_RANK) or 0) == 0


def gives_a_terminal() -> bool:
    """Whether ranks are given a pseudo-terminal whatever the launcher's own output is, as Open MPI does."""
    return "OMPI_COMM_WORLD_SIZE" in os.environ


def ancestors() -> list[int]:
    """Process ids of the launcher's processes above this one, the nearest first; Slurm's own are not among them."""
    found: list[int] = []
    pid = os.getppid()
    while pid > 1:
        try:
            name, _, rest = Path(f"/proc/{pid}/stat").read_text().partition("(")[2].rpartition(")")
        except OSError:
            break
        if name in _LAUNCHERS:
            found.append(pid)
        elif found:
            break  # what lies between a rank and its launcher, such as a script that binds it, is passed over
        pid = int(rest.split()[1])
    return found


def helpers() -> list[int]:
    """Process ids of what else the launcher runs here, such as the ssh client that waits for a host that is cut off."""
    launchers, parents = ancestors(), {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # ended since the listing
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    above, pid = set(), os.getpid()
    while pid in parents:
        above.add(pid)
        pid = parents[pid]
    return [pid for pid, parent in parents.items() if parent in launchers and pid not in above]


def _first(variables: tuple[str, ...]) -> int | None:
    return next((int(os.environ[v]) for v in variables if v in os.environ), None)
