"""Pictures of a real run show what its record holds."""

import runpy
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_hex
from records import make_runs

import fempi
from fempi.errors import FempiError
from fempi.forensics import figures
from fempi.forensics.figures.rows import principal_components
from fempi.forensics.geometry import Round
from fempi.schema import PHASES

ANALYSIS = Path(__file__).parents[2] / "analysis"
CONFIG = """
name = "x"
rounds = 6
[data]
dataset = "synthetic"
size = 4
train_examples = 300
test_examples = 50
clients = 12
[model]
name = "mlp"
hidden = [4]
[train]
cohort = 8
local_epochs = 1
[attack]
name = "{attack}"
malicious = {malicious}
[aggregator]
name = "multi_krum"
num_byzantine = 2
[record]
updates = "none"
pack = {pack}
"""


def made(folder, attack, malicious):
    return make_runs(folder, CONFIG.format(attack=attack, malicious=malicious, pack="true")) / "x.h5"


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    return made(tmp_path_factory.mktemp("flipped"), "sign_flip", 3)


@pytest.fixture(scope="module")
def not_finite(tmp_path_factory):
    return made(tmp_path_factory.mktemp("nan"), "nan", 3)


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    return made(tmp_path_factory.mktemp("clean"), "none", 0)


def test_the_trust_timeline_has_a_line_for_each_client_and_a_cross_for_each_row_left_out(record):
    with fempi.open(record) as run:
        clients, selected, malicious = (run.read(f"rounds/{name}") for name in ("client", "selected", "malicious"))
        trust, guilty = run.read("rounds/trust"), run.read("clients/malicious")
    axes = figures.trust_timeline(record).axes[0]
    grid = axes.images[0].get_array()
    order = [int(label.get_text()) for label in axes.get_yticklabels()]
    assert guilty[order].tolist() == sorted(guilty[order])  # malicious ones come last, which is at the top
    for round_ in range(6):
        there = [line for line in range(len(order)) if not np.ma.getmaskarray(grid)[line, round_]]
        assert sorted(order[line] for line in there) == sorted(clients[round_])
        best = clients[round_][np.argmax(trust[round_])]
        assert grid[order.index(best), round_] == 1
    crosses = axes.collections[0].get_offsets()
    assert sorted((int(x), order[int(y)]) for x, y in crosses) == sorted(
        (round_ + 1, int(client)) for round_, slot in np.argwhere(~selected) for client in [clients[round_, slot]]
    )
    assert malicious.any()
    assert [text.get_text() for text in axes.texts] == ["malicious", "honest"]


def test_the_cosine_map_has_attackers_last_and_in_colour(record):
    with fempi.open(record) as run:
        attacking, clients = run.read("rounds/attacking")[1], run.read("rounds/client")[1]
        gram = run["rounds/gram"][1, :-1, :-1]
    axes = figures.cosine_map(record, 2).axes[0]
    order = np.argsort(attacking, kind="stable")
    norms = np.sqrt(np.diagonal(gram))
    expected = (gram / np.outer(norms, norms))[np.ix_(order, order)]
    np.testing.assert_allclose(axes.images[0].get_array(), expected)
    assert [int(label.get_text()) for label in axes.get_xticklabels()] == clients[order].tolist()
    coloured = [to_hex(label.get_color()) == "#d55e00" for label in axes.get_yticklabels()]
    assert coloured == attacking[order].tolist()
    assert not any("-0.0" in text.get_text() for text in axes.texts)


def test_rows_that_are_not_finite_are_blank_in_the_cosine_map(not_finite):
    with fempi.open(not_finite) as run:
        finite = run.read("rounds/finite")[0]
    shown = figures.cosine_map(not_finite, 1).axes[0].images[0].get_array()
    assert np.ma.getmaskarray(shown).sum() == 64 - finite.sum() ** 2
    points = figures.update_map(not_finite, 1).axes[0].collections
    assert sum(len(group.get_offsets()) for group in points) == finite.sum() + 1  # and the geometric median


def test_points_in_a_plane_keep_their_distances_in_principal_components():
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(7, 2)) @ rng.normal(size=(2, 9)) + rng.normal(size=9)
    found = Round(1, np.arange(7), rows @ rows.T, np.zeros(7))
    points, shares, centre = principal_components(found)
    before = np.linalg.norm(rows[:, None] - rows[None], axis=2)
    np.testing.assert_allclose(np.linalg.norm(points[:, None] - points[None], axis=2), before, atol=1e-9)
    assert shares[0] > shares[1] > 0
    assert sum(shares) == pytest.approx(1)
    assert np.linalg.norm(points - centre, axis=1) == pytest.approx(np.linalg.norm(rows - found.centre @ rows, axis=1))


@pytest.mark.parametrize("rows", [[[np.nan, 1.0]], [[1.0, 2.0]], [[1.0, 2.0]] * 3])
def test_one_row_and_equal_rows_have_a_place_too(rows):
    gram = np.array(rows) @ np.array(rows).T
    points, shares, centre = principal_components(Round(1, np.arange(len(rows)), gram, np.zeros(len(rows))))
    assert shares == pytest.approx((0, 0), abs=1e-9)
    assert np.isfinite(centre).all()
    assert points[np.isfinite(points).all(axis=1)] == pytest.approx(
        np.zeros((np.isfinite(points).all(axis=1).sum(), 2))
    )


def test_the_roc_has_a_curve_for_each_score_with_its_area(record, clean):
    axes = figures.roc(record).axes[0]
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert [label.split()[0] for label in labels] == ["trust", "norm", "cosine", "distance", "krum", "nearest"]
    for line, label in zip(axes.lines, labels, strict=False):
        area = np.trapezoid(line.get_ydata(), line.get_xdata())
        assert f"({area:.3f})" in label
    with pytest.raises(FempiError, match="no attackers among others"):
        figures.roc(clean)


def test_norms_are_counted_by_the_truth(record, not_finite):
    with fempi.open(record) as run:
        attacking = run.read("rounds/attacking")
    honest, attackers = figures.norms(record).axes[0].containers
    assert [sum(bar.get_height() for bar in bars) for bars in (honest, attackers)] == [
        (~attacking).sum(),
        attacking.sum(),
    ]
    assert len(figures.norms(not_finite).axes[0].containers) == 1


def test_bars_of_time_add_up(record, clean):
    figure = figures.timing([record, clean])
    with fempi.open(record) as run:
        seconds = run.read("timing/seconds").mean(axis=(0, 1))
    widths = [bars[0].get_width() for bars in figure.axes[0].containers]
    assert widths == pytest.approx(seconds.tolist())
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(PHASES)


SEEDS = """
[[arm]]
name = "mean"
set = { "aggregator.name" = "mean" }
[[arm]]
name = "krum"
[grid]
seed = [1, 2, 3]
"""


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    """Two arms with three seeds each."""
    folder = make_runs(
        tmp_path_factory.mktemp("seeds"), CONFIG.format(attack="sign_flip", malicious=3, pack="true") + SEEDS
    )
    return {(arm, seed): folder / f"{arm}+seed={seed}.h5" for arm in ("mean", "krum") for seed in (1, 2, 3)}


def accuracies_of(path):
    with fempi.open(path) as run:
        return run.read("evaluation/accuracy")


def band(axes, number):
    """The lower and the upper edge of a band."""
    corners = axes.collections[number].get_paths()[0].vertices
    rounds = np.unique(corners[:, 0])
    edges = [corners[corners[:, 0] == round_, 1] for round_ in rounds]
    return [min(edge) for edge in edges], [max(edge) for edge in edges]


def test_runs_that_differ_in_the_seed_only_are_one_curve_with_a_band_from_the_lowest_to_the_highest(seeds):
    figure = figures.accuracy_curves(list(seeds.values()))
    axes = figure.axes[0]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["mean (3 seeds)", "krum (3 seeds)"]
    for number, arm in enumerate(("mean", "krum")):
        values = np.array([accuracies_of(seeds[arm, seed]) for seed in (1, 2, 3)])
        assert axes.lines[number].get_xdata().tolist() == [1, 2, 3, 4, 5, 6]
        assert axes.lines[number].get_ydata().tolist() == values.mean(axis=0).tolist()
        assert band(axes, number) == (values.min(axis=0).tolist(), values.max(axis=0).tolist())
        assert np.ptp(values, axis=0).any()  # there is something to show


def test_one_seed_has_a_plain_line(seeds):
    figure = figures.accuracy_curves([seeds["mean", 1], seeds["krum", 2]])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["mean+seed=1", "krum+seed=2"]
    assert not figure.axes[0].collections
    assert figure.axes[0].lines[0].get_ydata().tolist() == accuracies_of(seeds["mean", 1]).tolist()


def test_a_run_that_is_there_twice_is_no_second_seed(seeds, tmp_path):
    twin = shutil.copy(seeds["mean", 1], tmp_path / "twin.h5")
    axes = figures.accuracy_curves([seeds["mean", 1], twin]).axes[0]
    assert [line.get_label() for line in axes.lines] == ["mean+seed=1"] * 2
    assert not axes.collections


def test_a_mean_goes_as_far_as_all_its_runs(seeds, tmp_path):
    config = CONFIG.format(attack="sign_flip", malicious=3, pack="false") + SEEDS
    runs = make_runs(tmp_path, config.replace("[1, 2, 3]", "[2]"))
    next((runs / "mean+seed=2.run").glob("round-*-000005.h5")).unlink()
    next((runs / "mean+seed=2.run").glob("round-*-000006.h5")).unlink()
    axes = figures.accuracy_curves([seeds["mean", 1], runs / "mean+seed=2.run"]).axes[0]
    (line,) = axes.lines
    assert line.get_xdata().tolist() == [1, 2, 3, 4]
    expected = (accuracies_of(seeds["mean", 1])[:4] + accuracies_of(seeds["mean", 2])[:4]) / 2
    assert line.get_ydata().tolist() == expected.tolist()


SCRIPTS = {path.stem: path for path in ANALYSIS.glob("*.py") if " -o " in path.read_text()}


def run_script(name, arguments, monkeypatch):
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    runpy.run_path(str(SCRIPTS[name]), run_name="__main__")


@pytest.mark.parametrize("kind", ["png", "pdf"])
@pytest.mark.parametrize("name", SCRIPTS)
def test_every_script_leaves_a_picture(name, kind, record, tmp_path, monkeypatch, capsys):
    picture = tmp_path / f"x.{kind}"
    numbers = [2] if name in ("cosine_map", "update_map") else []
    run_script(name, [record, *numbers, "-o", picture], monkeypatch)
    assert capsys.readouterr().out.endswith(f"in {picture}\n")
    assert picture.read_bytes().startswith(b"\x89PNG" if kind == "png" else b"%PDF")
    assert picture.stat().st_size > 5000


@pytest.mark.parametrize("name", ["cosine_map", "update_map"])
def test_a_round_that_is_not_there_is_said_in_one_line(name, record, tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        run_script(name, [record, 7, "-o", tmp_path / "x.png"], monkeypatch)
    assert "has rounds 1 to 6, not 7" in capsys.readouterr().err


def test_a_format_that_nobody_writes_is_said_in_one_line(record, tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        run_script("norms", [record, "-o", tmp_path / "x.docx"], monkeypatch)
    assert "'docx' is not supported" in capsys.readouterr().err
