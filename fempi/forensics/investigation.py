"""Who poisoned the model and how: suspects, what each one's updates look like, and who acts together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from scipy.sparse import csgraph

from fempi.algebra import Bool
from fempi.forensics import classes
from fempi.forensics.classes import Flip, Lessons
from fempi.forensics.fingerprint import UNUSUAL, Fingerprint, classify, traits, traits_of_each
from fempi.forensics.geometry import rounds
from fempi.forensics.suspicion import Examination, Suspect, examine
from fempi.runfile import RunFile

NEAR = 0.1
"""Two clients send nearly the same if 1 - cosine is less than this share of what it is for most pairs of a round ..."""
SAME = 0.01
"""... and than this"""
_LONG = {"gaussian noise", "scale"}
"""Kinds that are told from each other by many rows only"""
_TRAINED = {UNUSUAL, "gaussian", *_LONG}
"""What updates look like that were trained on data somebody tampered with"""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A client that stands out, and what its own updates look like."""

    suspect: Suspect
    fingerprint: Fingerprint
    """"unusual data": it may well be honest"""
    group: int
    """number, from 1, of the group that it acts with; 0: alone"""

    @property
    def accused(self) -> bool:
        """Whether its updates look like an attack."""
        return self.fingerprint.kind != UNUSUAL


@dataclass(frozen=True, kw_only=True)
class Investigation:
    """What is known of a run without the truth."""

    clients: int
    """who took part"""
    examination: Examination
    """all rows by all scores"""
    findings: tuple[Finding, ...]
    """the most certain first"""
    groups: tuple[tuple[int, ...], ...]
    """clients who send nearly the same"""
    flips: tuple[Flip, ...]
    """which classes' examples several clients take for which other class"""
    fingerprint: Fingerprint | None
    """what most of the accused did; None without any"""
    limits: str
    """what the record cannot tell, and why; empty if it can tell all"""

    @property
    def accused(self) -> list[int]:
        """Clients whose updates look like an attack, the most certain first."""
        return [each.suspect.client for each in self.findings if each.accused]

    @property
    def unusual(self) -> list[int]:
        """Clients that stand out, perhaps only by unusual data."""
        return [each.suspect.client for each in self.findings if not each.accused]

    @property
    def verdict(self) -> str:
        """All that in words."""
        accused = self.accused
        said = []
        if self.fingerprint is None:
            said.append(f"None of {self.clients} clients attacks in a way that is seen.")
        else:
            who = f"{len(accused)} of {self.clients} clients {'seems' if len(accused) == 1 else 'seem'} to attack"
            since = min(each.suspect.first_round for each in self.findings if each.accused)
            said.append(f"{who}: {self.fingerprint}, seen since round {since}.")
        if len(self.flips) > 1 and self.fingerprint is not None and self.fingerprint.kind == "label flip":
            pairs = ", ".join(f"{flip.source} -> {flip.target} ({len(flip.since)} clients)" for flip in self.flips)
            said.append(f"Labels are flipped: {pairs}.")
        if unusual := len(self.unusual):
            said.append(f"{unusual} more {'stands' if unusual == 1 else 'stand'} out, perhaps only by unusual data.")
        return " ".join(said)


def investigate(run: RunFile) -> Investigation:
    """Find out all that a record tells without the truth."""
    examination = examine(run)
    suspects = {suspect.client: suspect for suspect in examination.suspects()}
    lessons = classes.lessons(run)
    flips = classes.flips(lessons) if lessons is not None else ()
    everybody = np.isin(np.arange(run.layout.size("client")), [*suspects, *(c for flip in flips for c in flip.since)])
    prints = {client: classify(each) for client, each in traits_of_each(run, everybody).items()}
    flips = tuple(flip for flip in flips if _look_trained(flip.since, prints))
    taken_part = run.read("rounds/client")
    for flip in reversed(flips):  # the most certain has the last word
        for client, since in flip.since.items():
            suspects[client] = _also(suspects.get(client), client, flip.p, since, int((taken_part == client).sum()))
            prints[client] = Fingerprint(kind="label flip", parameters={"source": flip.source, "target": flip.target})
    if lessons is not None:
        prints |= _backdoors(lessons, {client: prints[client] for client in suspects})
    groups = together(run)
    prints |= _copied(groups, prints)
    findings = [
        Finding(
            suspect=suspect,
            fingerprint=prints[suspect.client],
            group=next((number for number, group in enumerate(groups, 1) if suspect.client in group), 0),
        )
        for suspect in suspects.values()
    ]
    findings.sort(key=lambda each: (not each.accused, each.suspect.p, each.suspect.client))
    return Investigation(
        clients=len(np.unique(taken_part)),
        examination=examination,
        findings=tuple(findings),
        groups=groups,
        flips=flips,
        fingerprint=_of_most(run, {each.suspect.client: each.fingerprint for each in findings if each.accused}),
        limits=classes.obstacle(run),
    )


def together(run: RunFile) -> tuple[tuple[int, ...], ...]:
    """Return the groups of clients who send nearly the same, by the rounds that they share."""
    C = run.layout.size("client")
    apart, shared = np.zeros((C, C)), np.zeros((C, C))
    for one in rounds(run):
        known = np.flatnonzero(one.finite)
        between = 1 - one.cosines()[np.ix_(known, known)]
        most = float(np.median(between[np.triu_indices(len(known), 1)])) if len(known) > 2 else 0.0
        if most > 0:
            pairs = np.ix_(one.clients[known], one.clients[known])
            apart[pairs] += np.maximum(between, 0) / min(NEAR * most, SAME)
            shared[pairs] += 1
    near: Bool = (shared > 0) & (apart < shared)
    np.fill_diagonal(near, False)
    _, labels = csgraph.connected_components(near, directed=False)
    groups = (np.flatnonzero(labels == label).tolist() for label in np.unique(labels[near.any(axis=1)]))
    return tuple(sorted((tuple(group) for group in groups), key=len, reverse=True))


def _look_trained(clients: Iterable[int], prints: Mapping[int, Fingerprint]) -> bool:
    """Whether most updates look like trained ones: flipped signs, too, take examples of one class for another."""
    return float(np.mean([prints[client].kind in _TRAINED for client in clients])) > 0.5


def _also(known: Suspect | None, client: int, p: float, since: int, here: int) -> Suspect:
    """Add a flip to what is held against a client."""
    if known is None:
        return Suspect(client=client, p=p, first_round=since, rounds=here, evidence={})
    return replace(known, p=min(known.p, p), first_round=min(known.first_round, since))


def _backdoors(lessons: Lessons, prints: Mapping[int, Fingerprint]) -> dict[int, Fingerprint]:
    """Of updates that look trained, those that move what most of them move: one class."""
    trained = [client for client, found in prints.items() if found.kind in _TRAINED]
    target = classes.moved_class(lessons, trained) if len(trained) > len(prints) / 2 else None
    if target is None:
        return {}
    found = Fingerprint(kind="backdoor", parameters={"target": target})
    return {client: found for client in trained if lessons.moved[client, target] > classes.MARKED}


def _copied(groups: Iterable[tuple[int, ...]], prints: Mapping[int, Fingerprint]) -> dict[int, Fingerprint]:
    """Of those who send the same as somebody who copies, nobody can tell who copied whom."""
    copying = [
        group for group in groups if any(client in prints and prints[client].kind == "mimic" for client in group)
    ]
    found = (client for group in copying for client in group if client in prints)
    return {client: Fingerprint(kind="mimic") for client in found if prints[client].kind == "alie"}


def _of_most(run: RunFile, accused: Mapping[int, Fingerprint]) -> Fingerprint | None:
    """Return what most of the accused did: by the commonest kind, or by all their rows together, where these tell."""
    if not accused:
        return None
    ((kind, _),) = Counter(each.kind for each in accused.values()).most_common(1)
    alike = {client: each for client, each in accused.items() if {kind, each.kind} <= _LONG or each.kind == kind}
    ((one, _),) = Counter((each.kind, tuple(each.parameters.items())) for each in alike.values()).most_common(1)
    by_count = Fingerprint(kind=one[0], parameters=dict(one[1]))
    if kind in ("label flip", "backdoor"):
        return by_count
    masks = (np.isin(np.arange(run.layout.size("client")), list(each)) for each in (accused, alike))
    together = classify(traits(run, *masks))
    return together if together.kind != UNUSUAL else by_count
