"""Which rule would you deploy? Rules against attacks of both papers, and others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from claims import LEAST
from runs import Runs, spread

from fempi.algebra import Float64

CLEAN = "none"
VARIANTS = {"dual": ("dual-rescaled", "dual-equal-steps", "dual-mended"), "hybrid": ("nnm-hybrid",)}
"""Of the papers' own rules: what might mend them"""


@dataclass(frozen=True, kw_only=True)
class Rank:
    """How a rule does under all attacks."""

    rule: str
    worst: Float64
    """its lowest accuracy (seeds,), by the mean over seeds"""
    by: str
    """where that is"""
    mean: float
    """under attack"""
    clean: Float64
    """without (seeds,)"""
    seeds: int
    learns: int
    """with how many seeds it reaches without attack what is not broken"""
    broken: int
    """how many runs under attack, with these seeds"""
    runs: int
    """of how many"""


@dataclass(frozen=True, kw_only=True)
class Field:
    """Accuracies after the last round: rules, shares of malicious clients, attacks."""

    rules: Sequence[str]
    attacks: Sequence[str]
    """without `CLEAN`"""
    malicious: Sequence[int]
    clients: int
    rounds: int
    seeds: int
    values: Float64
    """(rules, malicious, attacks, seeds), NaN where a run is missing"""
    unattacked: Float64
    """(rules, malicious, seeds), under the same number of declared Byzantine rows, but nobody attacking"""

    @property
    def accuracy(self) -> Float64:
        """Means over seeds (rules, malicious, attacks)."""
        mean: Float64 = self.values.mean(axis=-1)
        return mean

    @property
    def clean(self) -> Float64:
        """Means over seeds (rules, malicious)."""
        mean: Float64 = self.unattacked.mean(axis=-1)
        return mean

    @property
    def shares(self) -> list[str]:
        """How many are malicious, in words."""
        return [f"{100 * count / self.clients:.0f} % malicious" for count in self.malicious]

    @property
    def columns(self) -> list[tuple[str, str]]:
        """Attack and share of each column of `flat`."""
        return [(attack, share) for share in self.shares for attack in (CLEAN, *self.attacks)]

    @property
    def flat(self) -> tuple[Float64, Float64]:
        """Accuracies, and drops against clean, (rules, columns)."""
        together = np.concatenate([self.clean[:, :, None], self.accuracy], axis=2)
        drops = together[:, :, :1] - together
        drops[:, :, 0] = np.nan
        return together.reshape(len(self.rules), -1), drops.reshape(len(self.rules), -1)

    @property
    def complete(self) -> list[str]:
        """Rules of which no run is missing."""
        sums = self.accuracy.sum(axis=(1, 2)) + self.clean.sum(axis=1)
        return [rule for rule, each in zip(self.rules, sums, strict=True) if np.isfinite(each)]

    @property
    def reached(self) -> float:
        """The best accuracy of a rule without attack."""
        return float(np.nanmax(self.clean))

    @property
    def margin(self) -> float:
        """Difference between two rules in a cell that seeds alone may make; with one seed, nothing shows how large."""
        if self.seeds == 1:
            return LEAST
        # The median over rules: one that learns with some seeds only would make it large.
        variances = self.values.var(axis=-1, ddof=1).mean(axis=(1, 2))
        deviation = float(np.sqrt(np.nanmedian(variances)))
        return max(LEAST, 2 * deviation * float(np.sqrt(2 / self.seeds)))

    def best_first(self) -> Field:
        """Return the same with its rules in the order of their ranking, and those that are not complete after them."""
        ranked = [rank.rule for rank in self.ranking()]
        rules = ranked + [rule for rule in self.rules if rule not in ranked]
        places = [self.rules.index(rule) for rule in rules]
        return replace(self, rules=rules, values=self.values[places], unattacked=self.unattacked[places])

    @property
    def broken(self) -> float:
        """Accuracy below which a rule is broken."""
        return self.reached / 2

    def ranking(self) -> list[Rank]:
        """Return the complete rules, the best first, by their worst: one attack that works is enough for attackers."""
        return sorted(map(self.rank, self.complete), key=lambda rank: -rank.worst.mean())

    def rank(self, rule: str) -> Rank:
        """Return how a complete rule does."""
        place = self.rules.index(rule)
        cells = self.accuracy[place]
        learned = self.unattacked[place].max(axis=0) >= self.broken
        attacked = self.values[place][..., learned]
        i, j = map(int, np.unravel_index(np.argmin(cells), cells.shape))
        return Rank(
            rule=rule,
            worst=self.values[place, i, j],
            by=f"{self.attacks[j]}, {self.shares[i]}",
            mean=float(cells.mean()),
            clean=self.unattacked[place].mean(axis=0),
            seeds=self.seeds,
            learns=int(learned.sum()),
            broken=int((attacked < self.broken).sum()),
            runs=attacked.size,
        )


def advice(found: Field) -> str:
    """Say which rule to deploy, and what becomes of the papers' own, from the numbers alone."""
    ranked = found.ranking()
    if not ranked:
        return "Too few of the runs are there to say which rule to deploy.\n"
    best, *others = ranked
    told = [
        f"Which rule to deploy here: **{best.rule}**. Its worst is {spread(best.worst)} ({best.by}), its mean under "
        f"attack {best.mean:.3f}, without attack {spread(best.clean)}."
    ]
    close = [rank.rule for rank in others if rank.worst.mean() > best.worst.mean() - found.margin]
    if close:
        told.append(f"As good, within {found.margin:.2f}: {', '.join(close)}.")
    gentle = max(ranked, key=lambda rank: rank.mean)
    if gentle is not best:
        told.append(f"Best by the mean under attack: {gentle.rule}, {gentle.mean:.3f}.")
    if best.worst.mean() < found.broken:
        told.append("All are broken somewhere: none tried here holds against everything.")
    if found.seeds == 1:
        told.append("All this is from one seed; others may change the order of rules that are close.")
    missing = [rule for rule in found.rules if rule not in found.complete]
    if missing:
        told.append(f"Not all runs are there of: {', '.join(missing)}.")
    own = [rule for published, variants in VARIANTS.items() for rule in (published, *variants)]
    told += [_told(found, rule) for rule in own if rule in found.complete]
    return " ".join(told) + "\n"


def everywhere(fields: Mapping[str, Field]) -> str:
    """Say which rule does best in the worst cell of all settings; nothing if there is but one."""
    shares = [
        {rank.rule: float(rank.worst.mean()) / each.reached for rank in each.ranking()} for each in fields.values()
    ]
    rules = set.intersection(*map(set, shares)) if shares else set()
    if len(shares) < 2 or not rules:
        return ""
    worst = {rule: min(share[rule] for share in shares) for rule in rules}
    first, *others = sorted(rules, key=lambda rule: (-worst[rule], rule))
    margin = max(each.margin / each.reached for each in fields.values())
    close = [f"{rule} {worst[rule]:.0%}" for rule in others if worst[rule] > worst[first] - margin]
    told = f" As good, within {100 * margin:.0f} points: {', '.join(close)}." if close else ""
    return (
        f"One rule for all settings: **{first}**. No attack brings it below {worst[first]:.0%} of the best that "
        f"is reached without attack in the same setting.{told}\n"
    )


def _told(found: Field, rule: str) -> str:
    """Say whether a rule is broken, and by what."""
    rank = found.rank(rule)
    if not rank.learns:
        return f"`{rule}` does not learn here, attacked or not ({spread(rank.clean)} without attack)."
    some = f"does not learn with {rank.seeds - rank.learns} of {rank.seeds} seeds; with the others it "
    broken = f"{rank.broken} of {rank.runs} runs" if rank.broken else "no run"
    return (
        f"`{rule}` {some if rank.learns < rank.seeds else ''}is broken in {broken}; its worst is {spread(rank.worst)} "
        f"({rank.by}), and without attack it has {spread(rank.clean)}."
    )


def field(found: Mapping[str, Runs]) -> Field | None:
    """Arrange runs, which have the same seeds; None if there are none."""
    if not found:
        return None
    first = next(iter(found.values()))
    cells = {(runs.arm, _attack(runs), int(runs.first.config["attack"]["malicious"])): runs for runs in found.values()}
    rules = list(dict.fromkeys(rule for rule, _, _ in cells))
    attacks = [attack for attack in dict.fromkeys(attack for _, attack, _ in cells) if attack != CLEAN]
    malicious = sorted({count for _, _, count in cells})
    nothing = np.full(len(first.members), np.nan)

    def values(rule: str, attack: str, count: int) -> Float64:
        runs = cells.get((rule, attack, count))
        return runs.last() if runs else nothing

    return Field(
        rules=rules,
        attacks=attacks,
        malicious=malicious,
        clients=int(first.first.config["data"]["clients"]),
        rounds=first.last_round,
        seeds=len(first.members),
        values=np.array([[[values(r, a, m) for a in attacks] for m in malicious] for r in rules]),
        unattacked=np.array([[values(r, CLEAN, m) for m in malicious] for r in rules]),
    )


def _attack(runs: Runs) -> str:
    return str(runs.first.config["attack"]["name"])
