"""What the papers claim, beside what came of it here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from runs import Runs, spread

from fempi.algebra import Float64

Verdict = Literal["reproduced", "not reproduced", "not decidable from the text", "not run yet"]
LEAST = 0.03
"""Distance from a paper's number that is none: the papers have one seed, and show what it is without a deviation"""
MODELS = {"CNN": "paper's", "small": "small"}
"""By what they are called in the tables; the paper's own decides where it was run"""
CURVE = (20, 40, 60, 80, 100)
PUBLISHED: Mapping[str, Sequence[float]] = {
    "fedavg-clean": (0.6267, 0.8022, 0.8607, 0.8343, 0.8980),
    "fedavg-attacked": (0.1945, 0.3078, 0.2882, 0.1135, 0.1010),
    "fltrust": (0.2853, 0.5981, 0.5001, 0.7923, 0.7169),
    "dual": (0.4468, 0.6424, 0.8284, 0.8433, 0.8958),
}
"""The Dual-System paper's accuracy after the rounds of CURVE"""
ORDER = ("hybrid", "krum", "dp", "baseline")
"""The other paper's systems, from the best to the worst, as it says"""
FLIPPED = [f"label_flip_fraction_{p}" for p in (0.1, 0.2, 0.3)]
SHRUNK = [f"scale_factor_{alpha}" for alpha in (0.1, 0.2, 0.3)]
GROWN = [f"scale_factor_{alpha}" for alpha in (1.1, 1.2, 1.3)]
NOISY = [f"gaussian_noise_std_{sigma}" for sigma in (0.1, 0.2, 0.3)]
READINGS = {"x 0.1 to 0.3": SHRUNK, "x 1.1 to 1.3": GROWN, "noise of 0.1 to 0.3": NOISY}
"""Of gradient manipulation"""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A row of the table."""

    claim: str
    published: str
    ours: str = "-"
    verdict: Verdict = "not run yet"
    why: str = ""


@dataclass(frozen=True, kw_only=True)
class Iomt:
    """The Dual-System paper's runs: with its model, one seed, and with the small one."""

    table1: Mapping[str, Runs]
    table1_small: Mapping[str, Runs]
    table2: Mapping[str, Runs]
    table2_small: Mapping[str, Runs]


def iomt(found: Iomt) -> list[Claim]:
    """Judge the Dual-System paper."""
    two = (found.table2, found.table2_small)
    one = (found.table1, found.table1_small)
    return [
        _number("clean FedAvg after 100 rounds (table 2)", 0.8980, 100, ["fedavg-clean"], *two),
        _number("FedAvg under attack after 100 rounds (table 2)", 0.1010, 100, _both("fedavg-attacked"), *two),
        _number("FLTrust under attack after 100 rounds (table 2)", 0.7169, 100, _both("fltrust"), *two),
        _number("Dual under attack after 100 rounds (table 2)", 0.8958, 100, _both("dual"), *two),
        _gap("Dual under attack is nearly equal to clean", "-0.002", "dual", ["fedavg-clean"] * 2, -0.02, *two),
        _gap("Dual does better than FLTrust under attack", "+0.179", "dual", _both("fltrust"), 0, *two),
        *(_curve(arm, *two) for arm in PUBLISHED),
        _number("clean FedAvg after 1,000 rounds (table 1)", 0.95, 1000, ["fedavg-clean"], *one),
        _number("FedAvg under attack after 200 rounds (table 1)", 0.44, 200, _both("fedavg-attacked"), *one),
        _number("FLTrust under attack after 200 rounds (table 1)", 0.83, 200, _both("fltrust"), *one),
        Claim(
            claim="0.87 under attack, against 0.49 of the baseline (abstract)",
            published="0.87, 0.49",
            verdict="not decidable from the text",
            why="Neither number is in the paper's tables, and no experiment is named for them.",
        ),
    ]


def _both(arm: str) -> list[str]:
    return [arm, f"{arm}-weights"]


def _reading(arm: str) -> str:
    return "weights flipped" if arm.endswith("-weights") else "update flipped"


def _models(arm: str, rounds: Sequence[int], own: Mapping[str, Runs], small: Mapping[str, Runs]) -> dict[str, Runs]:
    """Return an arm's runs by model, as far as they were tested after these rounds; the first one decides."""
    return {
        name: kind[arm]
        for name, kind in zip(MODELS, (own, small), strict=True)
        if arm in kind and set(rounds) <= set(kind[arm].tested.tolist())
    }


def _tolerated(values: Float64) -> float:
    """Return how far a paper's number may be from the mean of ours."""
    return max(LEAST, 2 * float(values.std(ddof=1))) if len(values) > 1 else LEAST


def _number(
    claim: str,
    published: float,
    round_: int,
    arms: Sequence[str],
    own: Mapping[str, Runs],
    small: Mapping[str, Runs],
) -> Claim:
    """Compare a number: with the paper's model where that was run, else with the small one."""
    shown: list[str] = []
    near: list[str] = []
    off: dict[str, float] = {}
    tolerated: dict[str, float] = {}
    for arm in arms:
        reading = "" if len(arms) == 1 else f"{_reading(arm)}: "
        runs = _models(arm, [round_], own, small)
        if not runs:
            continue
        ours = next(iter(runs.values())).at(round_)
        shown.append(reading + ", ".join(f"{name} {spread(each.at(round_))}" for name, each in runs.items()))
        off[arm], tolerated[arm] = float(ours.mean() - published), _tolerated(ours)
        if abs(off[arm]) <= tolerated[arm]:
            near.append(arm)
    if not shown:
        return Claim(claim=claim, published=f"{published:.4g}")
    if near:
        which = "" if len(arms) == 1 else f" where the attack is read as {' or '.join(map(_reading, near))}"
        why = f"It lies within {max(tolerated[arm] for arm in near):.3f} of ours{which}."
    else:
        least = min(off, key=lambda arm: abs(off[arm]))
        what = "Ours is" if len(arms) == 1 else f"The nearest, {_reading(least)}, is"
        side = "above" if off[least] > 0 else "below"
        why = f"{what} {abs(off[least]):.3f} {side} it; {tolerated[least]:.3f} is tolerated."
    return Claim(
        claim=claim,
        published=f"{published:.4g}",
        ours="; ".join(shown),
        verdict="reproduced" if near else "not reproduced",
        why=why,
    )


def _gap(
    claim: str,
    published: str,
    over: str,
    under: Sequence[str],
    least: float,
    own: Mapping[str, Runs],
    small: Mapping[str, Runs],
) -> Claim:
    """Judge whether a system does better than another by more than `least`, for each model and reading."""
    gaps: dict[str, dict[str, float]] = {}
    for one, other in zip(_both(over), under, strict=True):
        runs, others = (_models(arm, [], own, small) for arm in (one, other))
        for model in runs.keys() & others.keys():
            gaps.setdefault(model, {})[_reading(one)] = runs[model].last().mean() - others[model].last().mean()
    if not gaps:
        return Claim(claim=claim, published=published)
    gaps = {model: gaps[model] for model in MODELS if model in gaps}
    held = {model: [gap > least for gap in each.values()] for model, each in gaps.items()}
    counts = ", ".join(f"{sum(each)} of {len(each)} with the {MODELS[model]} model" for model, each in held.items())
    return Claim(
        claim=claim,
        published=published,
        ours="; ".join(
            f"{model}, {reading}: {gap:+.3f}" for model, each in gaps.items() for reading, gap in each.items()
        ),
        verdict="reproduced" if all(next(iter(held.values()))) else "not reproduced",
        why=f"It is above {least:g} in {counts}.",
    )


def _curve(arm: str, own: Mapping[str, Runs], small: Mapping[str, Runs]) -> Claim:
    """Compare the points of a curve before the last."""
    published = PUBLISHED[arm][:-1]
    arms = [arm] if arm == "fedavg-clean" else _both(arm)
    shown, best = [], 0
    for each in arms:
        reading = "" if len(arms) == 1 else f", {_reading(each)}"
        near = []
        for model, runs in _models(each, CURVE[:-1], own, small).items():
            points = [runs.at(round_) for round_ in CURVE[:-1]]
            pairs = zip(points, published, strict=True)
            near.append(sum(abs(point.mean() - theirs) <= _tolerated(point) for point, theirs in pairs))
            shown.append(f"{model}{reading}: {' '.join(f'{point.mean():.3f}' for point in points)}")
        best = max(best, *near[:1], 0)
    what = {
        "fedavg-clean": "clean FedAvg",
        "fedavg-attacked": "FedAvg under attack",
        "fltrust": "FLTrust",
        "dual": "Dual",
    }
    claim = f"{what[arm]} after 20, 40, 60 and 80 rounds (curve)"
    told = " ".join(f"{value:.3f}" for value in published)
    if not shown:
        return Claim(claim=claim, published=told)
    holds = best == len(published)
    return Claim(
        claim=claim,
        published=told,
        ours="; ".join(shown),
        verdict="reproduced" if holds else "not reproduced",
        why=f"At best {best} of the {len(published)} points lie within two standard deviations, or {LEAST}.",
    )


def trust_krum_dp(found: Mapping[str, Runs]) -> list[Claim]:
    """Judge the paper on trust, Krum and differential privacy, once all runs are there that this takes."""
    attacks = [*FLIPPED, *(each for reading in READINGS.values() for each in reading)]
    if not {f"{system}+attack={attack}" for system in ORDER for attack in attacks} <= found.keys():
        return []

    def of(system: str, attack: str, metric: str = "accuracy") -> float:
        return float(found[f"{system}+attack={attack}"].last(metric).mean())

    def manipulated(system: str, metric: str) -> Readings:
        return {name: [of(system, attack, metric) for attack in attacks] for name, attacks in READINGS.items()}

    flipped = {metric: [of("hybrid", attack, metric) for attack in FLIPPED] for metric in ("accuracy", "f1")}
    return [
        _order("label flipping", {"": FLIPPED}, of),
        _order("gradient manipulation", READINGS, of),
        _bound(
            "Hybrid's accuracy under label flipping is above 0.87",
            "> 0.87",
            {"": flipped["accuracy"]},
            lambda x: x > 0.87,
        ),
        _bound("Hybrid's F1 under label flipping is above 0.83", "> 0.83", {"": flipped["f1"]}, lambda x: x > 0.83),
        *(
            _bound(
                f"Baseline's {metric} under gradient manipulation is below 0.75",
                "< 0.75",
                manipulated("baseline", metric),
                lambda x: x < 0.75,
            )
            for metric in ("accuracy", "recall")
        ),
        _worse(of),
        _declines(of),
        _bound(
            "DP's precision under gradient manipulation is near 0.8",
            "near 0.8",
            manipulated("dp", "precision"),
            lambda x: abs(x - 0.8) <= LEAST,
        ),
    ]


Readings = Mapping[str, Sequence[float]]
"""Values by how an attack is read, "" where there is but one way"""


def _told(readings: Readings) -> str:
    each = {name: " ".join(f"{value:.3f}" for value in values) for name, values in readings.items()}
    return "; ".join(f"{name}: {values}" if name else values for name, values in each.items())


def _order(attack: str, readings: Mapping[str, Sequence[str]], of: Callable[..., float]) -> Claim:
    cells = [each for attacks in readings.values() for each in attacks]
    held = [each for each in cells if all(of(one, each) > of(other, each) for one, other in pairwise(ORDER))]
    means = {
        name: [float(np.mean([of(system, each) for each in attacks])) for system in ORDER]
        for name, attacks in readings.items()
    }
    best = [max((of(system, each), system) for system in ORDER)[1] for each in cells]
    leader = max(sorted(set(best)), key=best.count)
    return Claim(
        claim=f"Hybrid > Krum > DP > Baseline in accuracy, for each intensity of {attack}",
        published="in this order",
        ours=_told(means) + " (means over intensities, in this order)",
        verdict="reproduced" if len(held) == len(cells) else "not reproduced",
        why=f"The order holds in {len(held)} of {len(cells)} cells; the best is {leader} in {best.count(leader)}.",
    )


def _bound(claim: str, published: str, values: Readings, holds: Callable[[float], bool]) -> Claim:
    """Judge whether all values of some reading are as the paper says."""
    names = [name for name, each in values.items() if all(map(holds, each))]
    if len(values) == 1:
        why = "At all three intensities." if names else "Not at all three intensities."
    else:
        why = f"Where the manipulation is read as {' or '.join(names)}." if names else "In none of the readings."
    return Claim(
        claim=claim,
        published=published,
        ours=_told(values),
        verdict="reproduced" if names else "not reproduced",
        why=why,
    )


def _worse(of: Callable[..., float]) -> Claim:
    flipped = {system: np.mean([of(system, each) for each in FLIPPED]) for system in ORDER}
    lower = {
        name: [flipped[system] - np.mean([of(system, each) for each in attacks]) for system in ORDER]
        for name, attacks in READINGS.items()
    }
    names = [name for name, by in lower.items() if min(by) > 0]
    if names:
        least = min(min(lower[name]) for name in names)
        why = f"It holds where the manipulation is read as {' or '.join(names)}, by {least:.3f} at least."
    else:
        most = max(sum(each > 0 for each in by) for by in lower.values())
        why = f"For {most} of {len(ORDER)} systems at most."
    shown = [f"{name}: " + " ".join(f"{-each:+.3f}" for each in by) for name, by in lower.items()]
    return Claim(
        claim="gradient manipulation lowers accuracy more than label flipping, for every system",
        published="lower",
        ours="; ".join(shown) + f" ({', '.join(ORDER)})",
        verdict="reproduced" if names else "not reproduced",
        why=why,
    )


def _declines(of: Callable[..., float]) -> Claim:
    readings = {"labels flipped": FLIPPED, **READINGS}
    values = {name: [of("baseline", each) for each in attacks] for name, attacks in readings.items()}
    held = [name for name, each in values.items() if each[0] > each[1] > each[2] and each[0] - each[2] > LEAST]
    return Claim(
        claim="Baseline's accuracy declines significantly as intensity increases",
        published="declines",
        ours=_told(values),
        verdict="reproduced" if {"labels flipped"} < set(held) else "not reproduced",
        why=f"It declines from step to step, by more than {LEAST} in all, for: {', '.join(held) or 'nothing'}.",
    )
