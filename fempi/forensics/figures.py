"""Figures of records, as matplotlib draws them; colours are readable for the colour-blind."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from fempi.store import RunFile

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
"""Okabe and Ito's palette"""
MARKERS = "os^Dv<>P"


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
                marker=MARKERS[number % len(MARKERS)],
                markersize=4,
                linewidth=1.5,
            )
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=4, frameon=False)
    return figure
