"""How well the model did, round by round."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from fempi.forensics.figures.style import COLOURS, MARKERS
from fempi.runfile import RunFile


def accuracy_curves(records: Sequence[Path], *, title: str = "") -> Figure:
    """Draw test accuracy over rounds, one curve a record."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.add_subplot(xlabel="round", ylabel="test accuracy", ylim=(0, 1), title=title)
    for number, path in enumerate(records):
        with RunFile(path) as record:
            axes.plot(
                record.read("evaluation/round"),
                record.read("evaluation/accuracy"),
                label=record.config["label"],
                color=COLOURS[number % len(COLOURS)],
                marker=MARKERS[(number + number // len(COLOURS)) % len(MARKERS)],  # 64 curves look different
                markersize=4,
                linewidth=1.5,
            )
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=4, frameon=False)
    return figure
