"""fempi: an MPI benchmark for Byzantine-robust federated learning that keeps the evidence.

These names are all that a plugin or an analysis needs; everything else may change between versions.
"""

from fempi.aggregators import Context, Decision, TooFewRows
from fempi.aggregators.pre import Mixing
from fempi.algebra import Updates
from fempi.attacks import Attack, Knowledge, honest
from fempi.datasets import Dataset
from fempi.errors import FempiError
from fempi.registry import register
from fempi.runfile import RunFile, open  # noqa: A004 - as in xarray

__version__ = "0.1.0"

__all__ = [
    "Attack",
    "Context",
    "Dataset",
    "Decision",
    "FempiError",
    "Knowledge",
    "Mixing",
    "RunFile",
    "TooFewRows",
    "Updates",
    "__version__",
    "honest",
    "open",
    "register",
]
