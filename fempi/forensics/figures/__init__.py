"""Figures of records, for a paper as for a screen: one function each, which returns what matplotlib drew."""

from fempi.forensics.figures.accuracy import accuracy_curves
from fempi.forensics.figures.detection import norms, roc
from fempi.forensics.figures.partition import partition
from fempi.forensics.figures.rows import cosine_map, update_map
from fempi.forensics.figures.timing import timing
from fempi.forensics.figures.trust import trust_timeline

__all__ = [
    "accuracy_curves",
    "cosine_map",
    "norms",
    "partition",
    "roc",
    "timing",
    "trust_timeline",
    "update_map",
]
