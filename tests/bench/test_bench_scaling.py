"""What `fempi bench scaling` measures, what it makes of that, and how it predicts: by hand, and under mpirun."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from launch import run_ranks
from matplotlib.image import imread

from fempi import experiment
from fempi.algebra import Int64
from fempi.bench import plan, prediction, rounds, scaling
from fempi.bench.prediction import Job, Model, Network, Parts, Work
from fempi.columns import BLOCK
from fempi.errors import FempiError
from fempi.prepare import prepare
from fempi.schema import PHASES

TINY = """
name = "tiny"
[data]
dataset = "synthetic"
size = 4
train_examples = 240
test_examples = 40
clients = 12
root_examples = 0
[model]
name = "mlp"
hidden = [4]
[train]
cohort = 6
local_epochs = 1
[evaluation]
every = 4
"""
MODEL = Model(example=0.01, byte=1e-9, row=0.002, pair=0.0003, batch=0.5, file=0.02, recorded=0.001)


def job_of(sizes: Int64, **changes: object) -> Job:
    usual = Job(
        num_examples=sizes,
        root_cost=0,
        params=1000,
        sharded=False,
        test_batches=10,
        evaluate_every=5,
        seed=3,
        rounds=range(2, 6),
    )
    return replace(usual, **changes)  # type: ignore[arg-type]


@pytest.fixture
def tiny(tmp_path):
    path = tmp_path / "tiny.toml"
    path.write_text(TINY)
    return path


def options_of(path, **changes):
    usual = plan.Options(
        config=path,
        data_root=path.parent,
        device=torch.device("cpu"),
        rounds=2,
        network=prediction.network("2,10"),
        folder=path.parent,
    )
    return replace(usual, **changes)


def test_the_work_of_a_round_by_hand():
    work = job_of(np.full(20, 30)).work(cohort=10, ranks=4)  # 3, 3, 2 and 2 clients
    assert (work.mean_load, work.largest_load) == (75, 90)
    assert work.remote_rows == 7
    assert work.batches == 3 / 5  # the busiest of four tests 3 of 10 batches, every fifth round
    assert (work.row_bytes, work.share) == (4000, 1)
    idle = job_of(np.full(20, 30)).work(cohort=10, ranks=16)
    assert (idle.largest_load, idle.remote_rows) == (30, 9)


def test_roots_reference_is_work_for_root():
    work = job_of(np.full(20, 30), root_cost=60).work(cohort=4, ranks=2)  # root takes one client, the other three
    assert (work.mean_load, work.largest_load, work.remote_rows) == (90, 90, 3)


def test_of_sharded_updates_a_rank_judges_whole_blocks():
    job = job_of(np.full(20, 30), params=3 * BLOCK, sharded=True)
    assert [job.work(4, ranks).share for ranks in (1, 2, 3, 100)] == pytest.approx([1, 2 / 3, 1 / 3, 1 / 3])
    work = job.work(4, 3)
    network = Network(latency=0.0, bandwidth=1e6)
    moved = work.remote_rows * 4 * BLOCK + 4 * 3 * BLOCK + 16 * 4**2
    parts = MODEL.parts(work, network)
    assert parts.communicate == pytest.approx(moved / 1e6)
    assert parts.judge == pytest.approx((4 * 0.002 + 16 * 0.0003) / 3)


def test_cohorts_are_those_of_a_run_as_long_as_there_are_enough_clients(tiny):
    (config,) = experiment.load(tiny)
    problem = prepare(config, tiny.parent, options_of(tiny).device)
    job = job_of(problem.num_examples, seed=config.seed)
    for round_ in range(1, 5):
        np.testing.assert_array_equal(job.clients(round_, config.train.cohort), problem.cohort(round_))
    assert len(job.clients(1, 50)) == 50


def test_a_prediction_by_hand():
    job = job_of(np.full(8, 30))
    first, second = prediction.predict(job, MODEL, Network(latency=0.001, bandwidth=1e6), [1, 4], lambda _: 8)
    assert first.parts == Parts(
        train=8 * 30 * 0.01,
        wait=0,
        communicate=0,
        judge=pytest.approx(8 * 0.002 + 64 * 0.0003),
        evaluate=0.5 * 2,
        record=pytest.approx(0.02 + 8 * 0.001),
    )
    assert second.parts.train == pytest.approx(2 * 30 * 0.01)
    assert second.parts.communicate == pytest.approx((6 + 2) * 0.001 + (6 + 1) * 4000 / 1e6)
    assert second.parts.evaluate == pytest.approx(0.5 * 3 / 5)
    assert second.seconds == pytest.approx(sum(vars(second.parts).values()))
    assert second.clients_per_second == pytest.approx(8 / second.seconds)
    assert second.speed_up == pytest.approx(first.seconds / second.seconds)
    assert second.efficiency == pytest.approx(second.speed_up / 4)
    assert second.held_bytes == 8 * 4000


@pytest.mark.parametrize("model", [MODEL, replace(MODEL, byte=0.0, pair=0.0, recorded=0.0)])
@pytest.mark.parametrize("sharded", [False, True])
def test_the_fit_finds_what_the_times_were_made_with(model, sharded):
    sizes = np.random.default_rng(5).integers(10, 60, 40)
    job = job_of(sizes, sharded=sharded, params=5 * BLOCK)
    works = [job.work(*point) for point in ((12, 1), (12, 2), (12, 4), (3, 1), (6, 2))]
    parts = [model.parts(work) for work in works]
    found = prediction.fit(works, parts)
    for name, value in vars(model).items():
        assert getattr(found, name) == pytest.approx(value, rel=1e-6, abs=1e-12), name
    assert prediction.residual(found, works, parts).most < 1e-9


def test_the_fit_weighs_errors_by_their_round_and_says_how_large_they_are():
    works = [
        Work(ranks=1, cohort=1, row_bytes=4, mean_load=n, largest_load=n, remote_rows=0, share=1, batches=0)
        for n in (1, 10)
    ]
    parts = [Parts(train=seconds, wait=0, communicate=0, judge=0, evaluate=0, record=0) for seconds in (1.1, 9.0)]
    model = prediction.fit(works, parts)
    a, b = 1 / 1.1, 10 / 9  # minimise (a x - 1)^2 + (b x - 1)^2
    x = (a + b) / (a**2 + b**2)
    assert model.example == pytest.approx(x)
    assert (model.byte, model.batch) == (0, 0)
    errors = np.array([a * x - 1, b * x - 1])
    residual = prediction.residual(model, works, parts)
    assert residual.rms == pytest.approx(np.sqrt((errors**2).mean()))
    assert residual.most == pytest.approx(np.abs(errors).max())


def test_what_a_round_goes_to_by_hand():
    phases = np.zeros((2, 3, len(PHASES)))
    at = {name: number for number, name in enumerate(PHASES)}
    phases[:, :, at["train"]] = [[2, 4, 3], [2, 4, 3]]
    phases[:, 0, at["gather"]] = [2.5, 3.5]  # until 0.5 and 1.5 after the slowest has trained
    phases[:, 1:, at["broadcast"]] = 100  # others wait there for root, and it counts as what root does
    phases[:, 0, at["attack"]] = 0.25
    phases[:, 0, at["aggregate"]] = 0.25
    phases[:, 0, at["broadcast"]] = 0.125
    phases[:, 0, at["evaluate"]] = 4
    phases[:, 0, at["record"]] = 0.375
    found = rounds.of(np.array([10.0, 11.0]), phases, evaluate_every=8)
    # Of the first round's 10 s, 4.5 pass until all rows are there, 4.5 in broadcast, test and record: 1 is left.
    assert found.parts == Parts(train=3, wait=1, communicate=1 + 0.125, judge=1, evaluate=0.5, record=0.375)
    assert found.seconds.tolist() == [6.5, 7.5]
    assert found.imbalance == pytest.approx(4 / 3)
    assert found.parts.total == pytest.approx(7)


def test_what_limits_is_said():
    parts = Parts(train=5, wait=1, communicate=0.5, judge=3, evaluate=0.25, record=0.25)
    assert scaling.limit(parts) == (
        "50% of a round is not training; most of that, 30%, is attack, aggregation and evidence"
    )


def test_ranks_without_a_core_each_are_told_host_by_host():
    assert scaling.crowded([("a", [0, 1], 1), ("a", [0, 1], 1), ("b", [0], 1)]) == ""
    assert scaling.crowded([("a", [0], 1), ("a", [0], 1), ("b", [0], 1)]) == "a has 1 core for 2 threads"
    assert scaling.crowded([("a", [0, 1], 2), ("b", [0, 1], 3)]) == "b has 2 cores for 3 threads"


@pytest.mark.parametrize(
    ("size", "ranks", "expected"), [(2, [], [1, 2]), (6, [], [1, 2, 4, 6]), (8, [], [1, 2, 4, 8]), (4, [4, 2], [2, 4])]
)
def test_ranks_double_up_to_all_there_are(size, ranks, expected, tiny):
    found = plan.plan_of(options_of(tiny, ranks=ranks), size)
    assert found.ranks == expected
    assert found.per_rank == max(1, 6 // expected[-1])
    assert {cohort: config.train.cohort for cohort, config in found.configs.items()} == {
        cohort: cohort for _, cohort in found.strong + found.weak
    }
    assert all((config.rounds, config.evaluation.every) == (3, 1) for config in found.configs.values())
    assert found.job.evaluate_every == 4


@pytest.mark.parametrize(
    ("changes", "size", "said"),
    [
        ({}, 1, "mpirun -n 2"),
        ({"ranks": [1, 4]}, 2, "--ranks 4: there are 2 ranks"),
        ({"per_rank": 7}, 2, "takes a cohort of 14, and .* has 12 clients; use .*--per-rank"),
        ({"overrides": ["train.cohor=3"]}, 2, "train.cohor"),
        ({"overrides": ["aggregator.name='krum'", "attack.malicious=2"]}, 4, "a cohort of 1 on 1 rank: .*--per-rank"),
    ],
)
def test_what_cannot_be_measured_is_said_before_anything_is(changes, size, said, tiny):
    with pytest.raises(FempiError, match=said):
        plan.plan_of(options_of(tiny, **changes), size)


def test_one_run_is_measured(tiny):
    tiny.write_text(TINY + "[grid]\nseed = [1, 2]\n")
    with pytest.raises(FempiError, match="has 2 runs, and one is measured"):
        plan.plan_of(options_of(tiny), 2)
    assert plan.plan_of(options_of(tiny, overrides=["seed=2"]), 2).configs[6].seed == 2


@pytest.mark.parametrize("text", ["", "2", "2,0", "-1,10", "2,10,3", "two,10", "nan,1", "1,inf"])
def test_a_network_is_a_latency_and_a_bandwidth(text):
    with pytest.raises(FempiError, match="as in 2,10"):
        prediction.network(text)
    assert prediction.network("2,10") == Network(latency=2e-6, bandwidth=10e9)


@pytest.mark.parametrize("text", ["0", "1,x", "1,,2", "-1"])
def test_ranks_are_numbers(text):
    with pytest.raises(FempiError, match="as in 1,2,4"):
        plan.numbers(text)
    assert plan.numbers("1,2,4") == [1, 2, 4]


def launched(n, arguments, cwd):
    return run_ranks(n, [sys.executable, "-m", "fempi", "bench", "scaling", *arguments], timeout=120, cwd=cwd)


@pytest.mark.parametrize("layout", ["root", "sharded"])
def test_three_ranks_measure_one_two_and_themselves(layout, tiny):
    told, picture = tiny.parent / "x.json", tiny.parent / "x.png"
    layout = f"aggregator.layout='{layout}'"
    arguments = ["tiny.toml", "--rounds", "3", "--set", layout, "--json", str(told), "--plot", str(picture)]
    job = launched(3, arguments, tiny.parent)
    assert job.returncode == 0, job.output
    found = json.loads(told.read_text())
    assert [(row["ranks"], row["cohort"]) for row in found["strong"]] == [(1, 6), (2, 6), (3, 6)]
    assert [(row["ranks"], row["cohort"]) for row in found["weak"]] == [(1, 2), (2, 4), (3, 6)]
    assert found["strong"][-1]["seconds"] == found["weak"][-1]["seconds"]  # measured once
    for rows in found["strong"], found["weak"]:
        for row in rows:
            seconds, parts = row["seconds"], row["parts"]
            assert 0 < seconds["least"] <= seconds["median"] <= seconds["most"]
            assert row["clients_per_second"] == pytest.approx(row["cohort"] / seconds["median"])
            assert row["speed_up"] == pytest.approx(row["clients_per_second"] / rows[0]["clients_per_second"])
            assert row["efficiency"] == pytest.approx(row["speed_up"] / row["ranks"])
            assert row["imbalance"] >= 1
            assert all(value >= 0 for value in parts.values())
            assert parts["train"] > 0
        assert rows[0]["imbalance"] == 1
        assert rows[0]["parts"]["wait"] == 0
    predicted = found["predicted"]
    assert predicted["note"] == "prediction, not measurement"
    assert {10, 100, 1000} <= {each["ranks"] for each in predicted["strong"]}
    assert [each["cohort"] for each in predicted["weak"]] == [2 * each["ranks"] for each in predicted["weak"]]
    assert job.output.count("prediction, not measurement") == 3
    assert f"{found['residual']['rms']:.1%} (root mean square)" in job.output
    assert sorted(path.name for path in tiny.parent.iterdir()) == ["tiny.toml", "x.json", "x.png"]
    assert len(np.unique(imread(picture)[:, :, :3].reshape(-1, 3), axis=0)) > 20


def test_a_mistake_is_said_once_and_leaves_nothing_behind(tiny):
    for arguments, said in (
        (["nowhere.toml"], "there is no nowhere.toml"),
        (["tiny.toml", "--network", "fast"], "as in 2,10"),
        (["tiny.toml", "--json", "nowhere/x.json"], "nowhere/x.json cannot be written"),
        (["tiny.toml", "--plot", "x.doc"], "x.doc cannot be drawn; name a file that ends in"),
    ):
        job = launched(2, arguments, tiny.parent)
        assert job.returncode == 2
        assert job.output.count(said) == 1, job.output
    assert [path.name for path in tiny.parent.iterdir()] == ["tiny.toml"]
