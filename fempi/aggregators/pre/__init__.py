"""Pre-aggregators: one file each. What is done to the rows before a rule sees them.

A pre-aggregator is called as `pre(updates, context, **hyper_parameters)` and returns a `Mixing`: new rows that are
averages of (rescaled) old ones. So the Gram matrix of the new rows follows from that of the old ones, and every
decision on new rows can be told as one on old ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from fempi import registry
from fempi.aggregators import Context, Decision, Rule
from fempi.algebra import Float64, Int64, Updates
from fempi.config import Aggregator


@dataclass(frozen=True, kw_only=True)
class Mixing:
    """m new rows from n old ones: new row k is the sum over i of shares[k, i] * scale[i] * old row i."""

    shares: Float64
    """(m, n) not negative, each row with sum 1"""
    scale: Float64
    """(n,) the factor each old row is rescaled by first"""
    stands_for: Int64
    """(n,) the new row whose trust and selection an old row gets"""


PreAggregator = Callable[[Updates, Context], Mixing]


def rule_of(section: Aggregator) -> Rule:
    """Return what `[aggregator]` describes, its hyper-parameters bound: the rule after its pre-aggregators."""
    pre = []
    for entry in section.pre:
        parameters = {key: value for key, value in entry.items() if key != "name"}
        pre.append(partial(registry.find("pre_aggregator", entry["name"]).make, **parameters))
    return compose(pre, partial(registry.find("aggregator", section.name).make, **section.parameters))


def compose(pre: Sequence[PreAggregator], rule: Rule) -> Rule:
    """Return the rule that mixes the rows by each pre-aggregator in turn, then decides; its Decision is on the old.

    A row's weight is what it contributes to all new rows, times their weights; its trust and whether it is selected
    are those of the new row that stands for it.
    """
    if not pre:
        return rule
    first, then = pre[0], compose(pre[1:], rule)

    def composed(updates: Updates, context: Context) -> Decision:
        mixing = first(updates, context)
        mixed = updates.mix(mixing.shares * mixing.scale)
        return _on_old_rows(then(mixed, _context_of(mixing, context)), mixing)

    return composed


def _context_of(mixing: Mixing, context: Context) -> Context:
    """What the rule is told of the new rows; where they are fewer, they are no longer single clients'."""
    if len(mixing.shares) == len(context.clients):
        return context
    sums = np.zeros(len(mixing.shares), np.int64)
    np.add.at(sums, mixing.stands_for, context.num_examples)
    return replace(context, clients=np.full(len(sums), -1), num_examples=sums)


def _on_old_rows(decision: Decision, mixing: Mixing) -> Decision:
    weights = decision.weights @ mixing.shares
    contributed = decision.factors @ mixing.shares * mixing.scale
    return Decision(
        weights=weights,
        scale=np.divide(contributed, weights, out=np.ones_like(weights), where=weights > 0),
        trust=np.asarray(decision.trust, np.float64)[mixing.stands_for],
        selected=np.asarray(decision.selected)[mixing.stands_for],
        update=decision.update,
        state=decision.state,
    )
