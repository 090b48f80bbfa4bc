"""How well a rule's decision tells malicious rows from honest ones. Known only afterwards: no rule sees the truth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fempi.algebra import Bool, Float64


@dataclass(frozen=True)
class Detection:
    """Figures of one round, 0 to 1; NaN where there are no rows to count."""

    true_positive_rate: float
    """share of the malicious rows that were excluded"""
    false_positive_rate: float
    """share of the honest rows that were excluded"""
    trust_auc: float
    """probability that an honest row is trusted more than a malicious one, ties counting half: 0.5 is chance"""


def detect(malicious: Bool, selected: Bool, trust: Float64) -> Detection:
    """Compare the truth (n,) with the rows that a rule selected (n,) and its trust in them (n,).

    Rows whose trust is NaN, which were excluded before the rule saw them, rank below all others.
    """
    return Detection(
        true_positive_rate=_share(~selected[malicious]),
        false_positive_rate=_share(~selected[~malicious]),
        trust_auc=_auc(~malicious, trust),
    )


def _share(flags: Bool) -> float:
    return float(flags.mean()) if len(flags) else np.nan


def _auc(honest: Bool, trust: Float64) -> float:
    """Mann-Whitney U of the honest rows over all pairs: scikit-learn's would take a second to import, in every run."""
    if honest.all() or not honest.any():
        return np.nan
    scores = np.unique(trust, return_inverse=True)[1] + 1  # an order, whatever infinities are in it
    scores[np.isnan(trust)] = 0
    ties = np.bincount(scores)
    ranks = (np.cumsum(ties) - (ties - 1) / 2)[scores]  # from 1; rows that tie share the mean of theirs
    positive, negative = int(honest.sum()), int((~honest).sum())
    return float((ranks[honest].sum() - positive * (positive + 1) / 2) / (positive * negative))
