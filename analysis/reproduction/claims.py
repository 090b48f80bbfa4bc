"""What a claim is, and when one counts as reproduced."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from fempi.algebra import Float64

Verdict = Literal["reproduced", "not reproduced", "not decidable from the text", "not run yet"]
LEAST = 0.03
"""Distance from a paper's number that is none: the papers have one number of each, without a deviation"""
MOST = 0.1
"""Distance that is one even where seeds differ so much that two of their standard deviations are more"""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A row of the table."""

    claim: str
    published: str
    ours: str = "-"
    verdict: Verdict = "not run yet"
    why: str = ""
    readings: Sequence[str] = ()
    """ways to read the text in which it holds, where it can be read in several"""


def tolerated(values: Float64) -> float:
    """Return how far a paper's number may be from the mean of ours (seeds,)."""
    return min(MOST, max(LEAST, 2 * float(values.std(ddof=1)))) if len(values) > 1 else LEAST


def agrees(published: float, values: Float64) -> bool:
    """Tell whether a paper's number is one that ours (seeds,) leave room for."""
    return bool(abs(values.mean() - published) <= tolerated(values))


def verdict(held: bool) -> Verdict:
    """Return what the table says of a claim that was put to the test."""
    return "reproduced" if held else "not reproduced"


def sentences(*parts: str) -> str:
    """Join sentences, without the empty ones."""
    return " ".join(part for part in parts if part)
