"""The claims of the paper on trust, Krum and differential privacy, beside what came of them here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from claims import LEAST, Claim, agrees, sentences, verdict
from runs import METRICS, SHOWN, Runs, spread, with_common_seeds

from fempi.algebra import Float64

ORDER = ("hybrid", "krum", "dp", "baseline")
"""The systems, from the best to the worst, as the paper says"""
CLIPPED = {"hybrid": "hybrid-clipped", "dp": "dp-clipped"}
"""What systems are called where updates are clipped before they get their noise"""
FLIPPED = [f"label_flip_fraction_{p}" for p in (0.1, 0.2, 0.3)]
SHRUNK = [f"scale_factor_{alpha}" for alpha in (0.1, 0.2, 0.3)]
GROWN = [f"scale_factor_{alpha}" for alpha in (1.1, 1.2, 1.3)]
NOISY = [f"gaussian_noise_std_{sigma}" for sigma in (0.1, 0.2, 0.3)]
LABELS = {"": FLIPPED}
GRADIENTS = {"x 0.1 to 0.3": SHRUNK, "x 1.1 to 1.3": GROWN, "noise of 0.1 to 0.3": NOISY}
"""Ways to read the two attacks"""

FEW = "Three of ten clients that flip 30 % of their labels spoil 9 % of all."
MILD = (
    "Factors from 0.1 to 1.3 change how long the mean update is, and hardly where it points; noise of 0.3 is too weak. "
    "The text leaves open how many attack, how strong noise is and for how long clients train."
)
LONE = "Krum takes one client's update, which has learned from a tenth of the data, and pays for it."
QUIET = "The text leaves open how much noise; what was chosen costs little."
WEAKER = (
    "From 0.1 to 0.3 a factor gets nearer to 1, and does less. Noise gets stronger, but Krum and Hybrid leave out who "
    "sends it, and lose nothing."
)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One way to read an attack, at three intensities, against the systems."""

    name: str
    attacks: Sequence[str]
    found: Mapping[str, Runs]
    systems: Mapping[str, str] = field(default_factory=dict)
    """what some systems are called in it"""

    def of(self, system: str, metric: str = "accuracy") -> Float64:
        """Return a system's metric (intensities, seeds)."""
        system = self.systems.get(system, system)
        return np.array([self.found[f"{system}+attack={attack}"].last(metric) for attack in self.attacks])

    def falls(self, system: str, metric: str = "accuracy") -> float:
        """Return by how much a metric is lower at the highest intensity than at the lowest."""
        values = self.of(system, metric).mean(axis=1)
        return float(values[0] - values[-1])


def comparable(found: Mapping[str, Runs]) -> dict[str, Runs]:
    """Keep the seeds for which there are runs of all that claims compare."""
    return with_common_seeds(found, _labels(ORDER))


def judge(found: Mapping[str, Runs]) -> list[Claim]:
    """Judge all claims, once there are runs of the four systems; with clipped updates, too, if these are there."""
    if not _labels(ORDER) <= found.keys():
        return []
    clipped = _labels(CLIPPED.values()) <= found.keys()

    def readings(attacks: Mapping[str, Sequence[str]], *systems: str) -> list[Reading]:
        """Return those of an attack on these systems."""
        plain = [Reading(name=name, attacks=each, found=found) for name, each in attacks.items()]
        if not clipped or not CLIPPED.keys() & set(systems):
            return plain
        return [replace(each, name=each.name or "unclipped") for each in plain] + [
            replace(each, name=f"{each.name}, clipped".removeprefix(", "), systems=CLIPPED) for each in plain
        ]

    flipped, manipulated = readings(LABELS, *ORDER), readings(GRADIENTS, *ORDER)
    return [
        _order("label flipping", flipped),
        _order("gradient manipulation", manipulated),
        _best("label flipping", flipped),
        _best("gradient manipulation", manipulated),
        _bound("hybrid", "accuracy", "label flipping", "> 0.87", flipped, lambda ours: ours.mean() > 0.87),
        _bound("hybrid", "f1", "label flipping", "> 0.83", flipped, lambda ours: ours.mean() > 0.83),
        *(
            _bound(
                "baseline",
                metric,
                "gradient manipulation",
                "< 0.75",
                readings(GRADIENTS, "baseline"),
                lambda ours: ours.mean() < 0.75,
                MILD,
            )
            for metric in ("accuracy", "recall")
        ),
        _bound(
            "dp",
            "precision",
            "gradient manipulation",
            "near 0.8",
            readings(GRADIENTS, "dp"),
            lambda ours: agrees(0.8, ours),
            QUIET,
        ),
        _worse(flipped, manipulated),
        *(_declines(metric, readings(LABELS), readings(GRADIENTS)) for metric in ("accuracy", "f1")),
        _all_decline(manipulated),
        _diverge(flipped, manipulated),
        _slower(manipulated),
    ]


def together(judged: Iterable[Claim]) -> str:
    """Say how many claims on gradient manipulation hold in one and the same reading of it; nothing if none in any."""
    about = [claim for claim in judged if any(name in claim.ours for name in GRADIENTS)]
    held = Counter(name for claim in about for name in claim.readings)
    if not held:
        return ""
    most = max(held.values())
    names = "; ".join(name for name, count in held.items() if count == most)
    return (
        f"Of the {len(about)} claims on gradient manipulation, no one reading bears out more than {most} ({names}).\n"
    )


def _labels(systems: Iterable[str]) -> set[str]:
    """Return what the runs of these systems are called that claims are about."""
    attacks = [each for reading in (LABELS, GRADIENTS) for attacks in reading.values() for each in attacks]
    return {f"{system}+attack={attack}" for system in systems for attack in attacks}


def _where(readings: Sequence[Reading], how: str = "") -> str:
    """Say in which readings a claim holds, and how."""
    names = "; ".join(_names(readings))
    return f"It holds {f'for: {names}' if names else 'at all three intensities'}{how}."


def _in_some(claim: str, published: str, ours: str, held: Sequence[Reading], otherwise: str) -> Claim:
    """Return a claim that holds in these readings; reproduced if there are any."""
    why = _where(held) if held else otherwise
    return Claim(
        claim=claim, published=published, ours=ours, verdict=verdict(bool(held)), why=why, readings=_names(held)
    )


def _names(readings: Iterable[Reading]) -> list[str]:
    return [reading.name for reading in readings if reading.name]


def _same_systems(reading: Reading, readings: Sequence[Reading]) -> Reading:
    """Return the reading of another attack on the same systems, clipped or not."""
    return next(each for each in readings if each.systems == reading.systems)


def _told(values: Mapping[str, str]) -> str:
    return "; ".join(f"{name}: {value}" if name else value for name, value in values.items())


def _order(attack: str, readings: Sequence[Reading]) -> Claim:
    """Judge the order of the systems' means, in all metrics and at each intensity."""
    cells = dict.fromkeys(METRICS, 0)
    best: list[str] = []
    held, shown = [], {}
    for reading in readings:
        ordered = []
        for metric in METRICS:
            means = np.array([reading.of(system, metric).mean(axis=1) for system in ORDER]).T
            each = [bool((np.diff(cell) < 0).all()) for cell in means]
            cells[metric] += sum(each)
            ordered += each
            best += [ORDER[cell.argmax()] for cell in means]
        if all(ordered):
            held.append(reading)
        shown[reading.name] = ", ".join(spread(reading.of(system).mean(axis=0)) for system in ORDER)
    leader = max(ORDER, key=best.count)
    counts = ", ".join(f"{count} in {SHOWN[metric]}" for metric, count in cells.items())
    why = f"Of {len(best) // len(METRICS)} cells, it holds in {counts}; {leader} is the best in {best.count(leader)}"
    return Claim(
        claim=f"Hybrid > Krum > DP > Baseline in all metrics, at each intensity of {attack}",
        published="in this order",
        ours=_told(shown) + " (accuracy, in this order, means over intensities)",
        verdict=verdict(bool(held)),
        why=sentences(f"{why} of all {len(best)}.", _where(held) if held else LONE),
        readings=_names(held),
    )


def _best(attack: str, readings: Sequence[Reading]) -> Claim:
    """Judge whether the first system's means are the highest, in all metrics and at each intensity."""
    lead = {}
    for reading in readings:
        means = np.array([[reading.of(system, metric).mean(axis=1) for system in ORDER] for metric in METRICS])
        lead[reading.name] = means[:, 0] - means[:, 1:].max(axis=1)
    held = [reading for reading in readings if (lead[reading.name] > 0).all()]
    least = min((lead[reading.name].min() for reading in held), default=0.0)
    return Claim(
        claim=f"Hybrid is the best in all metrics, at each intensity of {attack}",
        published="the best",
        ours=_told({name: f"{each.min():+.4f} to {each.max():+.4f}" for name, each in lead.items()})
        + " (its lead over the next best)",
        verdict=verdict(bool(held)),
        why=_where(held, f" - by {least:.4f} at least") if held else "In no reading in all cells.",
        readings=_names(held),
    )


def _bound(
    system: str,
    metric: str,
    attack: str,
    published: str,
    readings: Sequence[Reading],
    holds: Callable[[Float64], bool],
    otherwise: str = "",
) -> Claim:
    """Judge whether a metric is as the paper says at all intensities."""
    held = [reading for reading in readings if all(holds(ours) for ours in reading.of(system, metric))]
    also = [reading for reading in held if all(holds(ours) for ours in reading.of("baseline", metric))]
    trivial = "Baseline passes as well, so that this tells nothing of Hybrid." if also and system != "baseline" else ""
    return Claim(
        claim=f"{system.upper() if system == 'dp' else system.capitalize()}'s {SHOWN[metric]} under {attack}",
        published=published,
        ours=_told({reading.name: _each(reading, system, metric) for reading in readings}),
        verdict=verdict(bool(held)),
        why=sentences(_where(held), trivial) if held else sentences("In no reading.", otherwise),
        readings=_names(held),
    )


def _each(reading: Reading, system: str, metric: str = "accuracy") -> str:
    return ", ".join(map(spread, reading.of(system, metric)))


def _worse(flipped: Sequence[Reading], manipulated: Sequence[Reading]) -> Claim:
    """Judge whether one attack does more harm than the other, over all intensities."""
    lower = {}
    for reading in manipulated:
        labels = _same_systems(reading, flipped)
        gaps = [(reading.of(system) - labels.of(system)).mean(axis=0) for system in ORDER]
        lower[reading.name] = reading, gaps
    held = [reading for reading, gaps in lower.values() if all(gap.mean() < 0 for gap in gaps)]
    if held:
        least = min(-gap.mean() for reading in held for gap in lower[reading.name][1])
        why = _where(held, f" - by {least:.3f} at least")
    else:
        why = f"For {max(sum(gap.mean() < 0 for gap in gaps) for _, gaps in lower.values())} of 4 systems at most."
    shown = {name: ", ".join(spread(gap, sign="+") for gap in gaps) for name, (_, gaps) in lower.items()}
    return Claim(
        claim="gradient manipulation lowers accuracy more than label flipping, for every system",
        published="lower",
        ours=_told(shown) + f" ({', '.join(ORDER)})",
        verdict=verdict(bool(held)),
        why=why,
        readings=_names(held),
    )


def _declines(metric: str, flipped: Sequence[Reading], manipulated: Sequence[Reading]) -> Claim:
    """Judge whether Baseline falls from step to step, by more than what counts as nothing, under both attacks."""

    def holds(reading: Reading) -> bool:
        steps = np.diff(reading.of("baseline", metric).mean(axis=1))
        return bool((steps < 0).all()) and reading.falls("baseline", metric) > LEAST

    held = [reading for reading in manipulated if holds(reading)]
    labels = all(map(holds, flipped))
    why = f"Under label flipping it {'does' if labels else 'does not'} decline by more than {LEAST}."
    return Claim(
        claim=f"Baseline's {SHOWN[metric]} declines significantly as intensity increases",
        published="declines",
        ours=_told(
            {
                reading.name or "labels flipped": _each(reading, "baseline", metric)
                for reading in (*flipped, *manipulated)
            }
        ),
        verdict=verdict(labels and bool(held)),
        why=sentences(why, _where(held) if held else "", "" if labels else FEW),
        readings=_names(held if labels else ()),
    )


def _all_decline(readings: Sequence[Reading]) -> Claim:
    """Judge whether every system falls from step to step, in all of the paper's metrics for which it says so."""

    def holds(reading: Reading) -> bool:
        each = [reading.of(system, metric).mean(axis=1) for system in ORDER for metric in ("recall", "precision")]
        return all(bool((np.diff(values) < 0).all()) for values in each)

    return _in_some(
        "every system's recall and precision decline as gradient manipulation gets stronger",
        "decline",
        _falls(readings, "recall") + " (recall at the lowest intensity minus that at the highest, in the order above)",
        [reading for reading in readings if holds(reading)],
        WEAKER,
    )


def _falls(readings: Sequence[Reading], metric: str) -> str:
    return _told({each.name: ", ".join(f"{each.falls(system, metric):+.3f}" for system in ORDER) for each in readings})


def _diverge(flipped: Sequence[Reading], manipulated: Sequence[Reading]) -> Claim:
    """Judge whether Krum and DP are close under one attack, and DP falls more under the other."""
    held, apart = [], {}
    for reading in manipulated:
        labels = _same_systems(reading, flipped)
        gap = np.abs(labels.of("krum").mean(axis=1) - labels.of("dp").mean(axis=1)).max()
        dp, krum = reading.falls("dp"), reading.falls("krum")
        apart[reading.name] = f"{gap:.3f} apart; Krum falls by {krum:+.3f}, DP by {dp:+.3f}"
        if gap <= LEAST and dp - krum > LEAST:
            held.append(reading)
    return _in_some(
        "Krum and DP are comparable under label flipping, and DP declines more under gradient manipulation",
        "DP falls more",
        _told(apart),
        held,
        f"In no reading is DP's fall greater by more than {LEAST}.",
    )


def _slower(readings: Sequence[Reading]) -> Claim:
    """Judge whether two systems fall less than the two others, in all of the metrics for which the paper says so."""

    def holds(reading: Reading) -> bool:
        for metric in ("precision", "recall", "f1"):
            hybrid, krum, dp, baseline = (reading.falls(system, metric) for system in ORDER)
            if max(0, hybrid, krum) >= min(dp, baseline):
                return False
        return True

    return _in_some(
        "Hybrid and Krum decline more slowly than DP and Baseline as gradient manipulation gets stronger",
        "more slowly",
        _falls(readings, "f1") + " (of F1, as above)",
        [reading for reading in readings if holds(reading)],
        "In no reading in precision, recall and F1 alike.",
    )
