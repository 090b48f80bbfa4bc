"""Figures of records, as matplotlib draws them; colours are readable for the colour-blind."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator

from fempi.runfile import RunFile

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
                marker=MARKERS[(number + number // len(COLOURS)) % len(MARKERS)],  # 64 curves look different
                markersize=4,
                linewidth=1.5,
            )
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=4, frameon=False)
    return figure


def partition(record: Path, *, title: str = "") -> Figure:
    """Draw how many examples of each class each client holds, and mark the malicious clients."""
    with RunFile(record) as run:
        counts = run.read("clients/label_counts").T
        malicious = np.flatnonzero(run.read("clients/malicious"))
    classes, clients = counts.shape
    figure = Figure(figsize=(9, min(1.8 + 0.25 * classes, 12)), layout="constrained")
    axes = figure.add_subplot(xlabel="client", ylabel="class")
    image = axes.imshow(np.ma.masked_equal(counts, 0), cmap="YlGnBu", vmin=0, aspect="auto", origin="lower")
    figure.colorbar(image, label="examples (white: none)", pad=0.01)
    axes.set_title(title, pad=18 if len(malicious) else None)
    for axis, length in (axes.xaxis, clients), (axes.yaxis, classes):
        axis.set_major_locator(MaxNLocator(20, integer=True))
        axis.set_minor_locator(FixedLocator((np.arange(length + 1) - 0.5).tolist()))
    axes.tick_params(which="minor", length=0)
    axes.grid(which="minor", color="0.9", linewidth=0.5)
    if clients <= 20:
        for (label, client), count in np.ndenumerate(counts):
            if count:
                colour = "white" if count > counts.max() / 2 else "black"
                axes.text(client, label, str(count), ha="center", va="center", fontsize=8, color=colour)
    if len(malicious):
        above = np.full(len(malicious), 1.03)  # a share of the height of the axes
        transform = axes.get_xaxis_transform()
        axes.scatter(
            malicious, above, marker="v", s=30, color=COLOURS[1], label="malicious", transform=transform, clip_on=False
        )
        figure.legend(loc="outside lower center", frameon=False)
    return figure
