"""How right forensics is: what it says of many runs without the truth, held against the truth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from fempi.forensics.fingerprint import Fingerprint
from fempi.forensics.geometry import SCORES
from fempi.forensics.investigation import investigate
from fempi.forensics.suspicion import separation
from fempi.runfile import RunFile

NOTHING = "nothing"
_KINDS = {"min_max": "alie", "min_sum": "alie", "nan": "not finite", "inf": "not finite", "none": NOTHING}
"""What an attack's updates look like, where that has another name"""


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """What was said of one run."""

    label: str
    """of the arm: what the run's label says besides partition and seed"""
    partition: str
    attack: Mapping[str, Any]
    """the truth: [attack] of the configuration"""
    auc: Mapping[str, tuple[float, float]]
    """by score: area under the ROC curve of rows, and of clients by all their rows"""
    malicious: int
    """who took part"""
    honest: int
    named: int
    """malicious clients accused"""
    wronged: int
    """honest clients accused"""
    unusual: int
    """honest clients who stand out, but may only have unusual data"""
    told: Fingerprint
    """what most of the accused did, or nothing"""

    @property
    def right(self) -> bool:
        """Whether the kind of attack is what it was."""
        name = str(self.attack["name"])
        return self.told.kind == _KINDS.get(name, name.replace("_", " "))


def evaluate(record: Path) -> Evaluated:
    """Hold what a record tells without the truth against the truth."""
    with RunFile(record) as run:
        found = investigate(run)
        malicious, attacking = run.read("clients/malicious"), run.read("rounds/attacking")
        took_part = np.isin(np.arange(len(malicious)), run.read("rounds/client"))
        auc = {}
        for score in SCORES:
            separated = separation(found.examination, score, attacking, malicious)
            auc[score] = separated.auc, separated.auc_accumulated
        accused, unusual = found.accused, found.unusual
        return Evaluated(
            label=run.config["label"].partition("+")[0],
            partition=run.config["data"]["partition"],
            attack=run.config["attack"],
            auc=auc,
            malicious=int(malicious[took_part].sum()),
            honest=int((~malicious[took_part]).sum()),
            named=int(malicious[accused].sum()),
            wronged=int((~malicious[accused]).sum()),
            unusual=int((~malicious[unusual]).sum()),
            told=found.fingerprint or Fingerprint(kind=NOTHING),
        )


def tables(runs: Sequence[Evaluated]) -> str:
    """Return three tables in Markdown: detection, naming with parameters, and kinds told for kinds there were."""
    return "\n\n".join(
        f"## {title}\n\n" + "\n".join(_table(headings, rows))
        for title, headings, rows in (
            ("Detection: area under the ROC curve, of single rows → of clients by all their rows", *_detection(runs)),
            ("Naming, without the truth", *_naming(runs)),
            ("What was told (columns) of what it was (rows), in runs", *_confusion(runs)),
        )
    )


def _detection(runs: Sequence[Evaluated]) -> tuple[list[str], list[list[str]]]:
    rows = []
    for (label, partition), group in _grouped(runs, "label", "partition"):
        cells = []
        for score in SCORES:
            each = np.array([run.auc[score] for run in group])
            known = ~np.isnan(each).any()
            cells.append(" → ".join(f"{value:.2f}" for value in each.mean(axis=0)) if known else "")
        if any(cells):
            rows.append([label, partition, *cells])
    return ["attack", "partition", *SCORES], rows


def _naming(runs: Sequence[Evaluated]) -> tuple[list[str], list[list[str]]]:
    headings = ["attack", "partition", "runs", "malicious accused", "honest accused", "honest, unusual", "kind right"]
    rows = []
    for (label, partition), group in _grouped(runs, "label", "partition"):
        sums = {
            name: sum(getattr(run, name) for run in group) for name in Evaluated.__dataclass_fields__ if name in _SUMS
        }
        rows.append(
            [
                label,
                partition,
                str(len(group)),
                f"{sums['named']} of {sums['malicious']}" if sums["malicious"] else "",
                f"{sums['wronged']} of {sums['honest']}",
                str(sums["unusual"]),
                f"{sum(run.right for run in group)} of {len(group)}",
                "; ".join(_parameters(group)),
            ]
        )
    return [*headings, "parameters: told (true)"], rows


_SUMS = ("malicious", "honest", "named", "wronged", "unusual")


def _parameters(group: Sequence[Evaluated]) -> Iterator[str]:
    """What was told in the runs whose kind was right, in order, and the truth."""
    right = [run for run in group if run.right]
    for name in right[0].told.parameters if right else ():
        told = ", ".join(f"{run.told.parameters[name]:.3g}" for run in right)
        truth = _truth(right[0].attack, name)
        yield f"{name} {told} ({truth})" if truth else f"{name} {told}"


def _truth(attack: Mapping[str, Any], name: str) -> str:
    """An attack's own hyper-parameter; empty if it has none of that name, or does not use it."""
    if attack.get("mode", "targeted") == "invert":
        return "the last class - source" if name == "target" else ""
    return f"{attack[name]:g}" if name in attack else ""


def _confusion(runs: Sequence[Evaluated]) -> tuple[list[str], list[list[str]]]:
    told = [kind for kind, _ in Counter(run.told.kind for run in runs).most_common()]
    rows = []
    for (label,), group in _grouped(runs, "label"):
        counts = Counter(run.told.kind for run in group)
        rows.append([label, *(str(counts[kind] or "") for kind in told)])
    return ["", *told], rows


def _grouped(runs: Sequence[Evaluated], *names: str) -> Iterator[tuple[tuple[str, ...], list[Evaluated]]]:
    def key(run: Evaluated) -> tuple[str, ...]:
        return tuple(str(getattr(run, name)) for name in names)

    order = {label: place for place, label in enumerate(dict.fromkeys(run.label for run in runs))}
    for values, group in groupby(sorted(runs, key=lambda run: (order[run.label], key(run))), key):
        yield values, list(group)


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(headings)} |"
    yield "|" + "---|" * len(headings)
    for row in rows:
        yield f"| {' | '.join(row)} |"
