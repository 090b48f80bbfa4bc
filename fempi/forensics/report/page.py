"""The page, from a template that escapes all that a record says."""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from fempi.forensics.figures.accuracy import by_seed
from fempi.forensics.figures.style import COLOURS
from fempi.forensics.geometry import MEANINGS
from fempi.forensics.report import charts
from fempi.forensics.report.contents import Contents, contents
from fempi.summary import number, percent

HERE = Path(__file__).parent


def page(records: Sequence[Path], *, truth: bool) -> str:
    """Return one HTML page on all records: it holds its scripts and data, and forbids itself any network.

    Without `truth` it uses only what a server saw; the configuration in it says nevertheless what the attack was.
    """
    runs = [contents(record, truth=truth) for record in records]
    compared = charts.compared(_curves(runs)) if len(runs) > 1 else None
    data = {"colours": COLOURS, "compared": compared, "runs": [run.charts for run in runs]}
    scripts = {"plotly": get_plotlyjs(), "script": (HERE / "script.js").read_text()}
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(
        number=number,
        percent=percent,
        clients=_clients,
        deviations=_deviations,
        chance=_chance,
        meaning=MEANINGS.__getitem__,
    )
    return environment.get_template("page.html").render(
        title=runs[0].label if len(runs) == 1 else f"{len(runs)} runs",
        version=importlib.metadata.version("fempi"),
        truth=truth,
        runs=runs,
        compared=compared,
        policy="; ".join(
            [
                "default-src 'none'",
                "base-uri 'none'",
                "form-action 'none'",
                "img-src data: blob:",
                "style-src 'unsafe-inline'",
                "script-src " + " ".join(f"'sha256-{_digest(text)}'" for text in scripts.values()),
            ]
        ),
        style=Markup((HERE / "style.css").read_text()),
        data=_json(data),
        **{name: Markup(text) for name, text in scripts.items()},
    )


def _curves(runs: Sequence[Contents]) -> list[tuple[str, list[charts.Tests]]]:
    """Return the tests of all runs, those that differ in nothing but the seed under one name."""
    tests = {run.path: run.tests for run in runs}
    return [(label, [tests[path] for path in paths]) for label, paths in by_seed(list(tests))]


def _clients(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, sorted(numbers)))


def _chance(p: float) -> str:
    return f"{p:.1g}" if p >= 1e-15 else "< 1e-15"


def _deviations(above: float) -> str:
    """Write standard deviations, of which nobody wants to know more than that they are many."""
    return f"{above:.1f}" if above < 1000 else "over 1000"


def _json(data: Any) -> Markup:
    """JSON that cannot end the script element it stands in, nor begin another."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def _digest(script: str) -> str:
    """How a content security policy names a script that may run."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
