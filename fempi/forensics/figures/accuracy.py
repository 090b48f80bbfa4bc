"""How well the model did, round by round."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fempi.algebra import Float64, Int64
from fempi.forensics.figures.style import COLOURS, MARKERS
from fempi.runfile import RunFile


def accuracy_curves(records: Sequence[Path], *, title: str = "") -> Figure:
    """Draw test accuracy over rounds, one curve a record.

    Records that differ in nothing but the seed have one curve together: their mean, and a band from the lowest to the
    highest, as far as all of them got.
    """
    groups = by_seed(records)
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.add_subplot(xlabel="round", ylabel="test accuracy", ylim=(0, 1), title=title)
    for number, (label, paths) in enumerate(groups):
        rounds, accuracies = _read(paths)
        colour = COLOURS[number % len(COLOURS)]
        axes.plot(
            rounds,
            accuracies.mean(axis=0),
            label=label if len(paths) == 1 else f"{label} ({len(paths)} seeds)",
            color=colour,
            marker=MARKERS[(number + number // len(COLOURS)) % len(MARKERS)],  # 64 curves look different
            markersize=4,
            linewidth=1.5,
        )
        if len(paths) > 1:
            axes.fill_between(rounds, accuracies.min(axis=0), accuracies.max(axis=0), color=colour, alpha=0.2)
            axes.set_ylabel("test accuracy (mean; band: all seeds)")
    axes.grid(alpha=0.3)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    longest = max((len(str(line.get_label())) for line in axes.lines), default=0)
    figure.legend(loc="outside lower center", ncols=min(4, max(1, 84 // (longest + 8))), frameon=False)
    return figure


def by_seed(records: Sequence[Path]) -> list[tuple[str, list[Path]]]:
    """Return labels and their records: those that differ in the seed only together, without it in their label.

    Nothing is averaged where a seed occurs twice: that would be one run, counted as two.
    """
    groups: dict[str, dict[Path, tuple[str, int | None]]] = {}
    for path in records:
        with RunFile(path) as record:
            config = record.config
        groups.setdefault(but_for_seed(config), {})[path] = config["label"], config.get("seed")
    found = []
    for key, members in groups.items():
        seeds = [seed for _, seed in members.values()]
        if len(members) > 1 and len(set(seeds)) == len(seeds):
            found.append((json.loads(key)[0], list(members)))
        else:
            found += [(label, [path]) for path, (label, _) in members.items()]
    return found


def but_for_seed(config: Mapping[str, Any]) -> str:
    """Write a run's settings without the seed: equal for those that differ in nothing else."""
    rest = {key: value for key, value in config.items() if key not in ("label", "seed")}
    # A run that was cut short belongs to those that were packed.
    rest["record"] = {key: value for key, value in config.get("record", {}).items() if key != "pack"}
    return json.dumps([without_seed(config["label"]), rest], sort_keys=True)


def without_seed(label: str) -> str:
    """Leave the seed out of a run's label."""
    return "+".join(part for part in label.split("+") if not part.startswith("seed="))


def _read(records: Sequence[Path]) -> tuple[Int64, Float64]:
    """Return the rounds (E,) after which the model of every record was tested, and the accuracies (records, E)."""
    rounds, accuracies = [], []
    for path in records:
        with RunFile(path) as record:
            rounds.append(record.read("evaluation/round"))
            accuracies.append(record.read("evaluation/accuracy"))
    least = min(map(len, rounds))  # the same rounds but for their number, as the configurations are equal
    return rounds[0][:least], np.array([values[:least] for values in accuracies])
