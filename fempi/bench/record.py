"""What each way of keeping updates costs, and what it still answers: `fempi bench record`.

A round of known geometry is written by the Recorder again and again, in turns with a plain file of as many bytes that
is brought to the disk in the same way; then inner products of what was kept are compared with those of what was sent.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tomli_w

import fempi
from fempi import registry
from fempi.algebra import Bool, Float32, Float64, Updates, distances
from fempi.atomic import sync_folder
from fempi.bench import times
from fempi.columns import BLOCK
from fempi.display import console
from fempi.errors import FempiError
from fempi.forensics import replay
from fempi.forensics.across import Vector, inner_products
from fempi.rng import stream
from fempi.runfile import RunFile
from fempi.schema import PHASES, Layout
from fempi.sketch import standard_error
from fempi.store import Arrays, Description, Recorder

TIERS = ("full", "float16", "sketch", "none")
"""Values of `record.updates`"""
ANSWERS: Mapping[str, tuple[str, ...]] = {
    "suspects, groups, and fingerprints but for flips and backdoors": ("exactly", "exactly", "exactly", "exactly"),
    "cosine map and principal components of a round": ("exactly", "exactly", "exactly", "exactly"),
    "replay of rules that go by inner products": ("exactly", "exactly", "exactly", "exactly"),
    "replay of rules that go by columns": ("exactly", "nearly", "no", "no"),
    "whether a replay makes the recorded aggregate": ("exactly", "no", "no", "no"),
    "cosines across rounds, with the aggregate, or before the attack": ("exactly", "nearly", "estimated", "no"),
    "differences by layer and class, flipped classes and backdoors": ("exactly", "nearly", "no", "no"),
}
"""What can be asked of a record, and how well each tier answers it"""
MOST_ROWS = 50
"""whose geometry is compared"""
_PIECE = 1 << 22
"""Bytes that the plain file is written in"""


@dataclass(frozen=True, kw_only=True)
class Error:
    """How far figures are from what they should be, over all pairs of rows."""

    rms: float
    most: float


@dataclass(frozen=True, kw_only=True)
class Tier:
    """What was measured of one value of `record.updates`."""

    updates: str
    bytes_per_round: int
    recorder: times.Seconds
    """a round, from the hand-over until it is committed"""
    plain: times.Seconds
    """a file of as many bytes, written from end to end and brought to the disk in the same way"""
    cosine: Error | None
    """of what was kept; None where nothing was"""
    distance: Error | None
    """the same, in units of the distance"""
    stated: float | None
    """of a sketch: standard error of a cosine at most; half of it is that of a distance"""
    rules: int
    """that can be replayed"""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """All that was measured, and of what."""

    fempi_version: str
    cohort: int
    params: int
    malicious: int
    """rows that are kept twice: as trained, and as sent"""
    rounds: int
    rules: int
    """that there are"""
    gram_cosine: Error
    """of the recorded Gram matrices, which every tier has"""
    gram_distance: Error
    tiers: Sequence[Tier]


def measure(cohort: int, params: int, *, rounds: int, sketch_size: int, folder: Path) -> Measured:
    """Write so many rounds in each tier, after one that does not count, to a new folder in `folder` that goes again.

    A tenth of the rows are malicious. Checkpoints are left out, being the same in every tier.
    """
    need, free = 16 * (cohort + 2) * params, shutil.disk_usage(folder).free
    if need > free:  # at most there are three full rounds, or plain files as large, and one of halves
        raise FempiError(f"this takes {need / 1e9:.1f} GB for a while, and {folder} has {free / 1e9:.1f} GB")
    rows, malicious = known_rows(cohort, params), np.arange(cohort) < cohort // 10
    arrays = _arrays(rows, malicious)
    written: dict[str, list[float]] = {updates: [] for updates in TIERS}
    plain: dict[str, list[float]] = {updates: [] for updates in TIERS}
    with tempfile.TemporaryDirectory(prefix="fempi-bench-", dir=folder) as made:
        recorders = {
            updates: Recorder(Path(made) / updates, _description(updates, rows, malicious, rounds + 1, sketch_size))
            for updates in TIERS
        }
        for round_ in range(1, rounds + 2):
            for updates, recorder in recorders.items():
                written[updates].append(times.timed(_record, recorder, round_, arrays))
                file = max(recorder.folder.glob("round-*"))
                nbytes, copy = file.stat().st_size, recorder.folder / "plain"
                plain[updates].append(times.timed(write_plain, copy, rows, nbytes))
                copy.unlink()
                if round_ > 1:  # the first stays, to be read
                    file.unlink()
        some = np.linspace(0, cohort - 1, min(cohort, MOST_ROWS)).astype(int)
        exact = _products(rows[some])
        tiers = []
        for updates, recorder in recorders.items():
            with RunFile(recorder.folder) as run:
                kept = inner_products(run, [Vector(1, int(row)) for row in some]) if updates != "none" else None
                gram = run["rounds/gram"][0][np.ix_(some, some)]
                rules = [replay.section_of(run, name) for name in registry.names("aggregator")]
                tiers.append(
                    Tier(
                        updates=updates,
                        bytes_per_round=next(recorder.folder.glob("round-*")).stat().st_size,
                        recorder=times.of(written[updates][1:]),
                        plain=times.of(plain[updates][1:]),
                        cosine=None if kept is None else cosine_error(kept, exact),
                        distance=None if kept is None else distance_error(kept, exact),
                        stated=standard_error(sketch_size) if updates == "sketch" else None,
                        rules=sum(not replay.obstacle(run, rule) for rule in rules),
                    )
                )
    return Measured(
        fempi_version=fempi.__version__,
        cohort=cohort,
        params=params,
        malicious=int(malicious.sum()),
        rounds=rounds,
        rules=len(registry.names("aggregator")),
        gram_cosine=cosine_error(gram, exact),
        gram_distance=distance_error(gram, exact),
        tiers=tiers,
    )


def known_rows(n: int, d: int) -> Float32:
    """Return rows (n, d) of norms from 0.1 to 10, at angles from 0 to 180 degrees with one direction, else unrelated.

    So their cosines lie all over -1 to 1.
    """
    rng = stream(0, "bench")
    direction = rng.standard_normal(d, np.float32)
    rows = np.empty((n, d), np.float32)
    for row, angle, norm in zip(rows, np.linspace(0, np.pi, n), np.geomspace(0.1, 10, n), strict=True):
        rng.standard_normal(out=row, dtype=np.float32)
        row *= np.float32(np.sin(angle))
        row += np.float32(np.cos(angle)) * direction
        row *= np.float32(norm) / np.linalg.norm(row)
    return rows


def cosine_error(found: Float64, exact: Float64) -> Error:
    """Compare the cosines of different rows, from inner products (n, n); norms are known, being recorded anyway."""
    norms = np.sqrt(np.diagonal(exact))
    return _error((found - exact) / np.outer(norms, norms))


def distance_error(found: Float64, exact: Float64) -> Error:
    """Compare the distances between different rows, in units of these, from inner products (n, n)."""
    apart = ~np.eye(len(exact), dtype=bool)
    away = np.sqrt(distances(exact), where=apart, out=np.ones_like(exact))
    return _error(np.sqrt(distances(found)) / away - 1)


def write_plain(path: Path, content: Float32, nbytes: int) -> None:
    """Write so many bytes as a file that is on the disk, under its name, when this returns."""
    temporary, view = path.with_suffix(".tmp"), memoryview(content.data).cast("B")
    with temporary.open("wb", buffering=0) as file:
        while (done := file.tell()) < nbytes:
            start = done % len(view)
            file.write(view[start : start + min(_PIECE, nbytes - done)])
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_folder(path.parent)


def show(measured: Measured) -> None:
    """Print what was measured."""
    out = console()
    out.print(
        f"{measured.rounds} rounds of {measured.cohort} updates, {measured.malicious} of them malicious, of "
        f"{measured.params:,} parameters each; times are medians, with the shortest and the longest",
        highlight=False,
        soft_wrap=True,
    )
    costs = times.table("updates", "bytes\na round", "ms a round", "MB/s", "plain file\nms", "MB/s", "rules to\nreplay")
    errors = times.table(
        "updates",
        "error of cosines\nroot mean square",
        "\nmost",
        "error of distances\nroot mean square",
        "\nmost",
        "stated for\ncosines",
    )
    for tier in measured.tiers:
        costs.add_row(
            tier.updates,
            f"{tier.bytes_per_round:,}",
            times.milliseconds(tier.recorder),
            _speed(tier, tier.recorder),
            times.milliseconds(tier.plain),
            _speed(tier, tier.plain),
            f"{tier.rules} of {measured.rules}",
        )
        errors.add_row(
            tier.updates, *_figures(tier.cosine, tier.distance), f"{tier.stated:.2g}" if tier.stated else "-"
        )
    errors.add_row("any, in a round", *_figures(measured.gram_cosine, measured.gram_distance), "-")
    answers = times.table("question", *TIERS)
    for question, how in ANSWERS.items():
        answers.add_row(question, *how)
    for table in (costs, errors, answers):
        out.print(table)


def _arrays(rows: Float32, malicious: Bool) -> Arrays:
    """Return what the Recorder gets of a round that the plain mean decided."""
    n = len(rows)
    reference = rows.mean(axis=0)
    received, weights = Updates(rows, reference), np.full(n, 1 / n)
    return {
        "rounds/client": np.arange(n),
        "rounds/malicious": malicious,
        "rounds/attacking": malicious,
        "rounds/rank": np.zeros(n),
        "rounds/num_examples": np.ones(n),
        "rounds/train_loss": np.ones(n),
        "rounds/norm": received.norms,
        "rounds/trust": np.ones(n),
        "rounds/weight": weights,
        "rounds/scale": np.ones(n),
        "rounds/selected": np.ones(n, bool),
        "rounds/finite": received.finite,
        "rounds/gram": received.full_gram,
        "rounds/true_positive_rate": np.asarray(0.0),
        "rounds/false_positive_rate": np.asarray(0.0),
        "rounds/trust_auc": np.asarray(0.5),
        "rounds/epsilon": np.asarray(np.inf),
        "rounds/update": rows,
        "rounds/trained_update": rows[malicious],
        "rounds/reference": reference,
        "rounds/aggregate": received.combine(weights),
        "timing/seconds": np.zeros((1, len(PHASES))),
    }


def _description(updates: str, rows: Float32, malicious: Bool, rounds: int, sketch_size: int) -> Description:
    n, d = rows.shape
    config = {
        "name": "bench",
        "label": updates,
        "aggregator": {"name": "mean", "num_byzantine": int(malicious.sum()), "pre": []},
        "record": {"updates": updates, "sketch_size": sketch_size},
    }
    layout = Layout(
        sizes={"round": rounds, "slot": n, "param": d, "client": n, "class": 1, "layer": 1, "plugin": 0},
        launches=[[1, 1]],
        evaluate_every=rounds,
        updates=updates,
        sketch_size=sketch_size,
    )
    unknown = np.array([""], object)
    return Description(
        layout=layout,
        attributes={"config": tomli_w.dumps(config), "config_hash": "", "seed": 0, "problem": ""},
        static={
            "clients/malicious": malicious,
            "clients/num_examples": np.ones(n, np.int64),
            "clients/label_counts": np.ones((n, 1), np.int64),
            "layers/name": np.array(["all"], object),
            "layers/shape": np.array([str([d])], object),
            "layers/offset": np.zeros(1, np.int64),
            "launches/first_round": np.ones(1, np.int64),
            "launches/ranks": np.ones(1, np.int64),
            "launches/started": unknown,
            "launches/software": unknown,
            "ranks/host": unknown[None],
            "ranks/device": unknown[None],
            "ranks/threads": np.ones((1, 1), np.int64),
        },
    )


def _record(recorder: Recorder, round_: int, arrays: Arrays) -> None:
    recorder.write(round_, arrays)
    recorder.wait()


def _products(rows: Float32) -> Float64:
    products = np.zeros((len(rows), len(rows)))
    for start in range(0, rows.shape[1], BLOCK):
        block = rows[:, start : start + BLOCK].astype(np.float64)
        products += block @ block.T
    return products


def _error(differences: Float64) -> Error:
    pairs = differences[np.triu_indices(len(differences), 1)]
    return Error(rms=float(np.sqrt(np.mean(pairs**2))), most=float(np.abs(pairs).max()))


def _speed(tier: Tier, seconds: times.Seconds) -> str:
    return f"{tier.bytes_per_round / seconds.median / 1e6:,.0f}"


def _figures(*errors: Error | None) -> list[str]:
    return [f"{value:.1e}" for error in errors for value in ((error.rms, error.most) if error else ())] or ["-"] * 4
