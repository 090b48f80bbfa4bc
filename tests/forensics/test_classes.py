"""Which class is taken for which other one, from what updates teach the last layer."""

import h5py
import numpy as np
import pytest
from records import make_runs
from scipy import stats

import fempi
from fempi.forensics import classes
from fempi.forensics.attribution import attribute
from fempi.forensics.classes import CHANCE, MARKED, Flip, Lessons, flips, last_layer, lessons, moved_class
from fempi.forensics.investigation import investigate

CONFIG = """
name = "x"
rounds = 16
seed = 2
[data]
dataset = "synthetic"
size = 8
train_examples = 2400
test_examples = 100
clients = 24
partition = "{partition}"
[model]
name = "mlp"
hidden = [32]
[train]
cohort = 12
local_epochs = 2
batch_size = 10
lr = 0.1
[attack]
name = "{attack}"
malicious = 6
{parameters}
[aggregator]
name = "mean"
[record]
updates = "{updates}"
every = {every}
"""


def make(folder, *, attack="label_flip", parameters="", partition="iid", updates="full", every=1):
    """Make a run, and open its record."""
    if attack == "label_flip" and not parameters:
        parameters = 'mode = "targeted"\nsource = 2\ntarget = 5'
    config = CONFIG.format(attack=attack, parameters=parameters, partition=partition, updates=updates, every=every)
    return fempi.open(make_runs(folder, config) / "x.h5")


def taught(marks, num_clients=40, num_classes=10, first_round=3):
    """Lessons in which clients mistake (source, target), by so much."""
    mistaken = np.zeros((num_clients, num_classes, num_classes))
    for (source, target), (clients, strength) in marks.items():
        mistaken[clients, target, source] = strength
    return Lessons(
        mistaken=mistaken,
        first_round=(mistaken > 0) * first_round,
        moved=np.zeros((num_clients, num_classes)),
        clients=num_clients,
    )


def test_enough_clients_with_one_mark_are_a_flip():
    found = flips(taught({(7, 1): ([3, 5, 8, 9, 20], 4), (4, 9): ([1, 2, 3], 9), (2, 3): (list(range(40)), MARKED)}))
    chance = stats.binom.sf(4, 40, CHANCE) * 90
    assert found == (Flip(source=7, target=1, since=dict.fromkeys([3, 5, 8, 9, 20], 3), p=pytest.approx(chance)),)
    assert flips(taught({})) == ()


def test_of_equally_many_marks_the_stronger_come_first():
    five = [1, 2, 3, 4, 5]
    assert [flip.source for flip in flips(taught({(7, 1): (five, 3), (1, 7): (five, 4)}))] == [1, 7]
    assert [flip.source for flip in flips(taught({(7, 1): (five, 3), (1, 7): ([*five, 6], 2.5)}))] == [1, 7]


def test_the_more_clients_the_more_marks_by_chance():
    marks = {(7, 1): ([1, 2, 3, 4, 5], 3)}
    assert flips(taught(marks, 40))
    assert not flips(taught(marks, 400))


def test_features_pushed_are_read_off_the_last_layer_by_hand():
    model = np.array([[2.0, 0, 0, 1], [0, 2.0, 0, 1], [0, 0, 2.0, 1]])  # the last feature tells nothing
    step = np.zeros((1, 3, 4))
    step[0, 1] = [3, 0, 0, 0]  # what makes class 0 is given to class 1 ...
    step[0, 0] = [-3, 0, 0, 0]  # ... and taken from class 0
    pushed = classes._pushed(step, model)[0]
    assert np.argmax(pushed) == 1 * 3 + 0
    assert np.argmin(pushed) == 0
    assert pushed[2] == pytest.approx(np.zeros(3))
    assert pushed[1, 0] == pytest.approx(-pushed[0, 0])


def test_one_class_moved_by_most():
    moved = np.zeros((10, 4))
    moved[:4, 2] = 3
    found = Lessons(mistaken=np.zeros((10, 4, 4)), first_round=np.zeros((10, 4, 4), int), moved=moved, clients=10)
    assert moved_class(found, [0, 1, 2]) == 2
    assert moved_class(found, [0, 1, 2, 8]) == 2
    assert moved_class(found, [0, 1, 7, 8]) is None  # half of them
    assert moved_class(found, [0, 1]) is None  # two are no group
    moved[:4, 3] = 3
    assert moved_class(found, [0, 1, 2]) is None  # two classes


def test_a_targeted_flip_is_found_with_its_classes_and_nobody_honest(tmp_path):
    with make(tmp_path) as run:
        malicious = run.read("clients/malicious")
        found = flips(lessons(run))
    assert [(flip.source, flip.target) for flip in found] == [(2, 5)]
    assert malicious[list(found[0].since)].all()
    assert len(found[0].since) >= 5
    assert all(1 <= since <= 16 for since in found[0].since.values())


@pytest.mark.parametrize("partition", ["iid", "shards", "dirichlet"])
def test_a_clean_run_has_no_flip(partition, tmp_path):
    with make(tmp_path, attack="none", partition=partition) as run:
        found = lessons(run)
    assert found.clients == 24  # all were looked at
    assert flips(found) == ()


def test_rows_that_no_half_can_hold_do_not_hide_the_others(tmp_path):
    with make(tmp_path, updates="float16") as run:
        path, malicious = run.path, run.read("clients/malicious")
        honest = [int(np.flatnonzero(~malicious[row])[0]) for row in run.read("rounds/client")]
    with h5py.File(path, "r+") as file:
        for place, slot in enumerate(honest):
            file["rounds/update"][place, slot, :] = np.inf
    with fempi.open(path) as run:
        (flip,) = flips(lessons(run))
        assert (flip.source, flip.target) == (2, 5)
        assert np.isfinite(attribute(run, malicious).layers).all()


def test_rounds_in_which_most_rows_are_not_finite_tell_nothing(tmp_path):
    with make(tmp_path) as run:
        path = run.path
    with h5py.File(path, "r+") as file:
        file["rounds/finite"][:, :7] = 0
        file["rounds/gram"][:, :7] = np.nan
        file["rounds/gram"][:, :, :7] = np.nan
    with fempi.open(path) as run:
        assert lessons(run).clients == 0
        assert investigate(run).findings == ()


def test_too_many_classes_for_the_memory_are_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(classes, "MOST_PAIRS", 10 * 10 * 24 - 1)
    with make(tmp_path) as run:
        assert "so many classes" in classes.obstacle(run)
        assert lessons(run) is None


def test_one_class_cannot_be_flipped():
    assert flips(taught({}, num_classes=1)) == ()


@pytest.mark.parametrize(("updates", "every"), [("float16", 1), ("full", 2)])
def test_half_of_the_evidence_is_enough(updates, every, tmp_path):
    with make(tmp_path, updates=updates, every=every) as run:
        (flip,) = flips(lessons(run))
    assert (flip.source, flip.target) == (2, 5)
    assert all(since % every == 0 for since in flip.since.values())


@pytest.mark.parametrize("updates", ["sketch", "none"])
def test_without_updates_it_says_what_is_missing(updates, tmp_path):
    with make(tmp_path, updates=updates) as run:
        assert lessons(run) is None
        assert f'record.updates = "{updates}"' in classes.obstacle(run)


def test_the_last_layer_is_found_by_its_shape(tmp_path):
    with make(tmp_path) as run:
        layer = last_layer(run)
        K = run.layout.size("class")
        assert (layer.num_classes, layer.weight.stop - layer.weight.start) == (K, 32 * K)
        assert layer.weight.stop == run.layout.size("param") - K  # only the bias comes after it


def test_a_model_that_broke_is_read_as_far_as_it_goes(tmp_path):
    with make(tmp_path, attack="random_large") as run:
        found = lessons(run)
    assert found is not None
    assert flips(found) == ()
