"""Aggregation rules: one file each, all pure functions of the updates and what a server may know.

A rule is called as `rule(updates, context, **hyper_parameters)` and returns a `Decision`. It sees finite rows only
and never the truth about who is malicious. It raises `TooFewRows` where it cannot work with so few rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from fempi.algebra import Bool, Float32, Float64, Int64, Updates

State = Mapping[str, np.ndarray]
"""What a rule carries from round to round: named arrays, so that a checkpoint can hold them."""


class TooFewRows(ValueError):  # noqa: N818 - reads as what it says
    """The rule is not defined for so few rows with so many declared Byzantine."""


def require_clients(context: Context) -> None:
    """Raise ValueError unless each row comes from one client, for rules that follow clients over rounds."""
    if (context.clients < 0).any():
        raise ValueError(
            "the rule follows each client over rounds, but its rows are averages of several clients' (bucketing); "
            "choose another rule or leave that pre-aggregator out"
        )


def require_majority(rule: str, n: int, num_byzantine: int) -> None:
    """Raise TooFewRows unless n > 2 f."""
    f = num_byzantine
    if n <= 2 * f:
        raise TooFewRows(f"{rule} needs more than 2 f rows: with f = {f} at least {2 * f + 1}, not {n}")


@dataclass(frozen=True, kw_only=True)
class Context:
    """All that a rule may know besides the updates."""

    round: int
    clients: Int64
    """(n,) which client sent each row"""
    num_examples: Int64
    """(n,) how many examples each client says it trained on"""
    num_byzantine: int
    """how many rows the operator declares Byzantine: the papers' f"""
    rng: np.random.Generator
    state: State = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What a rule decided, as evidence: the new update is the weighted sum of the rows, each times its scale."""

    weights: Float64
    """(n,) the share of each row; they sum to 1, or are all 0 where nothing is trusted"""
    trust: Float64
    """(n,) the rule's own score, higher = more trusted; NaN for a row that was not finite, or if the rule could not
    decide"""
    selected: Bool
    """(n,) which rows the rule let in; after mixing, by the mixed row that stands for each (`fempi.aggregators.pre`)"""
    scale: Float64 | None = None
    """(n,) the factor a rule rescales each row by before it takes its share; None: 1 for all"""
    update: Float32 | None = None
    """(d,) the new update, from rules that build it coordinate by coordinate; None: the weighted sum"""
    state: State = field(default_factory=dict)

    @property
    def factors(self) -> Float64:
        """(n,) what each row is multiplied by in the weighted sum: its share times its scale."""
        return self.weights if self.scale is None else self.weights * self.scale


Rule = Callable[[Updates, Context], Decision]


def decide(rule: Rule, updates: Updates, context: Context) -> Decision:
    """Apply a rule as `weigh` does, and fill in the `update` that its weights mean."""
    decision = weigh(rule, updates, context)
    if decision.update is not None:
        return decision
    return replace(decision, update=updates.combine(decision.factors))


def weigh(rule: Rule, updates: Updates, context: Context) -> Decision:
    """Apply a rule to whatever was received and return a Decision for all n rows, its `scale` filled in.

    Rows with a NaN or an Inf are taken out before the rule sees anything, and each counts as one of the declared
    Byzantine rows found. If too few rows are left for the rule, the model stays as it is: all weights are 0.
    `TooFewRows` is raised only where the rule could not have worked with n finite rows either, another ValueError if
    what it returned is not a decision.
    """
    finite = updates.finite
    rows = updates if finite.all() else updates.take(finite)
    lost = int((~finite).sum())
    context = replace(
        context,
        clients=context.clients[finite],
        num_examples=context.num_examples[finite],
        num_byzantine=max(0, context.num_byzantine - lost),
    )
    try:
        if rows.n == 0:
            raise TooFewRows("no finite rows")
        decision = _checked(rule(rows, context), rows)
    except TooFewRows:
        if not lost:
            raise
        nothing = np.zeros(rows.n)
        zero = Decision(weights=nothing, trust=nothing + np.nan, selected=nothing > 0, state=context.state)
        decision = _checked(zero, rows)

    assert decision.scale is not None, "_checked fills it in"

    def spread(values: np.ndarray, otherwise: float) -> np.ndarray:
        out = np.full(updates.n, otherwise, values.dtype)
        out[finite] = values
        return out

    return Decision(
        weights=spread(decision.weights, 0),
        trust=spread(decision.trust, np.nan),
        selected=spread(decision.selected, False),
        scale=spread(decision.scale, 1),
        update=decision.update,
        state=decision.state,
    )


def _checked(decision: Decision, rows: Updates) -> Decision:
    """Hold a rule to its contract, fill in the scale, and make its numbers float64.

    A plugin's mistake must not end up as evidence.
    """
    if not isinstance(decision, Decision):
        raise ValueError(f"the rule returned {type(decision).__name__}, not a Decision")
    scale = np.ones(rows.n) if decision.scale is None else np.asarray(decision.scale, np.float64)
    decision = replace(
        decision,
        weights=np.asarray(decision.weights, np.float64),
        trust=np.asarray(decision.trust, np.float64),
        selected=np.asarray(decision.selected),
        scale=scale,
    )
    for name in ("weights", "trust", "selected", "scale"):
        shape = getattr(decision, name).shape
        if shape != (rows.n,):
            raise ValueError(f"the rule's {name} has shape {shape}, not ({rows.n},)")
    total = decision.weights.sum()
    if not (decision.weights >= 0).all() or not (total == 0 or abs(total - 1) < 1e-6):
        raise ValueError(f"the rule's weights must be shares, not negative and with sum 1 or all 0: {decision.weights}")
    if not np.isfinite(scale).all():
        raise ValueError(f"the rule's scale must be finite: {scale}")
    if decision.selected.dtype != bool:
        raise ValueError(f"the rule's selected must be bool, not {decision.selected.dtype}")
    for name, values in decision.state.items():
        if not isinstance(name, str) or not isinstance(values, np.ndarray) or values.dtype.kind not in "biuf":
            raise ValueError(f"the rule's state holds {name!r}, which is not an array of numbers")
    if decision.update is not None and (decision.update.shape != (rows.d,) or decision.update.dtype != np.float32):
        raise ValueError(f"the rule's update must be float32 of shape ({rows.d},)")
    return decision
