import subprocess
import sys
from pathlib import Path

import cluster
import h5py
import needs
import pytest
from field import SEEDS, Field, bits
from launch import clean_env


@pytest.fixture(scope="session")
def virtual_environment():
    if not Path(sys.prefix, "bin/activate").exists() or not Path(sys.prefix, "bin/mpirun").exists():
        needs.missing("this Python is not that of a virtual environment with an mpirun")


@pytest.fixture(scope="session")
def started_slurm(virtual_environment):
    needs.root_user()
    needs.programs(["slurmctld", "slurmd", "srun"], "slurm-wlm")
    needs.programs(["munged"], "munge")
    needs.programs(["unshare", "nsenter"], "util-linux")
    needs.programs(["ip"], "iproute2")
    if not list(Path("/usr/lib").glob("*/pmix2/lib/libpmix.so")):
        needs.missing("Slurm finds no libpmix.so (see .ci/packages)")
    with cluster.running() as slurm:
        yield slurm


@pytest.fixture
def slurm(started_slurm):
    yield started_slurm
    started_slurm.cancel_all()


@pytest.fixture
def field(tmp_path):
    return Field(tmp_path)


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory):
    """What every record holds, by seed, as one process makes it without MPI or Slurm."""
    there = Field(tmp_path_factory.mktemp("uninterrupted"))
    command = [sys.executable, "-m", "fempi", "run", "four.toml"]
    subprocess.run(command, cwd=there.folder, env=clean_env(), check=True, capture_output=True, timeout=cluster.SOON)
    made = {}
    for record in there.records.glob("*.h5"):
        with h5py.File(record) as file:
            made[int(file.attrs["seed"])] = bits(record)
    assert sorted(made) == list(SEEDS)
    assert len({each["final/params"] for each in made.values()}) == len(SEEDS)
    return made
