"""Who stands out, since when and for what; and how that compares with the truth."""

import numpy as np
import pytest
from records import make_runs
from scipy import stats

import fempi
from fempi import cli
from fempi.forensics.suspicion import ALARM, TAIL, Examination, examine, separation

INF, NAN = np.inf, np.nan


def examined(clients, num_clients, **deviations):
    return Examination(
        clients=np.array(clients),
        deviations={name: np.array(values, float) for name, values in deviations.items()},
        num_clients=num_clients,
    )


def test_rows_are_combined_as_stouffer_does():
    found = examined([[0, 1], [0, 2], [1, 0]], 4, norm=[[1.0, 0.5], [2.0, 0], [-1.0, 3.0]])
    p, first = found.accumulated("norm")
    for client, values in {0: [1, 2, 3], 1: [0.5, -1], 2: [0]}.items():
        library = stats.combine_pvalues(stats.t.sf(values, TAIL), method="stouffer").pvalue
        assert p[client] == pytest.approx(library)
    assert p[3] == 1  # never took part
    assert first.tolist() == [0, 0, 0, 0]


def test_the_round_of_an_alarm_is_the_first_in_which_there_was_enough():
    far = np.full((6, 2), 0.0)
    far[2:, 1] = 15  # from the third round on, the second client is far out
    clients = np.tile([0, 1], (6, 1))
    found = examined(clients, 2, norm=far)
    p, first = found.accumulated("norm")
    assert first[0] == 0
    limits = ALARM / 2 / (np.arange(1, 7) * np.arange(2, 8))
    prefixes = [stats.combine_pvalues(stats.t.sf(far[: k + 1, 1], TAIL), method="stouffer").pvalue for k in range(6)]
    assert first[1] == 1 + next(k for k in range(6) if prefixes[k] < limits[k])
    assert 3 < first[1] < 6
    assert p[1] == pytest.approx(prefixes[-1])


def test_one_row_alone_accuses_nobody_and_infinitely_far_is_still_a_number():
    found = examined([[0, 1, 2]] * 2, 100, norm=[[0, 1, INF], [INF, 1, INF]])
    p, first = found.accumulated("norm")
    assert first[:3].tolist() == [0, 0, 2]
    assert 0 < p[2] < p[0] < 1


def test_suspects_have_their_evidence_and_the_most_certain_come_first():
    rounds = 8
    clients = np.tile(np.arange(4), (rounds, 1))
    norm, cosine = np.zeros((2, rounds, 4))
    norm[:, 3], cosine[:, 3], norm[:, 1] = 50, 40, 9
    suspects = examined(clients, 4, norm=norm, cosine=cosine).suspects()
    assert [suspect.client for suspect in suspects] == [3, 1]
    assert suspects[0].evidence == {"norm": 50, "cosine": 40}
    assert suspects[1].evidence == {"norm": 9}
    assert [suspect.rounds for suspect in suspects] == [8, 8]
    assert suspects[0].p < suspects[1].p < ALARM
    assert 1 <= suspects[0].first_round < suspects[1].first_round


def test_rows_as_they_are_assumed_to_be_accuse_hardly_anybody():
    """200 runs of 20 clients over 20 rounds, each row drawn from the distribution that is assumed."""
    rng = np.random.default_rng(1)
    clients = np.array([rng.permutation(20)[:8] for _ in range(20)])
    accused = [
        bool(examined(clients, 20, norm=rng.standard_t(TAIL, size=clients.shape)).suspects()) for _ in range(200)
    ]
    assert np.mean(accused) <= ALARM  # two of 200


def test_separation_by_hand():
    clients = np.array([[0, 1, 2], [0, 1, 3]])
    attacking = np.array([[False, True, False], [False, True, False]])
    malicious = np.array([False, True, False, False, True])  # the last one never took part
    found = examined(clients, 5, norm=[[0, 3, 1], [2, 1, 0]])
    one = separation(found, "norm", attacking, malicious)
    assert one.auc_of_rounds == pytest.approx((1 + 0.5) / 2)
    # 3 beats 0 1 2 0; 1 beats 0 0, ties with 1 and loses to 2: (4 + 2.5) of 8 pairs.
    assert one.auc == pytest.approx(6.5 / 8)
    assert (one.tpr_at_1, one.tpr_at_5) == (0.5, 0.5)
    assert one.auc_accumulated == 1
    assert (one.found, one.false_alarms) == (0, 0)


def test_separation_without_attackers_counts_false_alarms_only():
    found = examined([[0, 1]] * 9, 2, norm=[[0, 100]] * 9)
    one = separation(found, "norm", np.zeros((9, 2), bool), np.zeros(2, bool))
    assert np.isnan([one.auc, one.auc_of_rounds, one.auc_accumulated, one.tpr_at_1, one.tpr_at_5]).all()
    assert (one.found, one.false_alarms) == (0, 1)


CONFIG = """
name = "x"
rounds = 12
[data]
dataset = "synthetic"
size = 4
train_examples = 600
test_examples = 50
clients = 20
[model]
name = "mlp"
hidden = [4]
[train]
cohort = 12
local_epochs = 1
[attack]
name = "{attack}"
malicious = {malicious}
[record]
updates = "none"
"""


@pytest.fixture
def record(tmp_path):
    """Return a function that makes a run and returns its record."""

    def make(attack, malicious):
        return make_runs(tmp_path, CONFIG.format(attack=attack, malicious=malicious)) / "x.h5"

    return make


@pytest.mark.parametrize("attack", ["scale", "nan", "sign_flip"])
def test_attackers_of_a_real_run_are_named_from_its_gram_matrices(attack, record, capfd):
    path = record(attack, 3)
    with fempi.open(path) as run:
        malicious = np.flatnonzero(run.read("clients/malicious")).tolist()
        suspects = examine(run).suspects()
    assert sorted(suspect.client for suspect in suspects[:3]) == malicious
    capfd.readouterr()
    assert cli.main(["examine", str(path)]) == 0
    said = capfd.readouterr().out
    assert "malicious" not in said
    assert all(f" {client} " in said for client in malicious)
    assert cli.main(["examine", str(path), "--truth"]) == 0
    said = capfd.readouterr().out
    assert said.count(" malicious ") >= 3
    assert "3 of 3" in said


def test_a_clean_run_has_few_false_alarms(record, capfd):
    path = record("none", 0)
    with fempi.open(path) as run:
        assert len(examine(run).suspects()) <= 1
    assert cli.main(["examine", str(path), "--truth"]) == 0
    assert "None of 20 clients attacks in a way that is seen." in capfd.readouterr().out


def test_a_run_without_a_round_has_no_suspects():
    assert examined(np.empty((0, 12), int), 20, norm=np.empty((0, 12))).suspects() == []
