"""One run: the round loop, from the first broadcast to the committed record."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

import fempi
from fempi import comm as mpi
from fempi import server
from fempi.aggregators import Context, Decision, State, decide
from fempi.algebra import Bool, Float32, Updates
from fempi.attacks import Knowledge
from fempi.comm import Comm, RowGather
from fempi.placement import Placement, place
from fempi.problem import Problem
from fempi.rng import stream
from fempi.store import PHASES, Arrays, Layout, Recorder


@dataclass(frozen=True, kw_only=True)
class Progress:
    """What can be told after a round."""

    round: int
    rounds: int
    scores: server.Scores | None
    """the test, if there was one"""
    seconds: float
    """this round's, on root"""


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
    facts = attributes(problem, comm)
    recorder = Recorder(folder, layout, facts, _static(problem)) if comm.is_root else None
    params = model.params.cpu().numpy().copy()
    comm.broadcast(params)
    reference = np.zeros(model.d, np.float32) if comm.is_root and problem.needs_reference else None
    state: State = {}
    evaluated = set(layout.evaluated)

    for round_ in range(1, config.rounds + 1):
        step()
        clock = Clock()
        clients = problem.cohort(round_)
        malicious = problem.malicious[clients]
        num_examples = problem.num_examples[clients]
        root_cost = len(problem.root_examples) if problem.needs_reference else 0
        owners = place(
            placement,
            clients,
            num_examples,
            ranks=comm.size,
            total_clients=config.data.clients,
            root_cost=root_cost,
        )

        with clock("train"):
            start = torch.from_numpy(params).to(model.device)
            gather = RowGather(comm, owners, model.d)
            losses = np.zeros(len(clients))
            for slot in gather.slots:
                losses[slot] = problem.train_client(round_, int(clients[slot]), start, gather.row(slot))
                gather.send(slot)
            if reference is not None:
                problem.train_reference(round_, start, reference := np.empty_like(reference))

        with clock("gather"):
            updates = gather.wait()
            losses = comm.sum_to_root(losses)

        arrays: dict[str, Any] = {}
        if comm.is_root:
            with clock("attack"):
                trained = updates[malicious]
                knowledge = Knowledge(
                    round=round_, clients=clients, params=params, rng=stream(config.seed, "attack", round_)
                )
                if malicious.any():
                    updates[malicious] = problem.attack.poison_updates(updates, malicious, knowledge)

            with clock("aggregate"):
                received = Updates(updates, reference)
                context = Context(
                    round=round_,
                    clients=clients,
                    num_examples=num_examples,
                    num_byzantine=config.aggregator.num_byzantine or 0,
                    rng=stream(config.seed, "aggregate", round_),
                    state=state,
                )
                decision = decide(problem.rule, received, context)
                state = decision.state
                params = server.apply(params, decision)
                arrays |= {
                    "rounds/client": clients,
                    "rounds/malicious": malicious,
                    "rounds/rank": owners,
                    "rounds/num_examples": num_examples,
                    "rounds/train_loss": losses,
                    **_evidence(received, decision),
                    "rounds/update": updates,
                    "rounds/trained_update": trained,
                }
                if reference is not None:
                    arrays["rounds/reference"] = reference

        with clock("broadcast"):
            comm.broadcast(params)

        scores = None
        if round_ in evaluated:
            with clock("evaluate"):
                tested = torch.from_numpy(params).to(model.device)
                confusion, batch_losses = map(comm.sum_to_root, problem.evaluate(tested, comm.rank, comm.size))
            if comm.is_root:
                scores = server.scores(confusion, float(batch_losses.sum()))
                success = problem.attack.success(confusion)
                arrays |= {f"evaluation/{name}": np.asarray(value) for name, value in vars(scores).items()}
                arrays["evaluation/attack_success"] = np.asarray(success)

        if recorder is not None:
            with clock("record"):
                recorder.wait()
        seconds = comm.stack_to_root(clock.seconds)
        if recorder is not None:
            recorder.write(round_, {**arrays, "timing/seconds": seconds})
            report(Progress(round=round_, rounds=config.rounds, scores=scores, seconds=float(clock.seconds.sum())))

    if recorder is not None:
        recorder.finish(params)


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


def attributes(problem: Problem, comm: Comm) -> dict[str, Any]:
    """Return what the record says of where, when and with what it was made; all ranks must call it."""
    config = problem.config
    device = str(problem.model.device)
    if problem.model.device.type == "cuda":
        device = f"{device} {torch.cuda.get_device_name(problem.model.device)}"
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
        "rank_host": comm.describe(comm.host),
        "rank_device": comm.describe(device),
        "rank_threads": [int(n) for n in comm.describe(str(torch.get_num_threads()))],
    }


def _static(problem: Problem) -> Arrays:
    layers = problem.model.layers
    return {
        "clients/malicious": problem.malicious,
        "clients/num_examples": problem.num_examples,
        "clients/label_counts": problem.label_counts,
        "layers/name": np.array([layer.name for layer in layers], dtype=object),
        "layers/shape": np.array([str(list(layer.shape)) for layer in layers], dtype=object),
        "layers/offset": np.array([layer.offset for layer in layers]),
    }


def _evidence(received: Updates, decision: Decision) -> dict[str, np.ndarray | Bool | Float32 | None]:
    return {
        "rounds/norm": received.norms,
        "rounds/trust": decision.trust,
        "rounds/weight": decision.weights,
        "rounds/scale": decision.scale,
        "rounds/selected": decision.selected,
        "rounds/finite": received.finite,
        "rounds/gram": received.full_gram,
        "rounds/aggregate": decision.update,
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
