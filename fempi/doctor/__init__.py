"""What would go wrong with a run here: `fempi doctor`, under mpirun or alone.

Every module looks at one kind of thing and yields findings, which are printed as they come, so that whoever sees it
hang or die knows how far it got. Generators that take part in messages are exhausted on every rank, and only root's
findings count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import torch

from fempi import launcher
from fempi.comm import Comm
from fempi.config import Config
from fempi.display import console
from fempi.doctor import disk, hosts, network, starting, work
from fempi.doctor.finding import Finding, count, name_ranks, problem
from fempi.errors import FempiError
from fempi.watchdog import Watchdog

__all__ = ["Finding", "Load", "Setup", "doctor"]

Load = Callable[[], Sequence[Config]]
"""Reads the configuration; nothing if there is none to look at"""
Setup = Callable[[], tuple[torch.device, AbstractContextManager[Any]]]
"""Chooses a rank's device and limits its threads, as for a run"""

_PATIENCE = 300
"""Seconds after which something hangs"""
_STYLES = {"ok": "green", "warning": "yellow", "problem": "bold red"}


def doctor(comm: Comm, *, load: Load, setup: Setup, output: Path, data_root: Path) -> int:
    """Print what would go wrong with a run, and return 0 if nothing would keep it from working, else 1."""
    if not starting.is_one_job(comm) and not launcher.is_first():
        return 0  # of processes that don't know of each other, the first speaks for all
    counts = dict.fromkeys(_STYLES, 0)
    with Watchdog(_PATIENCE, f"rank {comm.rank} of {comm.size} on {comm.host}") as watchdog, ExitStack() as stack:
        out = console() if comm.is_root else None
        for finding in _findings(comm, load, setup, output, data_root, watchdog.pat, stack):
            watchdog.pat()
            counts[finding.level] += 1
            if out is not None:
                out.print(f"{finding.level:8}", style=_STYLES[finding.level], end=" ")
                out.print(finding.what.replace("\n", "\n" + 9 * " "), highlight=False, markup=False, soft_wrap=True)
                if finding.advice:
                    out.print(f"{'':8} -> {finding.advice}", highlight=False, markup=False, soft_wrap=True)
        if out is not None:
            verdict = (
                f"a run would not work: {count(counts['problem'], 'problem')}"
                if counts["problem"]
                else "a run would work"
            )
            out.print(
                f"{verdict}, {count(counts['warning'], 'warning')}", style="bold", highlight=False, soft_wrap=True
            )
    return comm.from_root(lambda: 1 if counts["problem"] else 0)


def _findings(
    comm: Comm,
    load: Load,
    setup: Setup,
    output: Path,
    data_root: Path,
    pat: Callable[[], None],
    stack: ExitStack,
) -> Iterator[Finding]:
    if comm.is_root:
        yield from starting.examine(comm)

    device, complaint = torch.device("cpu"), ""
    try:
        device, threads = setup()
        stack.enter_context(threads)
    except FempiError as error:
        complaint = str(error)
    yield from _complaints(comm.describe(complaint))
    said, times = hosts.ask(comm, device), hosts.clocks(comm)
    if comm.is_root:
        yield from hosts.examine(said, times)

    def study() -> work.Work:
        configs = load()
        return work.study(configs, comm.size, data_root, device, pat) if configs else work.Work()

    todo, opinions = work.ask(comm, study)
    if comm.is_root:
        yield from work.examine(todo, opinions, comm.size)
    if not comm.from_root(lambda: bool(todo.configs) or any(complaint for _, complaint, _ in opinions)):
        yield from work.data(comm, data_root)

    yield from network.examine(comm, todo.d, todo.cohort)
    writable = yield from disk.examine(comm, output, todo.round_bytes)
    if comm.is_root and writable:
        yield work.room(todo, output, data_root, device)


def _complaints(said: Sequence[str]) -> Iterator[Finding]:
    """Report what keeps ranks from choosing a device or a number of threads."""
    for complaint in dict.fromkeys(filter(None, said)):
        those = [number for number, each in enumerate(said) if each == complaint]
        yield problem(f"{name_ranks(those)}: {complaint}", "`fempi run` refuses this")
