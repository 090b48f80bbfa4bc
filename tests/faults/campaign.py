"""What a campaign of kills is to do, drawn from seeds, and what it has seen, kept in a log."""

import json
import os
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path

from experiments import EXPERIMENTS

# When a kill comes. Some moments are shorter than a signal takes to arrive; there a brake holds the file that is being
# written (None: no brake) until the signal is sent.
MOMENTS = {
    "starting": None,  # any time from the first process to the first round
    "opening": "run.h5",
    "training": None,  # any time in some rounds
    "recording": "round-",
    "checkpointing": "checkpoint.h5",
    "finishing": "final-",
    "packing": "x.h5",
    "clearing": None,  # the packed record is in place
    "any time": None,
}
LATE = ("finishing", "packing", "clearing")  # after these there is no round left to make
VICTIMS = ("root", "another", "all ranks", "launcher", "everything")


@dataclass(frozen=True, kw_only=True)
class Launch:
    """How a run is started, or started again."""

    ranks: int | None
    placement: str
    checkpoint_every: int
    by_folder: bool  # `fempi resume FOLDER`, if there is one to resume; else `fempi run CONFIG`


@dataclass(frozen=True, kw_only=True)
class Kill:
    """A launch and its end."""

    launch: Launch
    moment: str
    victim: str
    share: float  # of the rounds to make, or of the time there is, that pass before the kill
    delay: float  # seconds between the moment and the kill


@dataclass(frozen=True)
class Plan:
    """All that happens to one run: kills, one after another, and the launch that brings it to its end."""

    seed: int

    @cached_property
    def experiment(self) -> str:
        """Which run it is."""
        return random.Random(f"experiment {self.seed}").choice(sorted(EXPERIMENTS))

    @cached_property
    def kills(self) -> list[Kill]:
        """Kills in order: consecutive seeds go through all moments, and through all victims, with the first."""
        draw = random.Random(f"kills {self.seed}")
        moments, victims = list(MOMENTS), list(VICTIMS)
        kills = [
            Kill(
                launch=_launch(draw, [2, 2, 3, 4]),
                moment=draw.choice(moments) if number else moments[self.seed % len(moments)],
                victim=draw.choice(victims) if number else victims[self.seed % len(victims)],
                share=draw.random(),
                delay=draw.choice([0.0, draw.uniform(0, 0.1)]),
            )
            for number in range(draw.choice([1, 1, 1, 2, 2, 3]))
        ]
        return sorted(kills, key=lambda kill: LATE.index(kill.moment) if kill.moment in LATE else -1)

    @cached_property
    def last(self) -> Launch:
        """The launch that nobody kills."""
        return _launch(random.Random(f"last {self.seed}"), [None, None, 1, 2, 3])

    def __str__(self) -> str:
        kills = "; ".join(f"{kill.victim} while {kill.moment}" for kill in self.kills)
        return f"seed {self.seed}, {self.experiment}: {kills}"


def _launch(draw: random.Random, ranks: Sequence[int | None]) -> Launch:
    return Launch(
        ranks=draw.choice(ranks),
        placement=draw.choice(["balanced", "pinned"]),
        checkpoint_every=draw.choice([1, 1, 1, 4]),
        by_folder=draw.random() < 0.6,
    )


@dataclass(kw_only=True)
class Outcome:
    """What became of a plan."""

    seed: int
    experiment: str
    kills: list[dict[str, object]] = field(default_factory=list)
    """moment, victim, seconds until the job was gone, rounds committed then; or why there was nothing to kill"""
    launches: int = 0
    differences: list[str] = field(default_factory=list)
    ended: bool = False
    """whether all was as it has to be, to the end"""


class Log:
    """The outcomes of a campaign, in a file if it is to go on in another session."""

    def __init__(self, path: str | None) -> None:
        self._path = Path(path) if path else None
        lines = self._path.read_text().splitlines() if self._path and self._path.exists() else []
        self.outcomes = [Outcome(**json.loads(line)) for line in lines]

    def add(self, outcome: Outcome) -> None:
        """Keep an outcome."""
        self.outcomes.append(outcome)
        if self._path is not None:
            with self._path.open("a") as file:
                file.write(json.dumps(asdict(outcome)) + "\n")

    def plans(self, kills: int, first_seed: int) -> list[Plan]:
        """Return plans with so many kills at least, but for those that the log has as ended well."""
        done = {outcome.seed for outcome in self.outcomes if outcome.ended}
        plans, planned = [], 0
        while planned < kills:
            plan = Plan(first_seed + len(plans))
            plans.append(plan)
            planned += len(plan.kills)
        return [plan for plan in plans if plan.seed not in done]

    def summary(self) -> list[str]:
        """Return what happened, a line for each run and then what it comes to."""
        lines = [_line(outcome) for outcome in self.outcomes]
        kills = [kill for outcome in self.outcomes for kill in outcome.kills]
        hits = [kill for kill in kills if "committed" in kill]
        for what in ("moment", "victim"):
            counts = Counter(str(kill[what]) for kill in hits)
            lines.append(f"kills by {what}: {', '.join(f'{name} {n}' for name, n in counts.most_common())}")
        seconds = [float(str(kill["seconds"])) for kill in hits]
        late = sum("late" in kill for kill in kills)
        committed = sum(int(str(kill["committed"])) for kill in hits)
        resumed = sum(outcome.launches - 1 for outcome in self.outcomes)
        different = sum(len(outcome.differences) for outcome in self.outcomes)
        unwell = sum(not outcome.ended for outcome in self.outcomes)
        lines.append(
            f"{len(hits)} kills of {len(self.outcomes)} runs, {late} more came too late; jobs gone within "
            f"{max(seconds, default=0):.2f} s, {sum(seconds) / max(len(seconds), 1):.2f} s on average; {committed} "
            f"committed rounds found; {resumed} times gone on; {different} datasets differ; {unwell} runs not well"
        )
        return lines


def _line(outcome: Outcome) -> str:
    told = []
    for kill in outcome.kills:
        ended = "too late" if "late" in kill else "NOT WELL"
        if "committed" in kill:
            ended = f"gone in {kill['seconds']} s with {kill['committed']} rounds"
        told.append(f"{kill['victim']} while {kill['moment']}, {ended}")
    return f"seed {outcome.seed}, {outcome.experiment}: {'; '.join(told)}: {'well' if outcome.ended else 'NOT WELL'}"


KILLS = int(os.environ.get("FEMPI_FAULTS", "10"))
FIRST_SEED = int(os.environ.get("FEMPI_FAULTS_SEED", "1"))
LOG = Log(os.environ.get("FEMPI_FAULTS_LOG"))
