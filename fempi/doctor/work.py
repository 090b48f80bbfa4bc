"""What a configuration asks for: its data on every host, and how much is sent and written in a round."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from fempi import registry, sweep
from fempi.comm import Comm
from fempi.config import Config
from fempi.description import expected_bytes, layout_of
from fempi.doctor.finding import Finding, count, name_ranks, ok, problem, size, warning
from fempi.errors import FempiError
from fempi.prepare import prepare

_PAPERS_ROUNDS = 100


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is to be done; by default what the paper on the Dual system does in a round."""

    d: int = 1_663_370
    """parameters of the model"""
    cohort: int = 10
    round_bytes: int = 4 * 10 * 1_663_370
    """size of a round's file"""
    configs: Sequence[Config] = ()
    sizes: Sequence[int] = ()
    """of the records, in bytes"""
    digest: str = ""
    """SHA-256 of what all ranks must have built alike"""


def study(
    configs: Sequence[Config], ranks: int, data_root: Path, device: torch.device, pat: Callable[[], None]
) -> Work:
    """Prepare every run, and return what the largest of them does; FempiError says what is wrong with any."""
    accepted, sizes = [], []
    problems: list[str] = []
    refused: list[str] = []
    largest = Work(d=0, cohort=0, round_bytes=0)
    digest = hashlib.sha256()
    for config in configs:
        pat()
        try:
            run = prepare(config, data_root, device)
        except FempiError as error:
            said = str(error) if len(configs) == 1 else f"{config.label}: {error}"
            (refused if config.skip_invalid else problems).append(said)
            continue
        accepted.append(config)
        sizes.append(expected_bytes(run, ranks))
        digest.update(f"{config.hash} {run.digest} ".encode())
        layout = layout_of(run, ranks)
        kept = sum(layout.keeps_vectors(r) for r in range(1, config.rounds + 1))
        work = Work(d=run.model.d, cohort=config.train.cohort, round_bytes=sizes[-1] // max(kept, 1))
        largest = max(largest, work, key=lambda w: (w.d * w.cohort, w.round_bytes))
    if problems or not accepted:
        raise FempiError("\n".join(dict.fromkeys(problems or refused)))
    return Work(
        d=largest.d,
        cohort=largest.cohort,
        round_bytes=largest.round_bytes,
        configs=accepted,
        sizes=sizes,
        digest=digest.hexdigest(),
    )


def ask(comm: Comm, study_it: Callable[[], Work]) -> tuple[Work, list[list[str]]]:
    """Let every rank study the work; return root's, and the host, complaint and digest of each. All must call it."""
    work, complaint = Work(), ""
    try:
        work = study_it()
    except FempiError as error:
        complaint = str(error)
    said = comm.describe(json.dumps([comm.host, complaint, work.digest]))
    d, cohort = comm.from_root(lambda: (work.d, work.cohort))
    if not comm.is_root:  # the ranks measure together what root has found
        work = Work(d=d, cohort=cohort)
    return work, [json.loads(each) for each in said]


def examine(work: Work, said: Sequence[Sequence[str]], ranks: int) -> Iterator[Finding]:
    """Look at what the ranks made of the configuration."""
    complaints: dict[str, list[int]] = defaultdict(list)
    for number, (_, complaint, _) in enumerate(said):
        complaints[complaint].append(number)
    for complaint, those in complaints.items():
        if complaint:
            hosts = ", ".join(dict.fromkeys(said[number][0] for number in those))
            whose = "" if len(those) == len(said) else f"{name_ranks(those)} on {hosts}: "
            yield problem(f"{whose}{complaint}", "`fempi run` refuses this")
    if list(complaints) != [""]:
        return
    if len({digest for *_, digest in said}) > 1:
        yield problem(
            "the ranks have read different configurations, or built different problems from them",
            "is the data the same on every host? is the configuration on a shared disk? is a plugin random?",
        )
    if work.configs:
        yield ok(
            f"the configuration's {count(len(work.configs), 'run')} can be prepared on every rank, data included; "
            f"at most d = {work.d:,} and {count(work.cohort, 'client')} a round"
        )
        if work.cohort < ranks:
            yield warning(
                f"{count(work.cohort, 'client')} a round leave {count(ranks - work.cohort, 'rank')} without work",
                f"start {count(work.cohort, 'rank')}, or choose a larger train.cohort",
            )


def mnist(data_root: Path) -> str:
    """Return why MNIST, which most configurations use, cannot be read here; empty if it can."""
    try:
        registry.find("dataset", "mnist").make(data_root, 0)
    except FempiError as error:
        return str(error)
    return ""


def data(comm: Comm, data_root: Path) -> Iterator[Finding]:
    """Look for MNIST on every host; all ranks must call it."""
    said = [json.loads(each) for each in comm.describe(json.dumps([comm.host, mnist(data_root)]))]
    lacking = {host: reason for host, reason in said if reason}
    if not lacking:
        yield ok(f"MNIST is in {data_root}" + (" on every host" if len({host for host, _ in said}) > 1 else ""))
    for host, reason in lacking.items():
        yield warning(f"on {host}: {reason}", "name a CONFIG, to know whether that matters")


def room(work: Work, output: Path, data_root: Path, device: torch.device) -> Finding:
    """Compare the size of the records with the space there is, and see whether anything is in their way; root's."""
    free = shutil.disk_usage(sweep.nearest(output)).free
    if not work.configs:
        needed = 2 * _PAPERS_ROUNDS * work.round_bytes  # the folder, and the file it is packed into
        what = f"{size(free)} are free below {output}"
        if needed > free:
            return warning(
                f"{what}; {_PAPERS_ROUNDS} rounds of the paper's CNN need {size(needed)}", "use another --output"
            )
        return ok(f"{what}, room for {free // (2 * work.round_bytes):,} rounds of the paper's CNN in full")
    options = sweep.Options(output=output, data_root=data_root, device=device)
    targets = [options.target_of(config) for config in work.configs]
    try:
        there = sweep.plan(work.configs, targets, work.sizes, options)
    except FempiError as error:
        return problem(str(error), "`fempi run` refuses this")
    made = sum(record is not None for record in there)
    return ok(
        f"the {count(len(there), 'record')} below {output} take {size(sum(work.sizes))}"
        + (f", of which {made} are there already" if made else "")
        + f"; {size(free)} are free"
    )
