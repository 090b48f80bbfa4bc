"""Whom the rule trusted, round by round."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fempi.algebra import Float64
from fempi.forensics.figures.style import MALICIOUS
from fempi.runfile import RunFile


def trust_timeline(record: Path, *, title: str = "") -> Figure:
    """Draw the trust in each client over the rounds, as its rank in the round; malicious clients lie at the top.

    Ranks run from 0, least trusted, to 1: what rules call trust has no common scale. A cross is a row that was not let
    in. Only clients that took part have a line.
    """
    with RunFile(record) as run:
        clients, selected = run.read("rounds/client"), run.read("rounds/selected")
        ranks, malicious = _ranks(run.read("rounds/trust")), run.read("clients/malicious")
        rule = run.config["aggregator"]["name"]
    present = np.unique(clients)
    order = present[np.argsort(malicious[present], kind="stable")]
    line = np.zeros(len(malicious), int)
    line[order] = np.arange(len(order))
    rounds = len(clients)
    grid = np.full((len(order), rounds), np.nan)
    columns = np.arange(rounds)[:, None]
    grid[line[clients], columns] = ranks

    figure = Figure(figsize=(9, min(2.0 + 0.06 * len(order), 14)), layout="constrained")
    axes = figure.add_subplot(xlabel="round", ylabel="client", title=title)
    shown = (0.5, rounds + 0.5, -0.5, len(order) - 0.5)
    image = axes.imshow(
        np.ma.masked_invalid(grid), cmap="viridis", vmin=0, vmax=1, aspect="auto", origin="lower", extent=shown
    )
    figure.colorbar(image, label=f"trust of {rule}, rank in the round (white: not there)", pad=0.01)
    out = np.argwhere(~selected)
    axes.scatter(out[:, 0] + 1, line[clients[~selected]], marker="x", s=9, linewidths=0.8, color="black")
    axes.xaxis.set_major_locator(MaxNLocator(15, integer=True))
    honest = int((~malicious[order]).sum())
    few = len(order) <= 40
    axes.set_yticks(np.arange(len(order)) if few else [])
    if few:
        axes.set_yticklabels(order.tolist())
    if 0 < honest < len(order):
        axes.axhline(honest - 0.5, color=MALICIOUS, linewidth=1.5)
        where = axes.get_yaxis_transform()
        middle = {"malicious": (honest + len(order) - 1) / 2, "honest": (honest - 1) / 2}
        for word, height in middle.items():
            colour = MALICIOUS if word == "malicious" else "black"
            axes.text(
                -0.04 if few else -0.012,
                height,
                word,
                rotation=90,
                ha="right",
                va="center",
                color=colour,
                transform=where,
            )
        axes.set_ylabel("")
    return figure


def _ranks(trust: Float64) -> Float64:
    """Rank of each row (R, n) in its round, 0 to 1, equal ones in the middle of theirs; 0 for NaN."""
    if trust.shape[1] < 2:
        return np.ones_like(trust)
    scores = np.where(np.isnan(trust), -np.inf, trust)
    below = (scores[:, :, None] > scores[:, None, :]).sum(axis=2)
    same = (scores[:, :, None] == scores[:, None, :]).sum(axis=2) - 1
    ranks: Float64 = (below + same / 2) / (trust.shape[1] - 1)
    return ranks
