"""Figures of one run and of several: what they show, and which files they are."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import matplotlib as mpl
import matplotlib.image
import numpy as np
import pytest
import torch
import yaml
from figure_texts import texts
from matplotlib.figure import Figure
from matplotlib.text import Text
from run_folders import make_results, make_run

from fcil import metrics
from fcil.errors import StoreError
from fcil.plots import draw_comparison, draw_run, synthetic_grid
from fcil.plots.comparison import accuracy_curve, curves_figure, forgetting_curve, matrices
from fcil.plots.cost import bytes_accuracy_figure, bytes_figure, sent
from fcil.plots.grid import to_images
from fcil.plots.look.labels import spread
from fcil.plots.look.style import png
from fcil.plots.many import save_all
from fcil.plots.panels import lines_figure, matrices_figure, task_accuracies, task_drops
from fcil.plots.partition import partition_figure
from fcil.plots.run import accuracy_figure, matrix_figure, rounds_figure, tasks_figure
from fcil.store import RunRecorder, find_runs, load_run
from fcil.store.groups import group_runs


@pytest.fixture(autouse=True)
def _warnings_are_errors() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_a_run_is_drawn_as_png_and_pdf(tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    paths = draw_run(folder.path)
    names = ("accuracy", "forgetting", "tasks", "matrix", "rounds", "bytes", "partition", "synthetic")
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
    assert names == {"accuracy", "matrix", "rounds", "bytes", "partition", "synthetic"}


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


def test_the_partition_figure_has_a_disc_for_what_a_client_holds_and_none_for_nothing(tmp_path: Path) -> None:
    run = load_run(make_run(tmp_path, clients=4).path)
    counts, names = run.partition()
    axes = partition_figure(run).axes[0]
    table = counts.sum(axis=0)
    (discs,) = axes.collections
    places = np.asarray(discs.get_offsets()).astype(int)
    areas = np.asarray(discs.get_sizes())
    assert {(c, k) for k, c in places.tolist()} == set(zip(*(axis.tolist() for axis in np.nonzero(table)), strict=True))
    held = table[places[:, 1], places[:, 0]]
    large = areas > 0.5  # what is smaller still is drawn as large as can be seen
    np.testing.assert_allclose(areas[large] / areas.max(), held[large] / held.max(), rtol=1e-6)
    assert [t.get_text() for t in axes.get_xticklabels()] == names


def test_a_federation_too_large_for_discs_is_drawn_in_shades(tmp_path: Path) -> None:
    folder = make_run(tmp_path, tasks=2, rounds=1)
    counts = np.zeros((2, 300, 4), dtype=int)
    counts[0, :, :2] = 7
    folder.write_partition({"class_names": list("abcd"), "counts": counts.tolist()})
    axes = partition_figure(load_run(folder.path)).axes[0]
    drawn = np.ma.asarray(axes.images[0].get_array())
    np.testing.assert_array_equal(np.nan_to_num(np.ma.filled(drawn, 0)), counts.sum(axis=0))


def test_figures_are_as_wide_as_a_column_and_no_letter_is_below_seven_points(tmp_path: Path) -> None:
    make_results(tmp_path)
    runs = find_runs([tmp_path])
    groups, run = group_runs(runs), load_run(runs[-1].path)
    figures = [draw(run) for draw in (accuracy_figure, matrix_figure, rounds_figure, tasks_figure, bytes_figure)]
    figures += [partition_figure(run), curves_figure(groups, accuracy_curve, "Accuracy", "percent")]
    figures += [bytes_accuracy_figure(groups), matrices_figure(groups)]
    for figure in figures:
        assert figure.get_size_inches()[0] == pytest.approx(3.3)
        sizes = [t.get_fontsize() for t in figure.findobj(Text) if isinstance(t, Text) and t.get_text()]
        assert min(sizes) >= 7


def test_bytes_are_added_up_with_what_ends_a_task(tmp_path: Path) -> None:
    folder = make_run(tmp_path, tasks=2, rounds=2)
    RunRecorder(folder).task_concluded(2, {"bytes_up": 50, "bytes_down": 7})
    run = load_run(folder.path)
    up, down = sent(run)
    assert up.tolist() == [4000, 8000, 12000, 16050]
    assert down.tolist() == [4800, 9600, 14400, 19207]
    drawn = np.asarray(bytes_figure(run).axes[1].lines[0].get_xdata())
    assert drawn.tolist() == [17600, 35257]


def test_fonts_in_a_pdf_are_whole_ones(tmp_path: Path) -> None:
    (path,) = (
        p for p in draw_run(make_run(tmp_path, tasks=2, rounds=1).path, kinds=["accuracy"]) if p.suffix == ".pdf"
    )
    assert b"/FontFile2" in path.read_bytes()  # TrueType, as publishers ask; Type 3 would be drawn shapes
    assert b"/Type3" not in path.read_bytes()


def test_a_run_is_drawn_where_it_is_asked_to_be(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "runs", tasks=2, rounds=1)
    paths = draw_run(folder.path, tmp_path / "figures", ["matrix", "bytes"])
    assert [p.relative_to(tmp_path).as_posix() for p in paths] == [
        f"figures/{name}.{kind}" for name in ("matrix", "bytes") for kind in ("png", "pdf")
    ]
    with pytest.raises(StoreError, match=r"nothing to draw as task_forgetting$"):
        draw_run(folder.path, tmp_path / "figures", ["accuracy", "task_forgetting"])


# Several runs -----------------------------------------------------------------------------------


def test_strategies_are_compared_by_mean_and_range_over_seeds(tmp_path: Path) -> None:
    runs = find_runs([make_results(tmp_path)])
    figure = curves_figure(group_runs(runs), accuracy_curve, "Accuracy", "accuracy (%)")
    axes = figure.axes[0]
    lander = np.stack([accuracy_curve(run) for run in runs if run.strategy == "lander"])
    np.testing.assert_allclose(np.asarray(axes.lines[1].get_ydata()), lander.mean(axis=0))
    band = axes.collections[1].get_paths()[0].vertices
    assert np.asarray(band)[:, 1].max() == pytest.approx(lander.max())
    assert {"finetune", "lander", "blobs, 3 tasks, dirichlet 0.5 · mean and range of 2 seeds"} <= set(texts(figure))


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


def test_a_method_that_was_chosen_is_named_before_settings_that_follow_from_it(tmp_path: Path) -> None:
    for k, (name, lr, steps) in enumerate([("fast", 0.1, 5), ("nayer", 0.2, 5), ("nayer", 0.2, 6)]):
        run = make_run(tmp_path, "distill", variant=f"0000000{k}").path
        config = yaml.safe_load((run / "config.yaml").read_text())
        config["optimizer"] = {"lr": lr, "weight_decay": lr / 2, "momentum": lr / 3}
        config["strategy"] = {"distill": {"synthesizer": {name: {"steps": steps, "width": steps}}}}
        (run / "config.yaml").write_text(yaml.safe_dump(config))
    labels = [g.label for g in group_runs(find_runs([tmp_path]))]
    assert labels == ["distill (fast)", "distill (nayer, steps 5, width 5)", "distill (nayer, steps 6, width 6)"]


def test_each_split_has_its_own_figures(tmp_path: Path) -> None:
    make_run(tmp_path, tasks=2, variant="0000000a")
    make_run(tmp_path, tasks=3, variant="0000000b")
    names = {p.name for p in draw_comparison(find_runs([tmp_path]), tmp_path / "figures") if p.suffix == ".pdf"}
    ends = ("2-tasks-dirichlet-0.5.pdf", "3-tasks-dirichlet-0.5.pdf")
    kinds = ("accuracy", "forgetting", "tasks", "task_forgetting", "matrix", "bytes")
    assert names == {f"{kind}-blobs-{end}" for kind in kinds for end in ends}


def test_fourteen_strategies_are_all_named_and_no_two_names_touch(tmp_path: Path) -> None:
    for number in range(14):
        make_run(tmp_path, f"strategy{number}", tasks=2, rounds=1, variant=f"{number:08x}")
    axes = curves_figure(group_runs(find_runs([tmp_path])), accuracy_curve, "Accuracy", "percent").axes[0]
    named = [t for t in axes.texts if t.get_text()]
    boxes = [t.get_window_extent() for t in named]
    assert len(boxes) == 14
    assert not any(a.y0 < b.y1 - 1 and b.y0 < a.y1 - 1 for i, a in enumerate(boxes) for b in boxes[i + 1 :])
    finals = [float(np.asarray(line.get_ydata())[-1]) for line in axes.lines]
    heights = [t.xy[1] for t in named]
    assert heights == finals
    order = np.argsort(finals, kind="stable")
    assert np.all(np.diff([boxes[i].y0 for i in order]) > 0)  # the names stand in the order of the final values


def test_what_each_task_loses_is_counted_from_its_best(tmp_path: Path) -> None:
    (run,) = find_runs([make_run(tmp_path).path])
    drops, matrix = task_drops(run), 100 * metrics.accuracy_matrix(run.rows)[0]
    assert np.nanmin(drops) >= 0
    assert drops[2, 0] == pytest.approx(matrix[:, 0].max() - matrix[2, 0])
    assert np.isnan(drops[0, 1])
    last = metrics.accuracy_matrix(run.rows)[0]
    expected = np.maximum(100 * metrics.per_task_forgetting(last), 0)
    np.testing.assert_allclose(drops[-1, :-1], expected, atol=1e-9)


def test_matrices_and_lines_are_means_over_seeds(tmp_path: Path) -> None:
    runs = find_runs([make_results(tmp_path)])
    groups = group_runs(runs)
    lander = np.stack([task_accuracies(run) for run in runs if run.strategy == "lander"])
    picture = matrices_figure(groups).axes[1].images[0].get_array()
    np.testing.assert_allclose(np.ma.filled(np.ma.asarray(picture), np.nan), lander.mean(axis=0))
    figure = lines_figure(groups, task_accuracies, "Accuracy on each task", "accuracy (%)")
    assert [axes.get_title() for axes in figure.axes] == ["finetune", "lander"]
    np.testing.assert_allclose(np.asarray(figure.axes[1].lines[0].get_ydata()), lander.mean(axis=0)[:, 0])
    (alone,) = matrices([groups[1]]).axes[0].images
    np.testing.assert_allclose(np.ma.filled(np.ma.asarray(alone.get_array()), np.nan), lander.mean(axis=0))


def test_accuracy_by_bytes_lists_the_best_first(tmp_path: Path) -> None:
    runs = find_runs([make_results(tmp_path)])
    axes = bytes_accuracy_figure(group_runs(runs)).axes[0]
    legend = axes.get_legend()
    assert legend is not None
    assert [t.get_text().split()[0] for t in legend.get_texts()] == ["lander", "finetune"]


def test_many_settings_are_drawn_as_two_figures_unless_more_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fcil.plots.comparison.MOST_GROUPS", 1)
    runs = find_runs([make_results(tmp_path / "runs", seeds=[0])])
    assert {p.stem for p in draw_comparison(runs, tmp_path / "a")} == {"accuracy", "forgetting"}
    assert {p.stem for p in draw_comparison(runs, tmp_path / "b", ["bytes"])} == {"bytes"}
    with pytest.raises(StoreError, match="nothing to compare as partition: give the folder of one run"):
        draw_comparison(runs, tmp_path / "c", ["accuracy", "partition"])
    assert not (tmp_path / "c").exists()


def test_two_processes_draw_what_one_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = find_runs([make_results(tmp_path / "runs", seeds=[0])])
    alone = draw_comparison(runs, tmp_path / "a", ["accuracy", "forgetting"])
    monkeypatch.setattr("fcil.plots.many.FEW", 1)
    monkeypatch.setattr("fcil.plots.many._processors", lambda: 2)
    both = draw_comparison(runs, tmp_path / "b", ["accuracy", "forgetting"])
    assert [p.name for p in both] == [p.name for p in alone]
    assert [p.read_bytes() for p in both] == [p.read_bytes() for p in alone]
    (tmp_path / "c").write_text("no folder")
    with pytest.raises(StoreError, match="cannot be written"):  # whichever process meets it
        draw_comparison(runs, tmp_path / "c", ["accuracy", "forgetting"])


def test_a_helper_that_does_not_end_is_ended_and_its_share_drawn_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, threads = os.getpid(), torch.get_num_threads()
    monkeypatch.setattr("fcil.plots.many.FEW", 1)
    monkeypatch.setattr("fcil.plots.many.PATIENCE", 0.5)
    monkeypatch.setattr("fcil.plots.many._processors", lambda: 2)

    def draw(name: str) -> Figure:
        if os.getpid() != here:
            (tmp_path / "threads").write_text(str(torch.get_num_threads()))
            time.sleep(60)
        return Figure(label=name)

    began = time.monotonic()
    torch.set_num_threads(2)  # a copy of a process with threads of its own would wait for threads it does not have
    try:
        paths = save_all([(tmp_path / name, partial(draw, name)) for name in "ab"])
    finally:
        torch.set_num_threads(threads)
    assert all(path.is_file() for path in paths)
    assert (tmp_path / "threads").read_text() == "1"
    assert time.monotonic() - began < 30


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


# Labels and grids -------------------------------------------------------------------------------


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
    assert words[0] == "Samples of 10 of 20 classes (60, 1 distinct)"
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
