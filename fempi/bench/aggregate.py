"""What each rule takes, beside what its inner products take at least: `fempi bench aggregate`.

The updates are honest ones around a common direction, with noise; time hardly depends on what they are. Every rule gets
them anew, so that it pays for its own Gram matrix.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

import fempi
from fempi import registry
from fempi.aggregators import Context, Rule, decide
from fempi.aggregators.pre import rule_of
from fempi.algebra import Float32, Updates
from fempi.bench import times
from fempi.columns import BLOCK
from fempi.config import resolve_aggregator
from fempi.display import console
from fempi.errors import FempiError
from fempi.rng import stream


@dataclass(frozen=True, kw_only=True)
class OfRule:
    """What one rule took, with its default hyper-parameters."""

    rule: str
    """with what was put before it, as in: nnm > krum"""
    seconds: times.Seconds
    """to decide, the aggregate included"""
    memory: float
    """most bytes besides the updates, in units of theirs"""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """All that was measured, and of what."""

    fempi_version: str
    cohort: int
    params: int
    num_byzantine: int
    repeats: int
    read: times.Seconds
    """to add up all numbers: the updates are read once"""
    products: times.Seconds
    """to multiply blocks of columns by themselves, already in place: the inner products alone"""
    rules: Sequence[OfRule]
    refused: Mapping[str, str]
    """why rules could not decide"""


def measure(cohort: int, params: int, *, num_byzantine: int, rules: Sequence[str], repeats: int) -> Measured:
    """Let rules decide so many times, after once that does not count; a name may be a chain, as in nnm>krum."""
    rows = some_updates(cohort, params)
    reference = rows[0].copy()
    found, refused = [], {}
    for name in rules or registry.names("aggregator"):
        *before, last = (word.strip() for word in name.split(">"))
        section = {"name": last, "pre": before, "num_byzantine": num_byzantine}
        rule = rule_of(resolve_aggregator(section))
        try:
            memory = _memory(rule, rows, reference, num_byzantine)
        except ValueError as error:  # too few rows, or too many for a rule that tries all subsets
            refused[name] = str(error)
            continue
        seconds = [times.timed(_decide, rule, rows, reference, num_byzantine) for _ in range(repeats)]
        found.append(OfRule(rule=" > ".join([*before, last]), seconds=times.of(seconds), memory=memory))
    if not found and rules:
        raise FempiError("; ".join(f"{name}: {reason}" for name, reason in refused.items()))
    block = np.ascontiguousarray(rows[:, :BLOCK])
    blocks = -(-params // BLOCK)
    return Measured(
        fempi_version=fempi.__version__,
        cohort=cohort,
        params=params,
        num_byzantine=num_byzantine,
        repeats=repeats,
        read=times.of([times.timed(rows.sum) for _ in range(repeats)]),
        products=times.of([times.timed(_multiply, block, blocks) for _ in range(repeats)]),
        rules=sorted(found, key=lambda each: each.seconds.median),
        refused=refused,
    )


def some_updates(n: int, d: int) -> Float32:
    """Return rows (n, d) that have a direction in common, and noise of half its length."""
    rng = stream(0, "bench")
    direction = rng.standard_normal(d, np.float32)
    rows = np.empty((n, d), np.float32)
    for row in rows:
        rng.standard_normal(out=row, dtype=np.float32)
        row *= np.float32(0.5)
        row += direction
    return rows


def show(measured: Measured) -> None:
    """Print what was measured."""
    out, m = console(), measured
    out.print(
        f"{m.cohort} updates of {m.params:,} parameters, {m.num_byzantine} of them expected to be Byzantine; "
        f"{m.repeats} times each",
        highlight=False,
        soft_wrap=True,
    )
    table = times.table("rule", "ms", "of products'", "extra memory")
    table.add_row("reading the updates", times.milliseconds(m.read), f"{m.read.median / m.products.median:.2f}", "")
    table.add_row("inner products alone", times.milliseconds(m.products), "1.00", "")
    for each in m.rules:
        ratio = f"{each.seconds.median / m.products.median:.2f}"
        table.add_row(each.rule, times.milliseconds(each.seconds), ratio, f"{each.memory:.1%}")
    out.print(table)
    for name, reason in m.refused.items():
        out.print(f"{name}: {reason}", highlight=False, markup=False, soft_wrap=True)


def _decide(rule: Rule, rows: Float32, reference: Float32, num_byzantine: int) -> None:
    context = Context(
        round=1,
        clients=np.arange(len(rows)),
        num_examples=np.ones(len(rows), np.int64),
        num_byzantine=num_byzantine,
        rng=stream(0, "aggregate", 1),
        state={},
    )
    decide(rule, Updates(rows, reference), context)


def _memory(rule: Rule, rows: Float32, reference: Float32, num_byzantine: int) -> float:
    tracemalloc.start()
    try:
        _decide(rule, rows, reference, num_byzantine)
        return tracemalloc.get_traced_memory()[1] / rows.nbytes
    finally:
        tracemalloc.stop()


def _multiply(block: Float32, blocks: int) -> None:
    for _ in range(blocks):
        block @ block.T
