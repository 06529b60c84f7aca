"""What is drawn of a distillation: the student over rounds, both losses, samples as they were; students compared."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from safetensors.torch import load_file, save_file
from small_distillations import FAST, taught, write

from fcil.errors import StoreError
from fcil.plots import draw_comparison, draw_missing, draw_run, undrawn
from fcil.plots.comparison import curves_figure
from fcil.plots.distillation import (
    learning_curve,
    learning_figure,
    round_axis,
    samples_figure,
    snapshots,
    student_label,
    terms_figure,
)
from fcil.plots.grid import sheet
from fcil.store import Run, load_run
from fcil.store.groups import group_runs


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    """Two seeds of six rounds; nobody looks at the test images after the last but one."""
    student = {"rounds": 6, "snapshots": 3, "evaluate_every": 4}
    folder = tmp_path_factory.mktemp("played")
    source = write(folder, student=student, synthesizer={"fast": {**FAST, "rounds": 5}}, seeds=[0, 1])
    return taught(source, out=folder / "out")[0]


@pytest.fixture
def run(played: list[Run], tmp_path: Path) -> Run:
    """A copy of the first of them, to be changed."""
    path = tmp_path / Path(*played[0].path.parts[-3:])
    shutil.copytree(played[0].path, path, ignore=shutil.ignore_patterns("checkpoints"))
    return load_run(path)


def texts(figure: Figure) -> list[str]:
    return [t.get_text() for t in figure.texts] + [t.get_text() for axes in figure.axes for t in axes.texts]


def test_a_distillation_has_figures_of_its_own(run: Run) -> None:
    names = ["accuracy", "terms", "samples_over_rounds", "synthetic"]
    assert [path.name for path in draw_run(run.path)] == [f"{n}.{kind}" for n in names for kind in ("png", "pdf")]


def test_the_accuracy_is_drawn_over_rounds_below_the_teachers(run: Run) -> None:
    values = learning_curve(run)
    assert np.isfinite(values).tolist() == [False, False, False, True, False, True]
    assert values[3] == 100 * run.rounds[3]["accuracy"]
    assert values[5] == pytest.approx(100 * run.summary["final_accuracy"])
    teacher = 100 * json.loads((run.path / "quality.json").read_text())["teacher_accuracy"]
    figure = learning_figure(run)
    own, level = figure.axes[0].lines
    np.testing.assert_array_equal(own.get_xdata(), [4, 6])
    np.testing.assert_allclose(own.get_ydata(), values[[3, 5]])
    assert level.get_ydata()[0] == pytest.approx(teacher)  # type: ignore[index]
    assert f"teacher {teacher:.1f}" in texts(figure)
    assert figure.axes[0].get_ylim()[1] > teacher
    assert any(text.startswith("fast · digits") for text in texts(figure))


def test_the_accuracy_is_drawn_anew_once_more_is_known_of_the_teacher(run: Run) -> None:
    quality = run.path / "quality.json"
    told = quality.read_text()
    quality.unlink()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fcil.plots.run.save_all", lambda jobs: [])
        draw_run(run.path)
        assert undrawn(run) == [f"synthetic/{path.stem}" for path in sorted(run.folder.synthetic.glob("*.safetensors"))]
        draw_missing(run)
        assert undrawn(run) == []
        quality.write_text(told)  # and the process died before it drew
        assert undrawn(run) == ["accuracy"]


def test_without_the_teachers_accuracy_there_is_no_level(run: Run) -> None:
    (run.path / "quality.json").unlink()
    assert len(learning_figure(run).axes[0].lines) == 1


def test_a_damaged_quality_is_named(run: Run) -> None:
    (run.path / "quality.json").write_text('{"teacher_accuracy": "high"}')
    with pytest.raises(StoreError, match=r"quality.json: teacher_accuracy is 'high'; expected a share from 0 to 1"):
        learning_figure(run)


def test_an_axis_begins_at_zero_unless_all_is_far_above() -> None:
    for low, begins in ((20.0, 0.0), (90.0, 89.0)):
        axes = Figure().subplots()
        axes.plot([1, 9], [low, 99.0])
        axes.set_ylim(0, 105)
        round_axis([])(axes, 9)
        assert axes.get_ylim()[0] == pytest.approx(begins)


def test_both_losses_have_a_panel(run: Run) -> None:
    above, below = terms_figure(run).axes
    assert {text.get_text() for text in above.texts} - {""} == {"adv", "bn", "ce"}
    assert {text.get_text() for text in below.texts} - {""} == {"kl"}
    drawn = next(line for line in below.lines if len(np.asarray(line.get_xdata())))
    np.testing.assert_allclose(drawn.get_ydata(), [record["terms"]["student_kl"] for record in run.rounds])
    assert below.get_ylabel().startswith("student's")


def test_samples_have_a_row_for_each_round_and_a_column_for_each_class(run: Run) -> None:
    assert list(snapshots(run)) == [1, 4, 6]
    figure = samples_figure(run)
    said = texts(figure)
    assert [text for text in said if text.startswith("round")] == ["round 1", "round 4", "round 6"]
    assert [text for text in said if text in run.partition()[1]] == run.partition()[1]
    mosaic = np.asarray(figure.axes[0].images[0].get_array())
    assert mosaic.shape == (3 * 68, 10 * 68)
    kept = load_file(snapshots(run)[4])
    label = int(kept["y"][0])
    expected = kept["x"][kept["y"] == label][-1][0].numpy() / 255
    np.testing.assert_allclose(mosaic[68 : 68 + 64 : 8, label * 68 : label * 68 + 64 : 8], expected, atol=1e-6)


def test_a_class_that_a_round_has_none_of_is_left_blank(run: Run) -> None:
    path = snapshots(run)[4]
    kept = load_file(path)
    label = int(kept["y"][0])
    place = slice(68, 136), slice(68 * label, 68 * label + 64)
    before = np.asarray(samples_figure(run).axes[0].images[0].get_array())
    save_file({name: t[kept["y"] != label].contiguous() for name, t in kept.items()}, path)
    after = np.asarray(samples_figure(run).axes[0].images[0].get_array())
    assert not (before[place] == 1).all()
    assert (after[place] == 1).all()
    np.testing.assert_array_equal(before[136:], after[136:])


def test_samples_of_two_shapes_are_named(run: Run) -> None:
    path = snapshots(run)[4]
    kept = load_file(path)
    save_file({"x": kept["x"][:, :, :4].contiguous(), "y": kept["y"]}, path)
    with pytest.raises(StoreError, match=r"samples of different rounds have the shapes \[\(1, 4, 8\), \(1, 8, 8\)\]"):
        samples_figure(run)


def test_students_are_compared_over_rounds_with_a_band_over_seeds(played: list[Run], tmp_path: Path) -> None:
    paths = draw_comparison(played, tmp_path)
    assert [path.name for path in paths] == ["accuracy.png", "accuracy.pdf"]
    figure = curves_figure(group_runs(played), learning_curve, "Students", "accuracy (%)", round_axis(played[:1]))
    axes = figure.axes[0]
    assert len(axes.collections) == 1
    np.testing.assert_array_equal(axes.lines[0].get_xdata(), [4, 6])
    mean = np.mean([learning_curve(run)[[3, 5]] for run in played], axis=0)
    np.testing.assert_allclose(axes.lines[0].get_ydata(), mean)
    assert axes.get_xlabel() == "round"


def test_students_are_told_apart_by_what_differs() -> None:
    assert student_label("distill (fast)") == "fast"
    assert student_label("distill (fast, steps 10)") == "fast, steps 10"
    assert student_label("distill") == "distill"


def test_heads_of_columns_are_cut_to_their_width() -> None:
    x = np.zeros((2, 1, 8, 8), np.uint8)
    figure = sheet("Two", x, [("row", np.array([0, 1]))], 2, ["automobiles", "cat"])
    assert [t.get_text() for t in figure.texts] == ["Two", "aut…", "cat", "row"]
