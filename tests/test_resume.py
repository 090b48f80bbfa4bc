"""A run that was cut short goes on: with the same bits, on any ranks, from its folder alone, or says why it cannot."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import MappingProxyType

import h5py
import numpy as np
import pytest
from launch import run_ranks
from records import round_file
from test_end_to_end import EXECUTION, arrays, same_bits

from fempi import RunFile, checkpoint, cli, description, lock, prepare, registry, store
from fempi.runfile import MASTER, lock_of, target_of
from fempi.schema import PHASES
from fempi.signals import SIGNALS, STATUS

SLOW = "FEMPI_TEST_SLOW"
"""Seconds that the experiment's attack takes for each client, in the environment"""
STOP = "FEMPI_TEST_STOP"
"""The round in which it asks its process to stop"""
CONFIG = """
name = "x"
rounds = 6

[data]
dataset = "synthetic"
size = 4
train_examples = 200
test_examples = 50
clients = 9
root_examples = 20

[model]
name = "mlp"
hidden = [4]

[train]
cohort = 7
local_epochs = 1

[aggregator]
name = "{rule}"
num_byzantine = 1

[attack]
name = "grudge"
malicious = 9

[evaluation]
every = 2

[plugins]
files = ["mine.py"]
"""
PLUGIN = f"""
import os, signal, time
from dataclasses import dataclass
import numpy as np
import fempi

@fempi.register("attack", "grudge")
@dataclass(frozen=True, kw_only=True)
class Grudge(fempi.Attack):
    def poison_data(self, images, labels, num_classes, rng):
        if len(labels) > 10 and "{SLOW}" in os.environ:  # and not the trial
            time.sleep(float(os.environ["{SLOW}"]))
        return images, labels

    def poison_updates(self, updates, malicious, knowledge):
        memory = knowledge.memory
        if knowledge.round > 1:
            assert memory["rounds/seen"] == knowledge.round - 1
        memory["rounds/seen"] = np.array(knowledge.round)
        memory["all"] = memory.get("all", 0) + updates[malicious].sum(axis=0)
        if str(knowledge.round) == os.environ.get("{STOP}"):
            os.kill(os.getpid(), signal.SIGUSR1)
            time.sleep(0.2)
        rows = updates[malicious] + memory["all"] / 10
        return (rows + knowledge.rng.normal(scale=0.01, size=rows.shape)).astype(np.float32)
"""


def of_my_own(*arguments):
    """Run a command in this process, with plugins and signals of its own as a process has them."""
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    with pytest.MonkeyPatch.context() as patch:
        for kind in registry.KINDS:
            registry.names(kind)
        patch.setattr(registry, "_plugins", dict(registry._plugins))
        patch.setattr(registry, "_loaded", dict(registry._loaded))
        try:
            return cli.main([str(argument) for argument in arguments])
        finally:
            for number, handler in handlers.items():  # a stopped process ignores signals from then on
                signal.signal(number, handler)


def assert_same_results(a, b):
    """Two packed records of the same rounds, whoever made them."""
    a, b = arrays(a), arrays(b)
    assert a.keys() == b.keys()
    assert [path for path in a if not path.startswith(EXECUTION) and not same_bits(a[path], b[path])] == []


def write(folder, rule="centered_clipping", changed=MappingProxyType({})):
    """Write the experiment; `changed` has new words for old ones."""
    text = CONFIG.format(rule=rule)
    for old, new in changed.items():
        assert old in text
        text = text.replace(old, new)
    (folder / "x.toml").write_text(text)
    (folder / "mine.py").write_text(PLUGIN)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The working folder, with the experiment in x.toml."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # no power is cut here
    write(tmp_path)
    return tmp_path


@contextlib.contextmanager
def after_round(number, what):
    """Have something happen when a round was handed to the recorder."""
    written = store.Recorder.write

    def write_and_more(recorder, round_, *arguments, **how):
        written(recorder, round_, *arguments, **how)
        if round_ == number:
            what(recorder)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store.Recorder, "write", write_and_more)
        yield


def stop(recorder):
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.2)  # its listener has heard of it by then


def fail(recorder):
    recorder.wait()
    raise KeyError("as if killed")


RUN = ("run", "x.toml", "--output", "out")
FOLDER, TARGET = Path("out/x/x.run"), Path("out/x/x.h5")


def stopped(number=3, *arguments):
    """A run that was asked to stop in a round, as its folder."""
    with after_round(number, stop):
        assert of_my_own(*RUN, *arguments) == STATUS
    with RunFile(FOLDER) as run:
        assert (run.status, run.rounds_completed) == ("interrupted", number)
    return FOLDER


def resume(*arguments):
    return of_my_own("resume", FOLDER, "--allow-plugins", *arguments)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return a function that gives the record of the experiment in x.toml, made without interruption."""
    made = {}

    def make(folder):
        text = (folder / "x.toml").read_text()
        if text not in made:
            place = tmp_path_factory.mktemp("whole")
            assert of_my_own("run", folder / "x.toml", "--output", place) == 0
            made[text] = place / "x/x.h5"
        return made[text]

    return make


# The same bits

RULES = {
    "foolsgold": "",
    "centered_clipping": "",
    "fl_detector": "window = 2\n",
    "hybrid": "",
}


@pytest.mark.parametrize("rule", RULES)
def test_what_rule_and_attack_remember_goes_on(rule, here, whole):
    write(here, rule, {"num_byzantine = 1": f"num_byzantine = 1\n{RULES[rule]}"})
    folder = stopped()
    with RunFile(folder) as run:
        state = checkpoint.load(folder, run.run_id)
    assert state.rule
    assert state.attack.keys() == {"rounds/seen", "all"}
    assert resume() == 0
    assert not folder.exists()
    assert_same_results(whole(here), TARGET)


@pytest.mark.parametrize("record", ["sketch", "none"])
def test_what_is_recorded_of_updates_and_privacy_goes_on(record, here, whole):
    more = f'[record]\nupdates = "{record}"\nevery = 2\nsketch_size = 16\n[privacy]\nclip = 1.0\nepsilon = 20.0\n'
    (here / "x.toml").write_text((here / "x.toml").read_text() + more)
    stopped()
    assert resume() == 0
    assert_same_results(whole(here), TARGET)
    with RunFile(TARGET) as run:
        assert (np.diff(run.read("rounds/epsilon")) > 0).all()


@pytest.mark.parametrize(("every", "number", "kept"), [(1, 4, 4), (3, 5, 3), (10, 5, None)])
def test_a_run_that_died_goes_on_from_its_last_checkpoint(every, number, kept, here, capfd, whole):
    with after_round(number, fail):
        assert of_my_own(*RUN, "--checkpoint-every", every) == 1
    with RunFile(FOLDER) as run:
        assert run.rounds_completed == number
        assert getattr(checkpoint.load(FOLDER, run.run_id), "round", None) == kept
    (FOLDER / f".{round_file(FOLDER, 1).name}.1.tmp").touch()
    capfd.readouterr()
    assert resume() == 0
    said = capfd.readouterr().out
    assert f"going on after round {kept}" in said or not kept
    assert_same_results(whole(here), TARGET)
    with RunFile(TARGET) as run:
        assert run["launches/first_round"][...].tolist() == ([1, kept + 1] if kept else [1])


def test_rounds_after_the_checkpoint_are_gone_until_they_are_made_again(here):
    with after_round(5, fail):
        assert of_my_own(*RUN, "--checkpoint-every", 3) == 1
    with after_round(4, stop):
        assert resume() == STATUS
    with RunFile(FOLDER) as run:
        assert run.rounds_completed == checkpoint.load(FOLDER, run.run_id).round == 4


def test_a_run_that_is_stopped_has_a_checkpoint_whatever_its_turn(here):
    stopped(4, "--checkpoint-every", "10")
    with RunFile(FOLDER) as run:
        assert checkpoint.load(FOLDER, run.run_id).round == 4


@pytest.mark.parametrize("way", ["resume", "run"])
def test_both_commands_go_on(way, here, capfd):
    stopped()
    capfd.readouterr()
    assert (resume() if way == "resume" else of_my_own(*RUN)) == 0
    said = capfd.readouterr().out
    assert "x: 6 rounds of 7 clients on 1 rank, going on after round 3" in said
    assert "round 3/6" not in said
    assert "other versions" not in said
    assert [path.name for path in FOLDER.parent.iterdir()] == ["x.h5"]
    assert of_my_own("check", TARGET, "--complete") == 0


def test_on_other_ranks_the_bits_are_the_same_and_the_record_says_who_made_which_rounds(here, capfd, whole):
    command = [sys.executable, "-m", "fempi"]
    job = run_ranks(2, [*command, *RUN], timeout=120, env={STOP: "2"})
    assert job.returncode == STATUS, job.output
    assert job.output.count("stopped by SIGUSR1") == 1, job.output
    job = run_ranks(3, [*command, "resume", str(FOLDER), "--allow-plugins"], timeout=120, env={STOP: "4"})
    assert job.returncode == STATUS, job.output
    assert resume() == 0
    assert_same_results(whole(here), TARGET)
    with RunFile(TARGET) as run:
        assert run["launches/first_round"][...].tolist() == [1, 3, 5]
        assert run["launches/ranks"][...].tolist() == [2, 3, 1]
        assert all(text.startswith("20") for text in run["launches/started"].asstr())
        software = list(run["launches/software"].asstr())
        assert software[0] == software[1] != ""  # the third is that of this process, which has loaded more
        there = np.arange(3) < np.array([[2], [3], [1]])
        np.testing.assert_array_equal(run["ranks/device"].asstr()[...] == "cpu", there)
        np.testing.assert_array_equal(run["ranks/host"].asstr()[...] != "", there)
        np.testing.assert_array_equal(run["ranks/threads"][...] > 0, there)
        seconds = run["timing/seconds"][...]
        assert seconds.shape == (6, 3, len(PHASES))
        made_by = np.repeat(there, 2, axis=0)
        np.testing.assert_array_equal(np.isfinite(seconds), np.repeat(made_by[..., np.newaxis], len(PHASES), axis=2))
        owners = run.read("rounds/rank")
        assert [sorted(set(pair.flat)) for pair in np.split(owners, 3)] == [[0, 1], [0, 1, 2], [0]]
    capfd.readouterr()
    assert of_my_own("info", TARGET) == 0
    said = capfd.readouterr().out
    assert "complete; 6 of 6 rounds" in said
    assert " from round 3; 1 x " in said
    assert " from round 5" in said


def test_its_wall_time_adds_up_without_the_pause(here):
    stopped()
    with RunFile(FOLDER) as run:
        first = checkpoint.load(FOLDER, run.run_id).seconds
    assert first > 0
    time.sleep(0.5)
    began = time.monotonic()
    assert resume() == 0
    took = time.monotonic() - began
    with RunFile(TARGET) as run:
        assert first < run.attributes["wall_seconds"] < first + took


def test_other_versions_are_said_and_recorded(here, monkeypatch, capfd):
    stopped()
    capfd.readouterr()
    monkeypatch.setattr(description, "software", lambda: "something newer")
    assert resume() == 0
    assert "x: earlier rounds were made by other versions" in capfd.readouterr().out
    with RunFile(TARGET) as run:
        software = list(run["launches/software"].asstr())
        assert software[0].startswith("fempi ")
        assert software[1:] == ["something newer"]


LOADED_LATER = """
from fempi.description import software
before = software()
from sklearn.metrics import roc_auc_score
assert software() == before, (before, software())
"""


def test_what_a_process_loads_later_is_no_other_version():
    """As the second run of a sweep has it, in whose process the first has loaded more than a resumed one has."""
    done = subprocess.run([sys.executable, "-c", LOADED_LATER], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_folder_that_was_moved_goes_on_where_it_is(here, whole):
    shutil.move(stopped(), here / "mine.run")
    assert of_my_own("resume", "mine.run", "--allow-plugins") == 0
    assert_same_results(whole(here), here / "mine.h5")
    assert sorted(path.name for path in here.glob("mine.*")) == ["mine.h5", "mine.py"]


def test_a_folder_of_another_name_is_not_made_anew_beside_itself(here):
    """Goes on with it or refuses it, but does not take it for another run."""
    shutil.move(stopped(), here / "mine")
    status = of_my_own("resume", "mine", "--allow-plugins")
    assert status == 2 or not Path("mine").exists()
    assert not Path("mine.run").exists()


# Plugins


def test_plugins_come_from_the_record_and_need_a_word(here, capfd, whole):
    stopped()
    (here / "mine.py").unlink()
    capfd.readouterr()
    before = sorted(FOLDER.iterdir())
    assert of_my_own("resume", FOLDER) == 2
    said = capfd.readouterr().err
    assert "code of its own" in said
    assert "mine.py; add --allow-plugins" in said
    assert sorted(FOLDER.iterdir()) == before
    assert resume() == 0
    write(here)
    assert_same_results(whole(here), TARGET)


def test_a_plugin_that_changed_meanwhile_counts_as_it_was(here, whole):
    stopped()
    (here / "mine.py").write_text(PLUGIN.replace("/ 10", "/ 9"))
    assert resume() == 0
    write(here)
    assert_same_results(whole(here), TARGET)


# What cannot go on


def test_another_configuration_is_refused_and_leaves_the_folder(here, capfd):
    before = arrays(stopped() / MASTER)
    assert of_my_own(*RUN, "--set", "train.lr=0.5") == 2
    assert "out/x/x.run is of another configuration; use --force" in capfd.readouterr().err
    assert arrays(FOLDER / MASTER).keys() == before.keys()
    assert resume() == 0


DATA = """
import numpy as np
from fempi import Dataset, register

@register("dataset", "mine")
def mine(root, seed):
    facts = np.load(root / "data.npz")
    names = ("train_images", "train_labels", "test_images", "test_labels")
    return Dataset(**dict(zip(names, [facts["x"], facts["y"], facts["x"], facts["y"]])), num_classes=10)
"""


@pytest.mark.parametrize("changed", ["x", "y"])
def test_changed_data_are_refused(changed, here, capfd):
    rng = np.random.default_rng(1)
    data = {"x": rng.integers(0, 256, (200, 1, 4, 4), np.uint8), "y": rng.integers(0, 10, 200)}
    np.savez(here / "data.npz", **data)
    (here / "data.py").write_text(DATA)
    synthetic = 'dataset = "synthetic"\nsize = 4\ntrain_examples = 200\ntest_examples = 50'
    write(here, changed={synthetic: 'dataset = "mine"', '["mine.py"]': '["mine.py", "data.py"]'})
    stopped(3, "--data", ".")
    np.savez(here / "data.npz", **{**data, changed: np.roll(data[changed], 1, axis=0)})
    prepare._images_of.cache_clear()  # as in another process
    assert resume("--data", ".") == 2
    assert "another data, model or clients; it cannot go on" in capfd.readouterr().err
    with RunFile(FOLDER) as run:
        assert run.rounds_completed == 3


def no_folder(folder):
    shutil.rmtree(folder)


def packed(folder):
    store.pack(folder, target_of(folder))
    shutil.rmtree(folder)


def without_master(folder):
    (folder / MASTER).unlink()


def damaged_master(folder):
    with h5py.File(folder / MASTER, "r+") as file:
        file["clients/num_examples"][0] += 1


def half_a_master(folder):
    os.truncate(folder / MASTER, 4000)


def damaged_checkpoint(folder):
    with h5py.File(folder / checkpoint.NAME, "r+") as file:
        file["params"][0] += 1


def lost_round(folder):
    round_file(folder, 2).unlink()


def of_another_run(folder):
    with RunFile(folder) as run:
        checkpoint.load(folder, run.run_id).save(folder, "another")


OBSTACLES = {
    no_folder: r"out/x/x.run is not the folder of a run$",
    packed: r"x.run is not the folder of a run; .*out/x/x.h5 is its packed record",
    without_master: "out/x/x.run holds no run.h5",
    damaged_master: r"out/x/x.run/run.h5 is damaged, .*fempi run --force",
    half_a_master: r"out/x/x.run/run.h5 is damaged, .*fempi run --force",
    damaged_checkpoint: r"checkpoint.h5 is damaged, so this run cannot go on; .*fempi pack.*fempi run --force",
    of_another_run: r"checkpoint.h5 is of another run",
    lost_round: "x.run lacks round 2, but its checkpoint is of round 3",
}


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """A folder that was stopped in the third round, to be copied."""
    place = tmp_path_factory.mktemp("interrupted")
    with contextlib.chdir(place):
        write(place)
        stopped()
    return place / FOLDER


@pytest.mark.parametrize("obstacle", OBSTACLES)
def test_what_cannot_go_on_is_said_in_a_sentence_and_left_as_it_is(obstacle, interrupted, here, capfd):
    shutil.copytree(interrupted, FOLDER)
    obstacle(FOLDER)
    before = sorted((path.name, path.stat().st_mtime_ns) for path in Path("out/x").rglob("*"))
    assert resume() == 2
    said = capfd.readouterr()
    assert said.err.startswith("fempi: ")
    assert "Traceback" not in said.err
    assert re.search(OBSTACLES[obstacle], said.err.strip(), re.DOTALL), said.err
    assert sorted((path.name, path.stat().st_mtime_ns) for path in Path("out/x").rglob("*")) == before


def test_a_file_is_not_a_folder(here, capfd):
    assert of_my_own("resume", "x.toml") == 2
    assert "x.toml is not the folder of a run" in capfd.readouterr().err


def test_a_round_that_was_damaged_meanwhile_is_found_when_it_is_packed(interrupted, here, capfd):
    shutil.copytree(interrupted, FOLDER)
    with h5py.File(round_file(FOLDER, 2), "r+") as file:
        file["rounds/norm"][0] += 1
    assert resume() == 2
    assert "000002.h5 is damaged: its checksum is wrong" in capfd.readouterr().err
    assert [path.name for path in FOLDER.parent.iterdir()] == ["x.run"]
    with RunFile(FOLDER) as run:
        assert (run.status, run.rounds_completed) == ("complete", 6)


def test_a_run_that_another_process_is_at_is_left_to_it(interrupted, here, capfd):
    shutil.copytree(interrupted, FOLDER)
    held = lock.take(lock_of(FOLDER))
    before = sorted((path.name, path.stat().st_mtime_ns) for path in FOLDER.iterdir())
    assert resume() == STATUS
    assert of_my_own(*RUN, "--force") == STATUS
    assert of_my_own("info", FOLDER) == 0
    assert of_my_own("check", FOLDER) == 0
    said = capfd.readouterr()
    assert f"x is left to process {os.getpid()} on " in said.out
    assert f"running (process {os.getpid()} on " in said.out
    assert sorted((path.name, path.stat().st_mtime_ns) for path in FOLDER.iterdir()) == before
    held.release()
    assert resume() == 0


# At the end


def test_a_complete_folder_is_not_made_again(here, capfd):
    more = "[record]\npack = false\n"
    (here / "x.toml").write_text((here / "x.toml").read_text() + more)
    assert of_my_own(*RUN) == 0
    before = sorted((path.name, path.stat().st_mtime_ns) for path in FOLDER.iterdir())
    capfd.readouterr()
    assert resume() == 0
    assert "x.run is there already" in capfd.readouterr().out
    assert sorted((path.name, path.stat().st_mtime_ns) for path in FOLDER.iterdir()) == before
    assert [path.name for path in FOLDER.parent.iterdir()] == ["x.run"]


@pytest.mark.parametrize("command", ["resume", "run"])
def test_a_run_that_was_killed_while_it_was_packed_is_packed(command, here, monkeypatch, capfd, whole):
    with monkeypatch.context() as patch:
        patch.setattr(store, "pack", lambda *arguments: 1 / 0)
        assert of_my_own(*RUN) == 1
    Path("out/x/.x.h5.4711.tmp").write_bytes(b"half a file")
    Path("out/x/x.lock").write_text("process 4711 on another host")
    with RunFile(FOLDER) as run:
        assert run.status == "complete"
    capfd.readouterr()
    assert (resume() if command == "resume" else of_my_own(*RUN)) == 0
    assert "round" not in capfd.readouterr().out.partition("is there already")[2].partition("accuracy")[0]
    assert [path.name for path in FOLDER.parent.iterdir()] == ["x.h5"]
    assert_same_results(whole(here), TARGET)


def test_a_run_that_was_killed_before_its_end_mark_gets_it(here, whole):
    with after_round(6, fail):
        assert of_my_own(*RUN) == 1
    with RunFile(FOLDER) as run:
        assert (run.status, run.rounds_completed) == ("interrupted", 6)
    assert resume() == 0
    assert_same_results(whole(here), TARGET)


# Sweeps

SWEEP = (*RUN, "--set", "grid={seed=[1, 2, 3]}")


def places(number):
    return Path(f"out/x/x+seed={number}.run"), Path(f"out/x/x+seed={number}.h5")


@pytest.fixture
def stopped_sweep(here):
    """One run is finished, one interrupted, one not begun."""
    assert of_my_own(*RUN, "--set", "grid={seed=[1]}") == 0
    with after_round(2, stop):
        assert of_my_own(*SWEEP) == STATUS
    assert sorted(path.name for path in Path("out/x").iterdir()) == ["x+seed=1.h5", "x+seed=2.run"]
    return here


def test_a_sweep_that_was_stopped_goes_on(stopped_sweep, capfd):
    first = places(1)[1].stat()
    capfd.readouterr()
    assert of_my_own(*SWEEP) == 0
    said = capfd.readouterr().out
    assert "x+seed=1.h5 is there already" in said
    assert "x+seed=2: 6 rounds of 7 clients on 1 rank, going on after round 2" in said
    assert "x+seed=3: 6 rounds of 7 clients on 1 rank\n" in said
    assert places(1)[1].stat() == first
    assert of_my_own("run", "x.toml", "--output", "whole", "--set", "grid={seed=[2]}") == 0
    assert_same_results("whole/x/x+seed=2.h5", places(2)[1])
    assert sorted(path.name for path in Path("out/x").iterdir()) == [f"x+seed={seed}.h5" for seed in (1, 2, 3)]


def test_a_run_of_a_sweep_that_another_process_is_at_is_left_and_the_others_are_made(stopped_sweep, capfd):
    held = lock.take(lock_of(places(2)[0]))
    assert of_my_own(*SWEEP) == STATUS
    said = capfd.readouterr().out
    assert said.count(f"x+seed=2 is left to process {os.getpid()} on ") == 2  # at once, and under the results
    assert said.count("x+seed=1.h5") == 2
    with RunFile(places(2)[0]) as run:
        assert run.rounds_completed == 2
    assert sorted(path.name for path in Path("out/x").glob("*.h5")) == ["x+seed=1.h5", "x+seed=3.h5"]
    held.release()
    assert of_my_own(*SWEEP) == 0


def test_two_jobs_share_a_sweep_and_each_run_is_made_once(here):
    """The second begins while the first is at its first run, leaves that to it and makes the other."""
    grid = ["--set", "grid={seed=[1, 2]}"]
    other = []

    def begin_another(recorder):
        if recorder.folder == places(1)[0]:
            other.append(of_my_own(*RUN, *grid))

    with after_round(2, begin_another):
        first = of_my_own(*RUN, *grid)
    assert (first, other) == (0, [STATUS])
    for number in (1, 2):
        with RunFile(places(number)[1]) as run:
            assert (run.status, len(run["launches/ranks"])) == ("complete", 1)


def test_a_run_that_comes_free_while_others_are_made_is_made_too(stopped_sweep):
    held = lock.take(lock_of(places(2)[0]))

    with after_round(1, lambda recorder: held.release()):  # of the third run: the second has its first round
        assert of_my_own(*SWEEP) == 0
    assert sorted(path.name for path in Path("out/x").iterdir()) == [f"x+seed={seed}.h5" for seed in (1, 2, 3)]


def test_force_does_not_make_anew_what_another_job_was_at_and_has_finished(stopped_sweep):
    folder, record = places(2)
    held = lock.take(lock_of(folder))

    def another_job_ends(recorder):
        if recorder.folder == places(3)[0]:
            held.release()
            assert of_my_own(*RUN, "--set", "grid={seed=[2]}") == 0

    with after_round(1, another_job_ends):
        assert of_my_own(*SWEEP, "--force") == 0
    with RunFile(record) as run:
        assert run["launches/first_round"][...].tolist() == [1, 3]


def test_force_on_a_sweep_that_was_stopped_starts_anew(stopped_sweep, capfd):
    with RunFile(places(2)[0]) as run:
        before = run.run_id
    assert of_my_own(*SWEEP, "--force") == 0
    assert "going on" not in capfd.readouterr().out.partition("x+seed=3.h5 will take")[2]
    with RunFile(places(2)[1]) as run:
        assert run.run_id != before
        assert run["launches/first_round"][...].tolist() == [1]
