"""One run: the round loop, from the first broadcast to the committed record."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fempi import detection, server
from fempi.aggregators import Context, Decision, State, decide
from fempi.algebra import Bool, Float32, Int64, Updates, read_only
from fempi.attacks import Knowledge, poison
from fempi.checkpoint import Checkpoint
from fempi.columns import Columns
from fempi.comm import Comm
from fempi.description import describe
from fempi.errors import FempiError
from fempi.exchange import ColumnGather, Gather, Memory, RowGather
from fempi.placement import Placement, place
from fempi.problem import Problem, Tested
from fempi.progress import Progress, Reporter
from fempi.rng import stream
from fempi.schema import PHASES
from fempi.signals import Interrupted
from fempi.store import Recorder, open_record


def run(
    problem: Problem,
    comm: Comm,
    folder: Path,
    *,
    placement: Placement = "balanced",
    checkpoint_every: int = 1,
    step: Callable[[], None] = lambda: None,
    reporter: Reporter | None = None,
) -> None:
    """Run all rounds that `folder` lacks and record them there. Every rank calls this with equal arguments.

    `step` is called on every rank before each round, and may raise `Interrupted` on all of them together; the run then
    goes on when it is called again. The reporter hears from root.
    """
    config, model = problem.config, problem.model
    sharded = config.aggregator.layout == "sharded"
    reporter = reporter or Reporter()
    description = describe(problem, comm)
    evaluated = set(description.layout.evaluated)
    recorder: Recorder | None = None
    state = Checkpoint(params=model.params.cpu().numpy().copy())

    def begin() -> int:
        nonlocal recorder, state
        recorder, state = open_record(folder, description, state, checkpoint_every)
        if state.round and state.epsilon != problem.epsilon[state.round - 1]:
            raise FempiError(
                f"{folder} has spent another epsilon than this privacy accountant says; is it another version?"
            )
        reporter.started(config, state.round, same_software=len(set(recorder.software)) == 1)
        return state.round

    done = comm.from_root(begin)
    if sharded:
        state = comm.from_root(lambda: state)  # every rank judges, so each needs what the rule remembers
    params = state.params
    comm.broadcast(params)
    memory = dict(state.attack)
    # A round's updates may still be read by the thread that records them while the next round's are collected.
    matrices = Memory(turns=1 if sharded or config.record.updates == "none" else 2)

    clock = Clock()
    for round_ in range(done + 1, config.rounds + 1):
        try:
            step()
        except Interrupted:
            if recorder is not None:
                recorder.keep()
            raise
        clients = problem.cohort(round_)
        owners = place(
            placement,
            clients,
            problem.num_examples[clients],
            ranks=comm.size,
            total_clients=config.data.clients,
            root_cost=problem.root_cost,
        )

        with clock("train"):
            start = torch.from_numpy(params).to(model.device)
            gather: Gather = (ColumnGather if sharded else RowGather)(comm, owners, model.d, matrices)
            losses = np.zeros(len(clients))
            for slots in problem.groups(clients, gather.slots):
                rows = [gather.row(slot) for slot in slots]
                losses[slots] = problem.train_clients(round_, clients[slots], start, rows)
                for slot in slots:
                    gather.send(slot)
            reference = problem.train_reference(round_, start) if comm.is_root and problem.needs_reference else None

        with clock("gather"):
            updates = gather.wait()
            losses = comm.sum_to_root(losses)
            if sharded and problem.needs_reference:
                reference = np.empty(model.d, np.float32) if reference is None else reference
                comm.broadcast(reference)

        arrays: dict[str, Any] = {"rounds/rank": owners, "rounds/train_loss": losses}
        if gather.judges:
            judge = partial(_judge, problem, round_, clients, reference, gather.columns, state.rule)
            with clock("attack"):
                arrays |= attack(problem, round_, clients, updates, params, gather.columns, judge, memory)
            with clock("aggregate"):
                received, decision = judge(updates)
                params = server.apply(params, decision)
            arrays |= evidence(problem, round_, received, decision, arrays["rounds/attacking"])
            del received
            memory |= _apart(memory, updates)
            if reference is not None:
                arrays["rounds/reference"] = reference
            state = Checkpoint(
                round=round_,
                params=params,
                rule=_apart(decision.state, updates),
                attack={name: values.copy() for name, values in memory.items()},
                epsilon=float(problem.epsilon[round_ - 1]),
            )

        if not sharded:
            with clock("broadcast"):
                comm.broadcast(params)

        scores = None
        if round_ in evaluated:
            with clock("evaluate"):
                tested = torch.from_numpy(params).to(model.device)
                counts = problem.evaluate(tested, comm.rank, comm.size)
                counts = Tested(**{name: comm.sum_to_root(count) for name, count in vars(counts).items()})
            if comm.is_root:
                scores = server.scores(counts.confusion, float(counts.losses.sum()))
                arrays |= evaluation(problem, scores, counts)

        if recorder is not None:
            with clock("record"):
                recorder.wait()
        arrays["timing/seconds"] = comm.stack_to_root(clock.seconds)
        clock = Clock()  # writing a round, where anybody waits for it, is part of the next
        with clock("record"):
            if gather.judges and description.layout.keeps_vectors(round_):
                for name in ("rounds/update", "rounds/trained_update"):  # as the recorder takes them
                    arrays[name] = gather.columns.whole(arrays[name])
            if recorder is not None:
                recorder.write(round_, arrays, state, wait=sharded)
        if recorder is not None:
            accuracy = scores.accuracy if scores is not None else None
            reporter.progressed(Progress(round=round_, rounds=config.rounds, made=round_ - done, accuracy=accuracy))
        del gather, arrays  # before the next round's rows come

    if recorder is not None:
        recorder.finish(params)


def _apart(kept: State, updates: Float32) -> dict[str, np.ndarray]:
    """Copy what is to be kept and lies in the updates, whose memory the next rounds use again."""
    return {name: values.copy() if np.may_share_memory(values, updates) else values for name, values in kept.items()}


Judge = Callable[[Float32], tuple[Updates, Decision]]
"""The columns at hand of rows (n, ...) to what the server makes of them in this round."""


def _judge(
    problem: Problem,
    round_: int,
    clients: Int64,
    reference: Float32 | None,
    columns: Columns,
    state: State,
    rows: Float32,
) -> tuple[Updates, Decision]:
    received = Updates(rows, reference, columns)
    context = Context(
        round=round_,
        clients=clients,
        num_examples=problem.num_examples[clients],
        num_byzantine=problem.config.aggregator.num_byzantine or 0,
        rng=stream(problem.config.seed, "aggregate", round_),
        state={name: read_only(values) for name, values in state.items()},
    )
    return received, decide(problem.rule, received, context)


def attack(
    problem: Problem,
    round_: int,
    clients: Int64,
    updates: Float32,
    params: Float32,
    columns: Columns,
    judge: Judge,
    memory: dict[str, np.ndarray],
) -> dict[str, Any]:
    """Put what attacking clients send in place of what they trained, in `updates` (n, columns at hand).

    Return both as evidence. `memory` is the attack's own, and it may change it.
    """
    malicious, attacking = problem.malicious[clients], problem.attacking(round_)[clients]
    trained = updates[malicious]

    def would_be(rows: Float32) -> Float32:
        update = judge(rows)[1].update
        assert update is not None, "decide() fills in the update"
        return update[columns.here]

    if attacking.any():
        knowledge = Knowledge(
            round=round_,
            clients=clients,
            params=params[columns.here],
            aggregate=would_be,
            columns=columns,
            rng=stream(problem.config.seed, "attack", round_),
            memory=memory,
        )
        updates[attacking] = poison(problem.attack, updates, attacking, knowledge)
    return {
        "rounds/client": clients,
        "rounds/malicious": malicious,
        "rounds/attacking": attacking,
        "rounds/num_examples": problem.num_examples[clients],
        "rounds/update": updates,
        "rounds/trained_update": trained,
    }


def evidence(problem: Problem, round_: int, received: Updates, decision: Decision, attacking: Bool) -> dict[str, Any]:
    """Return what is recorded of a decision, and how well it told attackers (n,) from others."""
    detected = detection.detect(attacking, decision.selected, decision.trust)
    return {
        "rounds/norm": received.norms,
        "rounds/trust": decision.trust,
        "rounds/weight": decision.weights,
        "rounds/scale": decision.scale,
        "rounds/selected": decision.selected,
        "rounds/finite": received.finite,
        "rounds/gram": received.full_gram,
        "rounds/aggregate": decision.update,
        "rounds/epsilon": problem.epsilon[round_ - 1],
        **{f"rounds/{name}": np.asarray(value) for name, value in vars(detected).items()},
    }


def evaluation(problem: Problem, scores: server.Scores, counts: Tested) -> dict[str, Any]:
    """Return what is recorded of a test of the model."""
    arrays = {f"evaluation/{name}": np.asarray(value) for name, value in vars(scores).items()}
    triggered = counts.triggered if counts.triggered.size else None
    arrays["evaluation/attack_success"] = np.asarray(problem.attack.success(counts.confusion, triggered))
    if counts.clients.size:
        each = [server.scores(confusion, np.nan) for confusion in counts.clients]
        for metric in server.METRICS:
            arrays[f"evaluation/client_{metric}"] = np.array([getattr(s, metric) for s in each])
    return arrays


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
