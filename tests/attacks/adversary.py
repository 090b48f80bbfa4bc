"""Attacks as an adversary would run them, in a round of which everything is known."""

from collections.abc import Callable, Sequence

import numpy as np

from fempi.algebra import Bool, Float32
from fempi.attacks import Attack, Knowledge
from fempi.columns import Columns
from fempi.rng import stream


def mean_rule(rows: Float32) -> Float32:
    return rows.mean(axis=0, dtype=np.float64).astype(np.float32)


def unknown_rule(rows: Float32) -> Float32:
    raise AssertionError("this attack has no business with the server's rule")


def knowledge_of(updates: Float32, aggregate: Callable[[Float32], Float32], seed: int = 0) -> Knowledge:
    """Clients 0, 10, 20, ... sent the rows."""
    return Knowledge(
        round=1,
        clients=np.arange(len(updates)) * 10,
        params=np.zeros(updates.shape[1], np.float32),
        aggregate=aggregate,
        columns=Columns(updates.shape[1]),
        rng=stream(seed, "attack"),
    )


def mask(n: int, malicious: Sequence[int]) -> Bool:
    out = np.zeros(n, bool)
    out[list(malicious)] = True
    return out


def sent(
    attack: Attack,
    updates: Float32,
    malicious: Sequence[int],
    aggregate: Callable[[Float32], Float32] = unknown_rule,
    seed: int = 0,
) -> Float32:
    knowledge = knowledge_of(updates, aggregate, seed)
    return attack.poison_updates(updates, mask(len(updates), malicious), knowledge)


def sent_by_all(
    attack: Attack, updates: Float32, malicious: Sequence[int], aggregate: Callable[[Float32], Float32] = unknown_rule
) -> Float32:
    """The row that every malicious client sends; they must be equal."""
    rows = sent(attack, updates, malicious, aggregate)
    np.testing.assert_array_equal(rows, np.broadcast_to(rows[0], rows.shape))
    return rows[0]


def some_updates(n: int = 9, d: int = 40, seed: int = 0) -> Float32:
    """Rows around a common mean that is neither small nor large beside their spread."""
    rng = stream(seed, "updates")
    return (rng.standard_normal(d) + rng.standard_normal((n, d))).astype(np.float32)
