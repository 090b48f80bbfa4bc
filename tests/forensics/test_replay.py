"""The recorded rule comes to the recorded decisions again; any other is told for what it is."""

import csv
import subprocess
import sys
from functools import cache

import numpy as np
import pytest
from launch import clean_env
from records import make_runs

from fempi import Decision, RunFile, Updates, cli, registry
from fempi.errors import FempiError
from fempi.forensics import replay
from fempi.runfile import target_of

pytestmark = pytest.mark.usefixtures("own_registry")

CONFIG = """
name = "x"
rounds = {rounds}
[data]
dataset = "synthetic"
size = 4
train_examples = 300
test_examples = 50
clients = 14
root_examples = 20
[model]
name = "mlp"
hidden = [4]
[train]
cohort = 11
local_epochs = 1
[attack]
name = "sign_flip"
malicious = 3
[aggregator]
num_byzantine = 2
{aggregator}
[record]
updates = "{updates}"
{kept}
[evaluation]
every = 10
{more}
"""
RULES = registry.names("aggregator")
GRAM_RULES = [name for name in RULES if "columns" not in registry.find("aggregator", name).needs]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return a function that makes runs, each once, and returns the folder of their records."""

    @cache
    def make(*, rounds=4, updates="full", aggregator="", kept="", more=""):
        text = CONFIG.format(rounds=rounds, updates=updates, aggregator=aggregator, kept=kept, more=more)
        return make_runs(tmp_path_factory.mktemp("made"), text)

    return make


@pytest.fixture(scope="module")
def every_rule(made):
    """The records of every rule under an attack of which some rows are not finite."""
    names = ", ".join(f'"{name}"' for name in RULES)
    return made(more=f'[grid]\n"aggregator.name" = [{names}]\n"attack.name" = ["sign_flip", "nan"]')


def found(path, section=None, **options):
    """What a replay differs in, by round."""
    with RunFile(path) as run:
        section = section or replay.section_of(run, **options)
        return {each.round: replay.differences(run, each) for each in replay.replay(run, section)}


@pytest.mark.parametrize("attack", ["sign_flip", "nan"])
@pytest.mark.parametrize("name", RULES)
def test_every_rules_own_replay_equals_the_record(name, attack, every_rule):
    path = every_rule / f"x+aggregator.name={name}+attack.name={attack}.h5"
    assert found(path) == {1: [], 2: [], 3: [], 4: []}


PRE = ('pre = ["nnm"]', 'pre = ["clipping", { name = "bucketing", size = 3 }]', 'pre = ["arc"]')


@pytest.mark.parametrize("rule", ["median", "geometric_median"])
@pytest.mark.parametrize("pre", PRE)
def test_with_pre_aggregators_too(pre, rule, made):
    assert found(made(aggregator=f'name = "{rule}"\n{pre}') / "x.h5") == {1: [], 2: [], 3: [], 4: []}


def test_another_rule_would_not_equal_the_record(made):
    path = made(aggregator='name = "krum"') / "x.h5"
    assert all("rounds/weight" in paths for paths in found(path, name="mean").values())
    assert all("rounds/trust" in paths for paths in found(path, parameters={"power": 1}).values())


def test_what_a_rule_remembers_is_of_its_own_decisions(made):
    """Without it the replay of a rule with a memory differs from the second round on."""
    path = made(aggregator='name = "hybrid"') / "x.h5"
    with RunFile(path) as run:
        first, *later = replay.replay(run, replay.section_of(run))
    assert set(first.decision.state) == {"clients", "trust"}
    assert len(later[-1].decision.state["clients"]) > len(first.decision.state["clients"])


@pytest.mark.parametrize("name", GRAM_RULES)
def test_a_record_without_updates_gives_the_same_decisions(name, made):
    with RunFile(made() / "x.h5") as full, RunFile(made(updates="none") / "x.h5") as bare:
        if "reference" in registry.find("aggregator", name).needs:
            for run in (full, bare):
                with pytest.raises(FempiError, match="reference update; the run had none"):
                    list(replay.replay(run, replay.section_of(run, name)))
            return
        pairs = zip(*(replay.replay(run, replay.section_of(run, name)) for run in (full, bare)), strict=True)
        for one, other in pairs:
            assert np.array_equal(one.decision.selected, other.decision.selected)
            assert np.array_equal(one.decision.weights, other.decision.weights)
            assert np.array_equal(one.decision.trust, other.decision.trust)


@pytest.mark.parametrize("updates", ["none", "sketch"])
def test_a_rule_of_columns_says_that_it_lacks_them(updates, made):
    with RunFile(made(updates=updates) / "x.h5") as run, pytest.raises(FempiError, match="median needs the updates"):
        list(replay.replay(run, replay.section_of(run, "median")))


def test_updates_of_half_precision_do_for_a_rule_of_columns(made):
    with RunFile(made(updates="float16") / "x.h5") as run:
        rounds = list(replay.replay(run, replay.section_of(run, "median")))
    assert [each.decision.update.shape for each in rounds] == [(rounds[0].updates.d,)] * 4


def test_a_rule_of_columns_decides_on_the_rounds_that_were_kept(made):
    with RunFile(made(rounds=5, kept="every = 2") / "x.h5") as run:
        assert [each.round for each in replay.replay(run, replay.section_of(run, "median"))] == [2, 4]
        assert [each.round for each in replay.replay(run, replay.section_of(run, "krum"))] == [1, 2, 3, 4, 5]


def replayed(rows, attacking, **decided):
    """Made-up rows and a decision on them."""
    rows = np.array(rows, np.float32)
    n = len(rows)
    decision = Decision(**{"scale": np.ones(n), "trust": np.ones(n), "selected": np.ones(n, bool), **decided})
    return replay.Replayed(round=1, decision=decision, updates=Updates(rows), attacking=np.array(attacking, bool))


def test_error_and_weight_by_hand():
    # Honest mean (3, 0). With weights 1/2, 1/4, 1/4 the update is (1, 0) + (1, 0) + (-1, 0) = (1, 0): 2 of 3 away.
    rows = [[2, 0], [4, 0], [-4, 0]]
    by_weights = replayed(rows, [0, 0, 1], weights=np.array([0.5, 0.25, 0.25]))
    assert by_weights.malicious_weight == 0.25
    assert by_weights.error == pytest.approx(2 / 3)
    by_columns = replayed(rows, [0, 0, 1], weights=np.full(3, 1 / 3), update=np.array([1, 0], np.float32))
    assert by_columns.error == pytest.approx(2 / 3)
    rescaled = replayed(rows, [0, 0, 1], weights=np.array([0, 0.5, 0.5]), scale=np.array([1, 1.5, 0]))
    assert rescaled.error == pytest.approx(0, abs=1e-7)


def test_error_leaves_out_rows_that_are_not_finite():
    rows = [[2, 0], [np.nan, 0], [4, 0], [np.inf, 1]]
    assert replayed(rows, [0, 0, 0, 1], weights=np.array([1, 0, 0, 0])).error == pytest.approx(1 / 3)
    assert np.isnan(replayed(rows, [1, 0, 1, 1], weights=np.array([1, 0, 0, 0])).error)
    assert np.isnan(replayed([[0, 0]], [0], weights=np.array([1.0])).error)


def test_the_ranking_has_every_rule_once_and_the_best_first(every_rule):
    with RunFile(every_rule / "x+aggregator.name=mean+attack.name=sign_flip.h5") as run:
        summaries, refused = replay.ranking(run)
        mean = next(each for each in summaries if each.aggregator == "mean")
        attacking = run.read("rounds/attacking")
    assert sorted([*(each.aggregator for each in summaries), *refused]) == RULES
    assert set(refused) == {name for name in RULES if "reference" in registry.find("aggregator", name).needs}
    weights = [each.malicious_weight for each in summaries]
    assert weights == sorted(weights)
    assert mean.malicious_weight == pytest.approx(attacking.mean(axis=1)[attacking.any(axis=1)].mean())
    assert (mean.true_positive_rate, mean.false_positive_rate, mean.trust_auc) == (0, 0, 0.5)


def told(capfd, *arguments):
    """What the command prints, and its status."""
    capfd.readouterr()
    status = cli.main(["replay", *map(str, arguments)])
    said = capfd.readouterr()
    return status, " ".join((said.out + said.err).split())


def test_the_command_tells_the_recorded_rule_from_a_counterfactual(made, capfd):
    path = made(aggregator='name = "krum"') / "x.h5"
    status, said = told(capfd, path)
    assert status == 0
    assert "krum decides as it did: trust, weights and selection equal the record in 4 rounds" in said
    status, said = told(capfd, path, "--aggregator", "multi_krum", "--pre", "nnm", "--set", "m=3")
    assert status == 0
    assert "nnm > multi_krum is not the run's rule" in said
    assert "model krum had made" in said
    status, said = told(capfd, path, "--all")
    assert (status, "sign_guard" in said) == (0, True)


def test_the_command_says_what_is_wrong_in_one_message(made, capfd, tmp_path):
    path = made(aggregator='name = "krum"') / "x.h5"
    (tmp_path / "there.csv").touch()
    for arguments, expected in {
        ("--aggregator", "crum"): "did you mean 'krum'?",
        ("--pre", "nmm"): "did you mean 'nnm'?",
        ("--set", "powr=1"): "did you mean 'power'?",
        ("--set", "power"): "write it as key=VALUE",
        ("--set", "num_byzantine=9"): "Krum needs more than 2 f + 2 rows",
        ("--aggregator", "fltrust"): "the run had none",
        ("--all", "--pre", "nnm"): "--all takes every rule as it is",
        ("-o", tmp_path / "there.csv"): "is there already",
        ("-o", tmp_path / "not" / "there.csv"): "cannot be written",
    }.items():
        status, said = told(capfd, path, *arguments)
        assert (status, expected in said, "Traceback" in said) == (2, True, False), said


def test_every_decision_goes_to_a_table(made, capfd, tmp_path):
    path = made(aggregator='name = "krum"') / "x.h5"
    assert told(capfd, path, "-o", tmp_path / "x.csv")[0] == 0
    with (tmp_path / "x.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 * 11
    with RunFile(path) as run:
        for name in ("client", "norm", "trust", "weight", "scale"):
            assert np.array_equal([float(row[name]) for row in rows], run.read(f"rounds/{name}").ravel())
        for name in ("attacking", "selected"):
            assert [row[name] == "1" for row in rows] == run.read(f"rounds/{name}").ravel().tolist()


OWN = '''
import numpy as np
from fempi import Decision, register

@register("aggregator", "first")
def first(updates, context):
    """The first row."""
    selected = np.arange(updates.n) < 1
    return Decision(weights=selected.astype(float), trust=selected.astype(float), selected=selected)
'''


def test_a_rule_of_the_users_is_replayed_when_that_is_allowed(tmp_path, capfd):
    text = CONFIG.format(
        rounds=2, updates="none", aggregator='name = "first"', kept="", more='[plugins]\nfiles = ["own.py"]'
    )
    (tmp_path / "x.toml").write_text(text)
    (tmp_path / "own.py").write_text(OWN)
    # In a process of its own, so that this one does not know the rule.
    command = [sys.executable, "-m", "fempi", "run", str(tmp_path / "x.toml"), "--output", str(tmp_path)]
    subprocess.run(command, env=clean_env(), capture_output=True, check=True)
    path = tmp_path / "x" / "x.h5"
    (tmp_path / "own.py").unlink()
    status, said = told(capfd, path)
    assert (status, "add --allow-plugins" in said) == (2, True)
    status, said = told(capfd, path, "--allow-plugins")
    assert (status, "first decides as it did" in said) == (0, True)


def test_the_folder_of_a_run_that_was_cut_short_is_replayed_as_far_as_it_got(made, tmp_path):
    record = made(aggregator='name = "krum"', more="").parent
    text = (record / "x.toml").read_text().replace('updates = "full"', 'updates = "full"\npack = false')
    folder = make_runs(tmp_path, text) / "x.run"
    assert not target_of(folder).exists()
    next(folder.glob("round-*-000004.h5")).unlink()
    assert found(folder) == {1: [], 2: [], 3: []}
