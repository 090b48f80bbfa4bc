"""Who is suspicious, since which round and for what, found without the truth; and how right that is, with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import stats
from sklearn.metrics import auc, roc_curve

from fempi.algebra import Bool, Float64, Int64
from fempi.forensics.geometry import SCORES, rounds, standardized
from fempi.runfile import RunFile

ALARM = 0.01
"""Probability of accusing anybody, were all rows exchangeable, with tails as assumed"""
TAIL = 3
"""Degrees of freedom of the Student distribution that honest standardized scores are held against: its tails are heavy,
for a median deviation of ten rows is a poor unit, and honest clients differ from each other"""
EFFECT = 1.25
"""Mean standard normal deviate that a client's rows must have, be there ever so many of them"""
_LEAST = 1e-4
"""A single row says no more than this, be it infinitely far out: where most rows are equal, any other one is"""


@dataclass(frozen=True, kw_only=True)
class Suspect:
    """A client whose rows, over all rounds, were further out than chance allows."""

    client: int
    p: float
    """probability of so much by chance, all clients and scores considered, at most 1"""
    first_round: int
    """in which the evidence became enough"""
    rounds: int
    """in which the client took part"""
    evidence: Mapping[str, float]
    """mean standardized score, by each score that would suffice alone"""


@dataclass(frozen=True, kw_only=True)
class Examination:
    """All rows of a run by all scores."""

    clients: Int64
    """(R, n) who sent each row"""
    deviations: Mapping[str, Float64]
    """by score, (R, n): robust standard deviations above the round's median; infinite for a row that was not finite
    where most were, NaN where most were not"""
    num_clients: int

    def accumulated(self, score: str) -> tuple[Float64, Int64]:
        """Return the p-value (C,) of each client's rows together, and the round (C,) in which it became an alarm.

        One-sided p-values of single rows are combined by Stouffer's method. Clients who never took part have p = 1;
        the round is 0 where there was no alarm. Looking after every round costs: the k-th look at a client has
        1 / (k (k + 1)) of the chance for a false alarm, so that all looks together have all of it. Honest clients
        differ, too, which many rounds make certain: without a mean deviate of EFFECT there is no alarm.
        """
        p, first = np.ones(self.num_clients), np.zeros(self.num_clients, np.int64)
        each = evidence(self.deviations[score])
        share = ALARM / (self.num_clients * len(self.deviations))
        known = ~np.isnan(self.deviations[score])
        for client in np.unique(self.clients[known]):
            places = np.nonzero((self.clients == client) & known)
            looks = np.arange(1, len(places[0]) + 1)
            sums = np.cumsum(each[places])
            together = stats.norm.sf(sums / np.sqrt(looks))
            p[client] = together[-1]
            enough = (together < share / (looks * (looks + 1))) & (sums[-1] >= EFFECT * len(looks))
            alarms = np.flatnonzero(enough)
            if len(alarms):
                first[client] = places[0][alarms[0]] + 1
        return p, first

    def suspects(self) -> list[Suspect]:
        """Return the clients that stand out, the most certain first."""
        each = {score: self.accumulated(score) for score in self.deviations}
        found = []
        for client in range(self.num_clients):
            alarms = {score: first[client] for score, (_, first) in each.items() if first[client]}
            if not alarms:
                continue
            rows = self.clients == client
            least = min(p[client] for p, _ in each.values())
            found.append(
                Suspect(
                    client=client,
                    p=float(min(1.0, least * self.num_clients * len(each))),
                    first_round=int(min(alarms.values())),
                    rounds=int(rows.sum()),
                    evidence={score: float(np.nanmean(self.deviations[score][rows])) for score in alarms},
                )
            )
        return sorted(found, key=lambda suspect: (suspect.p, suspect.client))


@dataclass(frozen=True, kw_only=True)
class Separation:
    """How well a score tells attackers from others; NaN without any of either."""

    auc_of_rounds: float
    """mean over the rounds of the area under the ROC curve"""
    auc: float
    """area under the ROC curve of all rows together"""
    tpr_at_1: float
    """share of attacking rows found where 1 % of the others are accused"""
    tpr_at_5: float
    """the same at 5 %"""
    auc_accumulated: float
    """area under the ROC curve of clients, by all their rows together"""
    false_alarms: int
    """honest clients that stand out"""
    found: int
    """malicious clients that stand out"""


def examine(run: RunFile) -> Examination:
    """Take every score of every committed row, a round at a time; nothing but Gram matrices and trust is read."""
    clients, deviations = [], {score: [] for score in SCORES}  # type: ignore[var-annotated]
    for each in rounds(run):
        clients.append(each.clients)
        for name, score in SCORES.items():
            above = np.where(each.finite, standardized(score(each)), np.inf)
            deviations[name].append(above if each.sound else np.full(len(above), np.nan))
    shape = (len(clients), run.layout.size("slot"))
    return Examination(
        clients=np.array(clients, np.int64).reshape(shape),
        deviations={name: np.array(values).reshape(shape) for name, values in deviations.items()},
        num_clients=run.layout.size("client"),
    )


def evidence(deviations: Float64) -> Float64:
    """Turn single rows' robust standard deviations into standard normal deviates that may be added up."""
    out: Float64 = stats.norm.isf(np.clip(stats.t.sf(deviations, TAIL), _LEAST, 1 - _LEAST))
    return out


def separation(found: Examination, score: str, attacking: Bool, malicious: Bool) -> Separation:
    """Hold a score against the truth: which rows (R, n) attack, which clients (C,) are malicious."""
    above = found.deviations[score]
    p, first = found.accumulated(score)
    seen = np.isin(np.arange(found.num_clients), found.clients)
    each = [_auc(truth, row) for truth, row in zip(attacking, above, strict=True)]
    false, true = curve(attacking.ravel(), above.ravel())
    return Separation(
        auc_of_rounds=float(np.nanmean(each)) if not np.isnan(each).all() else np.nan,
        auc=_auc(attacking.ravel(), above.ravel()),
        tpr_at_1=_at(0.01, false, true),
        tpr_at_5=_at(0.05, false, true),
        auc_accumulated=_auc(malicious[seen], -p[seen]),
        false_alarms=int(((first > 0) & ~malicious).sum()),
        found=int(((first > 0) & malicious).sum()),
    )


def curve(truth: Bool, scores: Float64) -> tuple[Float64, Float64]:
    """Return the ROC curve of scores, infinite ones allowed: false and true positive rates; NaN if all are alike."""
    known = ~np.isnan(scores)
    truth, scores = truth[known], np.clip(scores[known], -1e300, 1e300)
    if not truth.any() or truth.all():
        return np.array([np.nan]), np.array([np.nan])
    false, true, _ = roc_curve(truth, scores, drop_intermediate=False)
    return false, true


def _auc(truth: Bool, scores: Float64) -> float:
    false, true = curve(truth, scores)
    return float(auc(false, true)) if len(false) > 1 else np.nan


def _at(rate: float, false: Float64, true: Float64) -> float:
    """Return the largest true positive rate whose false positive rate is at most `rate`."""
    return float(true[false <= rate].max()) if (false <= rate).any() else np.nan
