"""Holds both papers' tables and figures beside what fempi makes of their experiments.

python analysis/reproduction results -o analysis/REPRODUCTION.md

Reads the records that `make reproduce` leaves in results/ (or those of `make reproduce-quick`); what has not been run
is said to be missing. Beside the page, a folder `reproduction` gets its figures, and runs.csv, a line for each record.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from beyond import Field, field
from claims import CURVE, PUBLISHED, Claim, Iomt, iomt, trust_krum_dp
from figures import curves, heat_map, intensities
from matplotlib.figure import Figure
from runs import METRICS, Runs, read

from fempi.errors import FempiError
from fempi.forensics.figures import partition

NAMES = (
    "iomt_table2",
    "iomt_table2_small",
    "iomt_table1",
    "iomt_table1_small",
    "trust_krum_dp_table1",
    "trust_krum_dp_beyond",
    "iomt_beyond",
)
FOLDER = "reproduction"
RESOLUTION = 130

INTRODUCTION = """\
# Both papers, run again

Made from the {count} runs of `make reproduce` that were finished, which are in `results/`, by

    python analysis/reproduction results -o analysis/REPRODUCTION.md

Numbers are test accuracies after the last round unless something else is said, as mean ± standard deviation over seeds
where there are several. [runs.csv](reproduction/runs.csv) has a line for each run: its seed, scores, the hash of its
configuration and the digest of its results. `fempi info` shows both of a record of yours: with equal hashes, equal
digests say that every bit of every round is equal, on any number of ranks. They are those of one processor and one
version of PyTorch; another may round in another way.

A claim with a number counts as reproduced if the number lies within two standard deviations of ours, or within 0.03:
the papers show one seed each.
"""
A = """\
## The Dual-System paper

Nadeem, Javed: Byzantine-Resilient Federated Learning for IoMT Devices. 100 clients of two digits each, 10 a round; 10
are malicious and send -5 w, read as the update or as the weights; configs/iomt_table1.toml and iomt_table2.toml, with
the paper's CNN (1,663,370 parameters, one seed), and the same with `_small` in their names, with a CNN of 22,514
parameters and five seeds.
"""
B = """\
## The paper on trust, Krum and differential privacy

A trust-based framework that combines Krum, Differential Privacy (DP), and adaptive trust measures, IJRASET 12 (XI),
2024. 10 clients with equal data, 3 of them malicious; configs/trust_krum_dp_table1.toml says what the paper leaves open
and what was chosen. Gradient manipulation is read in three ways: factors of 0.1 to 0.3 as printed, of 1.1 to 1.3,
which amplify as its prose says, and noise of a standard deviation of 0.1 to 0.3.
"""
BEYOND = """\
## Beyond the papers

Every main rule against attacks that the papers leave out, with 10, 20 and 30 % malicious clients
(configs/iomt_beyond.toml, configs/trust_krum_dp_beyond.toml). A cell has the accuracy and its distance from the same
rule's when nobody attacks, which knows as many declared Byzantine rows.
"""


def claims(rows: Sequence[Claim]) -> str:
    """Lay out claims."""
    lines = ["| claim | theirs | ours | verdict | why |", "|---|---|---|---|---|"]
    lines += [f"| {c.claim} | {c.published} | {c.ours} | **{c.verdict}** | {c.why} |" for c in rows]
    return "\n".join(lines) + "\n"


def iomt_table(name: str, found: Mapping[str, Runs], rounds: Sequence[int]) -> str:
    """Lay out one of the Dual-System paper's tables, a row for each system."""
    if not found:
        return f"`{name}`: not run yet.\n"
    lines = [
        f"| {name} | rounds | {' | '.join(f'at {round_}' for round_ in rounds)} | seeds | hash | digest |",
        "|---" * (len(rounds) + 5) + "|",
    ]
    for arm, runs in found.items():
        cells = [runs.shown(round_) if round_ in runs.tested else "" for round_ in rounds]
        lines.append(
            f"| {arm} | {runs.tested[-1]} | {' | '.join(cells)} | {len(runs.seeds)} | {runs.hashes[0][:8]} | "
            f"{runs.digests[0][:8]} |"
        )
        if name.startswith("iomt_table2") and arm in PUBLISHED:
            theirs = " | ".join(f"*{value:.3f}*" for value in PUBLISHED[arm])
            lines.append(f"| *{arm}, the paper's* | 100 | {theirs} | *1* | | |")
    lines += ["", "Hash and digest are the first seed's. One row again:", ""]
    arm = next(iter(found))
    lines += [f"    mpirun -n 2 fempi run configs/{name}.toml --arm {arm} --output again", ""]
    return "\n".join(lines)


def trust_krum_dp_table(found: Mapping[str, Runs], metric: str) -> str:
    """Lay out the other paper's table for one metric, a row for each attack."""
    arms = list(dict.fromkeys(runs.arm for runs in found.values()))
    attacks = list(dict.fromkeys(label.partition("+attack=")[2] for label in found))
    lines = [
        f"| {metric} | {' | '.join(arms)} | hash of {arms[0]} | digest |",
        "|---" * (len(arms) + 3) + "|",
    ]
    for attack in attacks:
        row = [found.get(f"{arm}+attack={attack}") for arm in arms]
        cells = [runs.shown(metric=metric) if runs else "" for runs in row]
        first = row[0]
        sums = (first.hashes[0][:8], first.digests[0][:8]) if first else ("", "")
        lines.append(f"| {' | '.join((attack.replace('_', ' '), *cells, *sums))} |")
    return "\n".join(lines) + "\n"


def ranking(found: Field) -> str:
    """Lay out which rules hold, the best first."""
    lines = ["| rule | worst accuracy under attack | by | mean under attack | clean |", "|---|---|---|---|---|"]
    for rule, mean, worst, by, clean in found.ranking():
        lines.append(f"| {rule} | {worst:.3f} | {by} | {mean:.3f} | {clean:.3f} |")
    return "\n".join(lines) + "\n"


def save(figure: Figure, folder: Path, name: str) -> str:
    """Write a figure; return how the page shows it."""
    figure.savefig(folder / f"{name}.png", dpi=RESOLUTION)
    return f"![{name.replace('_', ' ')}]({folder.name}/{name}.png)\n"


def list_runs(found: Mapping[str, Mapping[str, Runs]], folder: Path) -> int:
    """Write a line for each run; return how many there are."""
    lines = 0
    with (folder / "runs.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["configuration", "run", "seed", "rounds", *METRICS, "config_hash", "digest"])
        for name, kinds in found.items():
            for runs in kinds.values():
                for i, seed in enumerate(runs.seeds):
                    scores = [f"{runs.at(metric=metric)[i]:.4f}" for metric in METRICS]
                    writer.writerow([name, runs.label, seed, runs.tested[-1], *scores, runs.hashes[i], runs.digests[i]])
                    lines += 1
    return lines


def page(root: Path, folder: Path) -> str:
    """Write the figures and the list of runs to a folder; return the page."""
    found = {name: read(root / name) for name in NAMES}
    if not any(found.values()):
        raise FempiError(f"there are no records of the papers' experiments in {root}; `make reproduce` makes them")
    folder.mkdir(parents=True, exist_ok=True)
    parts = [INTRODUCTION.format(count=list_runs(found, folder)), A]
    papers = Iomt(**{name.removeprefix("iomt_"): found[name] for name in NAMES if name.startswith("iomt_table")})
    parts.append(claims(iomt(papers)))
    if papers.table2 or papers.table2_small:
        parts.append(save(curves(papers.table2, papers.table2_small), folder, "iomt_table2"))
        some = next(iter((papers.table2 or papers.table2_small).values()))
        parts.append(save(partition(some.paths[0], title="two digits for each client"), folder, "iomt_partition"))
    parts += [iomt_table(name, found[name], CURVE) for name in ("iomt_table2", "iomt_table2_small")]
    long = (100, 200, 400, 600, 800, 1000)
    parts += [iomt_table(name, found[name], long) for name in ("iomt_table1", "iomt_table1_small")]
    parts.append(B)
    grid = found["trust_krum_dp_table1"]
    judged = trust_krum_dp(grid)
    parts.append(claims(judged) if judged else "Not all that the claims are about has been run yet.\n")
    if grid:
        parts.append(save(intensities(grid), folder, "trust_krum_dp_table1"))
        parts += [trust_krum_dp_table(grid, metric) for metric in ("accuracy", "f1")]
        spent = {runs.arm: runs.epsilon for runs in grid.values() if runs.config["privacy"].get("clip", "off") != "off"}
        told = ", ".join(f"{arm} {epsilon:.3g}" for arm, epsilon in spent.items())
        parts.append(f"Epsilon spent after the last round, at delta = 1e-5: {told or 'none'}.\n")
    parts.append(BEYOND)
    for name in ("iomt_beyond", "trust_krum_dp_beyond"):
        arranged = field(found[name])
        if arranged is None:
            parts.append(f"`{name}`: not run yet.\n")
            continue
        parts.append(f"### {name}, {arranged.seeds} seed{'s' if arranged.seeds > 1 else ''}\n")
        parts.append(save(heat_map(arranged.rules, arranged.columns, *arranged.flat), folder, name))
        parts.append(ranking(arranged))
    return "\n".join(parts)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, metavar="FOLDER", help="where the records are, in a folder for each config")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the page: .md")
    options = parser.parse_args()
    try:
        folder = options.output.parent / FOLDER
        options.output.write_text(page(options.root, folder))
    except (FempiError, OSError) as error:
        parser.error(str(error))
    print(f"{options.output}, and figures in {folder}")
