"""Where the time went."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from fempi.forensics.figures.style import COLOURS
from fempi.runfile import RunFile
from fempi.schema import PHASES


def timing(records: Sequence[Path], *, title: str = "") -> Figure:
    """Draw the mean seconds of a round by phase, a bar for each record: the mean of its ranks, waiting included."""
    labels, means = [], []
    for path in records:
        with RunFile(path) as run:
            labels.append(run.config["label"])
            seconds = run.read("timing/seconds")
            means.append(np.nanmean(seconds, axis=(0, 1)) if seconds.size else np.zeros(len(PHASES)))
    figure = Figure(figsize=(7, 1.4 + 0.4 * len(labels)), layout="constrained")
    axes = figure.add_subplot(xlabel="seconds a round", title=title)
    left = np.zeros(len(labels))
    places = np.arange(len(labels))[::-1]
    for phase, colour, width in zip(PHASES, COLOURS, np.array(means).T, strict=False):
        axes.barh(places, width, left=left, color=colour, label=phase, height=0.7)
        left = left + width
    axes.set_yticks(places, labels=labels)
    axes.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside lower center", ncols=4, frameon=False)
    return figure
