"""The papers' figures, and one of what they leave out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from dual_system import CURVE, PUBLISHED
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from runs import METRICS, SHOWN, Runs
from trust_and_krum import FLIPPED, GROWN, NOISY, SHRUNK

from fempi.forensics.figures.style import COLOURS, MARKERS

STEEPEST = 20
"""Exponent of a scale of colours, at which 0.90 and 0.94 are still in it"""
LEGIBLE = 0.03
"""Of a colour bar's length, between two of its ticks"""
ASIDE = 0.004
"""Of the intensity, from one defence to the next: several would hide each other"""
IOMT = {"fedavg-clean": "clean FedAvg", "fedavg-attacked": "FedAvg", "fltrust": "FLTrust", "dual": "Dual"}
DEFENCES = {  # without dp-budget, beside which all others would lie in one line
    "baseline": "Baseline",
    "krum": "Krum",
    "dp": "DP, unclipped",
    "hybrid": "Hybrid, unclipped",
    "dp-clipped": "DP, clipped",
    "hybrid-clipped": "Hybrid, clipped",
}
ATTACKS = {
    "label flipping": (FLIPPED, "share p of labels"),
    "updates x 0.1 to 0.3": (SHRUNK, "factor alpha"),
    "updates x 1.1 to 1.3": (GROWN, "factor alpha"),
    "updates plus noise": (NOISY, "standard deviation"),
}
"""The other paper's, in all readings: what runs are labelled, and what their intensity is"""


def curves(own: Mapping[str, Runs], small: Mapping[str, Runs]) -> Figure:
    """Draw the Dual-System paper's curve for both models and both readings of the attack, beside its own points."""
    figure = Figure(figsize=(9, 7), layout="constrained")
    panels = figure.subplots(2, 2, sharex=True, sharey=True)
    for row, (model, kind) in zip(panels, (("the CNN", own), ("the small CNN", small)), strict=True):
        for axes, (reading, suffix) in zip(row, (("update", ""), ("weights", "-weights")), strict=True):
            axes.set_title(f"{model}, {reading} flipped", fontsize=10)
            for number, (arm, name) in enumerate(IOMT.items()):
                runs = kind.get(arm if arm == "fedavg-clean" else arm + suffix)
                colour, marker = COLOURS[number], MARKERS[number]
                axes.plot(CURVE, PUBLISHED[arm], marker, color=colour, markerfacecolor="none", markersize=7)
                if runs is not None:
                    _band(axes, runs.tested, runs.curve, name, colour, marker)
            axes.grid(alpha=0.3)
    for axes in panels[1]:
        axes.set_xlabel("round")
    for axes in panels[:, 0]:
        axes.set_ylabel("test accuracy")
    panels[0, 0].set_ylim(0, 1)
    _legend(figure, IOMT.values())
    figure.suptitle("Filled: here (line: mean, band: all seeds). Hollow: the paper's numbers.", fontsize=10)
    return figure


def _legend(figure: Figure, names: Iterable[str]) -> None:
    """Name, in this order, what any panel has."""
    drawn: dict[str, Artist] = {}
    for axes in figure.axes:
        handles, there = axes.get_legend_handles_labels()
        drawn |= dict(zip(there, handles, strict=True))
    named = [name for name in names if name in drawn]
    figure.legend([drawn[name] for name in named], named, loc="outside lower center", ncols=4, frameon=False)


def _band(
    axes: Axes, rounds: Sequence[int] | np.ndarray, values: np.ndarray, name: str, colour: str, marker: str
) -> None:
    axes.plot(rounds, values.mean(axis=0), label=name, color=colour, marker=marker, markersize=4, linewidth=1.5)
    if len(values) > 1:
        axes.fill_between(rounds, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.2)


def intensities(found: Mapping[str, Runs]) -> Figure:
    """Draw the other paper's figures 4.1 to 4.4: each metric over the intensity, a line for each defence."""
    figure = Figure(figsize=(11, 10), layout="constrained")
    panels = figure.subplots(len(METRICS), len(ATTACKS), sharey="col", sharex="col")
    for row, metric in zip(panels, METRICS, strict=True):
        for axes, (title, (labels, unit)) in zip(row, ATTACKS.items(), strict=True):
            for number, (arm, name) in enumerate(DEFENCES.items()):
                runs = [found.get(f"{arm}+attack={label}") for label in labels]
                points = [
                    (float(label.rpartition("_")[2]), each) for label, each in zip(labels, runs, strict=True) if each
                ]
                if points:
                    values = np.array([each.last(metric).mean() for _, each in points])
                    lowest = np.array([each.last(metric).min() for _, each in points])
                    highest = np.array([each.last(metric).max() for _, each in points])
                    aside = ASIDE * (number - (len(DEFENCES) - 1) / 2)
                    axes.errorbar(
                        [intensity + aside for intensity, _ in points],
                        values,
                        yerr=[values - lowest, highest - values],
                        label=name,
                        color=COLOURS[number],
                        marker=MARKERS[number],
                        markersize=5,
                        capsize=3,
                        linewidth=1.3,
                        linestyle="--" if arm.endswith("clipped") else "-",
                    )
            axes.grid(alpha=0.3)
            if metric == METRICS[0]:
                axes.set_title(title, fontsize=10)
            if metric == METRICS[-1]:
                axes.set_xlabel(unit)
        row[0].set_ylabel(SHOWN[metric])
    _legend(figure, DEFENCES.values())
    figure.suptitle(
        "Mean of all seeds, with the lowest and the highest, at three intensities. Each column has its own scale.",
        fontsize=10,
    )
    return figure


def heat_map(
    rows: Sequence[str], columns: Sequence[tuple[str, str]], accuracy: np.ndarray, drop: np.ndarray, what: str
) -> Figure:
    """Draw accuracies (rules, columns), called so, and how far each is below the same rule's without attack.

    A column is an attack and the share of malicious clients that it is at; columns of one share stand together. Colours
    are spread out where most of the accuracies are, so that rules can be told apart there.
    """
    figure = Figure(figsize=(0.68 * len(columns) + 2.6, 0.46 * len(rows) + 1.8), layout="constrained")
    axes = figure.add_subplot()
    known = accuracy[np.isfinite(accuracy)]
    best = float(known.max())
    middle = max(np.median(known) / best, 0.1)
    steep = middle > 0.5 ** (1 / STEEPEST)
    norm = PowerNorm(gamma=STEEPEST if steep else np.log(0.5) / np.log(middle), vmin=0, vmax=best)
    image = axes.imshow(accuracy, cmap="viridis", norm=norm, aspect="auto")
    axes.set_xticks(np.arange(len(columns)), [attack for attack, _ in columns], rotation=55, ha="right", fontsize=8)
    axes.set_yticks(np.arange(len(rows)), rows, fontsize=8)
    axes.set_xlabel("attack")
    axes.set_ylabel("rule")
    for (i, j), value in np.ndenumerate(accuracy):
        if np.isfinite(value):
            change = "" if np.isnan(drop[i, j]) else f"\n{-drop[i, j]:+.2f}".replace("-0.00", "0").replace("+0.00", "0")
            colour = "black" if norm(value) > 0.6 else "white"
            axes.text(j, i, f"{value:.2f}{change}", ha="center", va="center", fontsize=7, color=colour)
    shares = [share for _, share in columns]
    for share in dict.fromkeys(shares):
        first, count = shares.index(share), shares.count(share)
        axes.text(first + (count - 1) / 2, -0.8, share, ha="center", va="bottom", fontsize=9)
        if first:
            axes.axvline(first - 0.5, color="white", linewidth=3)
    bar = figure.colorbar(image, label=f"{what}; below it in a cell, the change against none", pad=0.01)
    ticks = np.array([0, 0.2, 0.4, 0.6, 0.8, 0.85, 0.9, 0.92, 0.94, 0.96, 0.98, 1])
    ticks = ticks[ticks <= best]
    places = np.asarray(norm(ticks))
    apart = [place for place in range(len(ticks)) if place == 0 or places[place] - places[place - 1] > LEGIBLE]
    bar.set_ticks([float(tick) for tick in ticks[apart]], labels=[f"{tick:g}" for tick in ticks[apart]])
    return figure
