"""How fast is fempi beside its peers? Installs them, runs all in turns, and prints a table.

    python tests/peers/compare.py                  ByzFL, Flower, pfl-research, APPFL and FedML train the papers' CNN
    python tests/peers/compare.py --model mlp      ... or another model
    python tests/peers/compare.py --aggregation    ByzFL's rules beside fempi's, on one thread

Wants MNIST (`fempi fetch mnist`) and, the first time, a package index for pip. Each peer gets an environment of its own
that sees the packages of this Python's, so that all train with the same torch; `--separate` shares nothing, and takes
some 5 GB a peer. Each peer is used as its documentation says, in its fastest way to simulate on as many cores as there
are workers. A machine's speed drifts, so what counts is the ratio to fempi's speed in the same turn.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import takewhile
from pathlib import Path
from statistics import median
from typing import Any, Literal

import click
from rich.table import Table

sys.path.append(str(Path(__file__).absolute().parents[1]))
import launch
import with_fempi
import workload

from fempi.bench import times
from fempi.display import console

HERE = Path(__file__).absolute().parent


@dataclass(frozen=True, kw_only=True)
class Peer:
    """How a peer is installed and started."""

    requires: Sequence[str]
    script: str
    start: Literal["alone", "torchrun", "mpirun"] = "alone"
    """mpirun: with a rank besides the workers, which serves"""


PEERS: Mapping[str, Peer] = {
    "byzfl": Peer(requires=["byzfl==0.0.11"], script="with_byzfl.py"),
    "flower": Peer(requires=["flwr[simulation]==1.41.0", "torch"], script="with_flower.py"),
    "pfl": Peer(requires=["pfl[pytorch]==0.6.0"], script="with_pfl.py", start="torchrun"),
    "appfl": Peer(requires=["appfl[mpi]==1.12.0"], script="with_appfl.py", start="mpirun"),
    # It needs numpy 1 and pkg_resources, and does not say so.
    "fedml": Peer(requires=["fedml[MPI]==0.9.6", "numpy<2", "setuptools<81"], script="with_fedml.py", start="mpirun"),
}
RECORDED: Mapping[str, str] = {"fempi": "none", "fempi, all updates recorded": "full"}
"""What fempi's runs record of updates, by their names; the first is what others are compared with"""
RULES: Mapping[str, Sequence[str]] = {
    "multi_krum": ["MultiKrum"],
    "geometric_median": ["GeometricMedian"],
    "median": ["Median"],
    "trimmed_mean": ["TrMean"],
    "centered_clipping": ["CenteredClipping"],
    "nnm > multi_krum": ["NNM", "MultiKrum"],
}
"""fempi's rules, and the classes of ByzFL that do the same"""
KINDS = ("torch", "numpy")
"""What ByzFL takes updates as; it computes in another way with each"""
QUIET = {
    "CUDA_VISIBLE_DEVICES": "",
    "FLWR_TELEMETRY_ENABLED": "0",
    "OMP_NUM_THREADS": "1",
    "PFL_PYTORCH_DEVICE": "cpu",
    "RAY_USAGE_STATS_ENABLED": "0",
    "WANDB_MODE": "disabled",
}
"""No GPU, one thread a process, and nobody is told"""
TELLING = re.compile(r"\w+(\.\w+)*(Error|Exception)\b|ERROR:|fempi: |MNIST is not in")
"""How a line begins that says what went wrong"""


class PeerError(Exception):
    """Why there is no result, in a line."""


@dataclass(kw_only=True)
class Contender:
    """What takes part in a comparison, and what came of it in each turn."""

    name: str
    once: Callable[[], dict]
    """measures it; raises PeerError, after which it has no further turn"""
    key: str
    """of the value that counts, among what it returns"""
    found: list[dict] = field(default_factory=list)
    failed: str = ""

    @property
    def values(self) -> list[float]:
        """What counts, in each turn."""
        return [each[self.key] for each in self.found]


def in_turns(contenders: Sequence[Contender], repeats: int, say: Callable[[str], None]) -> None:
    """Measure all, one after another, so many times."""
    for turn in range(repeats):
        for each in contenders:
            if each.failed:
                continue
            try:
                each.found.append(each.once())
            except PeerError as error:
                each.failed = str(error)
            said = each.failed or f"{each.values[-1]:.3g} {each.key.replace('_', ' ')}"
            say(f"turn {turn + 1} of {repeats}: {each.name}: {said}")


def ratios(over: Sequence[float], under: Sequence[float]) -> list[float]:
    """Divide what was measured in the same turn; who failed has fewer, the first ones."""
    return [a / b for a, b in zip(over, under, strict=False)]


def spread(values: Sequence[float]) -> str:
    """Show the median, and the range in brackets."""
    if not values:
        return "-"
    return f"{median(values):.3g} ({min(values):.3g} to {max(values):.3g})"


def training_table(contenders: Sequence[Contender]) -> Table:
    """Lay out how fast each trains, the first being what others are compared with."""
    table = times.table("", "version", "clients/s", "fempi / peer", "test accuracy")
    first = contenders[0]
    for each in contenders:
        version = each.found[0]["version"] if each.found else "-"
        ratio = "" if each is first else spread(ratios(first.values, each.values))
        accuracy = f"{each.found[-1]['accuracy']:.2f}" if each.found else "-"
        table.add_row(each.name, version, spread(each.values), ratio, accuracy)
    return table


def rules_table(pairs: Sequence[tuple[Contender, Contender]]) -> Table:
    """Lay out how long each rule takes, fempi's and ByzFL's."""
    columns = [name for kind in KINDS for name in (f"ByzFL with {kind}, s", "ByzFL / fempi")]
    table = times.table("rule", "fempi, s", *columns)
    for ours, theirs in pairs:
        row = [ours.name, spread(ours.values)]
        for kind in KINDS:
            taken = [each["kinds"][kind] for each in theirs.found if kind in each["kinds"]]
            row += [spread(taken), spread(ratios(taken, ours.values))]
        table.add_row(*row)
    return table


def environment(name: str, requires: Sequence[str], venvs: Path, *, separate: bool = False) -> Path:
    """Return the Python of an environment with some packages, made if it is missing, or PeerError."""
    home = venvs.absolute() / name
    python, whole = home / "bin" / "python", home / "whole"
    wanted = json.dumps([str(home), sys.prefix, separate, *requires])
    with suppress(OSError):
        if whole.read_text() == wanted and python.exists():
            return python
    if home.exists() and not (home / "pyvenv.cfg").exists():
        raise PeerError(f"{home} is there and no environment of Python's; name another folder with --venvs")
    shutil.rmtree(home, ignore_errors=True)
    _installed([sys.executable, "-m", "venv", str(home)])
    if not separate:
        # Searched after its own packages: pip adds what is missing or of a wrong version, and changes nothing here.
        here = dict.fromkeys(sysconfig.get_path(kind) for kind in ("purelib", "platlib"))
        (next(home.glob("lib/python*/site-packages")) / "shared.pth").write_text("\n".join(here))
    _installed([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requires])
    whole.write_text(wanted)
    return python


def _installed(command: list[str]) -> None:
    free = {name: value for name, value in os.environ.items() if name != "PIP_CONSTRAINT"}  # ours are for fempi
    done = subprocess.run(command, env=free, capture_output=True, text=True, check=False)
    if done.returncode:
        raise PeerError(f"cannot be installed: {last_words(done.stdout + done.stderr)}")


def last_words(output: str) -> str:
    """Find the line that says what went wrong, with what is indented below it."""
    lines = [line for line in output.splitlines() if line.strip()]
    if not lines:
        return "it said nothing"
    at = max((at for at, line in enumerate(lines) if TELLING.match(line)), default=len(lines) - 1)
    below = takewhile(lambda line: line[0].isspace(), lines[at + 1 :])
    return "; ".join(line.strip() for line in (lines[at], *below))


def train(peer: Peer, python: Path, *, given: workload.Options, timeout: float) -> dict:
    """Run a peer once."""
    script = [str(HERE / peer.script), *given.arguments()]
    with tempfile.TemporaryDirectory(prefix="peer-", ignore_cleanup_errors=True) as folder:
        how: dict[str, Any] = {"timeout": timeout, "cwd": Path(folder), "env": _quiet()}
        if peer.start == "mpirun":
            command = [str(python), "-m", "mpi4py", *script]
            return result_of(launch.run_ranks(given.workers + 1, command, **how))
        if peer.start == "torchrun":
            script = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={given.workers}", *script]
        return result_of(alone([str(python), *script], **how))


def train_fempi(given: workload.Options, updates: str, timeout: float) -> dict:
    """Run fempi once."""
    with tempfile.TemporaryDirectory(prefix="peer-") as folder:
        done = with_fempi.run(given, updates, Path(folder), timeout=timeout, env=_quiet())
        if done.returncode != 0:
            raise PeerError(last_words(done.output))
        (record,) = Path(folder).glob("peers/*.h5")
        return with_fempi.read(record, given)


def aggregate(chain: Sequence[str], python: Path, *, cohort: int, params: int, timeout: float) -> dict:
    """Time a rule of ByzFL once."""
    command = [str(python), str(HERE / "with_byzfl_rules.py"), *chain, f"--cohort={cohort}", f"--params={params}"]
    with tempfile.TemporaryDirectory(prefix="peer-") as folder:
        found = result_of(alone(command, timeout=timeout, cwd=Path(folder), env=QUIET))
    if found["seconds"] is None:
        raise PeerError("; ".join(f"{kind}: {reason}" for kind, reason in found["refused"].items()))
    return found


def aggregate_fempi(rule: str, cohort: int, params: int, timeout: float) -> dict:
    """Time a rule of fempi once."""
    with tempfile.TemporaryDirectory(prefix="peer-") as folder:
        out = Path(folder, "found.json")
        command = [sys.executable, "-m", "fempi", "bench", "aggregate", rule, "--repeats=1", f"--json={out}"]
        command += [f"--cohort={cohort}", f"--params={params}", f"--num-byzantine={cohort // 10}"]
        done = alone(command, timeout=timeout, cwd=Path(folder), env=QUIET)
        if done.returncode != 0:
            raise PeerError(last_words(done.output))
        found = json.loads(out.read_text())
        return {"version": found["fempi_version"], "seconds": found["rules"][0]["seconds"]["median"]}


def alone(command: Sequence[str], *, timeout: float, cwd: Path, env: Mapping[str, str]) -> launch.Result:
    """Run a command without mpirun, and leave nothing of it, whatever it started."""
    mark = f"FEMPI_PEER_{uuid.uuid4().hex}"
    environment = {**launch.clean_env(), "TMPDIR": str(cwd), **env, mark: "1"}
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, cwd=cwd, env=environment
        )
        returncode: int | Literal["timeout"]
        try:
            returncode = process.wait(timeout)
        except subprocess.TimeoutExpired:
            returncode = "timeout"
        finally:
            launch.kill(lambda: launch.members(mark))
            process.wait()
        output.seek(0)
        return launch.Result(returncode, output.read().decode(errors="replace"))


def result_of(done: launch.Result) -> dict:
    """Find the line of JSON that a script prints, or raise PeerError."""
    for line in reversed(done.output.splitlines()):
        if line.startswith('{"package"'):
            with suppress(json.JSONDecodeError):
                return dict(json.loads(line))
    raise PeerError("took too long" if done.returncode == "timeout" else last_words(done.output))


def _quiet() -> dict[str, str]:
    return QUIET | {"FEMPI_DATA": str(workload.folder().parents[1].absolute())}


def _refused(reason: str) -> dict:
    raise PeerError(reason)


def contender(
    peer: str, key: str, once: Callable[[Path], dict], venvs: Path, *, separate: bool, name: str = ""
) -> Contender:
    """Prepare a peer for its turns, in its environment; if it has none, the first turn says why."""
    name = name or peer
    try:
        python = environment(peer, PEERS[peer].requires, venvs, separate=separate)
    except PeerError as error:
        return Contender(name=name, key=key, once=partial(_refused, str(error)))
    return Contender(name=name, key=key, once=partial(once, python))


@click.command(help=__doc__)
@click.argument("peers", nargs=-1, type=click.Choice(list(PEERS)))
@click.option("--model", type=click.Choice(list(workload.MODELS)), default="cnn", show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True, help="That count, after one more.")
@click.option("--workers", type=click.Choice(["1", "2", "5", "10"]), default="2", show_default=True)
@click.option("--repeats", type=click.IntRange(1), default=3, show_default=True, help="Turns.")
@click.option("--aggregation", is_flag=True, help="Compare rules, not training.")
@click.option("--cohort", type=click.IntRange(2), default=100, show_default=True, help="Updates that rules get.")
@click.option("--params", type=click.IntRange(1), default=1_663_370, show_default=True, help="Parameters of an update.")
@click.option("--venvs", type=click.Path(path_type=Path), default=".venv/peers", show_default=True)
@click.option("--separate", is_flag=True, help="Share no package with this Python's environment.")
@click.option("--timeout", type=click.IntRange(1), default=3600, show_default=True, help="Seconds a run may take.")
@click.option("--json", "output", type=click.Path(path_type=Path), help="Write everything to this file, too.")
def main(
    peers: Sequence[str],
    model: str,
    rounds: int,
    workers: str,
    repeats: int,
    aggregation: bool,
    cohort: int,
    params: int,
    venvs: Path,
    separate: bool,
    timeout: int,
    output: Path | None,
) -> None:
    """Compare, and print a table."""
    say = partial(click.echo, err=True)
    if (load := os.getloadavg()[0]) > 0.5:
        say(f"others are at work on this machine (its load is {load:.1f}): the figures will be of little worth")
    if aggregation:
        pairs = []
        for rule, chain in RULES.items():
            ours = Contender(name=rule, key="seconds", once=partial(aggregate_fempi, rule, cohort, params, timeout))
            once = partial(aggregate, chain, cohort=cohort, params=params, timeout=timeout)
            name = f"ByzFL's {' after '.join(reversed(chain))}"
            theirs = contender("byzfl", "seconds", once, venvs, separate=separate, name=name)
            pairs.append((ours, theirs))
        everyone = [each for pair in pairs for each in pair]
        what = f"{cohort} updates of {params:,} parameters, {cohort // 10} of them Byzantine; one thread"
        table = partial(rules_table, pairs)
    else:
        given = workload.Options(model=model, rounds=rounds, workers=int(workers))
        everyone = [
            Contender(name=name, key="clients_per_second", once=partial(train_fempi, given, updates, timeout))
            for name, updates in RECORDED.items()
        ]
        for name in peers or PEERS:
            say(f"installing {name}, unless it is there")
            once = partial(train, PEERS[name], given=given, timeout=timeout)
            everyone.append(contender(name, "clients_per_second", once, venvs, separate=separate))
        what = (
            f"{model}, {workload.params(workload.model(model)):,} parameters; {workload.EPOCHS} epochs of 600 examples "
            f"in batches of {workload.BATCH}; {workload.COHORT} of {workload.CLIENTS} clients a round; "
            f"{workers} workers of one thread"
        )
        table = partial(training_table, everyone)
    in_turns(everyone, repeats, say)
    out = console()
    out.print(f"{what}; median of {repeats} turns and range", highlight=False, soft_wrap=True)
    out.print(table())
    for each in everyone:
        if each.failed:
            out.print(f"{each.name}: {each.failed}", highlight=False, markup=False, soft_wrap=True)
    if output is not None:
        said = [{"name": each.name, "failed": each.failed, "found": each.found} for each in everyone]
        output.write_text(json.dumps({"what": what, "contenders": said}, indent=2) + "\n")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # in good order: what runs ends, too
    main()
