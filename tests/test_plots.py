from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure
from run_folders import make_results, make_run

from fcil import metrics
from fcil.errors import StoreError
from fcil.groups import group_runs
from fcil.plots import draw_comparison, draw_run, synthetic_grid
from fcil.plots.comparison import accuracy_curve, curves_figure, forgetting_curve
from fcil.plots.grid import to_images
from fcil.plots.run import accuracy_figure, matrix_figure, partition_figure, rounds_figure
from fcil.plots.style import png, spread
from fcil.store import find_runs, load_run


@pytest.fixture(autouse=True)
def _warnings_are_errors() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def texts(figure: Figure) -> list[str]:
    inside = [t.get_text() for axes in figure.axes for t in axes.texts]
    return [t.get_text() for t in figure.texts] + inside


def test_a_run_is_drawn_as_png_and_pdf(tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    paths = draw_run(folder.path)
    names = ("accuracy", "forgetting", "matrix", "rounds", "partition", "synthetic")
    assert [p.name for p in paths] == [f"{name}.{kind}" for name in names for kind in ("png", "pdf")]
    assert all(p.parent == folder.figures for p in paths)
    assert all(p.read_bytes().startswith(b"\x89PNG" if p.suffix == ".png" else b"%PDF") for p in paths)


def test_drawing_twice_gives_the_same_bytes_and_leaves_global_settings_alone(tmp_path: Path) -> None:
    folder, before = make_run(tmp_path, tasks=2, rounds=1), dict(mpl.rcParams)
    first = {p.name: p.read_bytes() for p in draw_run(folder.path)}
    assert {p.name: p.read_bytes() for p in draw_run(folder.path)} == first
    assert dict(mpl.rcParams) == before


def test_one_task_has_no_forgetting_to_draw(tmp_path: Path) -> None:
    names = {p.stem for p in draw_run(make_run(tmp_path, tasks=1, rounds=1).path)}
    assert names == {"accuracy", "matrix", "rounds", "partition", "synthetic"}


def test_an_unfinished_run_is_drawn_as_far_as_it_came(tmp_path: Path) -> None:
    folder = make_run(tmp_path, tasks=5, stop_after=2)
    draw_run(folder.path)
    matrix = matrix_figure(load_run(folder.path)).axes[0].images[0].get_array()
    assert matrix is not None
    assert matrix.shape == (2, 2)


def test_a_run_without_results_says_that_there_is_nothing_to_draw(tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    for path in (folder.accuracy, folder.rounds, folder.partition, folder.summary):
        path.unlink()
    with pytest.raises(StoreError, match="nothing to draw yet"):
        draw_run(folder.path)


def test_the_accuracy_figure_shows_the_metrics_and_says_how_many_runs(tmp_path: Path) -> None:
    run = load_run(make_run(tmp_path).path)
    figure = accuracy_figure(run)
    drawn = np.asarray(figure.axes[0].lines[0].get_ydata())
    np.testing.assert_allclose(drawn, 100 * metrics.accuracy_after_each_task(*metrics.accuracy_matrix(run.rows)))
    assert "lander · blobs, 3 tasks, dirichlet 0.5 · seed 0 (n = 1)" in texts(figure)
    assert {"all seen", "new task", "old tasks"} <= set(texts(figure))
    assert figure.axes[0].get_ylabel() == "accuracy (%)"


def test_the_matrix_figure_shows_every_number(tmp_path: Path) -> None:
    run = load_run(make_run(tmp_path).path)
    assert sorted(t.get_text() for t in matrix_figure(run).axes[0].texts) == sorted(
        f"{100 * row.accuracy:.1f}" for row in run.rows
    )


def test_the_rounds_figure_marks_the_tasks_and_names_the_terms(tmp_path: Path) -> None:
    figure = rounds_figure(load_run(make_run(tmp_path).path))
    assert {"task 1", "task 2", "task 3", "ce", "kd", "bounding"} <= set(texts(figure))
    assert len(figure.axes) == 2


def test_the_rounds_figure_does_without_accuracy(tmp_path: Path) -> None:
    run = load_run(make_run(tmp_path).path)
    for record in run.rounds:
        del record["accuracy"]
    assert len(rounds_figure(run).axes) == 1


def test_the_partition_figure_shows_what_each_client_holds(tmp_path: Path) -> None:
    run = load_run(make_run(tmp_path, clients=4).path)
    counts, names = run.partition()
    axes = partition_figure(run).axes[0]
    drawn: np.ndarray = np.nan_to_num(np.ma.filled(np.ma.asarray(axes.images[0].get_array()), 0))
    np.testing.assert_array_equal(drawn, counts.sum(axis=0))
    assert [t.get_text() for t in axes.get_xticklabels()] == names


def test_figures_are_as_wide_as_a_column(tmp_path: Path) -> None:
    run = load_run(make_run(tmp_path, tasks=2, rounds=1).path)
    assert 2.54 * accuracy_figure(run).get_size_inches()[0] == pytest.approx(8.5, abs=0.02)  # centimetres


# Several runs -------------------------------------------------------------------------------------


def test_strategies_are_compared_by_mean_and_range_over_seeds(tmp_path: Path) -> None:
    runs = find_runs([make_results(tmp_path)])
    figure = curves_figure(group_runs(runs), accuracy_curve, "Accuracy", "accuracy (%)")
    axes = figure.axes[0]
    lander = np.stack([accuracy_curve(run) for run in runs if run.strategy == "lander"])
    np.testing.assert_allclose(np.asarray(axes.lines[1].get_ydata()), lander.mean(axis=0))
    band = axes.collections[1].get_paths()[0].vertices
    assert np.asarray(band)[:, 1].max() == pytest.approx(lander.max())
    assert {"finetune", "lander", "blobs, 3 tasks, dirichlet 0.5 · mean and min\N{EN DASH}max of 2 seeds"} <= set(
        texts(figure)
    )


def test_one_seed_is_said_to_be_one(tmp_path: Path) -> None:
    runs = find_runs([make_results(tmp_path, seeds=[0])])
    figure = curves_figure(group_runs(runs), forgetting_curve, "Forgetting", "points")
    assert "blobs, 3 tasks, dirichlet 0.5 · one seed (n = 1)" in texts(figure)
    assert not figure.axes[0].collections


def test_unequal_numbers_of_seeds_are_said_at_each_line(tmp_path: Path) -> None:
    make_results(tmp_path)
    make_run(tmp_path, "target", variant="0000000a")
    figure = curves_figure(group_runs(find_runs([tmp_path])), accuracy_curve, "Accuracy", "accuracy (%)")
    assert {"finetune, n = 2", "lander, n = 2", "target, n = 1"} <= set(texts(figure))


def test_each_split_has_its_own_figures(tmp_path: Path) -> None:
    make_run(tmp_path, tasks=2, variant="0000000a")
    make_run(tmp_path, tasks=3, variant="0000000b")
    names = {p.name for p in draw_comparison(find_runs([tmp_path]), tmp_path / "figures") if p.suffix == ".pdf"}
    ends = ("2-tasks-dirichlet-0.5.pdf", "3-tasks-dirichlet-0.5.pdf")
    assert names == {f"{kind}-blobs-{end}" for kind in ("accuracy", "forgetting") for end in ends}


def test_nothing_to_compare_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="nothing to compare"):
        draw_comparison([], tmp_path)


def test_variants_of_a_strategy_are_told_apart_by_what_differs(tmp_path: Path) -> None:
    make_run(tmp_path, variant="0000000a", radius=0.01, steps=5)
    make_run(tmp_path, variant="0000000b", radius=0.02, steps=5)
    make_run(tmp_path, "finetune", variant="0000000c")
    labels = [g.label for g in group_runs(find_runs([tmp_path]))]
    assert labels == ["finetune", "lander (radius 0.01)", "lander (radius 0.02)"]


def test_variants_with_equal_settings_are_told_apart_by_their_hash(tmp_path: Path) -> None:
    make_run(tmp_path, variant="0000000a")
    make_run(tmp_path, variant="0000000b")
    assert [g.label for g in group_runs(find_runs([tmp_path]))] == ["lander (0000000a)", "lander (0000000b)"]


# Labels and grids ---------------------------------------------------------------------------------


def test_labels_are_moved_apart_and_stay_inside() -> None:
    heights = np.full(5, 10.0)
    placed = spread(np.array([99.0, 50.0, 99.0, 1.0, 98.0]), heights, 0.0, 100.0)
    assert np.diff(np.sort(placed)).min() >= 10 - 1e-6
    assert placed.min() >= 0
    assert placed.max() <= 100
    assert placed[1] == 50.0
    assert placed[4] < placed[0] < placed[2]


def test_labels_with_room_stay_where_they_are() -> None:
    wanted = np.array([70.0, 10.0, 40.0])
    np.testing.assert_array_equal(spread(wanted, np.full(3, 10.0), 0.0, 100.0), wanted)


def test_a_grid_has_a_named_row_for_each_of_ten_classes() -> None:
    x = np.zeros((60, 3, 8, 8), dtype=np.uint8)
    figure = synthetic_grid(x, np.arange(60) % 20, [f"c{i}" for i in range(20)])
    words = texts(figure)
    assert words[0] == "Synthetic samples of 10 out of 20 classes (60 in the pool)"
    assert words[1:] == ["c0", "c2", "c4", "c6", "c8", "c11", "c13", "c15", "c17", "c19"]


def test_a_grid_enlarges_pixels_without_mixing_them() -> None:
    x = np.zeros((2, 3, 2, 2), dtype=np.uint8)
    x[0, 0, 0, 0] = x[1, 2, 1, 1] = 255
    figure = synthetic_grid(x, np.array([0, 1]), ["a", "b"])
    drawn = np.asarray(figure.axes[0].images[0].get_array())
    np.testing.assert_array_equal(drawn[:32, :32], np.broadcast_to([1.0, 0, 0], (32, 32, 3)))
    np.testing.assert_array_equal(drawn[:32, 32:64], np.zeros((32, 32, 3)))
    np.testing.assert_array_equal(drawn[68 + 32 : 68 + 64, 32:64], np.broadcast_to([0, 0, 1.0], (32, 32, 3)))


def test_float_images_outside_the_unit_range_are_stretched() -> None:
    x = np.array([-1.0, 0.0, 3.0, np.nan]).reshape(1, 1, 2, 2)
    np.testing.assert_allclose(to_images(x)[0], [[0.0, 0.25], [1.0, 0.25]])
    inside = np.array([0.1, 0.9]).reshape(1, 1, 1, 2)
    np.testing.assert_allclose(to_images(inside)[0], [[0.1, 0.9]], rtol=1e-6)


@pytest.mark.parametrize("shape", [(0, 3, 8, 8), (5, 1, 8, 8), (5, 3, 224, 224), (5, 2, 30)])
def test_any_pool_can_be_drawn(shape: tuple[int, ...]) -> None:
    x = np.random.Generator(np.random.Philox(0)).normal(size=shape)
    picture = png(synthetic_grid(x, np.arange(shape[0]) % 3, ["$a_b$"]))
    assert picture.startswith(b"\x89PNG")
