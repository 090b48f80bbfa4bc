"""What `fempi bench record` prints is what was written; what it says a tier answers is what a record of it answers."""

import json
from pathlib import Path

import numpy as np
import pytest
from records import make_runs

import fempi
from fempi import cli
from fempi.bench.record import ANSWERS, TIERS, cosine_error, distance_error, known_rows, write_plain
from fempi.errors import FempiError
from fempi.forensics import replay
from fempi.forensics.across import Vector, inner_products
from fempi.forensics.attribution import attribute
from fempi.forensics.fingerprint import traits
from fempi.forensics.suspicion import examine
from fempi.sketch import standard_error

README = (Path(__file__).parents[2] / "README.md").read_text()
COHORT, PARAMS = 20, 30_000
CONFIG = """
name = "x"
rounds = 4
[data]
dataset = "synthetic"
size = 6
train_examples = 300
test_examples = 50
clients = 12
root_examples = 20
[model]
name = "mlp"
hidden = [30]
[train]
cohort = 10
local_epochs = 1
[attack]
name = "sign_flip"
malicious = 3
[aggregator]
name = "fltrust"
[record]
sketch_size = 256
[grid]
"record.updates" = ["full", "float16", "sketch", "none"]
"""


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    options = ["--cohort", COHORT, "--params", PARAMS, "--rounds", 2, "--sketch-size", 256, "--folder", folder]
    assert cli.main(["bench", "record", *map(str, options), "--json", str(folder / "x.json")]) == 0
    assert [path.name for path in folder.iterdir()] == ["x.json"]
    found = json.loads((folder / "x.json").read_text())
    return found | {"tiers": {tier["updates"]: tier for tier in found["tiers"]}}


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """The same run, kept in every tier."""
    folder = make_runs(tmp_path_factory.mktemp("tiers"), CONFIG)
    return {updates: folder / f"x+updates={updates}.h5" for updates in TIERS}


def each(records, ask):
    """What each tier's record answers; None where it says that it cannot."""
    answers = {}
    for updates, path in records.items():
        with fempi.open(path) as run:
            try:
                answers[updates] = ask(run)
            except FempiError:
                answers[updates] = None
    return answers


def judged(answers, tolerance):
    """How well each tier answers, beside the full record."""
    exact = np.asarray(answers["full"], float)
    words = []
    for answer in answers.values():
        if answer is None:
            words.append("no")
        elif np.array_equal(answer, exact, equal_nan=True):
            words.append("exactly")
        else:
            words.append("nearly" if np.allclose(answer, exact, rtol=tolerance, atol=1e-6) else "estimated")
    return tuple(words)


# Measuring


def test_a_round_takes_what_its_vectors_take_and_little_more(measured):
    rows = COHORT + COHORT // 10 + 2  # the malicious twice, the reference, the aggregate
    none = measured["tiers"]["none"]["bytes_per_round"]
    for updates, width in ("full", 4 * PARAMS), ("float16", 2 * PARAMS), ("sketch", 4 * 256):
        # rows of honest clients in trained_update have no chunks, or fill values where a row is one small chunk
        vectors = measured["tiers"][updates]["bytes_per_round"] - none
        assert rows * width < vectors < (rows + COHORT) * width + 10_000
    assert measured["tiers"]["full"]["bytes_per_round"] < 1.1 * rows * 4 * PARAMS
    assert none < 30_000


def test_times_are_of_the_rounds_that_count_and_in_their_order(measured):
    for tier in measured["tiers"].values():
        for times in (tier["recorder"], tier["plain"]):
            assert 0 < times["least"] <= times["median"] <= times["most"]


def test_errors_of_sketches_are_near_what_is_stated_and_others_far_below(measured):
    tiers = measured["tiers"]
    assert tiers["full"]["cosine"]["most"] < 1e-15
    assert 0 < tiers["float16"]["cosine"]["most"] < 1e-3
    assert tiers["sketch"]["stated"] == pytest.approx(np.sqrt(2 / 256))
    assert 0.3 < tiers["sketch"]["cosine"]["rms"] / tiers["sketch"]["stated"] < 1.5
    assert 0.3 < tiers["sketch"]["distance"]["rms"] / (tiers["sketch"]["stated"] / 2) < 1.5
    assert tiers["none"]["cosine"] is None
    assert 0 < measured["gram_cosine"]["most"] < 1e-6


def test_cosines_of_the_rows_come_from_everywhere():
    rows = known_rows(20, 5000)
    norms = np.linalg.norm(rows, axis=1)
    cosines = (rows @ rows.T / np.outer(norms, norms))[np.triu_indices(20, 1)]
    assert norms == pytest.approx(np.geomspace(0.1, 10, 20), rel=1e-4)
    assert np.histogram(cosines, bins=8, range=(-1, 1))[0].min() > 0


def test_errors_worked_by_hand():
    exact, found = np.array([[4.0, 0], [0, 9]]), np.array([[4.0, 1.5], [1.5, 9]])
    assert cosine_error(found, exact).rms == cosine_error(found, exact).most == pytest.approx(0.25)  # 1.5 / (2 * 3)
    assert distance_error(found, exact).most == pytest.approx(1 - np.sqrt(10 / 13))  # 4 + 9 - 2 * 1.5


def test_a_plain_file_has_the_bytes_that_were_asked_for(tmp_path):
    content = np.arange(1000, dtype=np.float32)
    write_plain(tmp_path / "x", content, 9001)
    assert (tmp_path / "x").read_bytes() == (content.tobytes() * 3)[:9001]
    assert len(list(tmp_path.iterdir())) == 1


def test_what_would_not_fit_the_disk_is_refused(tmp_path, capsys):
    assert cli.main(["bench", "record", "--params", str(10**12), "--folder", str(tmp_path)]) == 2
    assert "GB for a while" in capsys.readouterr().err


# What each tier answers


def test_the_readme_has_these_answers():
    for question, words in ANSWERS.items():
        assert f"| {question} | {' | '.join(words)} |" in README


def test_suspects_and_fingerprints(records):
    def ask(run):
        suspected = run.read("clients/malicious")
        found = examine(run)
        return np.concatenate([*map(np.ravel, found.deviations.values()), list(vars(traits(run, suspected)).values())])

    assert judged(each(records, ask), 0) == ANSWERS["suspects, groups, and fingerprints but for flips and backdoors"]


def test_the_geometry_of_a_round(records):
    words = judged(each(records, lambda run: run.read("rounds/gram")), 0)
    assert words == ANSWERS["cosine map and principal components of a round"]


@pytest.mark.parametrize(
    ("rule", "question"),
    [
        ("krum", "replay of rules that go by inner products"),
        ("geometric_median", "replay of rules that go by inner products"),
        ("median", "replay of rules that go by columns"),
    ],
)
def test_replays(rule, question, records):
    def ask(run):
        # the distance of the update from the honest mean knows every coordinate
        return [each.error for each in replay.replay(run, replay.section_of(run, rule))]

    assert judged(each(records, ask), 1e-2) == ANSWERS[question]


def test_only_full_records_tell_whether_a_replay_makes_the_aggregate(records):
    """Nothing is said of an aggregate that differs, in a record of which the aggregate was not kept exactly."""

    def ask(run):
        found = next(iter(replay.replay(run, replay.section_of(run, "median"))))
        return float("rounds/aggregate" in replay.differences(run, found)) or None

    answers = each(records, ask)
    assert answers == {"full": 1.0, "float16": None, "sketch": None, "none": None}
    assert judged(answers, 0) == ANSWERS["whether a replay makes the recorded aggregate"]


def cosines_across(run):
    with_norms = [(round_, slot) for round_ in (1, 2, 3, 4) for slot in range(10)]
    vectors = [*(Vector(*place) for place in with_norms), Vector(2, name="aggregate"), Vector(3, name="reference")]
    malicious = np.argwhere(run.read("rounds/malicious"))
    vectors += [Vector(int(place) + 1, int(slot), "trained_update") for place, slot in malicious]
    return inner_products(run, vectors)


def test_inner_products_across_rounds_with_the_stated_error(records):
    answers = each(records, cosines_across)
    question = "cosines across rounds, with the aggregate, or before the attack"
    assert judged(answers, 1e-2) == ANSWERS[question]
    norms = np.sqrt(np.diagonal(answers["full"]))
    errors = (answers["sketch"] - answers["full"]) / np.outer(norms, norms)
    assert 0.1 * standard_error(256) < np.sqrt(np.mean(errors**2)) < 1.5 * standard_error(256)


def test_layers_and_classes(records):
    def ask(run):
        found = attribute(run, run.read("clients/malicious"))
        known = np.concatenate([found.layers, found.classes])
        return None if np.isnan(known).all() else known

    question = "differences by layer and class, flipped classes and backdoors"
    assert judged(each(records, ask), 1e-2) == ANSWERS[question]
