"""What all benchmarks have in common: times of one thing done several times, as tables and as JSON."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.table import Table

from fempi.errors import FempiError


@dataclass(frozen=True, kw_only=True)
class Seconds:
    """Times of one thing done several times."""

    median: float
    least: float
    most: float


def of(times: Sequence[float]) -> Seconds:
    """Return their median, least and most."""
    return Seconds(median=float(np.median(times)), least=min(times), most=max(times))


def timed(work: Callable[..., Any], *arguments: Any) -> float:
    """Do it, and return how many seconds that took."""
    start = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - start


def milliseconds(seconds: Seconds) -> str:
    """Show the median, and the range in brackets."""
    median, least, most = (f"{1000 * value:,.1f}" for value in (seconds.median, seconds.least, seconds.most))
    return f"{median} ({least} to {most})"


def many(count: int, noun: str) -> str:
    """Count a noun."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def table(first: str, *others: str) -> Table:
    """Return an empty table; all columns but the first hold numbers."""
    out = Table(header_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    out.add_column(first)
    for heading in others:
        out.add_column(heading, justify="right")
    return out


def save(measured: Any, path: Path) -> None:
    """Write what was measured, a dataclass, as JSON with the field names as keys."""
    try:
        path.write_text(json.dumps(dataclasses.asdict(measured), indent=2) + "\n")
    except OSError as error:
        raise FempiError(f"{path} cannot be written: {error.strerror}") from error
