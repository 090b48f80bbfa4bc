"""The page that holds the papers' numbers beside those of fempi."""

import csv
import importlib.util
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
import dual_system  # noqa: E402
import figures  # noqa: E402
import trust_and_krum  # noqa: E402
from claims import LEAST, MOST, tolerated  # noqa: E402
from runs import METRICS, Run, Runs, read, read_list, spread, with_common_seeds, write_list  # noqa: E402

TINY = [
    *('data.dataset="synthetic"', "data.size=8", "data.train_examples=400", "data.test_examples=50"),
    *("data.clients=10", "data.root_examples=20", 'model.name="mlp"', "model.hidden=[4]"),
    *("train.local_epochs=1", "train.clients_per_batch=1", "rounds=2", "evaluation.every=1"),
]
SETTINGS = [part for setting in TINY for part in ("--set", setting)]


def made_up(label, *accuracies, tested=(20, 40, 60, 80, 100), config=None, first=1):
    """Runs of as many seeds as there are lists of accuracies, from the first on; all metrics are the same."""
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
            software="",
            made=("2026-01-01",),
            config=config or {},
        )
        for seed, values in enumerate(accuracies, first)
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
    rows = dual_system.judge(dual_system.Tables(table1={}, table1_small={}, table2=own, table2_small=small or {}))
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


def test_a_single_seed_is_told_and_so_is_one_in_one_reading():
    several, one = made_up("dual", [0, 0, 0, 0, 0.9], [0, 0, 0, 0, 0.9]), made_up("dual-weights", [0, 0, 0, 0, 0.7])
    name = "Dual under attack after 100 rounds (table 2)"
    assert judged({"dual-weights": one})[name].why.endswith(" One seed.")
    assert judged({"dual": several, "dual-weights": one})[name].why.endswith(" One seed in one reading.")
    assert "seed" not in judged({"dual": several})[name].why


def test_seeds_that_differ_tolerate_more_but_not_everything():
    assert tolerated(np.array([0.5])) == LEAST
    assert tolerated(np.array([0.5, 0.5])) == LEAST
    assert tolerated(np.array([0.48, 0.5, 0.52])) == pytest.approx(0.04)
    assert tolerated(np.array([0.1, 0.5, 0.9])) == MOST


def test_where_the_cnn_was_not_run_the_small_models_seeds_decide():
    name = "clean FedAvg after 100 rounds (table 2)"

    def verdict(own, *seeds):
        return judged(own, {"fedavg-clean": made_up("fedavg-clean", *([0, 0, 0, 0, x] for x in seeds))})[name].verdict

    assert verdict({}, 0.79, 0.83, 0.87) == "reproduced"  # 0.83, and a standard deviation of 0.04
    assert verdict({}, 0.77, 0.81, 0.85) == "not reproduced"
    assert verdict({}, 0.5, 0.75, 1.0) == "not reproduced", "seeds that agree on nothing reproduced a number"
    assert verdict(table2(fedavg_clean=0.8), 0.79, 0.83, 0.87) == "not reproduced"
    assert verdict(table2(fedavg_clean=0.9), 0.77, 0.81, 0.85) == "reproduced"


def test_one_model_decides_on_all_readings():
    small = {"dual-weights": made_up("dual-weights", [0, 0, 0, 0, 0.8958])}
    row = judged(table2(dual=0.7), small)["Dual under attack after 100 rounds (table 2)"]
    assert row.verdict == "not reproduced", "a reading with the small model only outdid the CNN"
    assert "weights flipped: small 0.896" in row.ours


def test_the_model_that_is_built_as_the_paper_says_decides_on_gaps_and_both_are_told():
    own, small = table2(fedavg_clean=0.9, dual=0.89, fltrust=0.7), table2(fedavg_clean=0.9, dual=0.8, fltrust=0.7)
    row = judged(own, small)["Dual under attack is nearly equal to clean"]
    assert row.verdict == "reproduced"
    assert row.ours == "CNN, update flipped: -0.010; small, update flipped: -0.100"
    assert row.why == "It is above -0.02 in 1 of 1 readings with the CNN. One seed."


def test_a_row_tells_if_the_small_models_seeds_say_otherwise():
    seeds = ([0, 0, 0, 0, 0.8], [0, 0, 0, 0, 0.82])
    small = {name: made_up(name, *seeds) for name in ("fedavg-clean", "dual")}
    rows = judged(table2(fedavg_clean=0.9, dual=0.7), small)
    otherwise = "The small model, with 2 seeds, says otherwise."
    assert rows["clean FedAvg after 100 rounds (table 2)"].why.endswith(otherwise)
    assert rows["Dual under attack is nearly equal to clean"].why.endswith(otherwise)
    assert "otherwise" not in rows["Dual under attack after 100 rounds (table 2)"].why
    points = dual_system.PUBLISHED["dual"]
    curve = judged(table2(dual=0.7), {"dual": made_up("dual", points, points)})
    assert curve["Dual after 20, 40, 60 and 80 rounds (curve)"].why.endswith(otherwise)
    alone = {"dual": made_up("dual", points)}
    assert "otherwise" not in judged(table2(dual=0.7), alone)["Dual under attack after 100 rounds (table 2)"].why


def test_gaps_are_between_runs_of_the_same_seed_after_the_papers_rounds():
    small = {
        "fedavg-clean": made_up("fedavg-clean", [0, 0, 0, 0, 0.9], [0, 0, 0, 0, 0.8]),
        "dual": made_up("dual", [0, 0, 0, 0, 0.79], [0, 0, 0, 0, 0.1], first=2),
    }
    row = judged({}, small)["Dual under attack is nearly equal to clean"]
    assert row.ours == "small, update flipped: -0.010"
    short = {name: made_up(name, [0.5, 0.6], tested=(20, 40)) for name in ("fedavg-clean", "dual")}
    assert judged(short)["Dual under attack is nearly equal to clean"].verdict == "not run yet"


def test_either_reading_of_the_attack_reproduces_a_number():
    row = judged(table2(fedavg_attacked=0.4, fedavg_attacked_weights=0.1))[
        "FedAvg under attack after 100 rounds (table 2)"
    ]
    assert row.verdict == "reproduced"
    assert "where the attack is read as weights flipped. Both are chance" in row.why


@pytest.mark.parametrize(
    ("points", "verdict"), [((0.62, 0.8), "not run yet"), ((0.62, 0.9), "not reproduced")], ids=["near", "off"]
)
def test_a_run_that_is_shorter_than_the_papers_can_only_miss(points, verdict):
    rows = judged({"fedavg-clean": made_up("fedavg-clean", points, tested=(20, 40))})
    assert rows["clean FedAvg after 100 rounds (table 2)"].verdict == "not run yet"
    assert rows["clean FedAvg after 20, 40, 60 and 80 rounds (curve)"].verdict == verdict


@pytest.mark.parametrize(("dual", "verdict"), [(0.885, "reproduced"), (0.87, "not reproduced")])
def test_dual_is_nearly_clean_or_not(dual, verdict):
    rows = judged(table2(fedavg_clean=0.9, dual=dual, fltrust=0.7))
    assert rows["Dual under attack is nearly equal to clean"].verdict == verdict
    assert rows["Dual does better than FLTrust under attack"].verdict == "reproduced"
    assert rows["FLTrust is far below clean under attack"].verdict == "reproduced"


def test_a_curve_is_reproduced_if_all_its_points_are():
    points = np.array(dual_system.PUBLISHED["fedavg-clean"])
    near = {"fedavg-clean": made_up("fedavg-clean", points + 0.029)}
    name = "clean FedAvg after 20, 40, 60 and 80 rounds (curve)"
    assert judged(near)[name].verdict == "reproduced"
    points[1] += 0.04
    row = judged({"fedavg-clean": made_up("fedavg-clean", points)})[name]
    assert row.verdict == "not reproduced"
    assert row.why.startswith("At best 3 of 4 points agree")


# ------------------------------------------------------------------------------------------------- the other paper


def grid(accuracy, systems=trust_and_krum.ORDER, seeds=1):
    """All runs of these systems that claims are about; accuracy(system, kind, intensity)."""
    found = {}
    kinds = {
        "flip": trust_and_krum.FLIPPED,
        "shrink": trust_and_krum.SHRUNK,
        "grow": trust_and_krum.GROWN,
        "noise": trust_and_krum.NOISY,
    }
    for system in systems:
        for kind, attacks in kinds.items():
            for place, attack in enumerate(attacks):
                label = f"{system}+attack={attack}"
                found[label] = made_up(label, *[[accuracy(system, kind, place)]] * seeds, tested=(10,))
    return found


BASE = {"hybrid": 0.95, "krum": 0.9, "dp": 0.88, "baseline": 0.8}


def papers(system, kind, place):
    """Accuracies as the paper tells of them."""
    lower = 0 if kind == "flip" else 0.07
    steeper = {"dp": 0.018, "baseline": 0.025} if kind != "flip" else {"baseline": 0.025}
    return BASE[system] - lower - steeper.get(system, 0.001) * place


def test_the_papers_own_world_reproduces_all_its_claims():
    rows = trust_and_krum.judge(grid(papers))
    assert len(rows) == 15
    assert {row.verdict for row in rows} == {"reproduced"}, [r for r in rows if r.verdict != "reproduced"]


def test_where_nothing_matters_none_of_its_orders_is_reproduced_and_its_bounds_are_nothing_special():
    rows = trust_and_krum.judge(grid(lambda system, kind, place: 0.95))
    bounds = [row for row in rows if row.published.startswith("> ")]
    assert {row.verdict for row in bounds} == {"reproduced"}
    assert all(row.why.endswith("Baseline passes as well, so that this tells nothing of Hybrid.") for row in bounds)
    assert {row.verdict for row in rows if row not in bounds} == {"not reproduced"}


def test_clipped_updates_are_one_more_reading():
    flat = grid(lambda system, kind, place: 0.95)
    names = {"hybrid-clipped": "hybrid", "dp-clipped": "dp", "baseline": "baseline", "krum": "krum"}
    clipped = grid(lambda system, kind, place: papers(names[system], kind, place), names)
    rows = {row.claim: row for row in trust_and_krum.judge(flat | clipped)}
    order = rows["Hybrid > Krum > DP > Baseline in all metrics, at each intensity of label flipping"]
    assert order.ours.startswith("unclipped: 0.950, 0.899, 0.950, 0.775; clipped: 0.949, 0.899, 0.879, 0.775")
    assert order.verdict == "reproduced"
    assert "Of 6 cells, it holds in 3 in accuracy, 3 in precision, 3 in recall, 3 in F1; hybrid is" in order.why
    assert order.why.endswith("It holds for: clipped.")
    worse = rows["gradient manipulation lowers accuracy more than label flipping, for every system"]
    assert worse.why.startswith("It holds for: x 0.1 to 0.3, clipped; x 1.1 to 1.3, clipped; noise")
    partly = {label: runs for label, runs in clipped.items() if label != next(iter(clipped))}
    assert not any("clipped" in row.ours for row in trust_and_krum.judge(flat | partly))


def test_how_far_a_system_leads_is_told_and_how_many_claims_one_reading_bears_out():
    noise_only = grid(lambda system, kind, place: papers(system, kind, place) if kind == "noise" else 0.9)
    rows = {row.claim: row for row in trust_and_krum.judge(noise_only)}
    best = rows["Hybrid is the best in all metrics, at each intensity of gradient manipulation"]
    assert best.ours.startswith(
        "x 0.1 to 0.3: +0.0000 to +0.0000; x 1.1 to 1.3: +0.0000 to +0.0000; noise of 0.1 to 0.3:"
    )
    assert (best.verdict, best.readings) == ("reproduced", ["noise of 0.1 to 0.3"])
    assert best.why == "It holds for: noise of 0.1 to 0.3 - by 0.0500 at least."
    flat = rows["Hybrid is the best in all metrics, at each intensity of label flipping"]
    assert (flat.verdict, flat.why) == ("not reproduced", "In no reading in all cells.")
    # all but two, which are about flipped labels, too
    assert trust_and_krum.together(rows.values()) == (
        "Of the 11 claims on gradient manipulation, no one reading bears out more than 9 (noise of 0.1 to 0.3).\n"
    )
    tie = [best, replace(best, readings=["x 1.1 to 1.3, clipped"])]
    assert "more than 1 (noise of 0.1 to 0.3; x 1.1 to 1.3, clipped)" in trust_and_krum.together(tie)
    assert trust_and_krum.together([flat]) == ""


def test_nothing_is_said_of_a_grid_with_gaps():
    found = grid(lambda system, kind, place: 0.95)
    found.popitem()
    assert trust_and_krum.judge(found) == []


def test_only_seeds_that_all_systems_have_are_compared():
    found = grid(papers, seeds=2)
    label = "krum+attack=label_flip_fraction_0.1"
    found[label] = made_up(label, [0.1], [0.9], [0.1], tested=(10,), first=1)
    found["dp-clipped+attack=none"] = made_up("dp-clipped+attack=none", [0.9], tested=(10,), first=3)
    same = trust_and_krum.comparable(found)
    assert {run.seed for runs in same.values() for run in runs.members} == {1, 2}
    assert same.keys() == found.keys() - {"dp-clipped+attack=none"}
    assert len(found[label].members) == 3
    assert with_common_seeds({}, []) == {}


# ------------------------------------------------------------------------------------------------------ beyond them


def cells_of(cells):
    """Accuracies with one malicious client of ten, by rule and attack, of one seed or several, arranged."""
    found = {}
    for rule, attack, *accuracies in cells:
        label = f"{rule}+attack={attack}+malicious=1"
        config = {"attack": {"name": attack, "malicious": 1}, "data": {"clients": 10}}
        found[label] = made_up(label, *([each] for each in accuracies), tested=(5,), config=config)
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
    first, second = arranged.ranking()
    assert arranged.broken == pytest.approx(0.45)
    assert (first.rule, first.by, first.broken) == ("b", "ipm, 10 % malicious", 0)
    assert (first.mean, first.worst.tolist(), first.clean.tolist()) == (pytest.approx(0.55), [0.5], [0.8])
    assert (second.rule, second.by, second.broken) == ("a", "alie, 10 % malicious", 1)
    accuracy, drop = arranged.flat
    assert arranged.columns == [(attack, "10 % malicious") for attack in ("none", "ipm", "alie")]
    assert accuracy[0].tolist() == [0.9, 0.9, 0.1]
    assert np.allclose(drop[0], [np.nan, 0, 0.8], equal_nan=True)


def rows_of(rows, columns=("none", "ipm", "alie")):
    return cells_of([(rule, attack, x) for rule, xs in rows.items() for attack, x in zip(columns, xs, strict=False)])


def test_the_rule_to_deploy_is_the_one_with_the_best_worst_and_published_ones_are_judged():
    rows = {
        "krum": (0.9, 0.8, 0.85),
        "median": (0.9, 0.78, 0.9),
        "dual": (0.9, 0.3, 0.9),
        "dual-rescaled": (0.8, 0.7, 0.9),
        "dual-mended": (0.9, 0.7),
    }
    told = beyond.advice(rows_of(rows))
    assert "**krum**. Its worst is 0.800 (ipm, 10 % malicious), its mean under attack 0.825" in told
    assert "within 0.03: median." in told
    assert "Best by the mean under attack: median, 0.840." in told
    assert "broken somewhere" not in told
    assert "from one seed" in told
    assert "Not all runs are there of: dual-mended." in told
    where = "(ipm, 10 % malicious), and without attack it has"
    assert f"`dual` is broken in 1 of 2 runs; its worst is 0.300 {where} 0.900. `dual-rescaled` is" in told
    assert f"`dual-rescaled` is broken in no run; its worst is 0.700 {where} 0.800." in told
    assert "`dual-mended` is" not in told


def test_a_rule_that_does_not_learn_is_not_called_robust():
    told = beyond.advice(rows_of({"krum": (0.9, 0.8, 0.85), "hybrid": (0.1, 0.1, 0.1)}))
    assert told.endswith("`hybrid` does not learn here, attacked or not (0.100 without attack).\n")
    assert "broken" not in told


def test_a_rule_for_all_settings_keeps_the_largest_share_in_its_worst_cell():
    one = rows_of({"krum": (0.8, 0.6, 0.8), "median": (0.8, 0.32, 0.8), "dnc": (0.8, 0.8, 0.8)})
    other = rows_of({"krum": (1.0, 0.5, 0.8), "median": (1.0, 0.9, 0.9)})
    told = beyond.everywhere({"one": one, "other": other})
    assert "**krum**. No attack brings it below 50% of" in told
    assert told.endswith("in the same setting.\n"), "median, at 40 %, is as good"
    close = beyond.everywhere({"one": one, "other": rows_of({"krum": (1.0, 0.42, 0.8), "median": (1.0, 0.9, 0.9)})})
    assert close.endswith(" As good, within 4 points: median 40%.\n")
    assert beyond.everywhere({"one": one}) == ""
    assert beyond.everywhere({}) == ""


def test_several_seeds_have_a_spread_and_no_warning():
    told = beyond.advice(cells_of([("krum", "none", 0.9, 0.9), ("krum", "ipm", 0.8, 0.6)]))
    assert "Its worst is 0.700 ± 0.141" in told
    assert "seed" not in told


def test_runs_that_never_learned_are_not_broken_by_attacks():
    cells = [
        ("krum", "none", 0.9, 0.9),
        ("krum", "ipm", 0.9, 0.9),
        ("dual", "none", 0.9, 0.1),
        ("dual", "ipm", 0.2, 0.1),
    ]
    found = cells_of(cells)
    rank = found.rank("dual")
    assert (rank.broken, rank.runs, rank.learns, rank.seeds) == (1, 1, 1, 2)
    assert "`dual` does not learn with 1 of 2 seeds; with the others it is broken in 1 of 1 runs" in beyond.advice(
        found
    )


def test_rules_are_as_good_as_each_other_within_what_seeds_make():
    cells = [
        ("krum", "none", 0.9, 0.9),
        ("krum", "ipm", 0.8, 0.6),
        ("dnc", "none", 0.9, 0.9),
        ("dnc", "ipm", 0.49, 0.49),
    ]
    found = cells_of(cells)
    assert found.margin == pytest.approx(2 * np.sqrt(0.02 / 2))  # the median of both rules' variances; two seeds each
    wild = [("dual", "none", 0.9, 0.1), ("dual", "ipm", 0.9, 0.1)]
    assert cells_of([*cells, *wild]).margin == pytest.approx(2 * np.sqrt(0.02)), (
        "one that learns at times counts as one"
    )
    assert "As good, within 0.20: dnc." not in beyond.advice(found)
    near = cells_of([*cells[:3], ("dnc", "ipm", 0.51, 0.51)])
    assert "As good, within 0.20: dnc." in beyond.advice(near)
    assert cells_of([(rule, attack, first) for rule, attack, first, _ in cells]).margin == LEAST


def test_the_best_come_first_and_what_is_not_complete_last():
    found = cells_of([("a", "none", 0.9), ("b", "none", 0.9), ("b", "ipm", 0.1), ("c", "none", 0.8), ("c", "ipm", 0.7)])
    ordered = found.best_first()
    assert ordered.rules == ["c", "b", "a"]
    assert ordered.flat[0][0].tolist() == [0.8, 0.7]
    assert [rank.learns for rank in ordered.ranking()] == [1, 1]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("accuracies", [[0.95], [0.95, 0.95, 0.95], [0.1, 0.95, np.nan], [0.0, 0.0, 0.5]])
def test_a_heat_map_can_be_drawn_of_whatever_is_there(accuracies):
    row = np.array([accuracies])
    columns = [(f"attack {number}", "10 % malicious") for number in range(len(accuracies))]
    figure = figures.heat_map(["rule"], columns, row, row.max() - row, "test accuracy")
    written = [text.get_text() for text in figure.axes[0].texts]
    assert len(written) == np.isfinite(row).sum() + 1  # and the share
    figure.canvas.draw()


def test_where_every_rule_falls_the_advice_says_so():
    told = beyond.advice(rows_of({"krum": (0.9, 0.2), "hybrid": (0.9,)}, ("none", "ipm")))
    assert "**krum**" in told
    assert "All are broken somewhere" in told
    assert "`hybrid`" not in told, "not all of its runs are there"


def test_a_rule_whose_clean_run_is_missing_is_not_judged():
    found = cells_of([("krum", "none", 0.9), ("krum", "ipm", 0.8), ("dual", "ipm", 0.1)])
    assert found.complete == ["krum"]
    assert "`dual` is" not in beyond.advice(found)
    assert beyond.advice(cells_of([("dual", "ipm", 0.1)])).startswith("Too few of the runs")


# ---------------------------------------------------------------------------------------------------- configurations


def labels(name):
    return {without_seed(run.label) for run in experiment.load(ROOT / f"configs/{name}.toml")}


def test_all_that_the_claims_are_about_is_in_the_configurations():
    systems = (*trust_and_krum.ORDER, *trust_and_krum.CLIPPED.values())
    assert grid(lambda *_: 0.9, systems).keys() <= labels("trust_krum_dp_table1")
    for name in ("iomt_table2", "iomt_table2_small"):
        attacked = [arm for arm in dual_system.PUBLISHED if arm != "fedavg-clean"]
        assert {*dual_system.PUBLISHED, *(f"{arm}-weights" for arm in attacked)} == labels(name)
    for name in ("iomt_beyond", "trust_krum_dp_beyond"):
        assert set(beyond.VARIANTS).union(*beyond.VARIANTS.values()) <= {each.split("+")[0] for each in labels(name)}


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
    assert f"from {len(lines)} runs" in text
    assert row_software(lines) in text
    assert "Some have other settings than their configurations: `iomt_table2_small` with `--set rounds=2" in text
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
        left_out = {"attackers_excluded": "true_positive_rate", "honest_excluded": "false_positive_rate"}
        for column, rate in left_out.items():
            assert float(row[column]) == pytest.approx(np.nanmean(record.read(f"rounds/{rate}")), abs=1e-4)
        assert int(row["idle_rounds"]) == (~record.read("rounds/selected")).all(axis=1).sum()
    dual = read("iomt_table2_small", results).runs["dual"]
    assert [run.seed for run in dual.members] == [1, 2, 3, 4, 5]
    assert f" | 5 | {dual.first.hash[:8]} | {dual.first.digest[:8]} |" in text
    flipped = read("trust_krum_dp_table1", results).runs["baseline+attack=label_flip_fraction_0.1"]
    assert f"| label flip fraction 0.1 | {spread(flipped.last())} |" in text
    assert "--arm dual --output again --set rounds=2 --set " in text, "its settings are not the configuration's"
    assert "| attackers left out | others left out | idle rounds | seeds |" in text
    assert "| left out: attackers, others |" not in text, "the plain mean leaves out nobody"
    assert "second time" not in text


def test_whom_rules_leave_out_is_laid_out_by_attack():
    spec = importlib.util.spec_from_file_location("page", SCRIPT / "__main__.py")
    page = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(page)
    found = {}
    for rule, attack, shares in (
        ("mean", "none", (None, 0.0)),
        ("krum", "none", (None, 0.9)),
        ("krum", "ipm", (0.996, 0.5)),
        ("dual", "ipm", (None, None)),
    ):
        runs = made_up(f"{rule}+attack={attack}", [0.9], tested=(5,), config={"aggregator": {"name": rule}})
        member = replace(runs.first, attackers_excluded=shares[0], honest_excluded=shares[1])
        found[runs.label] = replace(runs, members=[member])
    assert page.excluded_table(found).splitlines() == [
        "| left out: attackers, others | krum |",
        "|---|---|",
        "| none | -, 90% |",
        "| ipm | 100%, 50% |",
    ]


def row_software(lines):
    (software,) = {line["software"] for line in lines}
    assert "torch" in software
    return software


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


def test_a_run_whose_record_is_gone_is_known_from_the_list_until_its_configuration_changes(own):
    def now():
        return read("iomt_table2_small", own / "results", read_list(own / "runs.csv"), own / "configs")

    before = now()
    assert list(before.runs) == ["iomt_table2_small+lr=0.2", "iomt_table2_small+lr=0.1"], "not as in the file"
    write_list(own / "runs.csv", before.every)
    for path in (own / "results/iomt_table2_small").glob("*seed=2.h5"):
        path.unlink()
    after = now()
    assert (after.differing, after.outdated, after.aside) == ([], [], [])
    assert list(after.runs) == list(before.runs)
    for label, runs in before.runs.items():
        assert [replace(run, path=None) for run in after.runs[label].members] == [
            replace(run, path=None) for run in runs.members
        ]
    assert [run.path is None for run in after.every] == [False, True, False, True]

    config = own / "configs/iomt_table2_small.toml"
    config.write_text(config.read_text().replace("[0.2, 0.1]", "[0.3, 0.1]"))
    changed = now()
    assert [run.label for run in changed.every if run.path is None] == ["iomt_table2_small+lr=0.1+seed=2"]
    assert changed.outdated == ["iomt_table2_small+lr=0.2+seed=2"]
    config.write_text(config.read_text().replace("rounds = 2", "rounds = 3"))
    assert [run.label for run in now().every if run.path is None] == []


def test_a_record_with_other_settings_takes_the_place_of_its_label_on_the_page_but_not_in_the_list(own):
    found = read("iomt_table2_small", own / "results", (), own / "configs")
    write_list(own / "runs.csv", found.every)
    config, short = own / "configs/iomt_table2_small.toml", own / "short"
    assert cli.main(["run", str(config), "--output", str(short), "--set", "rounds=1"]) == 0
    (short / "iomt_table2_small/iomt_table2_small+lr=0.2+seed=1.h5").unlink()
    (short / "iomt_table2_small/iomt_table2_small+lr=0.2+seed=2.h5").unlink()
    both = read("iomt_table2_small", short, read_list(own / "runs.csv"), own / "configs")
    assert list(both.runs) == list(found.runs)
    assert [runs.settings for runs in both.runs.values()] == ["", " --set rounds=1"]
    assert [run.label for run in both.aside] == [f"iomt_table2_small+lr=0.1+seed={seed}" for seed in (1, 2)]
    assert {run.hash for run in found.every} < {run.hash for run in both.every}


def test_a_run_that_no_line_of_the_configuration_names_is_told_from_the_first_of_its_arm(own):
    config, other = own / "configs/iomt_table2_small.toml", own / "other"
    assert cli.main(["run", str(config), "--output", str(other), "--set", "train.lr=0.3", "--set", "rounds=1"]) == 0
    found = read("iomt_table2_small", other, (), own / "configs")
    assert {label: runs.settings for label, runs in found.runs.items()} == {
        "iomt_table2_small": " --set rounds=1 --set train.lr=0.3"
    }


def test_a_seed_counts_once(own):
    config = own / "configs/iomt_table2_small.toml"
    again = ["--set", "seed=1", "--set", "train.lr=0.2"]
    assert cli.main(["run", str(config), "--output", str(own / "results"), *again]) == 0
    found = read("iomt_table2_small", own / "results", (), own / "configs").runs["iomt_table2_small+lr=0.2"]
    assert [(run.seed, run.label) for run in found.members] == [
        (seed, f"iomt_table2_small+lr=0.2+seed={seed}") for seed in (1, 2)
    ]


def test_a_run_made_again_is_told_by_its_digest(own):
    found = read("iomt_table2_small", own / "results", (), own / "configs")
    first, second, *_ = found.every
    listed = [replace(first, made=("2026-01-01",)), replace(second, digest="0" * 64)]
    again = read("iomt_table2_small", own / "results", listed, own / "configs")
    assert again.differing == [second.label]
    assert again.every[0].made == ("2026-01-01", *first.made)
    assert again.every[1] == second


def test_the_page_counts_runs_that_were_made_again_and_warns_of_those_that_differ(results, tmp_path):
    page, runs = tmp_path / "PAGE.md", tmp_path / "reproduction/runs.csv"
    assert write_page(results, page).returncode == 0
    listed = read_list(runs)
    gone = replace(listed[2], hash="1" * 64)
    write_list(runs, [replace(listed[0], made=("2026-01-01",)), replace(listed[1], digest="0" * 64), gone])
    done = write_page(results, page)
    assert done.returncode == 0
    assert f"1 runs are not, bit for bit, what was listed of them, such as {listed[1].label}" in done.stderr
    assert f"1 runs are listed no more, such as {gone.label}: their configuration has changed." in done.stderr
    assert "1 of the runs have been made a second time" in page.read_text()
    assert len(read_list(runs)) == len(listed)


def test_a_folder_without_records_is_refused(tmp_path):
    done = write_page(tmp_path, tmp_path / "x.md")
    assert done.returncode == 2
    assert "`make reproduce` makes them" in done.stderr
