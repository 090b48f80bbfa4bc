"""A picture of `fempi bench scaling`: speed-up with its prediction, and what the rounds' time goes to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator, PercentFormatter, StrMethodFormatter

from fempi.bench.prediction import Parts, Prediction
from fempi.bench.scaling import MEANINGS, PREDICTED, Measured, Row
from fempi.errors import FempiError
from fempi.forensics.figures.style import COLOURS

RESOLUTION = 150
"""Dots an inch"""
_SPEEDS = (COLOURS[0], "o"), (COLOURS[1], "s")
"""Of strong and weak scaling"""
_PARTS = dict(zip(MEANINGS, ("#56B4E9", "#E69F00", "#009E73", "#CC79A7", "#999999", "#000000"), strict=True))
"""Okabe and Ito's, as in all figures, but none of the above"""


def check(path: Path) -> None:
    """Raise FempiError for a file in a format that cannot be drawn."""
    formats = FigureCanvasBase.get_supported_filetypes()
    if path.suffix[1:] not in formats:
        raise FempiError(f"{path} cannot be drawn; name a file that ends in .{', .'.join(sorted(formats))}")


def save(measured: Measured, path: Path) -> None:
    """Draw what was measured and predicted, in the format that the path's ending names."""
    try:
        draw(measured).savefig(path, dpi=RESOLUTION)
    except OSError as error:
        raise FempiError(f"{path} cannot be written: {error.strerror}") from error


def draw(measured: Measured) -> Figure:
    """Draw speed-up on the left, the shares of a round on the right: strong scaling above, weak scaling below."""
    m, ahead = measured, measured.predicted
    scalings = (
        (f"strong: a cohort of {m.cohort}", m.strong, ahead.strong),
        (
            f"weak: {m.per_rank} client{'s' * (m.per_rank > 1)} a rank",
            m.weak,
            ahead.weak,
        ),
    )
    figure = Figure(figsize=(11, 6), layout="constrained")
    axes_of = figure.subplot_mosaic([["speed", "strong"], ["speed", "weak"]], width_ratios=(1, 1))
    speed, above, below = axes_of["speed"], axes_of["strong"], axes_of["weak"]
    for (colour, marker), (title, rows, predicted) in zip(_SPEEDS, scalings, strict=True):
        _speed_up(speed, rows, predicted, colour, marker, title)
    first = m.strong[0].ranks
    ranks = np.array([first, ahead.strong[-1].ranks])
    speed.plot(ranks, ranks / first, color="0.5", linestyle=":", linewidth=1.2, label="ideal")
    speed.set(
        xscale="log",
        yscale="log",
        xlabel="MPI ranks",
        ylabel=f"speed-up (clients/s, times those of {first} rank{'s' * (first > 1)})",
    )
    for axis in (speed.xaxis, speed.yaxis):
        axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    speed.grid(alpha=0.3)
    speed.legend(
        loc="upper left", fontsize=8, frameon=False, title=f"dashed: {ahead.note}\n({ahead.network})", title_fontsize=8
    )

    for axes, (title, rows, predicted) in zip((above, below), scalings, strict=True):
        _shares(axes, rows, [p for p in predicted if p.ranks in PREDICTED])
        axes.set_title(title, fontsize=10, loc="left")
    below.set_xlabel("MPI ranks (hatched: predicted; *: fewer cores than threads)")
    figure.legend(*above.get_legend_handles_labels(), loc="outside lower center", ncols=6, frameon=False, fontsize=8)
    name = m.name if m.label == m.name else f"{m.name}, {m.label}"
    figure.suptitle(f"{name}: {m.params:,} parameters, {m.threads} thread{'s' * (m.threads > 1)} a rank ({m.device})")
    return figure


def _speed_up(
    axes: Axes, rows: Sequence[Row], predicted: Sequence[Prediction], colour: str, marker: str, label: str
) -> None:
    axes.plot(
        [p.ranks for p in predicted], [p.speed_up for p in predicted], color=colour, linestyle="--", linewidth=1.2
    )
    speeds = np.array([row.speed_up for row in rows])
    slow = [row.speed_up * row.seconds.median / row.seconds.most for row in rows]
    fast = [row.speed_up * row.seconds.median / row.seconds.least for row in rows]
    for row, speed in zip(rows, speeds, strict=True):  # a hollow mark: too few cores
        face = "white" if row.crowded else colour
        axes.plot(row.ranks, speed, marker=marker, color=colour, markerfacecolor=face, linestyle="none", zorder=3)
    axes.errorbar(
        [row.ranks for row in rows],
        speeds,
        yerr=np.abs([speeds - slow, np.array(fast) - speeds]),
        color=colour,
        linewidth=1.2,
        capsize=3,
        label=f"{label} (median, least to most)",
    )


def _shares(axes: Axes, rows: Sequence[Row], predicted: Sequence[Prediction]) -> None:
    places = [*range(len(rows)), *(len(rows) + 0.5 + k for k in range(len(predicted)))]
    labels = [f"{row.ranks}{'*' if row.crowded else ''}" for row in rows] + [f"{p.ranks}" for p in predicted]
    parts: list[Parts] = [row.parts for row in rows] + [p.parts for p in predicted]
    bottom = np.zeros(len(parts))
    for name, meaning in MEANINGS.items():
        heights = np.array([getattr(p, name) / p.total for p in parts])
        bars = axes.bar(
            places, heights, 0.8, bottom, color=_PARTS[name], edgecolor="white", linewidth=0.5, label=meaning
        )
        for bar in bars[len(rows) :]:
            bar.set_hatch("///")
        bottom += heights
    axes.axvline(len(rows) - 0.25, color="0.5", linewidth=1, linestyle=":")
    axes.set(ylabel="share of a round", ylim=(0, 1))
    axes.set_xticks(places, labels)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(PercentFormatter(1))
