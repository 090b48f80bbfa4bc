"""The command line. Each command imports what it needs only when it runs."""

from __future__ import annotations

import importlib.util
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fempi import __version__, launcher
from fempi.errors import FempiError

if TYPE_CHECKING:
    from fempi.comm import Comm
    from fempi.config import Config

EXTRAS: Mapping[str, Sequence[str]] = {
    "run": ("mpi4py", "torch", "torchvision", "dp_accounting"),
    "analysis": ("matplotlib", "pandas", "xarray", "h5netcdf", "plotly", "jinja2"),
}
"""Modules that a command may lack, by what installs them"""
DATA_ROOT = Path(os.environ.get("FEMPI_DATA", "data"))


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit status: 2 for what the user can mend, said in one message."""
    arguments = sys.argv[1:] if arguments is None else arguments
    together = arguments[:1] in (["run"], ["resume"], ["doctor"]) or arguments[:2] in (
        ["bench", "train"],
        ["bench", "gather"],
        ["bench", "scaling"],
    )
    alone = not together or "--help" in arguments
    if alone and not launcher.is_first():
        return 0  # there is no work for many ranks
    status = _command(arguments)
    if status and not launcher.is_first():
        time.sleep(1)  # a launcher ends the job at the first rank that fails, perhaps before rank 0 has spoken
    return status


def _command(arguments: list[str]) -> int:
    try:
        status = commands.main(arguments, prog_name="fempi", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.format_message())
        return 0
    except click.ClickException as error:
        if launcher.is_first():
            error.show()
        return error.exit_code
    except click.Abort:
        return 130
    except FempiError as error:
        if launcher.is_first():
            print(f"fempi: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        extra = next((extra for extra, modules in EXTRAS.items() if error.name in modules), None)
        if extra is None:
            raise
        if launcher.is_first():
            print(f"fempi: {error.name} is not installed; pip install 'fempi[{extra}]'", file=sys.stderr)
        return 2
    return int(status or 0)


@click.group()
@click.version_option(__version__)
def commands() -> None:
    """Benchmark Byzantine-robust federated learning under MPI, and keep the evidence."""


def _how_to_run(command: Callable[..., int]) -> Callable[..., int]:
    """Give a command the options that say how to run, none of which changes a result."""
    for option in (
        click.option("--checkpoint-every", type=click.IntRange(1), default=1, show_default=True, help="Rounds."),
        click.option(
            "--watchdog",
            type=click.IntRange(1, 10**6),
            default=3600,
            show_default=True,
            help="Seconds a round may take.",
        ),
        click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True),
        click.option("--placement", type=click.Choice(["balanced", "pinned"]), default="balanced", show_default=True),
        click.option(
            "--data", type=click.Path(path_type=Path), default=DATA_ROOT, show_default=True, help="Datasets are here."
        ),
    ):
        command = option(command)
    return command


@commands.command()
@click.argument("configs", nargs=-1, required=True, metavar="CONFIG...", type=click.Path(path_type=Path))
@click.option("--arm", metavar="NAME", help="Make only the runs of this arm.")
@click.option("--set", "overrides", metavar="KEY=VALUE", multiple=True, help="Change a setting; VALUE as in TOML.")
@click.option(
    "--output", type=click.Path(path_type=Path), default="results", show_default=True, help="Records go here."
)
@click.option("--force", is_flag=True, help="Replace records that are in the way.")
@click.option(
    "--group-size",
    type=click.IntRange(1),
    metavar="RANKS",
    help="Make several runs at once, each on so many ranks.  [default: all ranks make each run]",
)
@_how_to_run
def run(
    configs: Sequence[Path],
    arm: str | None,
    overrides: tuple[str, ...],
    output: Path,
    force: bool,
    group_size: int | None,
    **how: Any,
) -> int:
    """Make the runs of configuration files, or go on with them, under mpirun or alone."""
    from fempi import experiment

    return _make(
        lambda: experiment.load_all(configs, overrides=overrides, arm=arm),
        how,
        group_size=group_size,
        output=output,
        force=force,
    )


@commands.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--allow-plugins", is_flag=True, help="Run the plugin code that the folder holds.")
@_how_to_run
def resume(folder: Path, allow_plugins: bool, **how: Any) -> int:
    """Go on with a run that was cut short, under mpirun or alone; its folder is all that is needed."""
    from fempi import resume, runfile

    folder = folder.absolute()
    return _make(
        lambda: [resume.config_of(folder, allow_plugins=allow_plugins)],
        how,
        output=folder.parent,
        target=runfile.target_of(folder),
    )


def _make(
    load: Callable[[], list[Config]],
    how: Mapping[str, Any],
    *,
    output: Path,
    group_size: int | None = None,
    **options: Any,
) -> int:
    """Make runs on all ranks together, or on groups of them."""
    from fempi.signals import STATUS, Stop

    _want("run")

    def on_every_rank(comm: Comm) -> int:
        from fempi import sweep
        from fempi.config import names
        from fempi.display import Display, GroupDisplay
        from fempi.groups import Groups
        from fempi.progress import Reporter

        configs = comm.together(load)
        groups = Groups(comm, group_size, stop)
        device, threads = comm.together(lambda: (_device(how["device"], comm.local_rank), _threads()))
        shown = Reporter()
        if groups.comm.is_root:
            called = names(configs)
            shown = Display(comm.size, called) if groups.count == 1 else GroupDisplay(groups.place, called)
        with threads:
            records = sweep.run_all(
                configs,
                groups,
                sweep.Options(
                    output=output,
                    data_root=how["data"],
                    device=device,
                    placement=how["placement"],
                    watchdog_seconds=how["watchdog"],
                    checkpoint_every=how["checkpoint_every"],
                    **options,
                ),
                shown,
            )
        if comm.is_root:
            shown.finished([record for record in records if record is not None])
        return 0 if all(records) else STATUS

    with Stop() as stop:  # from here on, also while MPI and torch are loaded
        from fempi import comm as mpi

        return mpi.launch(on_every_rank)


@commands.command()
@click.argument("config", required=False, type=click.Path(path_type=Path))
@click.option("--arm", metavar="NAME", help="Look only at the runs of this arm.")
@click.option("--set", "overrides", metavar="KEY=VALUE", multiple=True, help="Change a setting; VALUE as in TOML.")
@click.option(
    "--output", type=click.Path(path_type=Path), default="results", show_default=True, help="Records would go here."
)
@click.option(
    "--data", type=click.Path(path_type=Path), default=DATA_ROOT, show_default=True, help="Datasets are here."
)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
def doctor(
    config: Path | None, arm: str | None, overrides: tuple[str, ...], output: Path, data: Path, device: str
) -> int:
    """Say what would go wrong with a run here, under mpirun or alone; nothing it writes stays."""
    _want("run")
    from fempi import comm as mpi

    if config is None and (arm or overrides):
        raise click.UsageError("--arm and --set change a CONFIG; name it")

    def on_every_rank(comm: Comm) -> int:
        from fempi import experiment
        from fempi.doctor import doctor

        return doctor(
            comm,
            load=lambda: [] if config is None else experiment.load(config, overrides=overrides, arm=arm),
            setup=lambda: (_device(device, comm.local_rank), _threads()),
            output=output,
            data_root=data,
        )

    return mpi.launch(on_every_rank, check=False)


@commands.command()
@click.argument("dataset", type=click.Choice(["mnist", "fashion_mnist", "cifar10"]))
@click.option("--root", type=click.Path(path_type=Path), default=DATA_ROOT, show_default=True)
def fetch(dataset: str, root: Path) -> None:
    """Download a dataset, once, where there is a network (on a cluster: the login node)."""
    from fempi.datasets.fetch import fetch as fetch_dataset

    fetch_dataset(dataset, root, log=click.echo)


@commands.command("list")
@click.argument("what", required=False, metavar="[KIND | NAME]")
@click.option("--markdown", is_flag=True, help="Print everything as CATALOGUE.md has it.")
def list_(what: str | None, markdown: bool) -> None:
    """List what a configuration can name, all of a kind (aggregators, attacks, ...), or say all about one."""
    from fempi import catalogue, display, registry

    if markdown:
        click.echo(catalogue.markdown(), nl=False)
        return
    kinds = {title.lower().replace("-", "_"): kind for kind, title in catalogue.TITLES.items()}
    for kind in kinds.values():
        if what is None or kinds.get(what.replace("-", "_"), what.replace("-", "_")) == kind:
            display.plugins(kind)
            if what is not None:
                return
    if what is not None:
        found = [kind for kind in kinds.values() if what in registry.names(kind)]
        if not found:
            known = [*kinds, *(name for kind in kinds.values() for name in registry.names(kind))]
            raise FempiError(f"there is no {what!r}{registry.nearest(what, known)}")
        for kind in found:
            display.plugin(kind, what)


@commands.command()
@click.argument("path", type=click.Path(path_type=Path))
def info(path: Path) -> None:
    """Say what a record is, how far it got and how it ended."""
    from fempi import display

    display.info(path)


@commands.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--complete", is_flag=True, help="Want the run to be complete, too.")
def check(path: Path, complete: bool) -> int:
    """Compare a record with its checksums and say what is lost, if anything; the status is 0 if nothing is."""
    from fempi import check, display

    verdict = check.check(path)
    display.verdict(path, verdict)
    return int(bool(verdict.problems) or (complete and verdict.status != "complete"))


@commands.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--truth", is_flag=True, help="Say who was malicious, and how well each score tells.")
def examine(path: Path, truth: bool) -> None:
    """Say which clients stand out, since when and for what, without looking at the truth."""
    from fempi import findings
    from fempi.check import blaming
    from fempi.runfile import RunFile

    with RunFile(path) as run, blaming(path):
        findings.examined(run, truth=truth)


@commands.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--aggregator", metavar="NAME", help="The rule; the record's own by default.")
@click.option("--pre", metavar="NAME", multiple=True, help="A pre-aggregator to put before it; may be repeated.")
@click.option("--set", "overrides", metavar="KEY=VALUE", multiple=True, help="A setting of [aggregator], as in TOML.")
@click.option("--all", "all_rules", is_flag=True, help="Every rule with its defaults, the best first.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write every decision to this CSV file.")
@click.option("--allow-plugins", is_flag=True, help="Run the plugin code that the record holds.")
def replay(
    path: Path,
    aggregator: str | None,
    pre: tuple[str, ...],
    overrides: tuple[str, ...],
    all_rules: bool,
    output: Path | None,
    allow_plugins: bool,
) -> None:
    """Decide recorded rounds again, with the run's rule or any other."""
    from fempi import findings, resume
    from fempi.check import blaming
    from fempi.experiment import parse_overrides
    from fempi.forensics import replay
    from fempi.runfile import RunFile

    if all_rules and (aggregator or pre or overrides or output):
        raise click.UsageError("--all takes every rule as it is; leave out the other options")
    if output is not None and output.exists():
        raise FempiError(f"{output} is there already; move it, or name another")
    with RunFile(path) as run, blaming(path):
        resume.load_plugins(run, allow=allow_plugins)
        if all_rules:
            findings.ranking(*replay.ranking(run))
        else:
            findings.replayed(run, replay.section_of(run, aggregator, parse_overrides(overrides), pre), output)


@commands.command()
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="The page to make.")
@click.option("--truth", is_flag=True, help="Say who was malicious, and how right the page is.")
@click.option("--force", is_flag=True, help="Replace a file that is in the way.")
def report(paths: tuple[Path, ...], output: Path, truth: bool, force: bool) -> None:
    """Make one HTML page on records, or all in folders of them: who poisoned the model, when, how and how far."""
    from fempi.forensics import records
    from fempi.forensics.report import page

    _can_be_made(output, force=force)
    found = records.find(paths)
    try:
        output.write_text(page(found, truth=truth), encoding="utf-8", errors="replace")
    except OSError as error:
        raise FempiError(f"{output} cannot be written: {error.strerror}") from error
    click.echo(f"report on {len(found)} run{'s' if len(found) > 1 else ''} in {output}")


@commands.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="The file to make.")
@click.option("--force", is_flag=True, help="Replace a file that is in the way.")
def pack(folder: Path, output: Path, force: bool) -> None:
    """Join a run's folder into one plain file; the folder stays."""
    from fempi import store

    _can_be_made(output, force=force)
    if not folder.is_dir():
        raise FempiError(f"{folder} is not a run's folder")
    try:
        store.pack(folder, output)
    except OSError as error:
        raise FempiError(f"{output} cannot be written: {error.strerror}") from error
    click.echo(f"packed into {output}")


@commands.group()
def bench() -> None:
    """Measure what fempi costs on this machine."""


@bench.command("train")
@click.option("--model", default="cnn", show_default=True, help="With its defaults, on images of 28 x 28.")
@click.option("--examples", type=click.IntRange(1), default=600, show_default=True, help="Of a client.")
@click.option("--epochs", type=click.IntRange(1), default=5, show_default=True)
@click.option("--batch-size", type=click.IntRange(1), default=10, show_default=True)
@click.option("--clients-per-batch", type=click.IntRange(1), default=1, show_default=True, help="Trained at once.")
@click.option("--repeats", type=click.IntRange(1), default=5, show_default=True, help="Times that each rank trains.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--json", "output", type=click.Path(path_type=Path), help="Write the figures to this file, too.")
def bench_train(
    model: str,
    examples: int,
    epochs: int,
    batch_size: int,
    clients_per_batch: int,
    repeats: int,
    device: str,
    output: Path | None,
) -> int:
    """Measure how fast clients are trained, under mpirun or alone, beside what matrix multiplication alone reaches."""
    _want("run")
    from fempi import comm as mpi

    def on_every_rank(comm: Comm) -> int:
        from fempi.bench import train

        where, threads = comm.together(lambda: (_device(device, comm.local_rank), _threads()))
        with threads:
            measured = train.measure(
                comm,
                where,
                model=model,
                examples=examples,
                epochs=epochs,
                batch_size=batch_size,
                repeats=repeats,
                clients_per_batch=clients_per_batch,
            )
        if comm.is_root:
            _told(train, measured, output)
        return 0

    return mpi.launch(on_every_rank)


@bench.command("gather")
@click.option("--cohort", type=click.IntRange(2), default=100, show_default=True, help="Updates in a round.")
@click.option(
    "--params", type=click.IntRange(1), default=1_663_370, show_default=True, help="Parameters; the papers' CNN's."
)
@click.option("--repeats", type=click.IntRange(1), default=5, show_default=True)
@click.option("--json", "output", type=click.Path(path_type=Path), help="Write the figures to this file, too.")
def bench_gather(cohort: int, params: int, repeats: int, output: Path | None) -> int:
    """Measure how fast updates come to root under mpirun, beside a bare MPI_Gatherv."""
    _want("run")
    from fempi import comm as mpi

    def on_every_rank(comm: Comm) -> int:
        from fempi.bench import gather

        comm.together(lambda: gather.require_others(comm))
        measured = gather.measure(comm, cohort=cohort, params=params, repeats=repeats)
        if comm.is_root:
            _told(gather, measured, output)
        return 0

    return mpi.launch(on_every_rank)


@bench.command("aggregate")
@click.argument("rules", nargs=-1, metavar="[RULE]...")
@click.option("--cohort", type=click.IntRange(2), default=100, show_default=True, help="Updates in a round.")
@click.option(
    "--params", type=click.IntRange(1), default=1_663_370, show_default=True, help="Parameters; the papers' CNN's."
)
@click.option("--num-byzantine", type=click.IntRange(0), help="Declared to the rules; by default a tenth.")
@click.option("--repeats", type=click.IntRange(1), default=3, show_default=True)
@click.option("--json", "output", type=click.Path(path_type=Path), help="Write the figures to this file, too.")
def bench_aggregate(
    rules: tuple[str, ...], cohort: int, params: int, num_byzantine: int | None, repeats: int, output: Path | None
) -> None:
    """Measure what rules take, all or those named (as in krum, or 'nnm > krum'), beside their inner products alone."""
    import threadpoolctl

    from fempi.bench import aggregate

    with threadpoolctl.threadpool_limits(_thread_count()):
        declared = cohort // 10 if num_byzantine is None else num_byzantine
        measured = aggregate.measure(cohort, params, num_byzantine=declared, rules=rules, repeats=repeats)
    _told(aggregate, measured, output)


@bench.command("record")
@click.option("--cohort", type=click.IntRange(2), default=100, show_default=True, help="Updates in a round.")
@click.option(
    "--params", type=click.IntRange(1), default=1_663_370, show_default=True, help="Parameters; the papers' CNN's."
)
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True, help="To measure, after a first one.")
@click.option("--sketch-size", type=click.IntRange(16), default=1024, show_default=True)
@click.option(
    "--folder",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    default=".",
    help="On the disk to measure; by default this one.",
)
@click.option("--json", "output", type=click.Path(path_type=Path), help="Write the figures to this file, too.")
def bench_record(cohort: int, params: int, rounds: int, sketch_size: int, folder: Path, output: Path | None) -> None:
    """Measure what each way of keeping updates costs, and how exactly it answers; nothing but the figures stays."""
    from fempi.bench import record

    measured = record.measure(cohort, params, rounds=rounds, sketch_size=sketch_size, folder=folder)
    _told(record, measured, output)


@bench.command("scaling")
@click.argument("config", default="configs/scaling.toml", type=click.Path(path_type=Path))
@click.option("--arm", metavar="NAME", help="Measure the run of this arm.")
@click.option("--set", "overrides", metavar="KEY=VALUE", multiple=True, help="Change a setting; VALUE as in TOML.")
@click.option("--ranks", metavar="P,P,...", help="Measure these numbers of ranks; by default 1, 2, 4, ... and all.")
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True, help="To measure, after a first one.")
@click.option(
    "--per-rank",
    type=click.IntRange(1),
    help="Clients of each rank in weak scaling; by default what the most ranks have in strong scaling.",
)
@click.option("--network", metavar="US,GB/S", default="2,10", show_default=True, help="Predict for this network.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option(
    "--data", type=click.Path(path_type=Path), default=DATA_ROOT, show_default=True, help="Datasets are here."
)
@click.option(
    "--folder",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    default=".",
    help="On the disk that records go to, until they are measured; by default this one.",
)
@click.option("--json", "output", type=click.Path(path_type=Path), help="Write the figures to this file, too.")
@click.option("--plot", type=click.Path(path_type=Path), metavar="FILE.png", help="Draw them, too.")
def bench_scaling(
    config: Path, ranks: str | None, network: str, device: str, output: Path | None, plot: Path | None, **how: Any
) -> int:
    """Measure how rounds of CONFIG scale on 1, 2, 4, ... ranks of one job under mpirun, and predict more ranks."""
    _want("run")
    if plot is not None:
        _want("analysis")
    from fempi import comm as mpi

    def on_every_rank(comm: Comm) -> int:
        from fempi.bench import plan, prediction, scaling

        def read() -> tuple[plan.Options, Any]:
            for file in filter(None, (output, plot)):
                _can_be_made(file, force=True)
            if plot is not None and comm.is_root:  # the others need not load what draws
                from fempi.bench import scaling_figure

                scaling_figure.check(plot)
            options = plan.Options(
                config=config,
                ranks=plan.numbers(ranks or ""),
                network=prediction.network(network),
                device=_device(device, comm.local_rank),
                data_root=how.pop("data"),
                **how,
            )
            return options, _threads()

        options, threads = comm.together(read)
        with threads:
            measured = scaling.measure(comm, options, click.echo)
        if measured is not None:
            _told(scaling, measured, output)
            if plot is not None:
                from fempi.bench import scaling_figure

                scaling_figure.save(measured, plot)
        return 0

    return mpi.launch(on_every_rank)


def _can_be_made(output: Path, *, force: bool) -> None:
    if output.is_dir() or not output.parent.is_dir():
        raise FempiError(f"{output} cannot be written: name a file in a folder that is there")
    if output.exists() and not force:
        raise FempiError(f"{output} is there already; use --force to replace it")


def _told(benchmark: Any, measured: Any, output: Path | None) -> None:
    """Show what a benchmark measured, and save it if that was asked for."""
    from fempi.bench import times

    benchmark.show(measured)
    if output is not None:
        times.save(measured, output)


def _want(extra: str) -> None:
    """Raise ModuleNotFoundError, of which `_command` knows what to say, now and not on some ranks later."""
    for module in EXTRAS[extra]:
        if importlib.util.find_spec(module) is None:
            raise ModuleNotFoundError(name=module)


def _device(choice: str, local_rank: int) -> Any:
    import torch

    if choice == "cpu" or (choice == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise FempiError("--device cuda: torch sees no CUDA device here")
    return torch.device("cuda", local_rank % torch.cuda.device_count())


def _threads() -> Any:
    """Limit torch and BLAS to OMP_NUM_THREADS threads, or one: ranks are the parallelism, and one is deterministic."""
    import threadpoolctl
    import torch

    count = _thread_count()
    torch.set_num_threads(count)
    return threadpoolctl.threadpool_limits(count)


def _thread_count() -> int:
    # OpenMP allows a list, a number for each level of nesting; ours is the first.
    said = os.environ.get("OMP_NUM_THREADS", "1").partition(",")[0].strip()
    if not said.isdecimal() or int(said) < 1:
        raise FempiError(f"OMP_NUM_THREADS is {said!r}; it must be a positive number")
    return int(said)
