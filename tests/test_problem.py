"""What a run is made of: who attacks when, what the rule is told, how clients are tested one by one."""

from pathlib import Path

import numpy as np
import pytest
import torch

from fempi import experiment
from fempi.errors import FempiError
from fempi.prepare import prepare
from fempi.problem import Problem

BASE = {
    "name": "small",
    "rounds": 4,
    "data": {
        "dataset": "synthetic",
        "size": 8,
        "train_examples": 240,
        "test_examples": 60,
        "clients": 8,
        "root_examples": 0,
    },
    "model": {"name": "mlp", "hidden": [6]},
    "train": {"cohort": 8, "local_epochs": 1},
    "attack": {"name": "sign_flip", "malicious": 4},
}


def problem_of(**settings: object) -> Problem:
    document = {k: dict(v) if isinstance(v, dict) else v for k, v in BASE.items()}
    (config,) = experiment.parse(document, {k.replace("__", "."): v for k, v in settings.items()})
    return prepare(config, Path(), torch.device("cpu"))


def attackers(problem: Problem, rounds: range) -> list[int]:
    counts = []
    for round_ in rounds:
        attacking = problem.attacking(round_)
        assert not attacking[~problem.malicious].any()
        counts.append(int(attacking.sum()))
    return counts


def test_by_default_every_malicious_client_attacks_in_every_round() -> None:
    assert attackers(problem_of(), range(1, 5)) == [4, 4, 4, 4]


def test_an_attack_starts_in_its_first_round_and_pauses_as_told() -> None:
    problem = problem_of(attack__start_round=3, attack__on_rounds=2, attack__off_rounds=3)
    assert attackers(problem, range(1, 14)) == [0, 0, 4, 4, 0, 0, 0, 4, 4, 0, 0, 0, 4]


def test_a_share_of_the_malicious_clients_attacks_and_another_one_each_round() -> None:
    problem = problem_of(attack__active_share=0.3)  # 0.3 * 4 = 1.2: two of them
    assert attackers(problem, range(1, 21)) == [2] * 20
    assert len({tuple(problem.attacking(round_)) for round_ in range(1, 21)}) > 1
    np.testing.assert_array_equal(problem.attacking(7), problem.attacking(7))


def test_a_malicious_client_that_pauses_trains_as_an_honest_one() -> None:
    flipping = {"attack__name": "label_flip", "attack__start_round": 2}
    paused, honest = problem_of(**flipping), problem_of(attack__name="none")
    number = int(np.flatnonzero(paused.malicious)[0])
    rows = np.zeros((2, paused.model.d), np.float32)
    start = honest.model.params.clone()
    for round_ in (1, 2):
        for problem, row in zip((paused, honest), rows, strict=True):
            problem.train_clients(round_, np.array([number]), start, [row])
        assert np.array_equal(*rows) == (round_ == 1)


def test_private_clients_send_clipped_and_noisy_updates() -> None:
    plain, clipped = problem_of(), problem_of(privacy__clip=0.005, privacy__noise_multiplier=0.0)
    noisy = problem_of(privacy__clip=0.005, privacy__noise_multiplier=2.0)
    rows = np.zeros((3, plain.model.d), np.float32)
    start = plain.model.params.clone()
    for problem, row in zip((plain, clipped, noisy), rows, strict=True):
        problem.train_clients(1, np.array([0]), start, [row])
    assert np.linalg.norm(rows[0]) > 0.006
    np.testing.assert_allclose(rows[1], rows[0] * (0.005 / np.linalg.norm(rows[0])), rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose((rows[2] - rows[1]).std(), 0.01, rtol=0.2)


def test_the_reference_is_trained_for_the_servers_own_epochs() -> None:
    settings = {"aggregator__name": "fltrust", "data__root_examples": 24, "train__local_epochs": 2}
    same, more = problem_of(**settings), problem_of(**settings, train__root_epochs=3)
    assert (same.root_epochs, same.root_cost) == (2, 24)
    assert (more.root_epochs, more.root_cost) == (3, 36), "a client with 36 examples takes as long in its 2 epochs"
    assert problem_of(train__root_epochs=3).root_cost == 0, "nobody needs a reference"

    def reference(problem: Problem) -> np.ndarray:
        return problem.train_reference(1, problem.model.params.clone())

    np.testing.assert_array_equal(reference(same), reference(problem_of(**settings, train__root_epochs=2)))
    three = problem_of(**settings | {"train__local_epochs": 3})
    np.testing.assert_array_equal(reference(more), reference(three))
    assert not np.array_equal(reference(same), reference(more))


def test_epsilon_grows_with_the_rounds_and_ends_at_what_was_asked_for() -> None:
    problem = problem_of(privacy__clip=1.0, privacy__epsilon=3.0, train__cohort=4)
    assert problem.epsilon.shape == (4,)
    assert (np.diff(problem.epsilon) > 0).all()
    assert 2.9 < problem.epsilon[-1] <= 3.0


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"privacy__clip": "none", "privacy__noise_std": 0.1},
        {"privacy__clip": 1.0, "privacy__noise_multiplier": 0.0},
    ],
    ids=["no privacy", "no clipping", "no noise"],
)
def test_what_bounds_nothing_spends_an_infinite_epsilon(settings: dict[str, object]) -> None:
    assert problem_of(**settings).epsilon.tolist() == [np.inf] * 4


def test_each_client_is_tested_on_a_part_of_its_own_with_its_mix_of_labels() -> None:
    settings = {"data__partition": "shards", "evaluation__per_client": True, "data__test_examples": 600}
    problem = problem_of(**settings, train__cohort=4)
    owner, labels = problem.test_owner, problem.images.test_labels.numpy()
    assert owner.shape == (600,)
    share = problem.label_counts / problem.label_counts.sum(axis=0)
    for client in range(8):
        counts = np.bincount(labels[owner == client], minlength=10)
        np.testing.assert_allclose(counts, share[client] * 60, atol=1)  # 60 test examples of each class


@pytest.mark.parametrize("ranks", [1, 3])
def test_the_counts_of_all_ranks_add_up_to_the_whole_test_set(ranks: int) -> None:
    problem = problem_of(attack__name="backdoor", evaluation__per_client=True, data__test_examples=2500)
    parts = [problem.evaluate(problem.model.params.clone(), rank, ranks) for rank in range(ranks)]
    confusion = sum(part.confusion for part in parts)
    actual = np.bincount(problem.images.test_labels.numpy(), minlength=10)
    np.testing.assert_array_equal(confusion.sum(axis=1), actual)
    np.testing.assert_array_equal(sum(part.clients for part in parts).sum(axis=0), confusion)
    np.testing.assert_array_equal(sum(part.triggered for part in parts).sum(axis=1), actual)
    assert (sum(part.losses for part in parts) > 0).all()


def test_triggered_images_are_those_of_the_attack() -> None:
    problem = problem_of(attack__name="backdoor", attack__size=8, attack__target=0)  # a square over the whole image
    tested = problem.evaluate(problem.model.params.clone(), 0, 1)
    assert np.count_nonzero(tested.triggered.sum(axis=0)) == 1  # all look alike now
    assert np.count_nonzero(tested.confusion.sum(axis=0)) > 1


def test_pre_aggregators_come_before_the_rule() -> None:
    with pytest.raises(FempiError, match=r"aggregator: Krum needs more than 2 f \+ 2 rows"):
        problem_of(aggregator__name="krum", aggregator__num_byzantine=2, aggregator__pre=["bucketing"])
    problem_of(aggregator__name="krum", aggregator__num_byzantine=2)


def test_a_rule_that_follows_clients_refuses_rows_of_several() -> None:
    with pytest.raises(FempiError, match="aggregator: the rule follows each client over rounds"):
        problem_of(aggregator__name="foolsgold", aggregator__pre=["bucketing"])


def test_a_share_of_clients_is_not_rounded_up_by_float_error() -> None:
    everybody = {"data__clients": 25, "attack__malicious": 25, "attack__active_share": 0.28}  # 7.000000000000001
    assert attackers(problem_of(**everybody), range(1, 2)) == [7]


def test_a_trigger_that_writes_in_place_leaves_the_test_set() -> None:
    problem = problem_of(attack__name="backdoor")
    object.__setattr__(problem.attack, "trigger", lambda images: images.fill_(255))
    before = problem.images.test_images.clone()
    problem.evaluate(problem.model.params.clone(), 0, 1)
    assert torch.equal(problem.images.test_images, before)
