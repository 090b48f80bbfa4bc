"""Holds both papers' tables and figures beside what fempi makes of their experiments.

python analysis/reproduction results -o analysis/REPRODUCTION.md

Reads the records that `make reproduce` leaves in results/ (or those of `make reproduce-quick`); what has not been run
is said to be missing. Beside the page, a folder `reproduction` gets its figures and runs.csv, a line for each run. Runs
that are listed there and whose records are gone are still on the page, unless their configuration has changed since.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import dual_system
import trust_and_krum
from beyond import Field, Rank, advice, everywhere, field
from claims import LEAST, MOST, Claim
from dual_system import CLOSE, CURVE, PUBLISHED, Tables
from figures import curves, heat_map, intensities
from matplotlib.figure import Figure
from runs import METRICS, Found, Runs, read, read_list, spread, with_common_seeds, write_list

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
LONG = (100, 200, 400, 600, 800, 1000)
FOLDER = "reproduction"
RESOLUTION = 130
FIRST = "Hash and digest are the first seed's; runs.csv has the others."
LISTED = "runs.csv has hash and digest of every run."

INTRODUCTION = """\
# Both papers, run again

Made from {count} runs by

    python analysis/reproduction {root} -o {output}

Numbers are test accuracies after the last round unless something else is said, as mean ± standard deviation over seeds
where there are several. [runs.csv](reproduction/runs.csv) has a line for each run: its seed, scores, the hash of its
configuration and the digest of its results. `fempi info` shows both of a record of yours: with equal hashes, equal
digests say that every bit of every round is equal, on any number of ranks. Another kind of processor, or another
version of PyTorch, may round in another way; these runs were made with
{software}{unnoted}.
{notes}
A paper's number counts as reproduced if it lies within {least} of ours or, where there are several seeds, within two
standard deviations, up to {most}: the papers show one number of each. "Nearly equal" reaches as far as {close}. Orders
and differences are those of means over the same seeds. Where a text can be read in several ways, it is enough that a
claim holds in one of them.

Of {claims} claims: {verdicts}.
"""
A = """\
## The Dual-System paper

Nadeem, Javed: Byzantine-Resilient Federated Learning for IoMT Devices. 100 clients with two shards of the sorted
digits each, 10 a round; 10 are malicious and send -5 w, read as the update or as the weights. "CNN" is McMahan's, with
1,663,370 parameters, which is built as the paper says, of two convolutions with pooling and a dense layer with dropout;
the text gives no sizes (configs/iomt_table1.toml and iomt_table2.toml, one seed). "small" has 22,514 parameters, and
neither pooling nor dropout (the same names with `_small`, five seeds). Where the CNN was run, it decides; where the
small model's seeds say otherwise, the row tells. Shares of clients left out are means over rounds; a round is idle if
the rule leaves out everybody.
"""
B = """\
## The paper on trust, Krum and differential privacy

On "a trust-based framework that combines Krum, Differential Privacy (DP), and adaptive trust measures" (IJRASET 12
(XI), 2024; the text at hand has neither title nor authors). 10 clients with equal data, 3 of them malicious;
configs/trust_krum_dp_table1.toml says what the paper leaves open and what was chosen. Gradient manipulation is read in
three ways: factors of 0.1 to 0.3 as printed, of 1.1 to 1.3, which amplify as its prose says, and noise of a standard
deviation of 0.1 to 0.3. The noise of DP and Hybrid is read in two ways: on updates as they are, and on clipped ones.
"""
BEYOND = """\
## Beyond the papers

Every main rule against both papers' attacks and four that they leave out, with 10, 20 and 30 % malicious clients, in
the papers' settings with the small model and fewer rounds (configs/iomt_beyond.toml and trust_krum_dp_beyond.toml).
All rules expect the share of attackers that there is; of 100 clients 10 are drawn each round, and now and then more of
them attack than a rule expects. A cell has the accuracy, and how it differs from the same rule's when nobody attacks.
A run is broken if its accuracy is below half of the best that any rule reaches when nobody attacks. `hybrid` is without
its noise.

`dual-rescaled` gives all updates the reference's norm; in `fltrust-equal-steps` and `dual-equal-steps` the server
trains its reference for as many steps as a client, not for as many epochs; `dual-mended` does so, too, and its
threshold is 0: its filter leaves out only what points away from the reference, and Multi-Krum chooses among the rest.
`nnm-` stands for nearest-neighbour mixing before the rule. `centered_clipping` has a radius that fits the updates,
which were looked at for it; all other rules have their defaults, but for Krum's distances in `hybrid`.
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
        f"| {name} | rounds | {' | '.join(f'at {round_}' for round_ in rounds)} | attackers left out | "
        "others left out | idle rounds | seeds | hash | digest |",
        "|---" * (len(rounds) + 8) + "|",
    ]
    for arm, runs in found.items():
        cells = [spread(runs.at(round_)) if round_ in runs.tested else "" for round_ in rounds]
        cells += [share(runs, "attackers_excluded"), share(runs, "honest_excluded")]
        idle = runs.noted("idle_rounds")
        cells.append(f"{idle.mean():.3g}" if len(idle) else "")
        lines.append(f"| {arm} | {runs.last_round} | {' | '.join(cells)} | {len(runs.members)} | {sums(runs)} |")
        if name.startswith("iomt_table2") and arm in PUBLISHED:
            theirs = " | ".join(f"*{value:.3f}*" for value in PUBLISHED[arm])
            lines.append(f"| *{arm}, the paper's* | 100 | {theirs} | | | | *1* | | |")
    return "\n".join([*lines, "", again(name, found)])


def share(runs: Runs, what: str) -> str:
    """Show the mean over seeds of a share of clients; nothing if nobody noted it."""
    noted = runs.noted(what)
    return f"{noted.mean():.0%}" if len(noted) else ""


def sums(runs: Runs) -> str:
    """Show the beginning of hash and digest of the first seed."""
    return f"{runs.first.hash[:8]} | {runs.first.digest[:8]}"


def again(name: str, found: Mapping[str, Runs], sums: str = FIRST) -> str:
    """Say how to make some of the runs again, and where their hashes and digests are."""
    runs = next(iter(found.values()))
    return (
        f"{sums} To make runs of a system again:\n\n"
        f"    mpirun -n 2 fempi run configs/{name}.toml --arm {runs.arm} --output again{runs.settings}\n"
    )


def trust_krum_dp_table(found: Mapping[str, Runs], metric: str) -> str:
    """Lay out the other paper's table for one metric, a row for each attack."""
    arms = list(dict.fromkeys(runs.arm for runs in found.values()))
    attacks = list(dict.fromkeys(label.partition("+attack=")[2] for label in found))
    sealed = "hybrid" if "hybrid" in arms else arms[-1]
    lines = [
        f"| {metric} | {' | '.join(arms)} | hash of {sealed} | digest |",
        "|---" * (len(arms) + 3) + "|",
    ]
    for attack in attacks:
        row = [found.get(f"{arm}+attack={attack}") for arm in arms]
        cells = [spread(runs.last(metric)) if runs else "" for runs in row]
        runs = row[arms.index(sealed)]
        lines.append(f"| {attack.replace('_', ' ')} | {' | '.join(cells)} | {sums(runs) if runs else ' | '} |")
    return "\n".join(lines) + "\n"


def excluded_table(found: Mapping[str, Runs]) -> str:
    """Lay out whom the rules that leave clients out leave out, a row for each attack."""
    choosing = [runs for runs in found.values() if runs.first.config["aggregator"]["name"] != "mean"]
    arms = list(dict.fromkeys(runs.arm for runs in choosing if len(runs.noted("honest_excluded"))))
    if not arms:
        return ""
    lines = ["| left out: attackers, others | " + " | ".join(arms) + " |", "|---" * (len(arms) + 1) + "|"]
    for attack in dict.fromkeys(label.partition("+attack=")[2] for label in found):
        row = [found.get(f"{arm}+attack={attack}") for arm in arms]
        cells = [
            f"{share(runs, 'attackers_excluded') or '-'}, {share(runs, 'honest_excluded') or '-'}" if runs else ""
            for runs in row
        ]
        lines.append(f"| {attack.replace('_', ' ')} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def ranking(found: Field) -> str:
    """Lay out which rules hold, the best first."""
    lines = [
        "| rule | worst accuracy under attack | by | mean under attack | clean | attacked runs broken |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {rank.rule} | {spread(rank.worst)} | {rank.by} | {rank.mean:.3f} | {spread(rank.clean)} | {count(rank)} |"
        for rank in found.ranking()
    ]
    return "\n".join(lines) + "\n"


def count(rank: Rank) -> str:
    """Say how many of a rule's runs are broken, and how many seeds can't be."""
    if not rank.learns:
        return "does not learn"
    rest = f"; {rank.seeds - rank.learns} of {rank.seeds} seeds do not learn" if rank.learns < rank.seeds else ""
    return f"{rank.broken} of {rank.runs}{rest}"


def report(folder: Path, name: str, run: str) -> str:
    """Say where what forensics makes of a run is; nothing if it is not there."""
    if not (folder / f"{name}_report.pdf").exists():
        return ""
    return (
        f"What forensics finds in one attacked run ({run}), and whether it is right:\n"
        f"[report]({folder.name}/{name}_report.pdf), printed from the page that `make reports` makes.\n"
    )


def save(figure: Figure, folder: Path, name: str) -> str:
    """Write a figure; return how the page shows it."""
    figure.savefig(folder / f"{name}.png", dpi=RESOLUTION)
    return shown(folder, name)


def shown(folder: Path, name: str) -> str:
    """Say where the page shows a figure."""
    return f"![{name.replace('_', ' ')}]({folder.name}/{name}.png)\n"


def dual_system_part(found: Mapping[str, Mapping[str, Runs]], judged: Sequence[Claim], folder: Path) -> list[str]:
    """Lay out the Dual-System paper."""
    own, small = found["iomt_table2"], found["iomt_table2_small"]
    parts = [A, claims(judged)]
    if own or small:
        parts.append(save(curves(own, small), folder, "iomt_table2"))
        every = [run for kind in (own, small) for runs in kind.values() for run in runs.members]
        records = [run.path for run in every if run.path and run.seed == 1]
        if records:
            save(partition(records[0], title="two shards for each client, seed 1"), folder, "iomt_partition")
        if (folder / "iomt_partition.png").exists():
            parts.append(shown(folder, "iomt_partition"))
    parts += [iomt_table(name, found[name], CURVE) for name in ("iomt_table2", "iomt_table2_small")]
    parts += [iomt_table(name, found[name], LONG) for name in ("iomt_table1", "iomt_table1_small")]
    parts.append(report(folder, "iomt", "Dual, with the small model"))
    return parts


def trust_and_krum_part(grid: Mapping[str, Runs], judged: Sequence[Claim], folder: Path) -> list[str]:
    """Lay out the paper on trust, Krum and differential privacy."""
    parts = [B, claims(judged) if judged else "Not all that the claims are about has been run yet.\n"]
    parts.append(trust_and_krum.together(judged))
    if grid:
        seeds = sorted({len(runs.members) for runs in grid.values()})
        parts.append(f"Seeds of each cell, here and above: {' to '.join(map(str, seeds))}.\n")
        parts.append(save(intensities(grid), folder, "trust_krum_dp_table1"))
        parts += [trust_krum_dp_table(grid, metric) for metric in METRICS]
        parts += [again("trust_krum_dp_table1", grid), excluded_table(grid)]
        spent = {runs.arm: runs.first.epsilon for runs in grid.values() if math.isfinite(runs.first.epsilon)}
        told = ", ".join(f"{arm} {epsilon:.3g}" for arm, epsilon in spent.items())
        parts.append(f"Epsilon spent after the last round, at delta = 1e-5: {told or 'bounded by nothing'}.\n")
        budget = grid.get("dp-budget+attack=none")
        if budget:
            parts.append(
                "The noise that a useful epsilon asks for leaves an accuracy of "
                f"{spread(budget.last())} where nobody attacks (dp-budget, which the figure leaves out).\n"
            )
    parts.append(report(folder, "trust_krum_dp", "Hybrid, labels flipped with p = 0.3"))
    return parts


def other_attacks(found: Mapping[str, Mapping[str, Runs]], folder: Path) -> list[str]:
    """Lay out what the papers leave out."""
    parts, fields = [BEYOND], {}
    for name in ("iomt_beyond", "trust_krum_dp_beyond"):
        known = field(with_common_seeds(found[name], found[name]))
        if known is None:
            parts.append(f"`{name}`: not run yet.\n")
            continue
        fields[name] = arranged = known.best_first()
        seeds = f"{arranged.seeds} seed{'s' if arranged.seeds > 1 else ''}"
        parts.append(f"### {name}, {arranged.rounds} rounds, {seeds}\n")
        what = f"test accuracy after {arranged.rounds} rounds, {seeds}"
        parts.append(save(heat_map(arranged.rules, arranged.columns, *arranged.flat, what), folder, name))
        parts += [ranking(arranged), advice(arranged), again(name, found[name], LISTED)]
    parts.append(everywhere(fields))
    return parts


def notes(found: Mapping[str, Found]) -> str:
    """Say of some of the runs what is not usual."""
    every = [run for each in found.values() for run in each.every]
    twice = sum(len(run.made) > 1 for run in every)
    lines = [f"{twice} of the runs have been made a second time, with the same bits."] if twice else []
    other = {
        f"`{name}` with `{runs.settings.strip()}`": None
        for name, each in found.items()
        for runs in each.runs.values()
        if runs.settings
    }
    if other:
        lines.append(f"Some have other settings than their configurations: {'; '.join(other)}.")
    return "".join(f"\n{line}\n" for line in lines)


def page(root: Path, output: Path) -> tuple[str, list[str]]:
    """Write figures and the list of runs beside a page; return its text, and warnings."""
    folder = output.parent / FOLDER
    listed = read_list(folder / "runs.csv")
    both = {name: read(name, root, listed) for name in NAMES}
    every = [run for each in both.values() for run in each.every]
    if not every:
        raise FempiError(f"there are no records of the papers' experiments in {root}; `make reproduce` makes them")
    folder.mkdir(parents=True, exist_ok=True)
    write_list(folder / "runs.csv", every)
    found = {name: each.runs for name, each in both.items()}
    grid = trust_and_krum.comparable(found["trust_krum_dp_table1"])
    tables = {name.removeprefix("iomt_"): found[name] for name in NAMES if name.startswith("iomt_table")}
    first, second = dual_system.judge(Tables(**tables)), trust_and_krum.judge(grid)
    verdicts = Counter(claim.verdict for claim in (*first, *second))
    unnoted = sum(not run.software for run in every)
    introduction = INTRODUCTION.format(
        count=len(every),
        root=root,
        output=output,
        software=" or ".join(sorted({run.software for run in every if run.software})),
        unnoted=f" ({unnoted} of them have not noted it)" if unnoted else "",
        notes=notes(both),
        least=LEAST,
        most=MOST,
        close=CLOSE,
        claims=verdicts.total(),
        verdicts=", ".join(f"{count} {verdict}" for verdict, count in verdicts.most_common()),
    )
    parts = [
        introduction,
        *dual_system_part(found, first, folder),
        *trust_and_krum_part(grid, second, folder),
        *other_attacks(found, folder),
    ]
    return "\n".join(parts), [warning for each in both.values() for warning in warnings(each)]


def warnings(found: Found) -> list[str]:
    """Say what has become of runs that were listed."""
    lines = []
    if found.differing:
        lines.append(
            f"{len(found.differing)} runs are not, bit for bit, what was listed of them, such as {found.differing[0]}; "
            "they are listed anew. Another kind of processor and another version of PyTorch round in another way."
        )
    if found.outdated:
        lines.append(
            f"{len(found.outdated)} runs are listed no more, such as {found.outdated[0]}: "
            "their configuration has changed."
        )
    return lines


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, metavar="FOLDER", help="where the records are, in a folder for each config")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the page: .md")
    options = parser.parse_args()
    try:
        text, told = page(options.root, options.output)
        options.output.write_text(text)
    except (FempiError, OSError) as error:
        parser.error(str(error))
    print("\n".join(told), file=sys.stderr, end="\n" if told else "")
    print(f"{options.output}, and figures in {options.output.parent / FOLDER}")
