"""A run in one line: how well the model does, what the rule let in, how long it took."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from fempi.runfile import RunFile
from fempi.schema import PHASES


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The figures of one record; NaN where there is nothing to average."""

    label: str
    path: Path
    rounds_completed: int
    accuracy: float
    """at the last evaluation"""
    recent_accuracy: float
    """mean of the last five evaluations"""
    precision: float
    recall: float
    f1: float
    malicious_selected: float
    """share of the rows that attacked which the rule let in"""
    honest_excluded: float
    """share of the other rows which the rule excluded"""
    trust_auc: float
    """probability that trust ranks an attacking row below another one, mean over the rounds"""
    attack_success: float
    """the attacker's own measure, at the last evaluation"""
    epsilon: float
    """privacy spent; NaN where nothing bounds it"""
    trust_malicious: float
    trust_honest: float
    seconds: float
    """wall time from the first round to the last; of a run that did not end, what its rounds took"""
    clients_per_second: float
    non_training: float
    """share of all ranks' time in rounds that was not spent training"""


def summarize(path: Path) -> Summary:
    """Compute the figures of a record."""
    with RunFile(path) as record:
        metrics = {name: record.read(f"evaluation/{name}") for name in ("accuracy", "precision", "recall", "f1")}
        attacking = record.read("rounds/attacking")
        epsilon = record.read("rounds/epsilon")
        selected = record.read("rounds/selected")
        trust = record.read("rounds/trust")
        seconds = record.read("timing/seconds")
        wall = float(record.attributes.get("wall_seconds", seconds[:, 0].sum()))
        return Summary(
            label=record.config["label"],
            path=path,
            rounds_completed=record.rounds_completed,
            **{name: _mean(values[-1:]) for name, values in metrics.items()},
            recent_accuracy=_mean(metrics["accuracy"][-5:]),
            malicious_selected=_mean(selected[attacking]),
            honest_excluded=_mean(~selected[~attacking]),
            trust_auc=_mean(record.read("rounds/trust_auc")),
            attack_success=_mean(record.read("evaluation/attack_success")[-1:]),
            epsilon=_mean(epsilon[-1:]),
            trust_malicious=_mean(trust[attacking]),
            trust_honest=_mean(trust[~attacking]),
            seconds=wall,
            clients_per_second=attacking.size / wall if wall else np.nan,
            # NaN for ranks that other launches had
            non_training=1 - float(np.nansum(seconds[..., PHASES.index("train")]) / np.nansum(seconds))
            if wall
            else np.nan,
        )


_QUALITY: Mapping[str, Callable[[Summary], str]] = {
    "accuracy": lambda s: number(s.accuracy),
    "last 5": lambda s: number(s.recent_accuracy),
    "precision": lambda s: number(s.precision),
    "recall": lambda s: number(s.recall),
    "F1": lambda s: number(s.f1),
}
_DEFENCE: Mapping[str, Callable[[Summary], str]] = {
    "malicious\nselected": lambda s: percent(s.malicious_selected),
    "honest\nexcluded": lambda s: percent(s.honest_excluded),
    "AUC of\ntrust": lambda s: number(s.trust_auc, ".3f"),
    "attack\nsuccess": lambda s: percent(s.attack_success),
    "epsilon\nspent": lambda s: number(s.epsilon, ".3g"),
    "trust of\nmalicious": lambda s: number(s.trust_malicious, ".3g"),
    "trust of\nhonest": lambda s: number(s.trust_honest, ".3g"),
}
_COST: Mapping[str, Callable[[Summary], str]] = {
    "time": lambda s: duration(s.seconds),
    "clients/s": lambda s: number(s.clients_per_second, ".3g"),
    "not\ntraining": lambda s: percent(s.non_training),
    "file": lambda s: s.path.name,
}
_ABSENT = "-"


def tables(summaries: Sequence[Summary], width: int) -> list[Table]:
    """Lay out runs as the rows of a table, or of two or three where the terminal is narrow.

    What no run has, such as the success of an attack without a target, gets no column.
    """
    groups: list[Mapping[str, Callable[[Summary], str]]] = [_QUALITY]
    for more in (_DEFENCE, _COST):
        if _width(_table(summaries, {**groups[-1], **more})) <= width:
            groups[-1] = {**groups[-1], **more}
        else:
            groups.append(more)
    return [_table(summaries, columns) for columns in groups]


def _width(table: Table) -> int:
    """Columns of a terminal that the table takes if it need not fold anything."""
    unlimited = Console(width=10_000)
    return Measurement.get(unlimited, unlimited.options, table).maximum


def _table(summaries: Sequence[Summary], columns: Mapping[str, Callable[[Summary], str]]) -> Table:
    out = Table(header_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    out.add_column("run", overflow="fold")
    columns = {
        heading: show for heading, show in columns.items() if any(show(summary) != _ABSENT for summary in summaries)
    }
    for heading in columns:
        if heading == "file":
            out.add_column(heading, overflow="fold")
        else:
            out.add_column(heading, justify="right", no_wrap=True)
    for summary in summaries:
        out.add_row(summary.label, *(show(summary) for show in columns.values()))
    return out


def duration(seconds: float) -> str:
    """Minutes and seconds, with hours where there are any."""
    if not np.isfinite(seconds):
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _mean(values: np.ndarray) -> float:
    values = np.asarray(values, float)
    values = values[np.isfinite(values)]
    return float(values.mean()) if len(values) else np.nan


def number(value: float, form: str = ".4f") -> str:
    """Write a number, or a dash if there is none."""
    return format(value, form) if np.isfinite(value) else _ABSENT


def percent(value: float) -> str:
    """Write a share as a percentage, or a dash if there is none."""
    return f"{100 * value:.1f} %" if np.isfinite(value) else _ABSENT
