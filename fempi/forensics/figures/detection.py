"""How well attackers can be told from others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from sklearn.metrics import auc

from fempi.errors import FempiError
from fempi.forensics.figures.style import COLOURS, HONEST, MALICIOUS
from fempi.forensics.suspicion import curve, examine
from fempi.runfile import RunFile


def roc(record: Path, *, title: str = "") -> Figure:
    """Draw the ROC curve of each score over all rows of a run, with its area."""
    with RunFile(record) as run:
        found, attacking = examine(run), run.read("rounds/attacking")
    if not attacking.any() or attacking.all():
        raise FempiError(f"{record} has no attackers among others, so there is nothing to tell apart")
    figure = Figure(figsize=(5.6, 4.6), layout="constrained")
    axes = figure.add_subplot(
        xlabel="share of other rows accused", ylabel="share of attacking rows found", title=title, aspect="equal"
    )
    for (score, above), colour in zip(found.deviations.items(), COLOURS, strict=False):
        false, true = curve(attacking.ravel(), above.ravel())
        if len(false) > 1:
            axes.plot(false, true, color=colour, linewidth=1.6, label=f"{score} ({auc(false, true):.3f})")
    axes.plot([0, 1], [0, 1], color="0.6", linewidth=1, linestyle=":")
    axes.grid(alpha=0.3)
    axes.legend(title="score (area)", frameon=False, fontsize=8)
    return figure


def norms(record: Path, *, title: str = "") -> Figure:
    """Draw how long the updates of attackers and of others are, but for zeros and what is not finite."""
    with RunFile(record) as run:
        lengths, attacking = run.read("rounds/norm"), run.read("rounds/attacking")
    known = np.isfinite(lengths) & (lengths > 0)
    figure = Figure(figsize=(5.6, 3.4), layout="constrained")
    axes = figure.add_subplot(xlabel="Euclidean norm of the update", ylabel="updates", title=title, xscale="log")
    if known.any():
        least, most = lengths[known].min(), lengths[known].max()
        bins = np.geomspace(least * 0.98, most * 1.02, 41)
        for truth, label, colour in (False, "honest", HONEST), (True, "attacking", MALICIOUS):
            chosen = known & (attacking == truth)
            if chosen.any():
                axes.hist(lengths[chosen], bins=bins.tolist(), color=colour, alpha=0.7, label=label)
        axes.legend(frameon=False)
    axes.grid(alpha=0.3)
    return figure
