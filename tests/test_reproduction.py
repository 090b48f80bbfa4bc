"""The page that holds the papers' numbers beside those of fempi."""

import csv
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fempi import RunFile, cli, experiment
from fempi.forensics.figures.accuracy import without_seed

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "analysis/reproduction"
sys.path.append(str(SCRIPT))
import beyond  # noqa: E402
import claims  # noqa: E402
from runs import METRICS, Run, Runs, read, read_list, spread, write_list  # noqa: E402

TINY = [
    *('data.dataset="synthetic"', "data.size=8", "data.train_examples=400", "data.test_examples=50"),
    *("data.clients=10", "data.root_examples=20", 'model.name="mlp"', "model.hidden=[4]"),
    *("train.local_epochs=1", "train.clients_per_batch=1", "rounds=2", "evaluation.every=1"),
]
SETTINGS = [part for setting in TINY for part in ("--set", setting)]


def made_up(label, *accuracies, tested=(20, 40, 60, 80, 100), config=None):
    """Runs of as many seeds as there are lists of accuracies; all metrics are the same."""
    members = [
        Run(
            configuration="made up",
            label=f"{label}+seed={seed}",
            seed=seed,
            accuracies=dict(zip(tested, values, strict=True)),
            last=dict.fromkeys(METRICS, values[-1]),
            epsilon=np.inf,
            hash="0" * 64,
            digest="f" * 64,
            made=("2026-01-01",),
            config=config or {},
        )
        for seed, values in enumerate(accuracies, 1)
    ]
    return Runs(label=label, members=members)


def table2(**last):
    """The Dual-System paper's second table, with these accuracies of one seed after 100 rounds."""
    found = {}
    for arm, accuracy in last.items():
        name = arm.replace("_", "-")
        found[name] = made_up(name, [0.1, 0.2, 0.3, 0.4, accuracy])
    return found


def judged(own, small=None):
    rows = claims.iomt(claims.Iomt(table1={}, table1_small={}, table2=own, table2_small=small or {}))
    return {row.claim: row for row in rows}


# ------------------------------------------------------------------------------------------- the Dual-System paper


def test_a_number_within_what_is_tolerated_is_reproduced_and_one_outside_is_not():
    rows = judged(table2(fedavg_clean=0.87, dual=0.86))
    assert rows["clean FedAvg after 100 rounds (table 2)"].verdict == "reproduced"  # 0.898 - 0.03 < 0.87
    assert rows["Dual under attack after 100 rounds (table 2)"].verdict == "not reproduced"
    assert rows["Dual under attack after 100 rounds (table 2)"].why.startswith(
        "The nearest, update flipped, is 0.036 below it"
    )
    assert rows["FLTrust under attack after 100 rounds (table 2)"].verdict == "not run yet"


def test_seeds_that_differ_widely_tolerate_more_where_the_papers_model_was_not_run():
    name = "clean FedAvg after 100 rounds (table 2)"

    def verdict(own, *seeds):
        return judged(own, {"fedavg-clean": made_up("fedavg-clean", *([0, 0, 0, 0, x] for x in seeds))})[name].verdict

    assert verdict({}, 0.62, 0.72, 0.82) == "reproduced"  # 0.72, and a standard deviation of 0.1
    assert verdict({}, 0.58, 0.68, 0.78) == "not reproduced"
    assert verdict(table2(fedavg_clean=0.8), 0.62, 0.72, 0.82) == "not reproduced"
    assert verdict(table2(fedavg_clean=0.9), 0.58, 0.68, 0.78) == "reproduced"


def test_the_papers_model_decides_on_gaps_and_both_are_told():
    own, small = table2(fedavg_clean=0.9, dual=0.89, fltrust=0.7), table2(fedavg_clean=0.9, dual=0.8, fltrust=0.7)
    row = judged(own, small)["Dual under attack is nearly equal to clean"]
    assert row.verdict == "reproduced"
    assert row.why == "It is above -0.02 in 1 of 1 with the paper's model, 0 of 1 with the small model."


def test_either_reading_of_the_attack_reproduces_a_number():
    row = judged(table2(fedavg_attacked=0.4, fedavg_attacked_weights=0.1))[
        "FedAvg under attack after 100 rounds (table 2)"
    ]
    assert row.verdict == "reproduced"
    assert row.why.endswith("where the attack is read as weights flipped.")


def test_a_number_of_another_round_says_nothing():
    short = {"fedavg-clean": made_up("fedavg-clean", [0.9, 0.898], tested=(20, 40))}
    rows = judged(short)
    assert rows["clean FedAvg after 100 rounds (table 2)"].verdict == "not run yet"
    assert rows["clean FedAvg after 20, 40, 60 and 80 rounds (curve)"].verdict == "not run yet"


@pytest.mark.parametrize(("dual", "verdict"), [(0.885, "reproduced"), (0.87, "not reproduced")])
def test_dual_is_nearly_clean_or_not(dual, verdict):
    rows = judged(table2(fedavg_clean=0.9, dual=dual, fltrust=0.7))
    assert rows["Dual under attack is nearly equal to clean"].verdict == verdict
    assert rows["Dual does better than FLTrust under attack"].verdict == "reproduced"


def test_a_curve_is_reproduced_if_all_its_points_are():
    points = np.array(claims.PUBLISHED["fedavg-clean"])
    near = {"fedavg-clean": made_up("fedavg-clean", points + 0.029)}
    name = "clean FedAvg after 20, 40, 60 and 80 rounds (curve)"
    assert judged(near)[name].verdict == "reproduced"
    points[1] += 0.04
    assert judged({"fedavg-clean": made_up("fedavg-clean", points)})[name].verdict == "not reproduced"


# ------------------------------------------------------------------------------------------------- the other paper


def grid(accuracy):
    """All runs that the claims take; accuracy(system, kind, intensity)."""
    found = {}
    kinds = {"flip": claims.FLIPPED, "shrink": claims.SHRUNK, "grow": claims.GROWN, "noise": claims.NOISY}
    for system in claims.ORDER:
        for kind, attacks in kinds.items():
            for place, attack in enumerate(attacks):
                label = f"{system}+attack={attack}"
                found[label] = made_up(label, [accuracy(system, kind, place)], tested=(10,))
    return found


def test_the_papers_own_world_reproduces_all_its_claims():
    base = {"hybrid": 0.95, "krum": 0.9, "dp": 0.87, "baseline": 0.8}

    def accuracy(system, kind, place):
        lower = {"flip": 0, "shrink": 0.07, "grow": 0.07, "noise": 0.07}[kind]
        return base[system] - lower - (0.02 * place if system == "baseline" else 0)

    rows = claims.trust_krum_dp(grid(accuracy))
    assert len(rows) == 9
    assert {row.verdict for row in rows} == {"reproduced"}, [r for r in rows if r.verdict != "reproduced"]


def test_where_nothing_matters_none_of_its_orders_is_reproduced():
    rows = claims.trust_krum_dp(grid(lambda system, kind, place: 0.95))
    verdicts = {row.claim: row.verdict for row in rows}
    above = [claim for claim in verdicts if "above" in claim]
    assert {verdicts.pop(claim) for claim in above} == {"reproduced"}
    assert set(verdicts.values()) == {"not reproduced"}


def test_nothing_is_said_of_a_grid_with_gaps():
    found = grid(lambda system, kind, place: 0.95)
    found.popitem()
    assert claims.trust_krum_dp(found) == []


# ------------------------------------------------------------------------------------------------------ beyond them


def cells_of(cells):
    """Accuracies with one malicious client of ten, by rule and attack, arranged."""
    found = {}
    for rule, attack, accuracy in cells:
        label = f"{rule}+attack={attack}+malicious=1"
        config = {"attack": {"name": attack, "malicious": 1}, "data": {"clients": 10}}
        found[label] = made_up(label, [accuracy], tested=(5,), config=config)
    return beyond.field(found)


def test_rules_are_ranked_by_their_worst_cell_and_drops_are_against_clean():
    cells = [
        ("a", "none", 0.9),
        ("a", "ipm", 0.9),
        ("a", "alie", 0.1),
        ("b", "none", 0.8),
        ("b", "ipm", 0.5),
        ("b", "alie", 0.6),
    ]
    arranged = cells_of(cells)
    assert arranged.ranking()[0] == ("b", pytest.approx(0.55), 0.5, "ipm, 10 % malicious", pytest.approx(0.8))
    accuracy, drop = arranged.flat
    assert arranged.columns == [(attack, "10 % malicious") for attack in ("none", "ipm", "alie")]
    assert accuracy[0].tolist() == [0.9, 0.9, 0.1]
    assert np.allclose(drop[0], [np.nan, 0, 0.8], equal_nan=True)


def test_the_rule_to_deploy_is_the_one_with_the_best_worst_and_published_ones_are_judged():
    columns = ("none", "ipm", "alie")
    rows = {
        "krum": (0.9, 0.8, 0.85),
        "median": (0.9, 0.78, 0.9),
        "dual": (0.9, 0.3, 0.9),
        "dual-rescaled": (0.9, 0.7, 0.9),
    }
    cells = [(rule, attack, x) for rule, xs in rows.items() for attack, x in zip(columns, xs, strict=True)]
    told = beyond.advice(cells_of(cells))
    assert "**krum**. Its worst is 0.800 (ipm, 10 % malicious), its mean under attack 0.825" in told
    assert "within 0.03: median." in told
    assert "still broken" not in told
    assert "`dual` as published is broken (below half of its accuracy without attack) by ipm, 10 % malicious" in told
    assert "in 1 of 2 cells" in told
    assert "its worst goes from 0.300 to 0.700 and its mean from 0.600 to 0.800" in told


def test_where_every_rule_falls_the_advice_says_so():
    told = beyond.advice(cells_of([("krum", "none", 0.9), ("krum", "ipm", 0.2), ("hybrid", "none", 0.9)]))
    assert "**krum**" in told
    assert "still broken" in told
    assert "`hybrid` as published: not all of its runs are there." in told


# ---------------------------------------------------------------------------------------------------- configurations


def labels(name):
    return {without_seed(run.label) for run in experiment.load(ROOT / f"configs/{name}.toml")}


def test_all_that_the_claims_are_about_is_in_the_configurations():
    attacks = [*claims.FLIPPED, *(attack for reading in claims.READINGS.values() for attack in reading)]
    assert {f"{system}+attack={attack}" for system in claims.ORDER for attack in attacks} <= labels(
        "trust_krum_dp_table1"
    )
    for name in ("iomt_table2", "iomt_table2_small"):
        attacked = [arm for arm in claims.PUBLISHED if arm != "fedavg-clean"]
        assert {*claims.PUBLISHED, *(f"{arm}-weights" for arm in attacked)} == labels(name)


@pytest.mark.parametrize("table", ["iomt_table1", "iomt_table2"])
def test_the_small_models_configurations_differ_in_nothing_else(table):
    own = {run.label: run for run in experiment.load(ROOT / f"configs/{table}.toml")}
    small = [run for run in experiment.load(ROOT / f"configs/{table}_small.toml") if run.seed == 1]
    assert len(small) == len(own)
    for run in small:
        other = own[run.label.removesuffix("+seed=1")]
        train = {"clients_per_batch": other.train.clients_per_batch}
        same = {
            "name": other.name,
            "label": other.label,
            "model": other.model,
            "train": run.train.model_copy(update=train),
        }
        assert run.model_copy(update=same) == other


# ------------------------------------------------------------------------------------------------------------ the page


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Tiny runs of three of the configurations, other than their files say."""
    folder = tmp_path_factory.mktemp("results")
    for name, more in (
        ("iomt_table2_small", ["--arm", "dual", "--set", "attack.malicious=2"]),
        ("trust_krum_dp_table1", ["--arm", "baseline", "--set", "seed=1"]),
        ("trust_krum_dp_beyond", ["--arm", "median", "--set", "seed=1", "--set", "attack.malicious=1"]),
    ):
        command = ["run", str(ROOT / f"configs/{name}.toml"), "--output", str(folder), *SETTINGS, *more]
        assert cli.main(command) == 0
    return folder


def test_the_page_shows_what_was_run_and_says_what_was_not(results, tmp_path):
    page = tmp_path / "PAGE.md"
    done = write_page(results, page)
    assert done.returncode == 0, done.stderr
    text = page.read_text()
    with (tmp_path / "reproduction/runs.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 5 + 13 + 7
    assert f"from the {len(lines)} runs" in text
    assert "`iomt_table1`: not run yet." in text
    assert "Not all that the claims are about has been run yet." in text
    for name in ("iomt_table2", "iomt_partition", "trust_krum_dp_table1", "trust_krum_dp_beyond"):
        assert f"(reproduction/{name}.png)" in text
        assert (tmp_path / f"reproduction/{name}.png").read_bytes().startswith(b"\x89PNG")
    row = next(line for line in lines if line["run"] == "dual+seed=3")
    with RunFile(results / "iomt_table2_small/dual+seed=3.h5") as record:
        assert row["digest"] == record.digest
        assert row["config_hash"] == record.attributes["config_hash"]
        assert float(row["accuracy"]) == pytest.approx(record.read("evaluation/accuracy")[-1], abs=1e-4)
    dual = read("iomt_table2_small", results)[0]["dual"]
    assert [run.seed for run in dual.members] == [1, 2, 3, 4, 5]
    assert f" | 5 | {dual.first.hash[:8]} | {dual.first.digest[:8]} |" in text
    flipped = read("trust_krum_dp_table1", results)[0]["baseline+attack=label_flip_fraction_0.1"]
    assert f"| label flip fraction 0.1 | {spread(flipped.last())} |" in text
    assert "--arm dual --output again --set rounds=2 --set " in text, "its settings are not the configuration's"
    assert "second time" not in text


def write_page(results, page):
    command = [sys.executable, SCRIPT, results, "-o", page]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def own(tmp_path):
    """Records of two seeds of a configuration of one's own, which `read` and the page take for a paper's."""
    (tmp_path / "configs").mkdir()
    settings = """
        name = "iomt_table2_small"
        rounds = 2
        data = { dataset = "synthetic", size = 8, train_examples = 400, test_examples = 50, clients = 10 }
        model = { name = "mlp", hidden = [4] }
        grid = { "train.lr" = [0.2, 0.1], seed = [1, 2] }
        """
    config = tmp_path / "configs/iomt_table2_small.toml"
    config.write_text(settings)
    assert cli.main(["run", str(config), "--output", str(tmp_path / "results")]) == 0
    return tmp_path


def every(found):
    return [run for runs in found.values() for run in runs.members]


def test_a_run_whose_record_is_gone_is_known_from_the_list_until_its_configuration_changes(own):
    def now():
        return read("iomt_table2_small", own / "results", read_list(own / "runs.csv"), own / "configs")

    before, _ = now()
    assert list(before) == ["iomt_table2_small+lr=0.2", "iomt_table2_small+lr=0.1"], "not as in the file"
    write_list(own / "runs.csv", every(before))
    for path in (own / "results/iomt_table2_small").glob("*seed=2.h5"):
        path.unlink()
    after, differing = now()
    assert not differing
    assert list(after) == list(before)
    for label, runs in before.items():
        assert [replace(run, path=None) for run in after[label].members] == [
            replace(run, path=None) for run in runs.members
        ]
    assert [run.path is None for run in every(after)] == [False, True, False, True]

    config = own / "configs/iomt_table2_small.toml"
    config.write_text(config.read_text().replace("[0.2, 0.1]", "[0.3, 0.1]"))
    changed, _ = now()
    assert [run.label for run in every(changed) if run.path is None] == ["iomt_table2_small+lr=0.1+seed=2"]
    config.write_text(config.read_text().replace("rounds = 2", "rounds = 3"))
    changed, _ = now()
    assert [run.label for run in every(changed) if run.path is None] == []


def test_a_record_with_other_settings_takes_the_place_of_what_is_listed_of_its_label(own):
    found, _ = read("iomt_table2_small", own / "results", (), own / "configs")
    write_list(own / "runs.csv", every(found))
    config, short = own / "configs/iomt_table2_small.toml", own / "short"
    assert cli.main(["run", str(config), "--output", str(short), "--set", "rounds=1"]) == 0
    (short / "iomt_table2_small/iomt_table2_small+lr=0.2+seed=1.h5").unlink()
    (short / "iomt_table2_small/iomt_table2_small+lr=0.2+seed=2.h5").unlink()
    both, _ = read("iomt_table2_small", short, read_list(own / "runs.csv"), own / "configs")
    assert list(both) == list(found)
    assert [runs.settings for runs in both.values()] == ["", " --set rounds=1"]
    assert [run.path is None for run in every(both)] == [True, True, False, False]


def test_a_run_made_again_is_told_by_its_digest(own):
    found, _ = read("iomt_table2_small", own / "results", (), own / "configs")
    first, second, *_ = every(found)
    listed = [replace(first, made=("2026-01-01",)), replace(second, digest="0" * 64)]
    again, differing = read("iomt_table2_small", own / "results", listed, own / "configs")
    assert differing == [second.label]
    assert every(again)[0].made == ("2026-01-01", *first.made)
    assert every(again)[1] == second


def test_the_page_counts_runs_that_were_made_again_and_warns_of_those_that_differ(results, tmp_path):
    page, runs = tmp_path / "PAGE.md", tmp_path / "reproduction/runs.csv"
    assert write_page(results, page).returncode == 0
    listed = read_list(runs)
    write_list(runs, [replace(listed[0], made=("2026-01-01",)), replace(listed[1], digest="0" * 64)])
    done = write_page(results, page)
    assert done.returncode == 0
    assert f"1 runs are not, bit for bit, what was listed of them, such as {listed[1].label}" in done.stderr
    assert "1 of the runs have been made a second time" in page.read_text()
    assert len(read_list(runs)) == len(listed)


def test_a_folder_without_records_is_refused(tmp_path):
    done = write_page(tmp_path, tmp_path / "x.md")
    assert done.returncode == 2
    assert "`make reproduce` makes them" in done.stderr
