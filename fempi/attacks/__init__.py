"""Attacks: one file each. What a malicious client does to its data before training, and to its update after it.

An attack may know what an omniscient adversary would: all updates of the round, who attacks, the current model, and
what the server's rule would make of any rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from fempi.algebra import Bool, Float32, Int64, Updates, read_only
from fempi.columns import Columns

if TYPE_CHECKING:  # rows are numpy's; only an attack on the data touches torch
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Knowledge:
    """What the adversary knows in a round, besides the updates.

    d are the columns at hand, which are all but in the layout "sharded": there, every rank knows those it has.
    """

    round: int
    clients: Int64
    """(n,) which client sent each row"""
    params: Float32
    """(d,) the model that was broadcast"""
    aggregate: Callable[[Float32], Float32]
    """(n, d) rows to the (d,) update that the server's rule would make of them in this round; as costly as the rule"""
    columns: Columns
    """which columns are at hand, and what makes one sum of what is found in each block of them"""
    rng: np.random.Generator
    memory: dict[str, np.ndarray] = field(default_factory=dict)
    """what the attack wants to know in later rounds: named arrays that it may put in, change and take out, and that a
    checkpoint keeps; an attribute of the attack would be lost. All ranks must put in the same: no columns"""


class Attack:
    """Does nothing; an attack overrides the hooks it needs.

    Hyper-parameters are the keyword-only fields of a frozen dataclass.
    """

    malicious_clients_exist = True
    knows_columns = False
    """Whether `poison_updates` can do with some columns of all updates: what it makes of a column depends on that
    column and on what `knowledge.columns` says of all of them. Otherwise the layout "sharded" is refused."""

    def poison_data(
        self, images: Tensor, labels: Tensor, num_classes: int, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        """Return the images (m, channels, height, width) and labels (m,) that a malicious client trains on.

        Called on the client's rank with copies. `rng` is the same in every round, so that a client tells one lie.
        """
        return images, labels

    def poison_updates(self, updates: Float32, malicious: Bool, knowledge: Knowledge) -> Float32:
        """Return the (k, d) float32 rows that the k malicious clients send.

        `updates` (n, d) is what all clients trained, honest and malicious; it must not be changed. With
        `knows_columns`, d are the columns at hand, and all ranks that have some call this together.
        """
        return updates[malicious]

    def trigger(self, images: Tensor) -> Tensor | None:
        """Return a copy of test images (m, channels, height, width) with the attack's trigger; None if it has none."""
        return None

    def success(self, confusion: Int64, triggered: Int64 | None) -> float:
        """The attacker's own measure, 0 to 1; NaN if it has none.

        `confusion` (K, K, rows the truth) is the test set's, `triggered` that of the same images with the trigger.
        """
        return float("nan")


def honest(updates: Float32, malicious: Bool, knowledge: Knowledge) -> Float32:
    """Return the rows of `honest_rows`."""
    return updates[honest_rows(updates, malicious, knowledge)]


def honest_rows(updates: Float32, malicious: Bool, knowledge: Knowledge) -> Int64:
    """Return which rows are not malicious; where all are, every row as it was trained.

    Of these, those that are finite, if any: a client that diverged must not spoil the attack.
    """
    there = np.flatnonzero(~malicious | malicious.all())
    finite = Updates(updates, columns=knowledge.columns).finite[there]
    return there[finite] if finite.any() else there


def poison_data(
    attack: Attack, images: Tensor, labels: Tensor, num_classes: int, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Return what a malicious client trains on; ValueError unless there are as many images, and labels below K."""
    poisoned, wrong = attack.poison_data(images, labels, num_classes, rng)
    if poisoned.shape != images.shape or wrong.shape != labels.shape:
        raise ValueError(
            f"poison_data returned images of shape {tuple(poisoned.shape)} and labels of {tuple(wrong.shape)}, not "
            f"{tuple(images.shape)} and {tuple(labels.shape)}"
        )
    if len(wrong) and not (int(wrong.min()) >= 0 and int(wrong.max()) < num_classes):
        raise ValueError(f"poison_data returned labels outside 0 to {num_classes - 1}")
    return poisoned, wrong


def poison(attack: Attack, updates: Float32, malicious: Bool, knowledge: Knowledge) -> Float32:
    """Return the (k, d) float32 rows that the malicious clients send; ValueError if the attack returns anything else.

    The attack is given read-only views: what honest clients send, and who is who, is not its to change.
    """
    expected = (int(malicious.sum()), updates.shape[1])
    seen = replace(knowledge, params=read_only(knowledge.params), clients=read_only(knowledge.clients))
    with np.errstate(over="ignore", invalid="ignore"):  # an attacker may send what it likes
        sent = attack.poison_updates(read_only(updates), read_only(malicious), seen)
    if not isinstance(sent, np.ndarray):
        raise ValueError(f"poison_updates returned {type(sent).__name__}, not an array")
    if sent.shape != expected or sent.dtype != np.float32:
        raise ValueError(f"poison_updates returned {sent.dtype} of shape {sent.shape}, not float32 of {expected}")
    for name, values in knowledge.memory.items():
        if not isinstance(name, str) or not isinstance(values, np.ndarray) or values.dtype.kind not in "biuf":
            raise ValueError(f"the attack's memory holds {name!r}, which is not an array of numbers")
    return sent
