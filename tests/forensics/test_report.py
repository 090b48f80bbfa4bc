"""A report says what its records hold, and nothing that they hold can become part of the page."""

import json
import re
from html.parser import HTMLParser

import h5py
import numpy as np
import pytest
from records import make_runs

import fempi
from fempi import cli
from fempi.forensics import replay
from fempi.forensics.investigation import investigate
from fempi.forensics.report import charts, contents, page

CONFIG = """
name = "x"
rounds = 8
[data]
dataset = "synthetic"
size = 4
train_examples = 400
test_examples = 50
clients = 12
partition = "iid"
[model]
name = "mlp"
hidden = [4]
[train]
cohort = 9
local_epochs = 1
[attack]
name = "{attack}"
malicious = 3
[aggregator]
name = "multi_krum"
num_byzantine = 2
[evaluation]
every = 2
[[arm]]
name = "attacked"
[grid]
seed = [{seeds}]
"""
HOSTILE = (
    """</script><script>document.title='gone'</script><img src=x onerror="document.title='gone'"> %{x} & <b>bold"""
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_runs(tmp_path_factory.mktemp("flipped"), CONFIG.format(attack="sign_flip", seeds="1, 2"))


@pytest.fixture(scope="module")
def record(folder):
    return folder / "attacked+seed=1.h5"


@pytest.fixture(scope="module")
def not_finite(tmp_path_factory):
    return make_runs(tmp_path_factory.mktemp("nan"), CONFIG.format(attack="nan", seeds="1")) / "attacked+seed=1.h5"


class Page(HTMLParser):
    """What a browser would see: elements by name, the text outside scripts, and the data."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.words, self.inside = [], [], []
        self.feed(text)
        self.data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag in ("script", "style"):
            self.inside.append(tag)

    def handle_endtag(self, tag):
        if tag in ("script", "style"):
            self.inside.pop()

    def handle_data(self, data):
        if not self.inside:
            self.words.append(data)


def seen(*records, truth=False):
    return Page(page(list(records), truth=truth))


def change(record, target, attributes=None, datasets=None):
    """Copy a record with other root attributes, made from the present ones, and other datasets."""
    target.write_bytes(record.read_bytes())
    with h5py.File(target, "r+") as file:
        for name, value in (attributes or {}).items():
            file.attrs[name] = value(file.attrs[name])
        for path, value in (datasets or {}).items():
            file[path][...] = value
    return target


def with_hostile_names(record, target):
    label = HOSTILE.replace("\\", "\\\\").replace('"', '\\"')
    return change(
        record,
        target,
        {"config": lambda text: re.sub(r'label = ".*"', lambda _: f'label = "{label}"', text)},
        {"ranks/host": HOSTILE, "layers/name": HOSTILE},
    )


def test_the_page_says_what_the_run_was_and_what_was_found(record):
    shown = seen(record)
    with fempi.open(record) as run:
        found, config = investigate(run), run.attributes["config"]
        accuracy, facts = run.read("evaluation/accuracy")[-1], run.attributes
    assert found.findings
    assert found.verdict in shown.text
    assert " ".join(config.split()) in shown.text
    for words in (
        "attacked+seed=1",
        "complete, 8 of 8 rounds",
        f"{accuracy:.4f}",
        "synthetic",
        "12, 9 a round",
        "multi_krum (power 2)",
        facts["git_commit"],
        facts["config_hash"],
    ):
        assert words in shown.text
    for finding in found.findings:
        suspect = finding.suspect
        row = f"{suspect.client} {finding.fingerprint} {suspect.first_round} {suspect.rounds} "
        assert row in shown.text


def test_the_timeline_is_the_record(record):
    chart = seen(record).data["runs"][0]["timeline"]
    with fempi.open(record) as run:
        for name in ("client", "trust", "norm", "weight", "selected", "rank"):
            np.testing.assert_allclose(chart[name], run.read(f"rounds/{name}").ravel(), rtol=5e-4)
        suspects = [f.suspect.client for f in investigate(run).findings]
    assert chart["rounds"] == list(range(1, 9))
    assert chart["clients"][: len(suspects)] == suspects
    assert sorted(chart["clients"]) == list(range(12))
    assert max(abs(cosine) for cosine in chart["cosine"]) <= 1
    assert all(len(f"{abs(value):.10g}".strip("0.").replace(".", "")) <= 8 for value in chart["trust"])


def test_without_the_truth_nothing_of_it_is_told(record):
    charts_ = seen(record).data["runs"][0]
    assert charts_["timeline"]["malicious"] is None
    assert all(each["attacking"] is None for each in charts_["maps"]["rounds"])
    assert "roc" not in charts_
    shown = contents.contents(record, truth=False)
    with fempi.open(record) as run:
        truth = run.read("clients/malicious").copy()
    assert shown.malicious is None
    hidden = change(record, record.with_name("hidden.tmp"), datasets={"clients/malicious": ~truth})
    with h5py.File(hidden, "r+") as file:
        for name in ("malicious", "attacking"):
            file[f"rounds/{name}"][...] = 1 - file[f"rounds/{name}"][...]
        file["evaluation/attack_success"][...] = 0.75
    other = contents.contents(hidden, truth=False)
    told = contents.contents(hidden, truth=True)
    hidden.unlink()
    assert (other.charts, other.replays) == (shown.charts, shown.replays)
    assert {**other.facts, "record": ""} == {**shown.facts, "record": ""}
    assert told.facts["attack success"] == "0.7500"


def test_with_the_truth_it_says_how_right_it_was(record):
    shown = seen(record, truth=True)
    with fempi.open(record) as run:
        malicious, attacking = run.read("clients/malicious"), run.read("rounds/attacking")
        accused = [f.suspect.client for f in investigate(run).findings if f.accused]
        ranking, refused = replay.ranking(run)
    found = int(malicious[accused].sum())
    assert f"In truth {found} of 3 malicious clients are among those that seem to attack" in shown.text
    charts_ = shown.data["runs"][0]
    assert sorted(charts_["timeline"]["malicious"]) == np.flatnonzero(malicious).tolist()
    assert [each["attacking"] for each in charts_["maps"]["rounds"]] == attacking.astype(int).tolist()
    for line in charts_["roc"]["lines"][:-1]:
        area = float(re.search(r"\((.*)\)", line["name"])[1])
        assert np.trapezoid(line["y"], line["x"]) == pytest.approx(area, abs=2e-3)
    assert contents.contents(record, truth=True).replays == ranking
    for each in ranking:
        assert f"{each.aggregator} {100 * each.malicious_weight:.1f} %" in shown.text
    for reason in refused.values():
        assert reason in shown.text
    assert "one-step counterfactual" in shown.text


def test_without_the_truth_the_accused_are_taken_for_the_attackers(record):
    shown = contents.contents(record, truth=False)
    with fempi.open(record) as run:
        accused = np.isin(np.arange(12), shown.suspects)[run.read("rounds/client")]
        weights = run.read("rounds/weight")
    assert accused.any()
    expected = np.mean([w[a].sum() for w, a in zip(weights, accused, strict=True) if a.any()])
    own = next(each for each in shown.replays if each.aggregator == "multi_krum")
    assert own.malicious_weight == pytest.approx(expected)
    assert shown.accused == "suspects"


def test_rows_that_are_not_finite_have_no_numbers(not_finite):
    charts_ = seen(not_finite, truth=True).data["runs"][0]
    with fempi.open(not_finite) as run:
        finite = run.read("rounds/finite")
    assert [norm is not None for norm in charts_["timeline"]["norm"]] == finite.ravel().tolist()
    assert [each["not_finite"] for each in charts_["maps"]["rounds"]] == (~finite).sum(axis=1).tolist()


def test_a_long_run_is_thinned_and_says_so(record, monkeypatch):
    monkeypatch.setattr(charts, "MOST_ROWS", 30)
    monkeypatch.setattr(charts, "MOST_MAPS", 7)
    shown = seen(record)
    chart = shown.data["runs"][0]["timeline"]
    assert chart["rounds"] == [1, 4, 7]
    assert len(chart["trust"]) == 27
    assert "of one round in 3" in shown.text
    assert len(shown.data["runs"][0]["maps"]["rounds"]) == 1


def test_rules_that_read_too_much_are_left_out_and_named(record, monkeypatch):
    monkeypatch.setattr(contents, "MOST_NUMBERS", 1)
    shown = contents.contents(record, truth=True)
    assert "median" not in [each.aggregator for each in shown.replays]
    assert "median reads every update, too many for a page; ask `fempi replay`" in shown.refused


def test_several_runs_have_an_overview_with_a_curve_for_those_that_differ_by_the_seed(folder, not_finite):
    records = sorted(folder.glob("*.h5"))
    shown = seen(*records, not_finite, truth=True)
    assert "3 runs" in shown.text
    links = [attributes["href"] for tag, attributes in shown.elements if tag == "a"]
    anchors = {attributes["id"] for _, attributes in shown.elements if "id" in attributes}
    assert {"#run-1", "#run-2", "#run-3"} <= set(links)
    assert {link[1:] for link in links} <= anchors
    flipped, nan = shown.data["compared"]["lines"]
    accuracies = []
    for path in records:
        with fempi.open(path) as run:
            accuracies.append(run.read("evaluation/accuracy"))
    assert flipped["name"] == "attacked (2 seeds)"
    assert nan["name"] == "attacked+seed=1"
    assert flipped["x"] == [2, 4, 6, 8]
    for key, measure in {"y": np.mean, "low": np.min, "high": np.max}.items():
        np.testing.assert_allclose(flipped[key], measure(accuracies, axis=0), rtol=5e-4)


def test_what_a_record_says_stays_text(record, not_finite, tmp_path):
    hostile = with_hostile_names(record, tmp_path / "hostile.h5")
    text = page([hostile, not_finite], truth=True)
    assert "<img" not in text.partition('<script type="application/json"')[0]
    assert HOSTILE not in text
    plain = page([record, not_finite], truth=True)
    count = {tag: [t for t, _ in Page(text).elements].count(tag) for tag in ("script", "b", "img")}
    assert count == {tag: [t for t, _ in Page(plain).elements].count(tag) for tag in count}
    shown = Page(text)
    assert " ".join(HOSTILE.split()) in shown.text
    assert shown.data["compared"]["lines"][0]["name"] == HOSTILE
    assert shown.data["runs"][0]["timeline"]["launches"][0]["hosts"] == [HOSTILE]


def test_the_page_forbids_itself_the_network(record):
    shown = seen(record)
    policy = next(a["content"] for tag, a in shown.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; ")
    assert "http" not in policy
    assert not [a for tag, a in shown.elements if tag == "link" or a.get("src", "").startswith("http")]


def test_a_run_without_a_round_has_a_page_too(record, tmp_path):
    empty = change(record, tmp_path / "empty.h5", {"rounds_completed": lambda _: 0})
    with h5py.File(empty, "r+") as file:
        del file.attrs["wall_seconds"]
    for truth in (False, True):
        shown = seen(empty, truth=truth)
        assert "No round is committed yet." in shown.text
        assert shown.data["runs"] == [{}]


def test_the_command_writes_a_page_and_replaces_none_without_force(folder, tmp_path, capsys):
    target = tmp_path / "report.html"
    assert cli.main(["report", str(folder), "-o", str(target)]) == 0
    assert capsys.readouterr().out == f"report on 2 runs in {target}\n"
    assert target.read_text().startswith("<!doctype html>")
    target.write_text("mine")
    assert cli.main(["report", str(folder), "-o", str(target)]) == 2
    assert f"{target} is there already; use --force to replace it" in capsys.readouterr().err
    assert target.read_text() == "mine"
    assert cli.main(["report", str(folder), "-o", str(target), "--force", "--truth"]) == 0
    assert "report, with the truth" in target.read_text()
    assert cli.main(["report", str(folder), "-o", str(tmp_path / "no/report.html")]) == 2
    assert cli.main(["report", str(tmp_path / "none.h5"), "-o", str(tmp_path / "x.html")]) == 2
    assert not (tmp_path / "x.html").exists()
