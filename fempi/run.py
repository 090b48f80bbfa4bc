"""One run: the round loop, from the first broadcast to the committed record."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

import fempi
from fempi import comm as mpi
from fempi import server
from fempi.aggregators import Context, State, decide
from fempi.algebra import Float32, Int64, Updates
from fempi.attacks import Knowledge, poison
from fempi.comm import Comm, RowGather
from fempi.config import Config
from fempi.placement import Placement, place
from fempi.problem import Problem
from fempi.progress import Progress
from fempi.rng import stream
from fempi.schema import PHASES, Layout
from fempi.store import Arrays, Recorder


def run(
    problem: Problem,
    comm: Comm,
    folder: Path,
    *,
    placement: Placement = "balanced",
    step: Callable[[], None] = lambda: None,
    report: Callable[[Progress], None] = lambda progress: None,
) -> None:
    """Run all rounds and record them in `folder`, which must not exist. Every rank calls this with equal arguments.

    `step` is called on every rank at each round; `report` on root, after each round.
    """
    config, model = problem.config, problem.model
    layout = layout_of(problem, comm.size)
    facts = attributes(config) if comm.is_root else {}
    static = _static(problem, comm)
    recorder = Recorder(folder, layout, facts, static) if comm.is_root else None
    evaluated = set(layout.evaluated)
    params = model.params.cpu().numpy().copy()
    comm.broadcast(params)
    state: State = {}

    for round_ in range(1, config.rounds + 1):
        step()
        clock = Clock()
        clients = problem.cohort(round_)
        owners = place(
            placement,
            clients,
            problem.num_examples[clients],
            ranks=comm.size,
            total_clients=config.data.clients,
            root_cost=len(problem.root_examples) if problem.needs_reference else 0,
        )

        with clock("train"):
            start = torch.from_numpy(params).to(model.device)
            gather = RowGather(comm, owners, model.d)
            losses = np.zeros(len(clients))
            for slot in gather.slots:
                losses[slot] = problem.train_client(round_, int(clients[slot]), start, gather.row(slot))
                gather.send(slot)
            reference = problem.train_reference(round_, start) if comm.is_root and problem.needs_reference else None

        with clock("gather"):
            updates = gather.wait()
            losses = comm.sum_to_root(losses)

        arrays: dict[str, Any] = {}
        if comm.is_root:
            arrays = {"rounds/rank": owners, "rounds/train_loss": losses}
            arrays |= attack(problem, round_, clients, updates, params, clock)
            params, state, evidence = aggregate(problem, round_, clients, updates, reference, params, state, clock)
            arrays |= evidence

        with clock("broadcast"):
            comm.broadcast(params)

        scores = None
        if round_ in evaluated:
            with clock("evaluate"):
                tested = torch.from_numpy(params).to(model.device)
                confusion, batch_losses = map(comm.sum_to_root, problem.evaluate(tested, comm.rank, comm.size))
            if comm.is_root:
                scores = server.scores(confusion, float(batch_losses.sum()))
                arrays |= {f"evaluation/{name}": np.asarray(value) for name, value in vars(scores).items()}
                arrays["evaluation/attack_success"] = np.asarray(problem.attack.success(confusion))

        if recorder is not None:
            with clock("record"):
                recorder.wait()
        arrays["timing/seconds"] = comm.stack_to_root(clock.seconds)
        if recorder is not None:
            recorder.write(round_, arrays)
            accuracy = scores.accuracy if scores is not None else None
            report(Progress(round=round_, rounds=config.rounds, accuracy=accuracy))

    if recorder is not None:
        recorder.finish(params)


def attack(
    problem: Problem, round_: int, clients: Int64, updates: Float32, params: Float32, clock: Clock
) -> dict[str, Any]:
    """Put what malicious clients send in place of what they trained, in `updates` (n, d); return both as evidence."""
    malicious = problem.malicious[clients]
    with clock("attack"):
        trained = updates[malicious]
        if malicious.any():
            rng = stream(problem.config.seed, "attack", round_)
            knowledge = Knowledge(round=round_, clients=clients, params=params, rng=rng)
            updates[malicious] = poison(problem.attack, updates, malicious, knowledge)
    return {
        "rounds/client": clients,
        "rounds/malicious": malicious,
        "rounds/num_examples": problem.num_examples[clients],
        "rounds/update": updates,
        "rounds/trained_update": trained,
    }


def aggregate(
    problem: Problem,
    round_: int,
    clients: Int64,
    updates: Float32,
    reference: Float32 | None,
    params: Float32,
    state: State,
    clock: Clock,
) -> tuple[Float32, State, dict[str, Any]]:
    """Decide on the updates (n, d) as sent; return the new parameters (d,), the rule's state, and the evidence."""
    config = problem.config
    with clock("aggregate"):
        received = Updates(updates, reference)
        context = Context(
            round=round_,
            clients=clients,
            num_examples=problem.num_examples[clients],
            num_byzantine=config.aggregator.num_byzantine or 0,
            rng=stream(config.seed, "aggregate", round_),
            state=state,
        )
        decision = decide(problem.rule, received, context)
        params = server.apply(params, decision)
    evidence = {
        "rounds/norm": received.norms,
        "rounds/trust": decision.trust,
        "rounds/weight": decision.weights,
        "rounds/scale": decision.scale,
        "rounds/selected": decision.selected,
        "rounds/finite": received.finite,
        "rounds/gram": received.full_gram,
        "rounds/aggregate": decision.update,
    }
    if reference is not None:
        evidence["rounds/reference"] = reference
    return params, decision.state, evidence


class Clock:
    """Seconds spent in each phase of a round on this rank, waiting included."""

    def __init__(self) -> None:
        self.seconds = np.zeros(len(PHASES))

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Time a `with` block."""
        start = time.perf_counter()
        yield
        self.seconds[PHASES.index(phase)] += time.perf_counter() - start


def layout_of(problem: Problem, ranks: int) -> Layout:
    """Return the shape of this run's record."""
    config = problem.config
    return Layout(
        sizes={
            "round": config.rounds,
            "slot": config.train.cohort,
            "param": problem.model.d,
            "client": config.data.clients,
            "class": problem.images.num_classes,
            "layer": len(problem.model.layers),
            "rank": ranks,
        },
        evaluate_every=config.evaluation.every,
        updates=config.record.updates,
        every=config.record.every,
        sketch_size=config.record.sketch_size,
        has_reference=problem.needs_reference,
        seed=config.seed,
    )


def expected_bytes(problem: Problem, ranks: int) -> int:
    """Size of the packed record, known beforehand because the cohorts are."""
    layout = layout_of(problem, ranks)
    kept = (r for r in range(1, problem.config.rounds + 1) if layout.keeps_vectors(r))
    malicious_rows = sum(int(problem.malicious[problem.cohort(r)].sum()) for r in kept)
    return layout.nbytes(malicious_rows)


def attributes(config: Config) -> dict[str, Any]:
    """Return what the record says of when and with what it was made."""
    libraries = ("torch", "numpy", "mpi4py", "h5py")
    return {
        "fempi_version": fempi.__version__,
        "config": config.to_toml(),
        "config_hash": config.hash,
        "seed": config.seed,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "git_commit": _git_commit(),
        "python_version": platform.python_version(),
        **{f"{name}_version": importlib.metadata.version(name) for name in libraries},
        "mpi_library": mpi.library(),
    }


def _static(problem: Problem, comm: Comm) -> Arrays:
    """Return what does not change in a run; all ranks must call it, to say where they are."""
    device = str(problem.model.device)
    if problem.model.device.type == "cuda":
        device = f"{device} {torch.cuda.get_device_name(problem.model.device)}"
    layers = problem.model.layers
    return {
        "clients/malicious": problem.malicious,
        "clients/num_examples": problem.num_examples,
        "clients/label_counts": problem.label_counts,
        "layers/name": np.array([layer.name for layer in layers], dtype=object),
        "layers/shape": np.array([str(list(layer.shape)) for layer in layers], dtype=object),
        "layers/offset": np.array([layer.offset for layer in layers]),
        "ranks/host": np.array(comm.describe(comm.host), dtype=object),
        "ranks/device": np.array(comm.describe(device), dtype=object),
        "ranks/threads": np.array([int(n) for n in comm.describe(str(torch.get_num_threads()))]),
    }


def _git_commit() -> str:
    """Commit of the checkout this code runs from, "+" after it if changed; empty for an installed package."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(here), *arguments], capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        if not git("ls-files", "--", "run.py"):
            return ""
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--", ".") else "")
    except OSError:
        return ""
