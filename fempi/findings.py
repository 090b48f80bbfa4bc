"""What the forensic commands print."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from rich import box
from rich.table import Table

from fempi.algebra import Float64, Int64
from fempi.config import Aggregator
from fempi.display import console
from fempi.errors import FempiError
from fempi.forensics import replay, suspicion
from fempi.forensics.attribution import attribute
from fempi.forensics.geometry import MEANINGS
from fempi.forensics.investigation import Investigation, investigate
from fempi.forensics.suspicion import Examination
from fempi.runfile import RunFile
from fempi.summary import number, percent

CSV_COLUMNS = ("round", "slot", "client", "attacking", "norm", "trust", "weight", "scale", "selected")


def replayed(run: RunFile, section: Aggregator, output: Path | None) -> None:
    """Replay a rule on a record, print what it would have let in, and write every decision to `output`."""
    recorded, other, text = replay.is_recorded(run, section), {}, io.StringIO()
    table = csv.writer(text)
    table.writerow(CSV_COLUMNS)
    clients, norms = run.read("rounds/client"), run.read("rounds/norm")

    def watched() -> Iterator[replay.Replayed]:
        """One round at a time: a rule of columns has made a whole update in each."""
        for each in replay.replay(run, section):
            if recorded and (found := replay.differences(run, each)):
                other[each.round] = found
            table.writerows(_rows(each, clients[each.round - 1], norms[each.round - 1]))
            yield each

    summary = replay.summarize(section, watched())
    if output is not None:
        _write(output, text.getvalue())
    _print([summary])
    name = replay.describe(section)
    if not recorded:
        said = (
            f"{name} is not the run's rule: this is what it would have made of each round's updates, by clients whose "
            f"model {run.config['aggregator']['name']} had made"
        )
    elif other:
        first = min(other)
        said = f"{name} decides otherwise than the record in {len(other)} rounds, first in {first}: {other[first]}"
    else:
        said = f"{name} decides as it did: trust, weights and selection equal the record in {summary.rounds} rounds"
    out = console()
    out.print(said, highlight=False, markup=False, soft_wrap=True)
    if output is not None:
        out.print(f"decisions in {output}", highlight=False, markup=False, soft_wrap=True)


def ranking(summaries: Sequence[replay.Summary], refused: Mapping[str, str]) -> None:
    """Print what every rule would have let in, the best first, and why some could not be replayed."""
    _print(summaries)
    for reason in refused.values():
        console().print(reason, highlight=False, markup=False, soft_wrap=True)


def examined(run: RunFile, *, truth: bool) -> None:
    """Print who stands out, since when, for what and as what; what they did; and with the truth, how right that is."""
    found = investigate(run)
    malicious, out = run.read("clients/malicious"), console()
    table = Table(header_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in ("client", "since\nround", "rounds\nhere", "chance"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("looks like")
    table.add_column("for (standard deviations from the others)")
    if truth:
        table.add_column("in truth")
    for each in found.findings:
        suspect = each.suspect
        evidence = ", ".join(f"{MEANINGS[score]} ({above:.1f})" for score, above in suspect.evidence.items())
        row = [str(suspect.client), str(suspect.first_round), str(suspect.rounds), f"{suspect.p:.1g}"]
        row += [str(each.fingerprint), evidence or "what it teaches the last layer"]
        table.add_row(*row, *(["malicious" if malicious[suspect.client] else "honest"] if truth else []))
    if found.findings:
        out.print(table)
    for line in (found.verdict, *_together(found), *_done(run, found), found.limits):
        if line:
            out.print(line, highlight=False, markup=False, soft_wrap=True)
    if truth:
        _print_separation(run, found.examination)


def _together(found: Investigation) -> Iterator[str]:
    """Say who sends the same, of groups with somebody who stands out: honest clients with the same data do, too."""
    for place in sorted({each.group for each in found.findings} - {0}):
        group = found.groups[place - 1]
        yield f"Clients {', '.join(map(str, group))} send nearly the same."


def _done(run: RunFile, found: Investigation) -> Iterator[str]:
    """Say what the accused did to the model."""
    accused = np.isin(np.arange(run.layout.size("client")), found.accused)
    did = attribute(run, accused)
    share = did.norm_share
    if accused.any() and np.nansum(share) > 0:
        worst = int(np.nanargmax(share))
        yield (
            f"The accused made {np.nanmean(share):.1%} of the aggregates (by norm), "
            f"most in round {worst + 1}: {share[worst]:.1%}."
        )
    elif accused.any():
        yield "The rule let none of it in."
    where = [f"layer {did.layer_names[int(np.nanargmax(did.layers))]}"] if np.isfinite(did.layers).any() else []
    known = np.isfinite(did.classes).any()
    far = np.flatnonzero(did.classes > 2 * np.nanmedian(did.classes)).tolist() if known else []
    if far:
        where.append(f"what they teach of class{'es' if len(far) > 1 else ''} {', '.join(map(str, far))}")
    if where:
        yield f"Their updates differ most from the others' in {' and '.join(where)}."
    if len(did.broken):
        yield f"Accuracy had lost half of its lead over chance by round {', '.join(map(str, did.broken))}."


def _print_separation(run: RunFile, found: Examination) -> None:
    attacking, malicious = run.read("rounds/attacking"), run.read("clients/malicious")
    table = Table(header_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("score")
    headings = ("AUC of\na round", "AUC of\nrows", "found at\n1 % FPR", "found at\n5 % FPR", "AUC of\nclients")
    for heading in (*headings, "malicious\nstand out", "honest\nstand out"):
        table.add_column(heading, justify="right", no_wrap=True)
    for score in found.deviations:
        s = suspicion.separation(found, score, attacking, malicious)
        areas = (s.auc_of_rounds, s.auc, s.tpr_at_1, s.tpr_at_5, s.auc_accumulated)
        shown = (number(area, ".3f") for area in areas)
        table.add_row(score, *shown, f"{s.found} of {malicious.sum()}", str(s.false_alarms))
    console().print(table)


def _print(summaries: Sequence[replay.Summary]) -> None:
    out = Table(header_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    out.add_column("rule", overflow="fold")
    headings = (
        "malicious\nweight",
        "attackers\nexcluded",
        "others\nexcluded",
        "AUC of\ntrust",
        "distance from\nhonest mean",
        "rounds",
    )
    for heading in headings:
        out.add_column(heading, justify="right", no_wrap=True)
    for each in summaries:
        out.add_row(
            each.aggregator,
            percent(each.malicious_weight),
            percent(each.true_positive_rate),
            percent(each.false_positive_rate),
            number(each.trust_auc, ".3f"),
            number(each.error, ".3g"),
            str(each.rounds),
        )
    console().print(out)


def _rows(each: replay.Replayed, clients: Int64, norms: Float64) -> Iterator[list[float]]:
    """Rows of the CSV file for a round."""
    decision = each.decision
    attacking, selected = each.attacking.astype(int), decision.selected.astype(int)
    assert decision.scale is not None, "weigh() fills it in"
    columns = (clients, attacking, norms, decision.trust, decision.weights, decision.scale, selected)
    for slot, row in enumerate(zip(*(column.tolist() for column in columns), strict=True)):
        yield [each.round, slot, *row]


def _write(output: Path, text: str) -> None:
    try:
        output.write_text(text, newline="")
    except OSError as error:
        raise FempiError(f"{output} cannot be written: {error.strerror}") from error
