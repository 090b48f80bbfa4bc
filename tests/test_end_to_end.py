"""Whole experiments under mpirun: the same bits on any number of ranks, and what a user gets to see."""

import shutil
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import h5py
import numpy as np
import pytest
from launch import run_ranks
from records import round_file

from fempi import RunFile, catalogue, cli, registry
from fempi.placement import place
from fempi.schema import PHASES
from fempi.summary import summarize

SMALL = """
name = "small"
rounds = 2

[data]
dataset = "synthetic"
size = 12
train_examples = 300
test_examples = 100
clients = 8
root_examples = 20

[model]
name = "mlp"
hidden = [8]

[train]
cohort = 7
local_epochs = 1
"""

SIX_ARMS = """
name = "six"
rounds = 2

[data]
dataset = "synthetic"
size = 4
train_examples = 400
test_examples = 2500
clients = 9
partition = "dirichlet"
alpha = 1.0
min_examples = 5
root_examples = 30

[model]
name = "cnn"

[train]
cohort = 7
local_epochs = 1

[attack]
malicious = 2

[[arm]]
name = "clean"
set = { "attack.name" = "none" }

[[arm]]
name = "krum"
set = { "attack.name" = "sign_flip", "attack.target" = "weights", "aggregator.name" = "krum" }

[[arm]]
name = "dual"
set = { "attack.name" = "label_flip", "aggregator.name" = "dual" }

[[arm]]
name = "fltrust"
set = { "attack.name" = "sign_flip", "aggregator.name" = "fltrust" }

[[arm]]
name = "hybrid"
set.attack = { name = "backdoor", active_share = 0.5, size = 1, model_replacement = true }
set.aggregator = { name = "hybrid", pre = ["arc", "nnm"] }
set.privacy = { clip = 1.0, epsilon = 50.0 }
set."evaluation.per_client" = true

[[arm]]
name = "clipping"
set.attack = { name = "optimal_alie", evaluations = 4, start_round = 2 }
set.aggregator = { name = "centered_clipping" }
"""
EXECUTION = ("timing/", "ranks/", "launches/", "rounds/rank", "checksums/execution")
ARMS = ["clean", "krum", "dual", "fltrust", "hybrid", "clipping"]
JOBS = [(ranks, placement) for placement in ("balanced", "pinned") for ranks in (1, 2, 3, 4)]


@dataclass(frozen=True)
class Job:
    returncode: int
    output: str
    folder: Path
    """holds the experiment's records"""


def fempi(folder, ranks, config, *arguments, timeout=300):
    """Run a configuration under mpirun with the output in `folder`."""
    command = [sys.executable, "-m", "fempi", "run", str(config), "--output", str(folder / "out"), *arguments]
    job = run_ranks(ranks, command, timeout=timeout, cwd=folder)
    (name,) = [p.name for p in (folder / "out").iterdir() if p.is_dir()] if (folder / "out").exists() else [""]
    return Job(job.returncode, job.output, folder / "out" / name)


def write(folder, text, name="config.toml"):
    (folder / name).write_text(text)
    return folder / name


def arrays(path):
    """Every dataset of a file in its stored type."""
    found = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, item: found.update({name: item[...]}) if isinstance(item, h5py.Dataset) else None)
    return found


def same_bits(a, b):
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    return a.tolist() == b.tolist() if a.dtype == object else a.tobytes() == b.tobytes()


@pytest.fixture(scope="session")
def jobs(tmp_path_factory):
    """Return a function that runs the six arms once for each number of ranks, placement and layout."""
    root = tmp_path_factory.mktemp("six")
    config = write(root, SIX_ARMS)

    @cache
    def job(ranks, placement, layout="root"):
        folder = root / f"{ranks}-{placement}-{layout}"
        folder.mkdir()
        return fempi(folder, ranks, config, "--placement", placement, "--set", f'aggregator.layout="{layout}"')

    yield job
    shutil.rmtree(root)


# The same bits


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("job", [*JOBS[1:], *((ranks, "balanced", "sharded") for ranks in (1, 2, 3, 4))])
def test_every_bit_is_that_of_one_rank(job, arm, jobs):
    one, many = jobs(1, "balanced"), jobs(*job)
    assert one.returncode == many.returncode == 0, many.output
    expected, got = arrays(one.folder / f"{arm}.h5"), arrays(many.folder / f"{arm}.h5")
    assert expected.keys() == got.keys()
    compared = [path for path in got if not path.startswith(EXECUTION)]
    assert [path for path in compared if not same_bits(expected[path], got[path])] == []
    assert {path.partition("/")[0] for path in compared} == {
        *("rounds", "evaluation", "clients", "layers", "final", "checksums")
    }


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize(("ranks", "placement"), JOBS)
def test_the_recorded_ranks_are_those_of_the_placement(ranks, placement, arm, jobs):
    with RunFile(jobs(ranks, placement).folder / f"{arm}.h5") as run:
        root_cost = 30 if arm in ("dual", "fltrust") else 0
        for clients, examples, owners in zip(
            run["rounds/client"], run["rounds/num_examples"], run["rounds/rank"], strict=True
        ):
            kwargs = {"ranks": ranks, "total_clients": 9, "root_cost": root_cost}
            np.testing.assert_array_equal(owners, place(placement, clients, examples, **kwargs))
        assert set(run["rounds/rank"][...].flat) <= set(range(ranks))
        if placement == "balanced":
            assert set(run["rounds/rank"][...].flat) == set(range(ranks))


def test_the_comparison_compares_something(jobs):
    """Two arms differ in their bits, attacks arrive, and what is recorded is neither empty nor constant."""
    with RunFile(jobs(1, "balanced").folder / "krum.h5") as krum, RunFile(jobs(2, "pinned").folder / "dual.h5") as dual:
        assert krum["final/params"][...].tobytes() != dual["final/params"][...].tobytes()
        for run in (krum, dual):
            malicious = run.read("rounds/malicious")
            assert 0 < malicious.sum() < malicious.size
            changed = (run["rounds/update"][...] != run["rounds/trained_update"][...]).any(axis=2)
            assert changed[malicious].all() == (run is krum)  # label_flip poisons data, not updates
            assert len(np.unique(run["rounds/update"][0, 0])) > 1000
            assert run.read("rounds/finite").all()


def test_the_scores_of_the_last_evaluation_are_those_of_its_confusion_matrix(jobs):
    with RunFile(jobs(3, "pinned").folder / "fltrust.h5") as run:
        confusion = run["evaluation/confusion"][-1]
        assert confusion.sum() == 2500
        assert run["evaluation/accuracy"][-1] == np.trace(confusion) / 2500


# What a user gets


@pytest.mark.parametrize(("ranks", "placement"), JOBS)
def test_a_job_leaves_complete_packed_files_and_nothing_else(ranks, placement, jobs):
    job = jobs(ranks, placement)
    assert job.returncode == 0, job.output
    assert sorted(p.name for p in job.folder.iterdir()) == sorted(f"{arm}.h5" for arm in ARMS)
    assert [p.name for p in job.folder.parent.iterdir()] == ["six"]
    for arm in ARMS:
        with RunFile(job.folder / f"{arm}.h5") as run:
            assert (run.status, run.rounds_completed, run.config["label"]) == ("complete", 2, arm)
            assert run["ranks/host"].shape == (1, ranks)
            assert set(run["ranks/device"].asstr()[0]) == {"cpu"}


@pytest.mark.parametrize(("ranks", "placement"), JOBS)
def test_the_table_is_printed_once_with_a_line_for_each_arm(ranks, placement, jobs):
    job = jobs(ranks, placement)
    assert job.output.count("precision") == 1
    table = job.output.partition("precision")[2]
    for arm in ARMS:
        assert table.count(f"{arm}.h5") == 1
        assert job.output.count(f"{arm}: round 2/2") == 1
    assert "Warning" not in job.output


@pytest.mark.parametrize(("ranks", "placement"), JOBS)
def test_every_rank_times_every_phase(ranks, placement, jobs):
    with RunFile(jobs(ranks, placement).folder / "dual.h5") as run:
        seconds = run["timing/seconds"][...]
        assert seconds.shape == (2, ranks, len(PHASES))
        assert (seconds >= 0).all()
        assert (seconds[:, 0] > 0).all(axis=0).tolist() == [True] * len(PHASES)
        assert (seconds[..., PHASES.index("train")] > 0).all()
        assert seconds.sum() < 90 * ranks
        assert list(run["timing/phase"].asstr()) == list(PHASES)


def test_a_second_run_on_another_number_of_ranks_keeps_what_is_finished(jobs, capfd):
    folder = jobs(2, "balanced").folder
    before = {p.name: (p.stat().st_mtime_ns, p.stat().st_ino) for p in folder.iterdir()}
    config, output = folder.parents[2] / "config.toml", folder.parent
    assert cli.main(["run", str(config), "--output", str(output)]) == 0
    assert {p.name: (p.stat().st_mtime_ns, p.stat().st_ino) for p in folder.iterdir()} == before
    said = capfd.readouterr().out
    assert said.count("is there already") == len(ARMS)
    assert "round 1/2" not in said
    assert said.count("precision") == 1


# In one process: nothing below depends on the number of ranks


@pytest.fixture
def here(tmp_path, monkeypatch, own_registry):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, SMALL)
    return tmp_path


def test_another_configuration_is_refused_and_with_force_replaces(here, capfd):
    run = ["run", "config.toml", "--output", "out"]
    assert cli.main(run) == 0
    first = (here / "out/small/small.h5").read_bytes()
    capfd.readouterr()

    assert cli.main([*run, "--set", "train.lr=0.02"]) == 2
    said = capfd.readouterr().err
    assert "out/small/small.h5 is of another configuration" in said
    assert "--force" in said
    assert (here / "out/small/small.h5").read_bytes() == first

    assert cli.main([*run, "--set", "train.lr=0.02", "--force"]) == 0
    with RunFile("out/small/small.h5") as record:
        assert record.config["train"]["lr"] == 0.02
    assert [p.name for p in (here / "out/small").iterdir()] == ["small.h5"]


def test_an_unfinished_folder_goes_on_and_with_force_is_replaced(here, capfd):
    run = ["run", "config.toml", "--output", "out", "--set", "record.pack=false"]
    assert cli.main(run) == 0
    folder = here / "out/small/small.run"
    with RunFile(folder) as record:
        first = record.run_id
    for more, same in (([], True), (["--force"], False)):
        next(folder.glob("final-*.h5")).unlink()
        assert cli.main([*run, *more]) == 0
        with RunFile(folder) as record:
            assert record.status == "complete"
            assert (record.run_id == first) == same


def test_only_what_is_missing_of_a_sweep_is_made(here, capfd):
    run = ["run", "config.toml", "--output", "out"]
    assert cli.main([*run, "--set", "grid={seed=[1]}"]) == 0
    first = (here / "out/small/small+seed=1.h5").stat().st_mtime_ns
    capfd.readouterr()
    assert cli.main([*run, "--set", "grid={seed=[1, 2]}"]) == 0
    assert (here / "out/small/small+seed=1.h5").stat().st_mtime_ns == first
    out = capfd.readouterr().out
    assert "small+seed=1.h5 is there already" in out
    assert "small+seed=2.h5 will take about" in out


def test_the_size_said_before_the_first_round_is_that_of_the_file(here, capfd):
    options = ["--set", "model.hidden=[200]", "--set", "attack={name='sign_flip', malicious=3}"]
    assert cli.main(["run", "config.toml", "--output", "out", *options]) == 0
    said = capfd.readouterr().out.partition("will take about ")[2].split()
    assert said[1] == "MB"
    assert float(said[0]) * 1e6 == pytest.approx((here / "out/small/small.h5").stat().st_size, rel=0.1)


def test_an_unpacked_record_keeps_its_folder_and_can_be_read_and_packed(here, capfd):
    assert cli.main(["run", "config.toml", "--output", "out", "--set", "record.pack=false"]) == 0
    folder = here / "out/small/small.run"
    assert [p.name for p in folder.parent.iterdir()] == ["small.run"]
    assert {round_file(folder, r).name for r in (1, 2)} <= {p.name for p in folder.iterdir()}
    capfd.readouterr()

    assert cli.main(["info", str(folder)]) == 0
    assert "complete; 2 of 2 rounds" in capfd.readouterr().out

    assert cli.main(["pack", str(folder), "-o", "packed.h5"]) == 0
    assert "packed into packed.h5" in capfd.readouterr().out
    assert folder.exists()
    a, b = arrays(folder / "run.h5"), arrays("packed.h5")
    assert a.keys() == b.keys()
    assert all(same_bits(a[path], b[path]) for path in a)

    assert cli.main(["pack", str(folder), "-o", "packed.h5"]) == 2
    assert "packed.h5 is there already; use --force" in capfd.readouterr().err
    assert cli.main(["pack", str(folder), "-o", "packed.h5", "--force"]) == 0
    assert cli.main(["pack", "packed.h5", "-o", "again.h5"]) == 2
    assert "packed.h5 is not a run's folder" in capfd.readouterr().err


def test_info_says_what_a_record_is(here, capfd):
    assert cli.main(["run", "config.toml", "--output", "out"]) == 0
    capfd.readouterr()
    assert cli.main(["info", "out/small/small.h5"]) == 0
    said = capfd.readouterr().out
    with RunFile("out/small/small.h5") as record:
        facts = record.attributes
    for words in (
        "small/small in out/small/small.h5",
        "complete; 2 of 2 rounds",
        f"torch {facts['torch_version']}",
        " (cpu)",
        f"seed 1, hash {facts['config_hash'][:16]}",
        "updates        full",
        'dataset = "synthetic"',
        "precision",
    ):
        assert words in said


@pytest.mark.parametrize("kind", [*(f"{k}s" for k in registry.KINDS), None])
def test_list_names_all_plugins(kind, capfd):
    assert cli.main(["list", *([kind] if kind else [])]) == 0
    said = capfd.readouterr().out
    for each in registry.KINDS:
        if kind in (None, f"{each}s"):
            assert catalogue.TITLES[each].lower() in said
            missing = [name for name in registry.names(each) if name not in said]
            assert missing == []


def test_list_of_an_unknown_kind_is_refused_with_the_nearest(capfd):
    assert cli.main(["list", "agregators"]) == 2
    assert "did you mean 'aggregators'?" in capfd.readouterr().err


# A user's own plugins, and clients that send anything

MINE = '''
import os
from dataclasses import dataclass
import numpy as np
from fempi import Attack, Decision, register

@register("aggregator", "first_rows", needs=("columns",))
def first_rows(updates, context, *, count: int = 2):
    """The mean of the first rows."""
    selected = np.arange(updates.n) < count
    return Decision(weights=selected / selected.sum(), trust=-np.arange(updates.n, dtype=float), selected=selected)

@register("attack", "constant")
@dataclass(frozen=True, kw_only=True)
class Constant(Attack):
    """Send one number."""
    value: float = 7.0
    def poison_updates(self, updates, malicious, knowledge):
        return np.full_like(updates[malicious], self.value)

@register("attack", "garbage")
@dataclass(frozen=True, kw_only=True)
class Garbage(Attack):
    """Send what no update can be."""
    value: str = "nan"
    def poison_updates(self, updates, malicious, knowledge):
        rows = updates[malicious]
        rows[:, 0] = float(self.value)
        return rows
'''
OWN_ARMS = """
[plugins]
files = ["plugins/mine.py"]

[[arm]]
name = "own"
set = { "aggregator.name" = "first_rows", "aggregator.count" = 3, "attack" = { name = "constant", malicious = 3 } }
"""
NAN_RULES = {"mean": "", "krum": "", "multi_krum": "", "dual": "", "fltrust": ""}


def garbage_arms():
    for value in ("nan", "-inf"):
        for rule in NAN_RULES:
            settings = f'"aggregator.name" = "{rule}", "aggregator.num_byzantine" = 1'
            attack = f'"attack.name" = "garbage", "attack.value" = "{value}", "attack.malicious" = 4'
            yield f'[[arm]]\nname = "{rule}{value}"\nset = {{ {settings}, {attack} }}\n'
    everyone = '"attack.name" = "garbage", "attack.malicious" = 8'
    yield f'[[arm]]\nname = "all"\nset = {{ {everyone} }}\n'


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """One job on 2 ranks with plugins of files beside the configuration, started from elsewhere."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "configs/plugins").mkdir(parents=True)
    write(folder / "configs/plugins", MINE, "mine.py")
    config = write(folder / "configs", SMALL + OWN_ARMS + "".join(garbage_arms()))
    return fempi(folder, 2, config)


def test_a_users_own_aggregator_and_attack_run_and_are_recorded(own):
    assert own.returncode == 0, own.output
    with RunFile(own.folder / "own.h5") as run:
        malicious = run.read("rounds/malicious")
        assert (run["rounds/update"][...][malicious] == 7).all()
        assert (run["rounds/trained_update"][...][malicious] != 7).any(axis=1).all()
        assert run.read("rounds/selected").tolist() == [[True] * 3 + [False] * 4] * 2
        assert run.read("rounds/trust")[0].tolist() == [0, -1, -2, -3, -4, -5, -6]
        np.testing.assert_allclose(run["rounds/aggregate"][0], run["rounds/update"][0, :3].mean(axis=0), rtol=1e-5)
        assert run.config["aggregator"]["count"] == 3
        assert run.config["attack"]["value"] == 7.0
        assert run.config["plugins"]["files"] == ["plugins/mine.py"]


@pytest.mark.parametrize("value", ["nan", "-inf"])
@pytest.mark.parametrize("rule", NAN_RULES)
def test_more_garbage_than_declared_is_survived_and_recorded(rule, value, own):
    assert own.returncode == 0, own.output
    with RunFile(own.folder / f"{rule}{value}.h5") as run:
        finite, malicious = run.read("rounds/finite"), run.read("rounds/malicious")
        assert run.status == "complete"
        assert (malicious.sum(axis=1) > 1).all()
        assert (finite == ~malicious).all()
        assert (run.read("rounds/weight")[malicious] == 0).all()
        assert not run.read("rounds/selected")[malicious].any()
        assert np.isnan(run.read("rounds/trust")[malicious]).all()
        assert np.isnan(run.read("rounds/norm")[malicious]).all()
        assert np.isnan(run["rounds/update"][...][malicious]).any() == (value == "nan")
        assert np.isfinite(run["rounds/aggregate"][...]).all()
        assert np.isfinite(run["final/params"][...]).all()


def test_a_cohort_of_nothing_but_garbage_leaves_the_model_as_it_is(own):
    with RunFile(own.folder / "all.h5") as run:
        assert not run.read("rounds/finite").any()
        assert (run["rounds/aggregate"][...] == 0).all()
        assert run["evaluation/accuracy"][0] == run["evaluation/accuracy"][1]


def test_a_run_cut_short_while_packing_is_packed_the_next_time(here, capfd):
    run = ["run", "config.toml", "--output", "out"]
    folder, target = here / "out/small/small.run", here / "out/small/small.h5"
    assert cli.main([*run, "--set", "record.pack=false"]) == 0  # what is there before the rename
    folder_before = shutil.copytree(folder, here / "copy")
    assert cli.main(run) == 0
    assert target.exists()
    assert not folder.exists()
    shutil.copytree(folder_before, folder)  # and what is there after it, before the folder goes
    assert cli.main(run) == 0
    assert not folder.exists()
    assert "small.h5 is there already" in capfd.readouterr().out


def test_a_changed_plugin_file_makes_another_run(here, capfd):
    source = """
import numpy as np
from fempi import Attack, register
from dataclasses import dataclass
@register("attack", "shy")
@dataclass(frozen=True, kw_only=True)
class Shy(Attack):
    def poison_updates(self, updates, malicious, knowledge):
        return updates[malicious] * np.float32(FACTOR)
"""
    (here / "shy.py").write_text(source.replace("FACTOR", "0.5"))
    run = ["run", "config.toml", "--output", "out", "--set", 'plugins.files=["shy.py"]', "--set", 'attack.name="shy"']
    assert cli.main(run) == 0
    (here / "shy.py").write_text(source.replace("FACTOR", "0.1"))
    assert cli.main(run) == 2
    assert "is of another configuration" in capfd.readouterr().err


def test_an_attack_cannot_write_into_what_honest_clients_send(here, capfd):
    source = """
from fempi import Attack, register
from dataclasses import dataclass
@register("attack", "forger")
@dataclass(frozen=True, kw_only=True)
class Forger(Attack):
    def poison_updates(self, updates, malicious, knowledge):
        updates[~malicious] = 0
        return updates[malicious]
"""
    (here / "forger.py").write_text(source)
    run = ["run", "config.toml", "--output", "out", "--set", 'plugins.files=["forger.py"]']
    assert cli.main([*run, "--set", 'attack.name="forger"']) == 2
    assert "attack: assignment destination is read-only" in capfd.readouterr().err
    assert not (here / "out").exists()


def test_a_command_that_is_no_run_speaks_once_under_mpirun(jobs):
    record = jobs(1, "balanced").folder / "krum.h5"
    job = run_ranks(3, [sys.executable, "-m", "fempi", "info", str(record)], timeout=30)
    assert job.returncode == 0
    assert job.output.count("complete; 2 of 2 rounds") == 1


def test_readme_names_every_dataset_and_root_attribute_of_a_record(jobs):
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    with h5py.File(jobs(1, "balanced").folder / "dual.h5") as file:
        paths = []
        file.visititems(lambda name, item: paths.append(name) if isinstance(item, h5py.Dataset) else None)
        named = [p for p in paths if b"not a netCDF variable" not in file[p].attrs.get("NAME", b"")]
        assert [name for name in (*named, *file.attrs) if f"`{name}`" not in readme] == []


def test_a_forced_run_leaves_no_record_of_the_old_one_beside_it(here):
    run = ["run", "config.toml", "--output", "out"]
    assert cli.main(run) == 0
    assert cli.main([*run, "--set", "train.lr=0.02", "--set", "record.pack=false", "--force"]) == 0
    assert [p.name for p in (here / "out/small").iterdir()] == ["small.run"]


def test_force_does_not_replace_a_file_that_is_no_record(here, capfd):
    (here / "out/small").mkdir(parents=True)
    (here / "out/small/small.h5").write_text("years of work")
    assert cli.main(["run", "config.toml", "--output", "out", "--force"]) == 2
    assert "it is in the way" in capfd.readouterr().err
    assert (here / "out/small/small.h5").read_text() == "years of work"


def test_ranks_that_have_built_different_problems_refuse_to_run(here):
    source = """
import numpy as np
from mpi4py import MPI
from fempi import register
@register("partition", "by_rank")
def by_rank(labels, clients, rng):
    return np.array_split(np.random.default_rng(MPI.COMM_WORLD.rank).permutation(len(labels)), clients)
"""
    (here / "by_rank.py").write_text(source)
    settings = ["--set", 'plugins.files=["by_rank.py"]', "--set", 'data.partition="by_rank"']
    job = fempi(here, 2, here / "config.toml", *settings)
    assert job.returncode == 2
    assert job.output.count("the ranks have built different problems") == 1


def test_what_a_plugin_cannot_do_is_skipped_with_its_reason_where_the_file_allows_it(here, capfd):
    grid = "skip_invalid = true\n" + SMALL + '[grid]\n"aggregator.num_byzantine" = [2, 3]\n'
    config = write(here, grid.replace("[train]", '[aggregator]\nname = "krum"\n[train]'))
    assert cli.main(["run", str(config), "--output", str(here)]) == 0
    said = capfd.readouterr().out
    reason = "small+num_byzantine=3 was skipped: aggregator: Krum needs more than 2 f + 2 rows: with f = 3 at least 9"
    assert said.count(reason) == 2  # at once, and again under the results
    assert [p.name for p in (here / "small").iterdir()] == ["small+num_byzantine=2.h5"]
    config.write_text(config.read_text().replace("[2, 3]", "[3, 4]"))
    assert cli.main(["run", str(config), "--output", str(here)]) == 2
    assert "Krum needs more than 2 f + 2 rows" in capfd.readouterr().err


def test_a_large_sweep_ends_in_a_matrix(here, capfd):
    grid = '[grid]\n"aggregator.name" = ["mean", "median", "krum"]\nattack = [' + ", ".join(
        f'{{ name = "scale", factor = {factor}.0, malicious = 1 }}' for factor in range(1, 6)
    )
    small = SMALL.replace("rounds = 2", "rounds = 1").replace("hidden = [8]", "hidden = [2]")
    config = write(here, small + grid + "]\n")
    assert cli.main(["run", str(config), "--output", str(here)]) == 0
    said = capfd.readouterr().out
    for metric in ("accuracy", "precision", "recall", "F1"):
        (heading,) = [line for line in said.splitlines() if line.split()[:1] == [metric] and "file" not in line]
        assert heading.split() == [metric, *["us_1"] * 5]  # scale_factor_1.0_malicious_1 in lines of 8 letters
    assert len([line for line in said.splitlines() if line.split()[:1] == ["median"]]) == 4


def test_the_record_tells_who_attacked_when_and_how_well_it_was_seen(jobs):
    with RunFile(jobs(1, "balanced").folder / "clipping.h5") as run:
        malicious, attacking = run.read("rounds/malicious"), run.read("rounds/attacking")
        assert not attacking[0].any()  # it starts in round 2
        np.testing.assert_array_equal(attacking[1], malicious[1])
        assert np.isnan(run.read("rounds/true_positive_rate")).tolist() == [True, not malicious[1].any()]
        assert run.read("rounds/epsilon").tolist() == [np.inf, np.inf]
    with RunFile(jobs(1, "balanced").folder / "hybrid.h5") as run:
        attacking, selected = run.read("rounds/attacking"), run.read("rounds/selected")
        assert (attacking.sum(axis=1) <= 1).all()  # half of two malicious clients
        excluded = (~selected & ~attacking).sum(axis=1) / (~attacking).sum(axis=1)
        np.testing.assert_allclose(run.read("rounds/false_positive_rate"), excluded)
        assert (np.diff(run.read("rounds/epsilon")) > 0).all()
        assert run.read("rounds/epsilon")[-1] == pytest.approx(50, rel=0.01)
        assert run.attributes["noise_std"] > 0
        assert 0 <= run.read("evaluation/attack_success")[-1] <= 1
        accuracy, examples = run.read("evaluation/client_accuracy")[-1], run.read("clients/num_test_examples")
        assert examples.sum() == 2500
        hits = np.nansum(accuracy * examples)
        assert hits == pytest.approx(run.read("evaluation/accuracy")[-1] * 2500)


BY_RANK = """
import numpy as np
from mpi4py import MPI
from fempi import Decision, register
@register("aggregator", "by_rank")
def by_rank(updates, context, *, k: int = 0):
    if k == 1 and MPI.COMM_WORLD.rank == 1:
        raise ValueError("only here")
    n = updates.n
    return Decision(weights=np.full(n, 1 / n), trust=np.ones(n), selected=np.ones(n, bool))
"""


def test_ranks_that_refuse_different_runs_stop_before_anything_is_written(here):
    write(here, BY_RANK, "by_rank.py")
    grid = "skip_invalid = true\n" + SMALL + '[plugins]\nfiles = ["by_rank.py"]\n[aggregator]\nname = "by_rank"\n'
    job = fempi(here, 2, write(here, grid + '[grid]\n"aggregator.k" = [0, 1, 2]\n'))
    assert job.returncode == 2
    assert job.output.count("on some ranks only") == 1
    assert not (here / "out").exists()


def test_a_folder_that_looks_like_markup_is_written_to(here):
    assert cli.main(["run", str(write(here, SMALL)), "--output", str(here / "o[/x]")]) == 0
    assert (here / "o[/x]/small/small.h5").exists()


def test_malicious_clients_that_pause_count_as_honest_in_the_summary(here):
    paused = SMALL + '[attack]\nname = "sign_flip"\nmalicious = 3\nstart_round = 9\n'
    assert cli.main(["run", str(write(here, paused)), "--output", str(here)]) == 0
    summary = summarize(here / "small/small.h5")
    assert np.isnan([summary.malicious_selected, summary.trust_malicious, summary.trust_auc]).all()
    assert (summary.honest_excluded, summary.trust_honest) == (0, 1)
