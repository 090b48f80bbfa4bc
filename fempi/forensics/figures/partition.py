"""Who holds which examples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator

from fempi.forensics.figures.style import MALICIOUS
from fempi.runfile import RunFile


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
            malicious, above, marker="v", s=30, color=MALICIOUS, label="malicious", transform=transform, clip_on=False
        )
        figure.legend(loc="outside lower center", frameon=False)
    return figure
