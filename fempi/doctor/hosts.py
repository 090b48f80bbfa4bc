"""What every rank says of itself, and whether that goes together: hosts, cores, devices, software, clocks."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import platform
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import h5py
import numpy as np
import torch

import fempi
from fempi import comm as mpi
from fempi.comm import Comm
from fempi.description import software
from fempi.doctor.finding import Finding, count, name_ranks, numbers, ok, problem, warning

_CLOCKS_APART = 5.0
"""Seconds between hosts' clocks, above what a busy machine makes of a message"""
_GROUPS = 4
"""Different bindings on one host that are still worth a line each"""

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Rank:
    """What a rank says of itself."""

    number: int
    host: str
    machine: str
    """the kernel's own identity, which differs where hosts merely share a name"""
    local_rank: int
    cores: list[int]
    """the cores it may use, as the kernel counts them"""
    threads: int
    threads_said: str
    """OMP_NUM_THREADS; empty if it is not set"""
    device: str
    device_id: str
    """the same for ranks on one GPU, whatever each calls it; empty for a CPU"""
    fault: str
    """why the device cannot be used; empty if it can"""
    library: str
    versions: dict[str, str]
    kernels: str
    """which of their variants torch and BLAS have chosen for this kind of CPU"""


def ask(comm: Comm, device: torch.device) -> list[Rank]:
    """Return what each rank says of itself, on every rank; all must call it."""
    name, identity, fault = _device(device)
    this = Rank(
        number=comm.rank,
        host=comm.host,
        machine=_machine(),
        local_rank=comm.local_rank,
        cores=sorted(os.sched_getaffinity(0)),
        threads=torch.get_num_threads(),
        threads_said=os.environ.get("OMP_NUM_THREADS", ""),
        device=name,
        device_id=identity,
        fault=fault,
        library=mpi.library(),
        versions={
            "fempi": fempi.__version__,
            "Python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "h5py": h5py.version.version,
            "HDF5": h5py.version.hdf5_version,
            "mpi4py": importlib.metadata.version("mpi4py"),
        },
        kernels=f"torch for {torch.backends.cpu.get_cpu_capability()}; {software()}",
    )
    return [Rank(**json.loads(said)) for said in comm.describe(json.dumps(dataclasses.asdict(this)))]


def clocks(comm: Comm) -> list[float]:
    """Return each rank's time at one moment, as far as a message tells; all must call it."""
    comm.describe("now")
    return [float(said) for said in comm.describe(repr(time.time()))]


def examine(said: Sequence[Rank], times: Sequence[float]) -> Iterator[Finding]:
    """Look at what the ranks say of themselves, and at their clocks."""
    yield from hosts(said)
    yield from cores(said)
    yield from devices(said)
    yield from versions(said)
    yield from clocks_agree(said, times)


def hosts(said: Sequence[Rank]) -> Iterator[Finding]:
    """Judge whether the ranks are where they think they are."""
    by_host = _grouped(said, [r.host for r in said])
    where = ", ".join(f"{len(there)} on {host}" for host, there in by_host.items())
    yield ok(f"{count(len(said), 'rank')} on {count(len(by_host), 'host')}: {where}")
    for host, there in by_host.items():
        if len({r.machine for r in there}) > 1:
            yield warning(
                f"several machines call themselves {host}",
                "give them names of their own; the record cannot tell them apart",
            )
        elif sorted(r.local_rank for r in there) != list(range(len(there))):
            yield warning(
                f"the ranks on {host} do not know of each other: their local ranks are "
                f"{', '.join(str(r.local_rank) for r in there)}, and those that are equal would share a GPU",
                "use mpirun, or let Slurm's NodeName be the host's name",
            )


def cores(said: Sequence[Rank]) -> Iterator[Finding]:
    """Judge whether every thread has a core of its own."""
    for host, there in _grouped(said, [r.host for r in said]).items():
        everything = frozenset().union(*(r.cores for r in there))
        crowded = _crowded(there)
        threads = sum(r.threads for r in there)
        if crowded is None:
            yield ok(f"{host}: {count(threads, 'thread')} on {count(len(everything), 'core')} ({_bindings(there)})")
            continue
        confined = [r for r in there if crowded >= set(r.cores)]
        number = sum(r.threads for r in confined)
        if threads > len(everything):
            advice = "start fewer ranks, use fewer threads (OMP_NUM_THREADS), or ask for more cores"
        else:
            each = max(r.threads for r in there)
            advice = f"bind the ranks otherwise: `mpirun --bind-to none`, or `mpirun --map-by slot:PE={each}`"
        yield warning(
            f"{host}: {count(number, 'thread')} of {name_ranks(r.number for r in confined)} "
            f"share{'s' if number == 1 else ''} {count(len(crowded), 'core')} ({numbers(crowded)}); {_bindings(there)}",
            f"{advice}; it works, but slowly",
        )
    by_threads = _grouped(said, [r.threads for r in said])
    if len(by_threads) > 1:
        yield warning(
            "the ranks compute with different numbers of threads: "
            + "; ".join(f"{name_ranks(r.number for r in there)} with {n}" for n, there in by_threads.items()),
            "export OMP_NUM_THREADS to all hosts (Open MPI: `mpirun -x OMP_NUM_THREADS`)",
        )
    elif not any(r.threads_said for r in said):
        yield from _one_thread()
    elif said[0].threads > 1:
        yield ok(
            f"OMP_NUM_THREADS={said[0].threads_said}; the same bits on any number of ranks are promised for 1 only"
        )


def devices(said: Sequence[Rank]) -> Iterator[Finding]:
    """Judge whether every rank has a device that works, and to itself."""
    yield ok("devices: " + ", ".join(f"{n} x {device}" for device, n in Counter(r.device for r in said).items()))
    if any(r.device_id for r in said):
        yield ok("rank on host and device: " + "; ".join(f"{r.number} on {r.host}, {r.device}" for r in said))
    for fault, there in _grouped(said, [r.fault for r in said]).items():
        if fault:
            yield problem(
                f"{name_ranks(r.number for r in there)}: the device does not work: {fault}", "use --device cpu"
            )
    for (host, identity), there in _grouped(said, [(r.host, r.device_id) for r in said]).items():
        if identity and len(there) > 1:
            yield warning(
                f"{name_ranks(r.number for r in there)} share {there[0].device} on {host}",
                "start one rank for each GPU",
            )


def versions(said: Sequence[Rank]) -> Iterator[Finding]:
    """Judge whether all ranks run the same software."""
    libraries = _grouped(said, [r.library for r in said])
    if len(libraries) > 1:
        yield problem(
            "the ranks use different MPI libraries: "
            + "; ".join(f"{name_ranks(r.number for r in there)} {name}" for name, there in libraries.items()),
            "load the same module, or use the same Python environment, on all hosts",
        )
    differing = [name for name in said[0].versions if len({r.versions[name] for r in said}) > 1]
    for name in differing:
        by_version = _grouped(said, [r.versions[name] for r in said])
        yield problem(
            f"the ranks run different versions of {name}: "
            + "; ".join(f"{name_ranks(r.number for r in there)} {version}" for version, there in by_version.items()),
            "use the same Python environment on all hosts, for instance one on a shared disk",
        )
    if not differing:
        yield ok("alike on all ranks: " + ", ".join(f"{name} {version}" for name, version in said[0].versions.items()))
    kernels = _grouped(said, [r.kernels for r in said])
    if len(kernels) > 1 and not differing:
        yield warning(
            "the hosts' CPUs are of different kinds: "
            + "; ".join(f"{name_ranks(r.number for r in there)} {kernel}" for kernel, there in kernels.items()),
            "the same bits are promised on one kind of CPU only",
        )


def clocks_agree(said: Sequence[Rank], times: Sequence[float]) -> Iterator[Finding]:
    """Judge whether the hosts' clocks show the same time."""
    off = {r.host: t - times[0] for r, t in zip(said, times, strict=True) if abs(t - times[0]) > _CLOCKS_APART}
    if off:
        yield warning(
            "clocks differ from that of rank 0's host: "
            + ", ".join(f"{host} by {s:+.0f} s" for host, s in off.items()),
            "let NTP set them; times in records and logs will mislead",
        )
    elif len({r.host for r in said}) > 1:
        yield ok("the hosts' clocks agree")


def _crowded(there: Sequence[Rank]) -> frozenset[int] | None:
    """Return the largest set of cores, among those that ranks are confined to, with more threads than cores."""
    sets = {frozenset(r.cores) for r in there}
    sets.add(frozenset().union(*sets))
    for confines in sorted(sets, key=len, reverse=True):
        if sum(r.threads for r in there if confines >= set(r.cores)) > len(confines):
            return confines
    return None


def _bindings(there: Sequence[Rank]) -> str:
    """Say which ranks use how many threads on which cores."""
    groups = _grouped(there, [(tuple(r.cores), r.threads) for r in there])
    if len(groups) > _GROUPS:
        return f"{name_ranks(r.number for r in there)}, bound in {len(groups)} different ways"
    return "; ".join(
        f"{name_ranks(r.number for r in group)}: {count(threads, 'thread')} {'each ' if len(group) > 1 else ''}"
        f"on core{'s' if len(bound) > 1 else ''} {numbers(bound)}"
        for (bound, threads), group in groups.items()
    )


def _one_thread() -> Iterator[Finding]:
    asked = os.environ.get("SLURM_CPUS_PER_TASK", "1")
    if asked.isdecimal() and int(asked) > 1:
        yield warning(
            f"Slurm gives each task {asked} cores, but a rank uses 1, because OMP_NUM_THREADS is not set",
            "export OMP_NUM_THREADS=$SLURM_CPUS_PER_TASK, or ask for more tasks instead of more cores for each",
        )
    else:
        yield ok("OMP_NUM_THREADS is not set, so each rank uses 1 thread")


def _device(device: torch.device) -> tuple[str, str, str]:
    """Return a device's name and identity, and why it cannot be used."""
    if device.type != "cuda":
        return str(device), "", ""
    try:
        properties = torch.cuda.get_device_properties(device)
        torch.ones(8, device=device).sum().item()
    except (RuntimeError, AssertionError) as error:
        return str(device), "", str(error).partition("\n")[0]
    return f"{device} {properties.name}", str(properties.uuid), ""


def _machine() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _grouped(said: Sequence[Rank], keys: Iterable[T]) -> dict[T, list[Rank]]:
    """Sort ranks into groups with equal keys, in the order of their first."""
    groups: dict[T, list[Rank]] = defaultdict(list)
    for rank, key in zip(said, keys, strict=True):
        groups[key].append(rank)
    return dict(groups)
