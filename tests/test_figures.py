"""Figures show what the record holds, and the scripts that draw them leave a picture."""

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.image import imread

from fempi.errors import FempiError
from fempi.forensics import figures, records
from fempi.schema import STATIC, Layout
from fempi.store import Description, Recorder, pack

ANALYSIS = Path(__file__).parents[1] / "analysis"


def record(
    folder: Path,
    counts: np.ndarray,
    malicious: list[int],
    *,
    label: str = "a",
    created: str = "2026",
    accuracy: float = 0.5,
) -> Path:
    """A record of one round whose clients (rows) hold these examples of each class (columns)."""
    clients, classes = counts.shape
    sizes = {"round": 1, "slot": 1, "param": 1, "client": clients, "class": classes, "layer": 1, "plugin": 0}
    layout = Layout(sizes=sizes, launches=[[1, 1]])
    static = {
        f.path: np.full(layout.shape(f), "" if f.dtype == "str" else 0, object if f.dtype == "str" else f.dtype)
        for f in layout.fields()
        if f in STATIC
    }
    static["clients/label_counts"] = counts
    attributes = {"config": f'label = "{label}"', "config_hash": "", "created": created}
    static["clients/malicious"] = np.isin(np.arange(clients), malicious)
    recorder = Recorder(folder / f"{label}.run", Description(layout=layout, attributes=attributes, static=static))
    recorder.write(1, {"evaluation/accuracy": np.array(accuracy)})
    recorder.wait()
    return folder / f"{label}.run"


COUNTS = np.array([[5, 0, 7], [0, 9, 1], [3, 3, 3], [0, 0, 600]])


def test_partition_shows_the_examples_of_each_class_that_each_client_holds(tmp_path: Path) -> None:
    axes = figures.partition(record(tmp_path, COUNTS, [1])).axes[0]
    (image,) = axes.images
    drawn = image.get_array()
    assert drawn.filled(0).tolist() == [[5, 0, 3, 0], [0, 9, 3, 0], [7, 1, 3, 600]]
    assert drawn.mask.tolist() == [[False, True, False, True], [True, False, False, True], [False, False, False, False]]
    assert image.get_clim() == (0, 600)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("client", "class")
    assert (axes.get_xlim(), axes.get_ylim()) == ((-0.5, 3.5), (-0.5, 2.5))  # class 0 is at the bottom


def test_few_clients_have_their_numbers_written_in(tmp_path: Path) -> None:
    axes = figures.partition(record(tmp_path, COUNTS, [])).axes[0]
    written = {text.get_position(): text.get_text() for text in axes.texts}
    assert written == {
        **{(0, 0): "5", (0, 2): "7"},
        **{(1, 1): "9", (1, 2): "1"},
        **{(2, 0): "3", (2, 1): "3", (2, 2): "3"},
        **{(3, 2): "600"},
    }
    colours = {text.get_text(): text.get_color() for text in axes.texts}
    assert (colours["600"], colours["9"]) == ("white", "black")  # on dark blue, on light yellow


def test_malicious_clients_are_marked_above_their_columns(tmp_path: Path) -> None:
    figure = figures.partition(record(tmp_path, COUNTS, [1, 3]), title="who")
    (marks,) = figure.axes[0].collections
    assert marks.get_offsets()[:, 0].tolist() == [1, 3]
    assert (marks.get_offsets()[:, 1] > 1).all()
    assert to_hex(marks.get_facecolor()[0]) == "#d55e00"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["malicious"]
    assert figure.axes[0].get_title() == "who"


def test_without_malicious_clients_there_is_nothing_to_explain(tmp_path: Path) -> None:
    figure = figures.partition(record(tmp_path, COUNTS, []))
    assert not figure.axes[0].collections
    assert not figure.legends


def test_a_hundred_clients_have_colours_only_and_every_fifth_number(tmp_path: Path) -> None:
    counts = np.random.default_rng(0).integers(0, 9, (100, 10))
    axes = figures.partition(record(tmp_path, counts, list(range(0, 100, 10)))).axes[0]
    assert not axes.texts
    np.testing.assert_array_equal(axes.images[0].get_array().filled(0), counts.T)
    assert axes.collections[0].get_offsets()[:, 0].tolist() == list(range(0, 100, 10))
    assert [tick for tick in axes.get_xticks() if 0 <= tick < 100] == list(range(0, 100, 5))
    assert [tick for tick in axes.get_yticks() if 0 <= tick < 10] == list(range(10))


def test_the_script_leaves_a_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "partition.png"
    monkeypatch.setattr(sys, "argv", ["partition.py", str(record(tmp_path, COUNTS, [2])), "-o", str(picture)])
    runpy.run_path(str(ANALYSIS / "partition.py"), run_name="__main__")
    assert capsys.readouterr().out == f"partition in {picture}\n"
    pixels = imread(picture)[..., :3]
    assert pixels.shape[1] == 1350  # 9 inches
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 50
    triangle = np.array([0xD5, 0x5E, 0x00]) / 255
    assert (np.abs(pixels - triangle).max(axis=2) < 0.01).any()


def test_accuracy_curves_show_each_record_with_a_look_of_its_own(tmp_path: Path) -> None:
    made = [record(tmp_path, COUNTS, [], label=f"r{i:02}", accuracy=i / 20) for i in range(20)]
    figure = figures.accuracy_curves(made)
    lines = figure.axes[0].lines
    assert [line.get_label() for line in lines] == [f"r{i:02}" for i in range(20)]
    assert [line.get_ydata().tolist() for line in lines] == [[i / 20] for i in range(20)]
    assert len({(line.get_color(), line.get_marker()) for line in lines}) == 20


def test_records_are_found_packed_or_not_in_the_order_in_which_they_were_made(tmp_path: Path) -> None:
    late = record(tmp_path, COUNTS, [], label="a", created="2026-02")
    early = record(tmp_path, COUNTS, [], label="b", created="2026-01")
    pack(late, tmp_path / "c.h5")
    assert records.find([tmp_path]) == [early, late, tmp_path / "c.h5"]
    assert records.find([late, early]) == [early, late]
    (tmp_path / "empty").mkdir()
    with pytest.raises(FempiError, match=r"no records in .*empty"):
        records.find([tmp_path / "empty"])


@pytest.mark.parametrize("script", ["accuracy_curves", "partition"])
def test_a_script_says_in_one_line_what_is_no_record(
    script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [script, str(tmp_path / "none.h5"), "-o", str(tmp_path / "x.png")])
    with pytest.raises(SystemExit):
        runpy.run_path(str(ANALYSIS / f"{script}.py"), run_name="__main__")
    assert f"there is no {tmp_path / 'none.h5'}" in capsys.readouterr().err
