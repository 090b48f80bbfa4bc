"""Re-deciding recorded rounds with any rule, from what a record kept of them.

A rule that needs inner products only needs the recorded Gram matrices only. The recorded rule comes to the recorded
decisions. Any other is a one-step counterfactual: what it would have made of the updates that were sent, which are
those of clients whose model the recorded rule had made.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import h5py
import numpy as np

from fempi import registry
from fempi.aggregators import Context, Decision, State, TooFewRows, weigh
from fempi.aggregators.pre import rule_of
from fempi.algebra import Bool, Float32, Float64, Row, Updates, read_only
from fempi.config import Aggregator, Document, resolve_aggregator
from fempi.detection import Detection, detect
from fempi.errors import FempiError
from fempi.rng import stream
from fempi.runfile import RunFile


@dataclass(frozen=True, kw_only=True)
class Replayed:
    """A rule's decision on a recorded round."""

    round: int
    decision: Decision
    """`update` is there only from rules that build it coordinate by coordinate"""
    updates: Updates
    """what was decided on"""
    attacking: Bool
    """(n,) the truth"""

    @property
    def malicious_weight(self) -> float:
        """Share of the aggregate that attacking rows got, 0 to 1."""
        return float(self.decision.weights[self.attacking].sum())

    @property
    def detection(self) -> Detection:
        """How well the decision tells attacking rows from others."""
        return detect(self.attacking, self.decision.selected, self.decision.trust)

    @property
    def error(self) -> float:
        """Distance of the new update from the mean of the finite honest rows, in units of that mean's norm.

        NaN if there is no such row, or the mean is zero.
        """
        gram, finite = self.updates.gram, self.updates.finite
        honest = finite & ~self.attacking
        if not honest.any():
            return np.nan
        target = honest / honest.sum()
        known = np.where(np.isfinite(gram), gram, 0.0)
        if self.decision.update is None:
            difference = self.decision.factors - target
            square = difference @ known @ difference
        else:
            update = self.decision.update.astype(np.float64)
            products = self.updates.take(honest).products(self.decision.update)
            square = update @ update - 2 * products.mean() + target @ known @ target
        norm = np.sqrt(target @ known @ target)
        return float(np.sqrt(max(square, 0.0)) / norm) if norm > 0 else np.nan


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a rule would have let in, over all replayed rounds; NaN where no round has attackers."""

    aggregator: str
    rounds: int
    malicious_weight: float
    """mean share of the aggregate that attacking rows would have got, over rounds with any"""
    true_positive_rate: float
    """share of the attacking rows that would have been excluded"""
    false_positive_rate: float
    """share of the other rows that would have been excluded"""
    trust_auc: float
    """mean over rounds with attackers"""
    error: float
    """median over the rounds: distance of the update from the honest mean, in units of that mean's norm"""


def section_of(
    run: RunFile, name: str | None = None, parameters: Document | None = None, pre: Sequence[str | Document] = ()
) -> Aggregator:
    """Return `[aggregator]` as a replay wants it: the record's own, or another rule with its defaults and `parameters`.

    The declared number of Byzantine rows is the record's unless `parameters` has `num_byzantine`. Raises FempiError
    for what is no valid rule.
    """
    recorded = dict(run.config["aggregator"])
    if name is None and not pre:
        return resolve_aggregator({**recorded, **(parameters or {})})
    name = name or recorded["name"]
    kept = {"num_byzantine": recorded["num_byzantine"]}
    if name == recorded["name"]:
        kept = {key: value for key, value in recorded.items() if key != "pre"}
    return resolve_aggregator({**kept, "name": name, "pre": list(pre), **(parameters or {})})


def is_recorded(run: RunFile, section: Aggregator) -> bool:
    """Whether a rule is the one that the run had, with equal hyper-parameters."""
    had = resolve_aggregator(run.config["aggregator"])
    return section == had.model_copy(update={"layout": section.layout})  # which changes no decision


def obstacle(run: RunFile, section: Aggregator) -> str:
    """Say why a rule cannot be replayed on a record; empty if it can."""
    needs = registry.find("aggregator", section.name).needs
    if "reference" in needs and not run.layout.has_reference:
        return f"{section.name} needs the server's reference update; the run had none"
    if "columns" in needs and not run.layout.keeps_params:
        kept = run.layout.updates
        return f'{section.name} needs the updates themselves; the record keeps record.updates = "{kept}"'
    return ""


def replay(run: RunFile, section: Aggregator) -> Iterator[Replayed]:
    """Yield a rule's decision on each committed round, in order; FempiError if the record lacks what the rule needs.

    A rule that needs columns decides on the rounds whose updates were kept. Only one block of columns is in memory at
    a time. What the rule remembers from round to round is what it remembered of its own decisions.
    """
    if reason := obstacle(run, section):
        raise FempiError(reason)
    rule, by_columns = rule_of(section), "columns" in registry.find("aggregator", section.name).needs
    grams, rows = run["rounds/gram"], run["rounds/update"] if by_columns else None
    clients, examples, attacking = (run.read(f"rounds/{name}") for name in ("client", "num_examples", "attacking"))
    state: State = {}
    for place in range(run.rounds_completed):
        if by_columns and not run.layout.keeps_vectors(place + 1):
            continue
        updates = _updates(grams[place], rows, place)
        context = Context(
            round=place + 1,
            clients=clients[place].astype(np.int64),
            num_examples=examples[place],
            num_byzantine=section.num_byzantine or 0,
            rng=stream(run.config["seed"], "aggregate", place + 1),
            state={name: read_only(values) for name, values in state.items()},
        )
        try:
            decision = weigh(rule, updates, context)
        except TooFewRows as error:
            raise FempiError(f"{section.name} cannot decide on these rounds: {error}") from error
        except ValueError as error:
            raise FempiError(f"{section.name}: {error}") from error
        yield Replayed(round=place + 1, decision=decision, updates=updates, attacking=attacking[place])
        state = decision.state


def differences(run: RunFile, replayed: Replayed) -> list[str]:
    """Name what a replayed decision says otherwise than the record, the aggregate included where it was kept exactly.

    Empty for the recorded rule, on the kind of CPU that made the record.
    """
    place, decision, found = replayed.round - 1, replayed.decision, []
    for path, value in {
        "rounds/trust": decision.trust,
        "rounds/weight": decision.weights,
        "rounds/scale": decision.scale,
        "rounds/selected": decision.selected,
    }.items():
        if not np.array_equal(np.asarray(value, float), np.asarray(run[path][place], float), equal_nan=True):
            found.append(path)
    if run.config["record"]["updates"] == "full" and run.layout.keeps_vectors(replayed.round):
        update = decision.update
        if update is None:
            update = _updates(run["rounds/gram"][place], run["rounds/update"], place).combine(decision.factors)
        if not np.array_equal(update, run["rounds/aggregate"][place], equal_nan=True):
            found.append("rounds/aggregate")
    return found


def summarize(section: Aggregator, rounds: Iterator[Replayed]) -> Summary:
    """Say what a rule would have let in over all rounds."""
    weights, errors, aucs, selected, attacking = [], [], [], [], []
    for each in rounds:
        errors.append(each.error)
        selected.append(each.decision.selected)
        attacking.append(each.attacking)
        if each.attacking.any():
            weights.append(each.malicious_weight)
            aucs.append(each.detection.trust_auc)
    nothing = np.empty(0, bool)
    truth, let_in = np.concatenate([nothing, *attacking]), np.concatenate([nothing, *selected])
    return Summary(
        aggregator=describe(section),
        rounds=len(errors),
        malicious_weight=_mean(weights),
        true_positive_rate=_mean(~let_in[truth]),
        false_positive_rate=_mean(~let_in[~truth]),
        trust_auc=_mean(aucs),
        error=float(np.median(errors)) if errors else np.nan,
    )


def every_rule(run: RunFile) -> list[Aggregator]:
    """Return the record's own rule, and every other with its defaults."""
    own = section_of(run)
    return [own, *(section for name in registry.names("aggregator") if (section := section_of(run, name)) != own)]


def ranking(
    run: RunFile, sections: Sequence[Aggregator] | None = None, accused: Bool | None = None
) -> tuple[list[Summary], dict[str, str]]:
    """Replay rules, every one by default; return the best first, and why others could not be.

    The best let in the least malicious weight; of equal ones, the one whose updates were nearest to the honest mean.
    Where clients (C,) are accused, their rows are taken for the attacking ones, and the truth is not used.
    """
    summaries, refused = [], {}
    for section in every_rule(run) if sections is None else sections:
        try:
            rounds = replay(run, section)
            summaries.append(summarize(section, rounds if accused is None else _as_if(run, accused, rounds)))
        except FempiError as error:
            refused[describe(section)] = str(error)
    return sorted(summaries, key=lambda s: (_last(s.malicious_weight), _last(s.error))), refused


def _as_if(run: RunFile, accused: Bool, rounds: Iterator[Replayed]) -> Iterator[Replayed]:
    clients = run.read("rounds/client")
    for each in rounds:
        yield replace(each, attacking=accused[clients[each.round - 1]])


def describe(section: Aggregator) -> str:
    """Name a rule with what was put before it: nnm > krum."""
    return " > ".join([*(entry["name"] for entry in section.pre), section.name])


class _RecordedRow:
    """A row of a record's updates, read when asked for."""

    def __init__(self, dataset: h5py.Dataset, place: int, slot: int) -> None:
        self._where = dataset, place, slot

    def __getitem__(self, columns: slice) -> Float32:
        dataset, place, slot = self._where
        values: Float32 = dataset[place, slot, columns].astype(np.float32)
        return values


def _updates(gram: Float64, dataset: h5py.Dataset | None, place: int) -> Updates:
    has_reference = bool(np.isfinite(gram[-1, -1]))
    if dataset is None:
        return Updates.from_gram(gram, has_reference=has_reference)
    rows: list[Row] = [_RecordedRow(dataset, place, slot) for slot in range(dataset.shape[1])]
    return Updates.from_gram(gram, has_reference=has_reference, rows=rows, d=dataset.shape[2])


def _mean(values: Sequence[float] | Bool) -> float:
    """Mean of those that are numbers; NaN if there are none."""
    numbers = np.asarray(values, float)
    numbers = numbers[~np.isnan(numbers)]
    return float(numbers.mean()) if len(numbers) else np.nan


def _last(value: float) -> float:
    return np.inf if np.isnan(value) else value
