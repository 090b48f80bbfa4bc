"""What a person sees: the progress of a run, tables of results and of plugins, a record's description."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table

from fempi import catalogue, launcher, registry, store
from fempi.check import Verdict, check
from fempi.config import Config
from fempi.errors import FempiError
from fempi.matrix import matrices
from fempi.progress import Outlook, Progress, Reporter, Share
from fempi.runfile import RunFile
from fempi.schema import PHASES
from fempi.summary import duration, summarize, tables

LINES_PER_RUN = 10
"""plain lines of progress in a log"""
FEW_RUNS, MANY_RUNS = 12, 60
"""More than few runs are laid out in a matrix too, more than many in a matrix only."""


class Display(Reporter):
    """A progress bar on a terminal; in a log, a plain line every few rounds. `called` has the runs' names by title."""

    def __init__(self, ranks: int, called: Mapping[str, str]) -> None:
        self._console = console()
        self._ranks = ranks
        self._called = called
        self._bar: Bar | None = None
        self._skipped: list[str] = []

    def planned(self, target: Path, nbytes: int, done: bool) -> None:
        """Announce a run and the size of its record."""
        what = "is there already" if done else f"will take about {_size(nbytes)}"
        self._say(f"{target} {what}")

    def skipped(self, config: Config, reason: str) -> None:
        """Announce that a run is left out, to be said again after the results."""
        self._skipped.append(f"{self._name(config)} was skipped: {reason}")
        self._say(self._skipped[-1])

    def left(self, config: Config, holder: str) -> None:
        """Announce that another job is at a run, to be said again after the results."""
        self._skipped.append(f"{self._name(config)} is left to {holder}")
        self._say(self._skipped[-1])

    def started(self, config: Config, done: int, same_software: bool) -> None:
        """Begin a run's bar, or say what it is."""
        self._warn(config, same_software)
        self._label, self._accuracy, self._began = self._name(config), "", time.monotonic()
        self._cohort = config.train.cohort
        if not self._console.is_terminal:
            ranks = "1 rank" if self._ranks == 1 else f"{self._ranks} ranks"
            since = f", going on after round {done}" if done else ""
            self._say(f"{self._label}: {config.rounds} rounds of {config.train.cohort} clients on {ranks}{since}")
            return
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[facts]}"),
            TimeRemainingColumn(),
            console=self._console,
        )
        self._bar.start()
        self._task = self._bar.add_task(self._label, total=config.rounds, completed=done, facts="")

    def progressed(self, progress: Progress) -> None:
        """Move the bar, or print a line if it is time for one."""
        elapsed = time.monotonic() - self._began
        if progress.accuracy is not None:
            self._accuracy = f"accuracy {progress.accuracy:.4f}"
        facts = f"{self._accuracy}  {self._cohort * progress.made / elapsed:.3g} clients/s"
        if self._bar is not None:
            self._bar.update(self._task, completed=progress.round, facts=facts)
        elif progress.round % max(1, progress.rounds // LINES_PER_RUN) == 0 or progress.round == progress.rounds:
            left = duration(elapsed / progress.made * (progress.rounds - progress.round))
            self._say(f"{self._label}: round {progress.round}/{progress.rounds}  {facts}  {left} left")

    def stopped(self) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def made(self, config: Config, seconds: float, outlook: Outlook) -> None:
        """Print how much of a sweep is left."""
        if outlook.run < outlook.runs:
            self._say(f"{outlook.run} of {outlook.runs} runs made, about {duration(outlook.seconds)} left")

    def finished(self, records: Sequence[Path]) -> None:
        """Print a table of each file's finished runs, or a matrix where they are many, and where their records are."""
        for folder in dict.fromkeys(path.parent for path in records):
            summaries = [summarize(path) for path in records if path.parent == folder]
            laid_out = matrices(summaries, self._console.width) if len(summaries) > FEW_RUNS else []
            if len(summaries) <= MANY_RUNS or not laid_out:
                laid_out = [*tables(summaries, self._console.width), *laid_out]
            for table in laid_out:
                self._console.print(table)
        for reason in self._skipped:
            self._say(reason)
        if records:
            self._say(f"files in {', '.join(sorted({str(path.parent) for path in records}))}")

    def _name(self, config: Config) -> str:
        return self._called[config.title]

    def _warn(self, config: Config, same_software: bool) -> None:
        if not same_software:
            self._say(
                f"{self._name(config)}: earlier rounds were made by other versions (launches/software); bits may differ"
            )

    def _say(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)


class GroupDisplay(Display):
    """What the root of one of several groups tells: a plain line for each run, whole, for others print theirs too."""

    def __init__(self, place: str, called: Mapping[str, str]) -> None:
        super().__init__(0, called)
        self._place = place

    def started(self, config: Config, done: int, same_software: bool) -> None:
        """Say so if bits may differ."""
        self._warn(config, same_software)
        self._accuracy = ""

    def progressed(self, progress: Progress) -> None:
        """Keep the accuracy."""
        if progress.accuracy is not None:
            self._accuracy = f"accuracy {progress.accuracy:.4f}  "

    def made(self, config: Config, seconds: float, outlook: Outlook) -> None:
        """Print a run's line."""
        left = f"; run {outlook.run} of {outlook.runs}, about {duration(outlook.seconds)} left"
        self._say(f"{self._name(config)}: {self._accuracy}{duration(seconds)}  {self._place}{left}")

    def shared(self, shares: Sequence[Share], seconds: float) -> None:
        """Print which group has made what, and how busy each was."""
        runs = sorted(((stint, share) for share in shares for stint in share.stints), key=lambda run: run[0].started)
        if 0 < len(runs) <= MANY_RUNS:
            table = Table(header_style="bold", box=box.SIMPLE_HEAD)
            for heading in ("run", "on", "host", "started", "time"):
                table.add_column(heading, justify="right" if heading in ("started", "time") else "left")
            for stint, share in runs:
                table.add_row(stint.label, share.ranks, share.hosts, duration(stint.started), duration(stint.seconds))
            self._console.print(table)
        for share in shares:
            at_work = sum(stint.seconds for stint in share.stints)
            runs_made = "1 run" if len(share.stints) == 1 else f"{len(share.stints)} runs"
            self._say(
                f"{share.ranks} on {share.hosts}: {runs_made}, at work {at_work / seconds:.0%} of {duration(seconds)}"
            )


def console() -> Console:
    """Standard output, with the width and nature of the terminal that the user really has.

    Open MPI gives ranks a pseudo-terminal whatever mpirun's own output is, so under a launcher the launcher is asked.
    """
    if not launcher.gives_a_terminal():
        return Console() if sys.stdout.isatty() else Console(width=160)
    try:
        descriptor = os.open(f"/proc/{os.getppid()}/fd/1", os.O_WRONLY | os.O_NOCTTY)
    except OSError:
        return Console(force_terminal=False, width=160)
    try:
        if not os.isatty(descriptor):
            return Console(force_terminal=False, width=160)
        return Console(force_terminal=True, width=os.get_terminal_size(descriptor).columns)
    finally:
        os.close(descriptor)


def plugins(kind: str) -> None:
    """Print all plugins of a kind with their hyper-parameters."""
    out = Table(title=catalogue.TITLES[kind].lower(), title_justify="left", header_style="bold", box=box.SIMPLE_HEAD)
    for heading in ("name", "what it is", "hyper-parameters", "needs", "source"):
        out.add_column(heading)
    for plugin in catalogue.plugins(kind):
        given = "\n".join(map(str, catalogue.parameters(plugin)))
        out.add_row(plugin.name, plugin.summary, given, ", ".join(plugin.needs), plugin.paper)
    console().print(out)


def plugin(kind: str, name: str) -> None:
    """Print all there is to know about a plugin."""
    out, found = console(), registry.find(kind, name)
    out.print(f"{name} ({kind.replace('_', '-')}): {found.summary}", style="bold", highlight=False, soft_wrap=True)
    if catalogue.details(found):
        out.print(f"\n{catalogue.details(found)}", highlight=False, markup=False, soft_wrap=True)
    facts = {"needs": ", ".join(found.needs), "cost": found.cost, "source": found.paper}
    lines = [f"{key:8} {value}" for key, value in facts.items() if value]
    lines += [f"{each}   ({each.values})" for each in catalogue.parameters(found)]
    out.print("\n" + "\n".join(lines) + "\n", highlight=False, markup=False, soft_wrap=True)


def info(path: Path) -> None:
    """Print what a record is; FempiError if what would be printed is not what was written."""
    out = console()
    if problems := check(path, updates=False).problems:
        raise FempiError(f"{path} is damaged: {'; '.join(problems)}; `fempi check` reads all of it")
    with RunFile(path) as record:
        facts = record.attributes
        config = record.config
        commit = facts["git_commit"][:12] + ("+" if facts["git_commit"].endswith("+") else "")
        mpi_library = facts["mpi_library"].partition(",")[0]
        lines = {
            "record": f"{config['name']}/{config['label']} in {path}",
            "status": f"{_status(record)}; {record.rounds_completed} of {record.rounds} rounds",
            "made": f"{facts['created']} by fempi {facts['fempi_version']} {commit}".rstrip(),
            "with": f"torch {facts['torch_version']}, numpy {facts['numpy_version']}, {mpi_library}",
            "ranks": _ranks(record),
            "configuration": f"seed {facts['seed']}, hash {facts['config_hash'][:16]}",
            "results": f"{record.digest[:16]}, the same for every run with these bits",
            "updates": config["record"]["updates"] + _every(config["record"]["every"]),
            "size": _size(store.size(path)),
            "checksums": "match, of all but the updates (`fempi check` reads those too)",
        }
        for key, value in lines.items():
            out.print(f"{key:14} {_printable(value)}", highlight=False, markup=False, soft_wrap=True)
        if record.rounds_completed:
            seconds = record.read("timing/seconds")[:, 0].mean(axis=0)
            phases = ", ".join(f"{phase} {_milliseconds(s)}" for phase, s in zip(PHASES, seconds, strict=True))
            out.print(f"{'a round':14} {phases} (mean, on rank 0)", highlight=False, soft_wrap=True)
        if record.evaluations_completed:
            for table in tables([summarize(path)], out.width):
                out.print(table)
        out.print(_printable(facts["config"].rstrip()), highlight=False, markup=False, soft_wrap=True)


def verdict(path: Path, found: Verdict) -> None:
    """Print what a check found."""
    out = console()
    for problem in found.problems:
        out.print(problem, highlight=False, markup=False, soft_wrap=True)
    state = "is damaged" if found.problems else "is whole"
    said = f"{path} {state}: {found.status}, {found.committed} of {found.rounds} rounds"
    out.print(said, highlight=False, markup=False, soft_wrap=True)


def _status(record: RunFile) -> str:
    match record.status:
        case "running":
            return f"running ({record.holder})"
        case "interrupted" if record.is_folder:
            return "interrupted, `fempi resume` goes on"
        case status:
            return status


def _printable(text: str) -> str:
    """Leave out what could steer a terminal; whoever made the record may have put it there."""
    return "".join(character for character in text if character.isprintable() or character == "\n")


def _size(nbytes: int) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if nbytes < 999.5:  # more is rounded to 1000 of the unit
            return f"{nbytes:.3g} {unit}"
        nbytes = nbytes / 1000  # type: ignore[assignment]
    return f"{nbytes:.3g} TB"


def _ranks(record: RunFile) -> str:
    """Name each kind of rank once, with how many there are: 2 x host (cpu); for each start of the program."""
    launches = []
    for hosts, devices in zip(record["ranks/host"].asstr(), record["ranks/device"].asstr(), strict=True):
        counts = Counter(f"{host} ({device})" for host, device in zip(hosts, devices, strict=True) if device)
        launches.append(", ".join(f"{count} x {place}" for place, count in counts.items()))
    firsts = record["launches/first_round"][...]
    since = [
        f"{ranks} from round {first}" if first > 1 else ranks for ranks, first in zip(launches, firsts, strict=True)
    ]
    return "; ".join(since)


def _every(k: int) -> str:
    return "" if k == 1 else f", every {k} rounds"


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"
