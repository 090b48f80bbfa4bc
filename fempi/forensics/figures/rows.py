"""The updates of one round among themselves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from fempi.algebra import Bool, Float64
from fempi.errors import FempiError
from fempi.forensics.figures.style import HONEST, MALICIOUS
from fempi.forensics.geometry import Round, round_at
from fempi.runfile import RunFile


def cosine_map(record: Path, round: int, *, title: str = "") -> Figure:  # noqa: A002 - the field's word
    """Draw the cosine between each two updates of a round, those of attackers last."""
    found, attacking = _read(record, round)
    order = np.argsort(attacking, kind="stable")
    cosines = found.cosines()[np.ix_(order, order)]
    n = len(order)
    figure = Figure(figsize=(6.2, 5.2), layout="constrained")
    axes = figure.add_subplot(title=title or f"round {round}", xlabel="client", ylabel="client")
    image = axes.imshow(np.ma.masked_invalid(cosines), cmap="RdBu_r", vmin=-1, vmax=1)
    figure.colorbar(image, label="cosine (white: not finite)", pad=0.02)
    if n <= 40:
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_ticks(np.arange(n), labels=found.clients[order].tolist(), fontsize=8)
        axes.tick_params(axis="x", rotation=90 if n > 12 else 0)
        for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
            for label, attacks in zip(labels, attacking[order], strict=True):
                label.set_color(MALICIOUS if attacks else "black")
    if 0 < attacking.sum() < n:
        for draw in (axes.axhline, axes.axvline):
            draw(n - attacking.sum() - 0.5, color=MALICIOUS, linewidth=1.5)
    if n <= 14:
        for (i, j), cosine in np.ndenumerate(cosines):
            if np.isfinite(cosine):
                colour = "white" if abs(cosine) > 0.6 else "black"
                axes.text(
                    j, i, f"{cosine:.1f}".replace("-0.0", "0.0"), ha="center", va="center", fontsize=7, color=colour
                )
    return figure


def update_map(record: Path, round: int, *, title: str = "") -> Figure:  # noqa: A002 - the field's word
    """Draw the finite updates of a round in the plane that keeps most of their distances (principal components).

    The star is their geometric median.
    """
    found, attacking = _read(record, round)
    points, shares, centre = principal_components(found)
    figure = Figure(figsize=(5.6, 4.6), layout="constrained")
    axes = figure.add_subplot(
        title=title or f"round {round}",
        xlabel=f"first principal component ({shares[0]:.0%} of the variance)",
        ylabel=f"second ({shares[1]:.0%})",
    )
    for truth, label, colour, marker in (False, "honest", HONEST, "o"), (True, "attacking", MALICIOUS, "X"):
        chosen = found.finite & (attacking == truth)
        if chosen.any():
            axes.scatter(
                points[chosen, 0], points[chosen, 1], color=colour, marker=marker, s=50, label=label, alpha=0.85
            )
    axes.scatter(centre[0], centre[1], marker="*", s=160, color="black", label="geometric median")
    for row in np.flatnonzero(found.finite & attacking):
        client = str(found.clients[row])
        axes.annotate(client, points[row], xytext=(5, 5), textcoords="offset points", fontsize=8, color=MALICIOUS)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    return figure


def principal_components(found: Round) -> tuple[Float64, tuple[float, float], Float64]:
    """Return the rows (n, 2) by two principal components, the shares of these in the variance, and the centre (2,).

    All from inner products: with J = I - 1/n, the eigenvectors of J G J, each times the root of its eigenvalue. Rows
    that are not finite have NaN.
    """
    points = np.full((len(found.clients), 2), np.nan)
    known = found.finite
    gram = found.gram[np.ix_(known, known)]
    m = len(gram)
    if m < 2:
        points[known] = 0
        return points, (0.0, 0.0), np.zeros(2)
    middle = np.eye(m) - 1 / m
    values, vectors = np.linalg.eigh(middle @ gram @ middle)
    values = values[::-1]
    values[values < 1e-12 * np.trace(gram)] = 0  # what rounding leaves of equal rows is no variance
    total = values.sum()
    flat = np.zeros((m, 2))
    flat[:, : min(2, m)] = vectors[:, ::-1][:, :2] * np.sqrt(values[:2])
    points[known] = flat
    first, second = (float(value / total) if total > 0 else 0.0 for value in values[:2])
    return points, (first, second), found.centre[known] @ flat


def _read(record: Path, number: int) -> tuple[Round, Bool]:
    with RunFile(record) as run:
        if not 1 <= number <= run.rounds_completed:
            raise FempiError(f"{record} has rounds 1 to {run.rounds_completed}, not {number}")
        attacking: Bool = run.read("rounds/attacking")[number - 1]
        return round_at(run, number), attacking
