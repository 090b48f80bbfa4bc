"""Which rule would you deploy? Rules against attacks that the papers leave out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from claims import LEAST
from runs import Runs

from fempi.algebra import Float64

CLEAN = "none"


@dataclass(frozen=True, kw_only=True)
class Field:
    """Mean accuracies after the last round: rules, attacks, shares of malicious clients."""

    rules: Sequence[str]
    attacks: Sequence[str]
    """without `CLEAN`"""
    malicious: Sequence[int]
    clients: int
    accuracy: Float64
    """(rules, malicious, attacks), NaN where a run is missing"""
    clean: Float64
    """(rules, malicious), under the same number of declared Byzantine rows, but nobody attacking"""
    seeds: int
    """fewest of a cell"""

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

    def ranking(self) -> list[tuple[str, float, float, str, float]]:
        """Return rules with their mean and worst accuracy under attack, where it is worst, and the mean clean one.

        The best first, by the worst: one attack that works is enough for an attacker.
        """
        found = []
        for rule, cells, clean in zip(self.rules, self.accuracy, self.clean, strict=True):
            if np.isnan(cells).any():
                continue
            i, j = map(int, np.unravel_index(np.argmin(cells), cells.shape))
            found.append((rule, float(cells.mean()), float(cells.min()), self.cell(i, j), float(np.nanmean(clean))))
        return sorted(found, key=lambda each: -each[2])

    def cell(self, i: int, j: int) -> str:
        """Name the i-th share under the j-th attack."""
        return f"{self.attacks[j]}, {self.shares[i]}"


def advice(found: Field) -> str:
    """Say which rule to deploy, and what becomes of the papers' own, from the numbers alone."""
    ranked = found.ranking()
    if not ranked:
        return "Too few of the runs are there to say which rule to deploy.\n"
    best, mean, worst, by, clean = ranked[0]
    close = [rule for rule, _, other, _, _ in ranked[1:] if other > worst - LEAST]
    told = [
        f"Which rule to deploy here: **{best}**. Its worst is {worst:.3f} ({by}), its mean under attack {mean:.3f}, "
        f"without attack {clean:.3f}."
    ]
    if close:
        told.append(f"As good, within {LEAST}: {', '.join(close)}.")
    if worst < clean / 2:
        told.append("It is the best of them, and still broken there: no rule tried here holds against everything.")
    told += [_published(found, rule) for rule in ("dual", "hybrid") if rule in found.rules]
    return " ".join(told) + "\n"


def _published(found: Field, rule: str) -> str:
    """Say where a published rule is broken or beaten, and what its rescaled variant makes of that."""
    place = list(found.rules).index(rule)
    cells, clean = found.accuracy[place], found.clean[place]
    if np.isnan(cells).any():
        return f"`{rule}` as published: not all of its runs are there."
    broken = [found.cell(i, j) for i, j in np.argwhere(cells < clean[:, None] / 2)]
    beaten = int((np.nanmax(found.accuracy, axis=0) > cells + LEAST).sum())
    said = f"`{rule}` as published is broken (below half of its accuracy without attack) by {'; '.join(broken)}"
    if not broken:
        said = f"`{rule}` as published is broken by none of the attacks (nowhere below half of its accuracy without)"
    said += f", and another rule is better by more than {LEAST} in {beaten} of {cells.size} cells."
    variant = f"{rule}-rescaled"
    if variant in found.rules:
        other = found.accuracy[list(found.rules).index(variant)]
        said += (
            f" With `rescale = true` (`{variant}`) its worst goes from {cells.min():.3f} to {other.min():.3f} and its "
            f"mean from {cells.mean():.3f} to {other.mean():.3f}."
        )
    return said


def field(found: Mapping[str, Runs]) -> Field | None:
    """Arrange runs; None if there are none."""
    if not found:
        return None
    cells = {(runs.arm, _attack(runs), int(runs.first.config["attack"]["malicious"])): runs for runs in found.values()}
    rules = list(dict.fromkeys(rule for rule, _, _ in cells))
    attacks = [attack for attack in dict.fromkeys(attack for _, attack, _ in cells) if attack != CLEAN]
    malicious = sorted({count for _, _, count in cells})

    def mean(rule: str, attack: str, count: int) -> float:
        runs = cells.get((rule, attack, count))
        return float(runs.last().mean()) if runs else np.nan

    return Field(
        rules=rules,
        attacks=attacks,
        malicious=malicious,
        clients=int(next(iter(found.values())).first.config["data"]["clients"]),
        accuracy=np.array([[[mean(r, a, m) for a in attacks] for m in malicious] for r in rules]),
        clean=np.array([[mean(r, CLEAN, m) for m in malicious] for r in rules]),
        seeds=min(len(runs.members) for runs in found.values()),
    )


def _attack(runs: Runs) -> str:
    return str(runs.first.config["attack"]["name"])
