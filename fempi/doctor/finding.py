"""What the doctor finds, and how it says numbers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warning", "problem"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. A run would not work with a problem; with a warning it would, but not well."""

    level: Level
    what: str
    advice: str = ""
    """what to do about it"""


def ok(what: str) -> Finding:
    """Return a finding that needs nothing done."""
    return Finding("ok", what)


def warning(what: str, advice: str) -> Finding:
    """Return a finding that makes a run slow, or its results worth less."""
    return Finding("warning", what, advice)


def problem(what: str, advice: str) -> Finding:
    """Return a finding that keeps a run from working."""
    return Finding("problem", what, advice)


def numbers(of: Iterable[int]) -> str:
    """Write numbers in short: 0-3, 7."""
    out: list[list[int]] = []
    for number in sorted(set(of)):
        if out and number == out[-1][1] + 1:
            out[-1][1] = number
        else:
            out.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in out)


def name_ranks(of: Iterable[int]) -> str:
    """Name ranks: rank 2, or ranks 0-3, 7."""
    named = sorted(set(of))
    return f"rank{'s' if len(named) > 1 else ''} {numbers(named)}"


def count(number: int, thing: str, things: str = "") -> str:
    """Write a number of things: 1 core, 2 cores."""
    return f"{number} {thing if number == 1 else things or thing + 's'}"


def size(nbytes: float) -> str:
    """Write a number of bytes."""
    for unit in ("B", "kB", "MB"):
        if nbytes < 999.5:
            return f"{nbytes:.3g} {unit}"
        nbytes /= 1000
    return f"{nbytes:,.1f} GB"


def speed(nbytes: float, seconds: float) -> str:
    """Write how long so many bytes took, and how fast that is."""
    return f"{size(nbytes)} in {seconds:.2g} s, {nbytes / 1e6 / max(seconds, 1e-9):,.0f} MB/s"
