"""What the page's charts show, as plain data; script.js draws it.

Every chart is a mapping that JSON can hold. Numbers have four significant digits, and null for what is not finite.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fempi.algebra import Bool, Float64, Int64
from fempi.forensics.attribution import Attribution
from fempi.forensics.figures.rows import principal_components
from fempi.forensics.geometry import round_at
from fempi.forensics.suspicion import Examination, curve
from fempi.runfile import RunFile

Chart = dict[str, Any]
Tests = tuple[Int64, Float64]
"""Rounds after which a model was tested, and its accuracy"""
MOST_ROWS = 150_000
"""Rows of a timeline; of a longer run every k-th round is shown, or the page would be too heavy to use"""
MOST_MAPS = 100
"""Rounds of a run whose updates are all mapped; of a longer one only the round where the accused weigh most"""
MOST_POINTS = 200
"""Points of a ROC curve"""


def timeline(run: RunFile, suspects: Sequence[int], unusual: Sequence[int], malicious: Bool | None) -> Chart:
    """Return all rows of a run: of clients (those that stand out first) and rounds, with what is known of each row."""
    clients = run.read("rounds/client")
    step = -(-clients.size // MOST_ROWS) or 1
    shown = np.arange(0, len(clients), step)
    out = [*suspects, *unusual]
    order = out + [client for client in np.unique(clients).tolist() if client not in out]
    columns = {name: run.read(f"rounds/{name}")[shown] for name in ("trust", "norm", "weight", "selected", "rank")}
    cosines = np.array([round_at(run, int(place) + 1).cosine for place in shown]).reshape(len(shown), clients.shape[1])
    return {
        "height": 96 + min(1000, max(180, 15 * len(order))),
        "rounds": (shown + 1).tolist(),
        "slots": clients.shape[1],
        "step": step,
        "clients": order,
        "suspects": len(suspects),
        "unusual": len(unusual),
        "malicious": None if malicious is None else [client for client in order if malicious[client]],
        "client": clients[shown].ravel().tolist(),
        **{name: rounded(columns[name]) for name in ("trust", "norm", "weight")},
        "cosine": rounded(cosines),
        "selected": columns["selected"].astype(int).ravel().tolist(),
        "rank": columns["rank"].ravel().tolist(),
        "launches": [
            {"first": int(first), "hosts": [text(host) for host in hosts]}
            for first, hosts in zip(run.read("launches/first_round"), run.read("ranks/host"), strict=True)
        ],
    }


def accuracy(run: RunFile, broken: Int64, *, truth: bool) -> Chart:
    """Return test accuracy over rounds with where it broke down; with the truth, the attacker's own measure besides."""
    tested, values = run.read("evaluation/round"), run.read("evaluation/accuracy")
    lines: list[Chart] = [{"name": "accuracy", "y": rounded(values)}]
    if len(broken):
        there = {"x": broken.tolist(), "y": rounded(values[np.searchsorted(tested, broken)])}
        lines.append({"name": "lost half its lead over chance", **there, "points": True})
    success = run.read("evaluation/attack_success")
    if truth and np.isfinite(success).any():
        lines.append({"name": "attack success", "y": rounded(success), "dash": "dash"})
    return lines_over_rounds(tested, lines, "share of the test set", whole=True)


def shares(found: Attribution) -> Chart:
    """Return the accused clients' share of each aggregate."""
    lines = [{"name": "by norm", "y": rounded(found.norm_share)}]
    if np.isfinite(found.direction_share).any():
        lines.append({"name": "by direction", "y": rounded(found.direction_share), "dash": "dash"})
    return lines_over_rounds(np.arange(1, len(found.norm_share) + 1), lines, "share of the aggregate")


def lines_over_rounds(rounds: Int64, lines: list[Chart], title: str, *, whole: bool = False) -> Chart:
    """Return lines with one x in common; `whole`: from 0 to 1."""
    return {
        "height": 340,
        "lines": [{"x": rounds.tolist(), **line} for line in lines],
        "x": "round",
        "y": title,
        "whole": whole,
        "markers": len(rounds) <= 60,
    }


def bars(names: Sequence[str], values: Float64, x: str) -> Chart:
    """Return a bar for each name."""
    return {
        "height": 340,
        "names": list(names),
        "values": rounded(values),
        "x": x,
        "y": "distance, in spreads",
    }


def roc(found: Examination, attacking: Bool) -> Chart | None:
    """Return the ROC curve of each score over all rows, with its area; None without attackers among others."""
    if attacking.all() or not attacking.any():
        return None
    lines: list[Chart] = []
    for score, above in found.deviations.items():
        false, true = curve(attacking.ravel(), above.ravel())
        if len(false) < 2:
            continue
        area = float(np.trapezoid(true, false))
        kept = np.unique(np.linspace(0, len(false) - 1, MOST_POINTS).astype(int))
        lines.append({"name": f"{score} ({area:.3f})", "x": rounded(false[kept]), "y": rounded(true[kept])})
    lines.append({"name": "chance", "x": [0, 1], "y": [0, 1], "dash": "dot", "quiet": True})
    return {
        "height": 420,
        "lines": lines,
        "x": "share of other rows accused",
        "y": "share of attacking rows found",
        "whole": True,
        "square": True,
        "markers": False,
    }


def maps(run: RunFile, suspects: Sequence[int], attacking: Bool | None, worst: int) -> Chart:
    """Return the updates of each round in the plane that keeps most of their distances; `worst` is shown first."""
    last = run.rounds_completed
    numbers = range(1, last + 1) if last <= MOST_MAPS else [worst]
    rounds = []
    for number in numbers:
        one = round_at(run, number)
        points, variance, centre = principal_components(one)
        rounds.append(
            {
                "round": number,
                "client": one.clients.tolist(),
                "x": rounded(points[:, 0]),
                "y": rounded(points[:, 1]),
                "suspect": np.isin(one.clients, suspects).astype(int).tolist(),
                "attacking": None if attacking is None else attacking[number - 1].astype(int).tolist(),
                "variance": rounded(np.array(variance)),
                "centre": rounded(centre),
                "not_finite": int((~one.finite).sum()),
            }
        )
    return {"height": 420, "rounds": rounds, "start": list(numbers).index(worst)}


def worst_round(found: Attribution, here: Int64) -> int:
    """Return the round in which the accused weigh most; where they never do, in which most of them were `here` (R,)."""
    share = np.nan_to_num(found.norm_share)
    return int(np.argmax(share if share.max(initial=0) > 0 else here)) + 1


def compared(curves: Sequence[tuple[str, Sequence[Tests]]]) -> Chart | None:
    """Return the accuracy of several runs: of each name one curve, the mean of its runs, between least and most.

    The mean is over the runs that tested in that round. None if no run was tested twice.
    """
    if all(len(tested) < 2 for _, runs in curves for tested, _ in runs):
        return None
    lines = []
    for name, runs in curves:
        rounds = np.unique(np.concatenate([tested for tested, _ in runs]))
        table = np.full((len(runs), len(rounds)), np.nan)
        for row, (tested, values) in zip(table, runs, strict=True):
            row[np.searchsorted(rounds, tested)] = values
        known = np.isfinite(table).any(axis=0)
        table, rounds = table[:, known], rounds[known]
        line: Chart = {"name": name, "x": rounds.tolist(), "y": rounded(np.nanmean(table, axis=0))}
        if len(runs) > 1:
            line["name"] += f" ({len(runs)} seeds)"
            line |= {"low": rounded(np.nanmin(table, axis=0)), "high": rounded(np.nanmax(table, axis=0))}
        lines.append(line)
    long = any(len(line["x"]) > 60 for line in lines)
    return {
        "height": 380 + 12 * min(len(lines), 24),
        "lines": lines,
        "x": "round",
        "y": "test accuracy",
        "whole": True,
        "markers": not long,
        "each": True,
    }


def rounded(values: np.ndarray) -> list[float | None]:
    """Return all values in one list, with four significant digits; None for what is not finite."""
    return [float(f"{v:.4g}") if np.isfinite(v) else None for v in np.asarray(values, float).ravel().tolist()]


def text(value: Any) -> str:
    """Return a string of a record, whose file may hold any bytes."""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
