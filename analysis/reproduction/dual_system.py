"""The Dual-System paper's claims, beside what came of them here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle

import numpy as np
from claims import Claim, agrees, sentences, tolerated, verdict
from runs import Runs, spread

from fempi.algebra import Float64

MODELS = {"CNN": "the CNN", "small": "the small model"}
"""By what they are called in the tables; the first, which is built as the paper says, decides where it was run"""
CURVE = (20, 40, 60, 80, 100)
PUBLISHED: Mapping[str, Sequence[float]] = {
    "fedavg-clean": (0.6267, 0.8022, 0.8607, 0.8343, 0.8980),
    "fedavg-attacked": (0.1945, 0.3078, 0.2882, 0.1135, 0.1010),
    "fltrust": (0.2853, 0.5981, 0.5001, 0.7923, 0.7169),
    "dual": (0.4468, 0.6424, 0.8284, 0.8433, 0.8958),
}
"""Accuracy after the rounds of CURVE"""
NAMES = {"fedavg-clean": "clean FedAvg", "fedavg-attacked": "FedAvg under attack", "fltrust": "FLTrust", "dual": "Dual"}
CHANCE = 0.115
"""Accuracy up to which a model gives the same answer to all images: 1,135 of 10,000 test images show a one"""
CLOSE = 0.02
"""How far below another accuracy "nearly equal" reaches, and what is less than "far" from it"""


@dataclass(frozen=True, kw_only=True)
class Tables:
    """The paper's runs: with a CNN as it describes, one seed, and with the small one."""

    table1: Mapping[str, Runs]
    table1_small: Mapping[str, Runs]
    table2: Mapping[str, Runs]
    table2_small: Mapping[str, Runs]


Pair = tuple[Mapping[str, Runs], Mapping[str, Runs]]
"""Runs with the CNN and with the small model"""


def judge(found: Tables) -> list[Claim]:
    """Judge all claims of the paper."""
    one, two = (found.table1, found.table1_small), (found.table2, found.table2_small)
    open_ = "The text leaves open the widths of layers, the split of the data, the initialisation and the dropout rate."
    flipped = "A flipped update points away from the reference, so that FLTrust gives it no weight and loses little."
    return [
        _number("clean FedAvg after 100 rounds (table 2)", 0.8980, 100, ["fedavg-clean"], two, open_),
        _number("FedAvg under attack after 100 rounds (table 2)", 0.1010, 100, _both("fedavg-attacked"), two, open_),
        _number("FLTrust under attack after 100 rounds (table 2)", 0.7169, 100, _both("fltrust"), two, flipped),
        _number("Dual under attack after 100 rounds (table 2)", 0.8958, 100, _both("dual"), two, open_),
        _gap(
            "Dual under attack is nearly equal to clean",
            "-0.002",
            100,
            ("dual", "fedavg-clean"),
            two,
            above=-CLOSE,
            otherwise="The trust filter also leaves out honest clients whose digits the reference knows little of.",
        ),
        _gap(
            "Dual does better than FLTrust under attack",
            "+0.179",
            100,
            ("dual", "fltrust"),
            two,
            above=0,
            otherwise="Both leave out nearly all attackers; Dual leaves out more of the honest clients, too.",
        ),
        _gap(
            "FLTrust is far below clean under attack",
            "-0.181",
            100,
            ("fltrust", "fedavg-clean"),
            two,
            below=-CLOSE,
            otherwise=flipped,
        ),
        _gap(
            "FedAvg is far below clean under attack",
            "-0.797",
            100,
            ("fedavg-attacked", "fedavg-clean"),
            two,
            below=-CLOSE,
            otherwise="",
        ),
        _gap(
            "FLTrust does better than FedAvg under attack",
            "+0.616",
            100,
            ("fltrust", "fedavg-attacked"),
            two,
            above=0,
            otherwise="",
        ),
        _gap(
            "Dual does better than FedAvg under attack",
            "+0.795",
            100,
            ("dual", "fedavg-attacked"),
            two,
            above=0,
            otherwise="",
        ),
        *(_curve(arm, two) for arm in PUBLISHED),
        _number("clean FedAvg after 1,000 rounds (table 1)", 0.95, 1000, ["fedavg-clean"], one, ""),
        _number("FedAvg under attack after 200 rounds (table 1)", 0.44, 200, _both("fedavg-attacked"), one, ""),
        _number("FLTrust under attack after 200 rounds (table 1)", 0.83, 200, _both("fltrust"), one, ""),
        _gap(
            "FLTrust does better than FedAvg under attack (table 1)",
            "+0.39",
            200,
            ("fltrust", "fedavg-attacked"),
            one,
            above=0,
            otherwise="",
        ),
        Claim(
            claim="0.87 under attack, against 0.49 of the baseline (abstract)",
            published="0.87, 0.49",
            verdict="not decidable from the text",
            why="Neither number is in the paper's tables, and no experiment is named for them. Their order is above.",
        ),
    ]


def _both(arm: str) -> list[str]:
    """Return an arm in both readings of the attack."""
    return [arm] if arm == "fedavg-clean" else [arm, f"{arm}-weights"]


def _reading(arm: str) -> str:
    return "weights flipped" if arm.endswith("-weights") else "update flipped"


def _models(arm: str, round_: int, pair: Pair) -> dict[str, Runs]:
    """Return an arm's runs by model, as far as they were tested after this round."""
    models = zip(MODELS, pair, strict=True)
    return {name: runs[arm] for name, runs in models if arm in runs and round_ in runs[arm].tested}


def _run_with(models: Sequence[Mapping[str, object]]) -> list[str]:
    """Return the models that any reading was run with; the first decides."""
    return [name for name in MODELS if any(name in each for each in models)]


def _seeds(agreeing: Mapping[str, object], values: Mapping[str, Iterable[Float64]]) -> str:
    """Tell that there is one seed, and that a model says otherwise; `agreeing` is what agrees by model, if anything."""
    deciding, *others = values
    counts = {name: {len(each) for each in every} for name, every in values.items()}
    told = []
    if 1 in counts[deciding]:
        told.append("One seed." if counts[deciding] == {1} else "One seed in one reading.")
    told += [
        f"{MODELS[name].capitalize()}, with {min(counts[name])} seeds, says otherwise."
        for name in others
        if bool(agreeing[name]) != bool(agreeing[deciding]) and 1 not in counts[name]
    ]
    return sentences(*told)


def _number(claim: str, published: float, round_: int, arms: Sequence[str], pair: Pair, otherwise: str) -> Claim:
    """Compare a number with what came of it in each reading."""
    runs = {arm: _models(arm, round_, pair) for arm in arms}
    names = _run_with(list(runs.values()))
    if not names:
        return Claim(claim=claim, published=f"{published:.4g}")
    shown = [
        ("" if len(arms) == 1 else f"{_reading(arm)}: ")
        + ", ".join(f"{name} {spread(each.at(round_))}" for name, each in models.items())
        for arm, models in runs.items()
        if models
    ]
    values = {name: {arm: each[name].at(round_) for arm, each in runs.items() if name in each} for name in names}
    agreeing = {name: [arm for arm in each if agrees(published, each[arm])] for name, each in values.items()}
    ours, near = values[names[0]], agreeing[names[0]]
    if near:
        which = "" if len(arms) == 1 else f" where the attack is read as {' or '.join(map(_reading, near))}"
        why = f"It lies within {max(tolerated(ours[arm]) for arm in near):.3f} of ours{which}."
        if published <= CHANCE:
            why += " Both are chance: one answer for all images."
    else:
        why = sentences(_missed(published, ours, several=len(arms) > 1), otherwise)
    return Claim(
        claim=claim,
        published=f"{published:.4g}",
        ours="; ".join(shown),
        verdict=verdict(bool(near)),
        why=sentences(why, _seeds(agreeing, {name: each.values() for name, each in values.items()})),
    )


def _missed(published: float, ours: Mapping[str, Float64], *, several: bool) -> str:
    off = {arm: float(values.mean()) - published for arm, values in ours.items()}
    least = min(off, key=lambda arm: abs(off[arm]))
    what = f"The nearest, {_reading(least)}, is" if several else "Ours is"
    side = "above" if off[least] > 0 else "below"
    return f"{what} {abs(off[least]):.3f} {side} it; {tolerated(ours[least]):.3f} is tolerated."


def _gap(
    claim: str,
    published: str,
    round_: int,
    arms: tuple[str, str],
    pair: Pair,
    *,
    above: float = -np.inf,
    below: float = np.inf,
    otherwise: str,
) -> Claim:
    """Judge by how much a system does better than another with the same seeds, in each reading."""
    gaps: dict[str, dict[str, Float64]] = {}
    for one, other in zip(_both(arms[0]), cycle(_both(arms[1])), strict=False):
        runs, others = (_models(arm, round_, pair) for arm in (one, other))
        for model in MODELS:
            if model in runs and model in others:
                gap = _paired(runs[model], others[model], round_)
                if len(gap):
                    gaps.setdefault(model, {})[_reading(one)] = gap
    if not gaps:
        return Claim(claim=claim, published=published)
    gaps = {name: gaps[name] for name in MODELS if name in gaps}
    agreeing = {name: [each for each in gap.values() if above < each.mean() < below] for name, gap in gaps.items()}
    decides = next(iter(gaps))
    bound = f"above {above:g}" if np.isfinite(above) else f"below {below:g}"
    held = agreeing[decides]
    why = f"It is {bound} in {len(held)} of {len(gaps[decides])} readings with {MODELS[decides]}."
    return Claim(
        claim=claim,
        published=published,
        ours="; ".join(
            f"{name}, {reading}: {spread(gap, sign='+')}"
            for name, each in gaps.items()
            for reading, gap in each.items()
        ),
        verdict=verdict(bool(held)),
        why=sentences(
            why, "" if held else otherwise, _seeds(agreeing, {name: each.values() for name, each in gaps.items()})
        ),
    )


def _paired(runs: Runs, others: Runs, round_: int) -> Float64:
    """Return differences (seeds,) between runs of the same seed."""
    theirs = {run.seed: run.accuracies[round_] for run in others.members}
    return np.array([run.accuracies[round_] - theirs[run.seed] for run in runs.members if run.seed in theirs])


def _curve(arm: str, pair: Pair) -> Claim:
    """Compare the points of a curve before the last, as far as they were run."""
    points = dict(zip(CURVE[:-1], PUBLISHED[arm][:-1], strict=True))
    claim = f"{NAMES[arm]} after 20, 40, 60 and 80 rounds (curve)"
    published = ", ".join(f"{value:.3f}" for value in points.values())
    readings = {
        each: {round_: models for round_ in points if (models := _models(each, round_, pair))} for each in _both(arm)
    }
    names = _run_with([models for each in readings.values() for models in each.values()])
    if not names:
        return Claim(claim=claim, published=published)
    shown: list[str] = []
    near: dict[str, list[dict[int, bool]]] = {name: [] for name in names}
    values: dict[str, list[Float64]] = {name: [] for name in names}
    for attacked, by_round in readings.items():
        reading = "" if len(readings) == 1 else f", {_reading(attacked)}"
        for name in names:
            ours = {round_: models[name].at(round_) for round_, models in by_round.items() if name in models}
            if ours:
                shown.append(f"{name}{reading}: {', '.join(map(spread, ours.values()))}")
                near[name].append({round_: agrees(points[round_], each) for round_, each in ours.items()})
                values[name] += ours.values()
    agreeing = {name: any(all(each.values()) for each in near[name]) for name in names}
    best = max(near[names[0]], key=lambda each: (all(each.values()), sum(each.values())))
    held = agreeing[names[0]]
    return Claim(
        claim=claim,
        published=published,
        ours="; ".join(shown),
        verdict="not run yet" if held and len(best) < len(points) else verdict(held),
        why=sentences(
            f"At best {sum(best.values())} of {len(best)} points agree, as a number would have to.",
            _seeds(agreeing, values),
        ),
    )
