"""What the page says of one run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fempi import registry
from fempi.algebra import Bool
from fempi.check import blaming
from fempi.errors import FempiError
from fempi.forensics import replay
from fempi.forensics.attribution import Attribution, attribute
from fempi.forensics.investigation import Investigation, investigate
from fempi.forensics.report import charts
from fempi.runfile import RunFile
from fempi.summary import Summary, duration, number, summarize

MOST_NUMBERS = 2e9
"""In the updates of a run that is replayed with rules that read them all: half a minute or so for each of these"""


@dataclass(frozen=True, kw_only=True)
class Contents:
    """All that the page says of a run."""

    label: str
    path: Path
    rounds: int
    """committed"""
    summary: Summary
    facts: Mapping[str, str]
    config: str
    """the complete configuration as TOML"""
    investigation: Investigation
    kept: str
    """which updates: full, float16, sketch or none"""
    accused: str
    """whose share, attribution and weight in replays are shown, in words"""
    malicious: Bool | None
    """(C,) the truth, if it is to be told"""
    attribution: Attribution
    replays: Sequence[replay.Summary]
    refused: Sequence[str]
    """why rules are missing among the replays"""
    tests: charts.Tests
    charts: Mapping[str, charts.Chart]

    @property
    def suspects(self) -> list[int]:
        """Clients that seem to attack, the most certain first."""
        return self.investigation.accused

    @property
    def unusual(self) -> list[int]:
        """Clients that stand out, perhaps only by unusual data."""
        return self.investigation.unusual

    @property
    def found(self) -> int:
        """Malicious clients among those that seem to attack."""
        return sum(bool(self.malicious[client]) for client in self.suspects) if self.malicious is not None else 0


def contents(path: Path, *, truth: bool) -> Contents:
    """Investigate a record. Without `truth`, nothing is used but what a server saw."""
    with RunFile(path) as run, blaming(path):
        summary = summarize(path)
        found = investigate(run)
        malicious: Bool | None = run.read("clients/malicious") if truth else None
        attacking = run.read("rounds/attacking") if truth else None
        accused = np.isin(np.arange(run.layout.size("client")), found.accused) if malicious is None else malicious
        attribution = attribute(run, accused)
        replays, refused = _replays(run, None if truth else accused)
        return Contents(
            label=run.config["label"],
            path=path,
            rounds=run.rounds_completed,
            summary=summary,
            facts=_facts(run, summary, truth=truth),
            config=str(run.attributes["config"]),
            investigation=found,
            kept=run.layout.updates,
            accused="malicious clients" if truth else "suspects",
            malicious=malicious,
            attribution=attribution,
            replays=replays,
            refused=refused,
            charts=_charts(run, found, accused, malicious, attacking, attribution),
            tests=(run.read("evaluation/round"), run.read("evaluation/accuracy")),
        )


def _charts(
    run: RunFile,
    found: Investigation,
    accused: Bool,
    malicious: Bool | None,
    attacking: Bool | None,
    attribution: Attribution,
) -> dict[str, charts.Chart]:
    """Return the charts that have something to show."""
    out: dict[str, charts.Chart | None] = {}
    if run.evaluations_completed > 1:
        out["accuracy"] = charts.accuracy(run, attribution.broken, truth=malicious is not None)
    if run.rounds_completed:
        out["timeline"] = charts.timeline(run, found.accused, found.unusual, malicious)
        here = accused[run.read("rounds/client")].sum(axis=1)
        out["maps"] = charts.maps(run, found.accused, attacking, charts.worst_round(attribution, here))
        if accused.any():
            out["shares"] = charts.shares(attribution)
    if np.isfinite(attribution.layers).any():
        out["layers"] = charts.bars(attribution.layer_names, attribution.layers, "layer")
    if np.isfinite(attribution.classes).any():
        names = [str(label) for label in range(len(attribution.classes))]
        out["classes"] = charts.bars(names, attribution.classes, "class")
    if attacking is not None:
        out["roc"] = charts.roc(found.examination, attacking)
    return {name: chart for name, chart in out.items() if chart is not None}


def _replays(run: RunFile, accused: Bool | None) -> tuple[list[replay.Summary], list[str]]:
    """Decide again with every rule that is to be waited for."""
    if accused is not None and not accused.any():
        return [], []
    try:
        sections = replay.every_rule(run)
    except FempiError as error:  # a rule of the record's own plugin files, which are not run here
        return [], [f"{error}; `fempi replay --allow-plugins` runs the plugin code that a record holds"]
    heavy = [section for section in sections if "columns" in registry.find("aggregator", section.name).needs]
    if run.rounds_completed * run.layout.size("slot") * run.layout.size("param") <= MOST_NUMBERS * run.layout.every:
        heavy = []
    summaries, refused = replay.ranking(run, [section for section in sections if section not in heavy], accused)
    reasons = [f"{replay.describe(each)} reads every update, too many for a page; ask `fempi replay`" for each in heavy]
    return summaries, [*refused.values(), *reasons]


def _facts(run: RunFile, summary: Summary, *, truth: bool) -> dict[str, str]:
    """What a run was, in the order in which it is read."""
    config, attributes = run.config, run.attributes
    data, rule, train = config["data"], config["aggregator"], config["train"]
    facts = {
        "experiment": config["name"],
        "record": run.path.name,
        "status": f"{run.status}, {run.rounds_completed} of {run.rounds} rounds",
        "final accuracy": number(summary.accuracy),
        **({"attack success": number(summary.attack_success)} if truth else {}),
        "data": _named(data["dataset"], data, ("dataset", "clients", "partition", "root_examples")),
        "partition": data["partition"],
        "model": f"{_named(config['model']['name'], config['model'], ('name',))}, {_model_size(run)}",
        "clients": f"{data['clients']}, {train['cohort']} a round",
        "training": _named("", train, ("cohort",)),
        "aggregator": " > ".join(
            [*(_named(p["name"], p, ("name",)) for p in rule["pre"]), _named(rule["name"], rule, _GIVEN)]
        ),
        "declared num_byzantine": str(rule["num_byzantine"]),
        "kept updates": config["record"]["updates"],
        "ranks": _ranks(run),
        "began": str(attributes["created"]),
        "time": duration(summary.seconds),
        "seed": str(config["seed"]),
        "git commit": str(attributes["git_commit"]),
        "software": charts.text(run.read("launches/software")[-1]),
        "MPI": str(attributes["mpi_library"]),
        "config hash": str(attributes["config_hash"]),
    }
    return {name: value for name, value in facts.items() if value not in ("", "-")}


_GIVEN = ("name", "pre", "num_byzantine", "layout")
"""What [aggregator] has for every rule"""


def _named(name: str, table: Mapping[str, Any], known: Sequence[str]) -> str:
    """Name a plugin with its own hyper-parameters."""
    own = ", ".join(f"{key} {_word(value)}" for key, value in table.items() if key not in known)
    return f"{name} ({own})" if name and own else name or own


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _model_size(run: RunFile) -> str:
    return f"{run.layout.size('param'):,} parameters".replace(",", " ")


def _ranks(run: RunFile) -> str:
    """How many ranks, on which hosts; of the last start of the program."""
    launches = run.read("launches/ranks").tolist()
    hosts = [charts.text(host) for host in run.read("ranks/host")[-1][: launches[-1]]]
    devices = [charts.text(device) for device in run.read("ranks/device")[-1][: launches[-1]]]
    starts = "" if len(launches) == 1 else f"; {len(launches)} starts, with {', '.join(map(str, launches))} ranks"
    return f"{launches[-1]} on {', '.join(dict.fromkeys(hosts))} ({', '.join(dict.fromkeys(devices))}){starts}"
