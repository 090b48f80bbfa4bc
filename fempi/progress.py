"""What a sweep tells while it goes on, for whoever shows it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fempi.config import Config


@dataclass(frozen=True, kw_only=True)
class Progress:
    """What can be told after a round."""

    round: int
    rounds: int
    made: int
    """rounds made since the program began, which may have gone on with a run"""
    accuracy: float | None
    """on the test set, if it was tested"""


@dataclass(frozen=True, kw_only=True)
class Stint:
    """A run that a group of ranks has made, or gone on with."""

    label: str
    started: float
    """seconds after the groups began"""
    seconds: float
    """until its record had its form"""


@dataclass(frozen=True, kw_only=True)
class Share:
    """What one of several groups of ranks has made."""

    ranks: str
    hosts: str
    stints: Sequence[Stint]


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """What is left of a sweep when a run is made."""

    run: int
    """its number among those to be made, from 1"""
    runs: int
    seconds: float
    """until all are made, if they go on as fast"""


class Reporter:
    """Called on root, or on the root of each group; this one says nothing."""

    def planned(self, target: Path, nbytes: int, done: bool) -> None:
        """A run is to be made, or its finished record was found."""

    def skipped(self, config: Config, reason: str) -> None:
        """A run is left out, because a plugin cannot work with its settings."""

    def started(self, config: Config, done: int, same_software: bool) -> None:
        """A run begins, or goes on after `done` rounds, perhaps made by other versions of what computes."""

    def left(self, config: Config, holder: str) -> None:
        """A run is left to another job, which is described."""

    def progressed(self, progress: Progress) -> None:
        """A round is over."""

    def stopped(self) -> None:
        """A run ended, well or not."""

    def made(self, config: Config, seconds: float, outlook: Outlook) -> None:
        """A run ended well after so many seconds, and its record has its form."""

    def shared(self, shares: Sequence[Share], seconds: float) -> None:
        """Several groups have made all runs in so many seconds."""

    def finished(self, records: Sequence[Path]) -> None:
        """All runs are made; these are their records."""
