from __future__ import annotations

import json
import os
import subprocess
import sys
import unicodedata
import warnings
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.image
import numpy as np
import pytest
from command_line import Command, assert_refused
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.text import Text
from run_folders import make_partition, make_results, make_run

from fcil import metrics
from fcil.errors import ConfigError, StoreError
from fcil.plots import KINDS, check_kinds, draw_comparison, draw_run, remarks, styled, synthetic_grid
from fcil.plots.comparison import accuracy_curve, curves_figure, forgetting_curve, matrices
from fcil.plots.cost import bytes_accuracy_figure, bytes_figure, sent
from fcil.plots.grid import class_name, to_images
from fcil.plots.look import words
from fcil.plots.look.colours import HOUSE, Name, line_style, places
from fcil.plots.look.labels import spread
from fcil.plots.look.style import CYCLE, look, png
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


def texts(figure: Figure) -> list[str]:
    inside = [t.get_text() for axes in figure.axes for t in axes.texts]
    return [t.get_text() for t in figure.texts] + inside


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
    with pytest.raises(StoreError, match="nothing to draw as task_forgetting yet"):
        draw_run(folder.path, tmp_path / "figures", ["accuracy", "task_forgetting"])


# Style --------------------------------------------------------------------------------------------


def test_a_style_file_is_laid_over_the_look_of_the_house(tmp_path: Path) -> None:
    path = tmp_path / "mine.mplstyle"
    path.write_text(
        "# mine\nfont.size: 9  # larger\naxes.prop_cycle: cycler('color', ['123456'])\naxes.edgecolor: \"#ff0000\"\n"
    )
    before = dict(mpl.rcParams)
    with styled(path), look():
        assert (mpl.rcParams["font.size"], mpl.rcParams["pdf.fonttype"]) == (9.0, 42)
        assert line_style(0)["color"] == line_style(1)["color"] == "#123456"
    with look():
        assert mpl.rcParams["font.size"] == 7.0
        assert line_style(0)["color"] == CYCLE[0]
    assert dict(mpl.rcParams) == before


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("axes.labelsiz: 7\n", 'line 1: unknown setting "axes.labelsiz". Did you mean "axes.labelsize"?'),
        ("\nlines.linewidth: wide\n", "line 2: lines.linewidth: 'wide' is not allowed"),
        ("font.size\n", "line 1: 'font.size' is no setting; expected `key: value`"),
        ("backend: TkAgg\n", "backend is not a matter of style here"),
        ("text.usetex: true\n", "text.usetex is not a matter of style here"),
        ("axes.prop_cycle: cycler(__import__('os').system('x'))\n", "axes.prop_cycle: "),
        (b"\xff\x00", "not UTF-8 text"),
    ],
)
def test_a_style_file_that_is_none_is_refused_in_one_line(tmp_path: Path, content: str | bytes, said: str) -> None:
    path = tmp_path / "bad.mplstyle"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError) as caught, styled(path):
        pass
    assert str(caught.value).startswith(str(path))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_style_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"), styled(tmp_path / "nowhere"):
        pass


def test_no_two_of_forty_lines_look_alike() -> None:
    found = {tuple(map(str, line_style(k).values())) for k in range(40)}
    assert len(found) == 40
    eight = [line_style(k) for k in range(8)]
    assert len({style["marker"] for style in eight}) == 8


def test_an_unknown_kind_of_figure_is_named_with_its_neighbour() -> None:
    check_kinds(list(KINDS))
    with pytest.raises(ConfigError, match=r'unknown kind "matrx" .*Did you mean "matrix"'):
        check_kinds(["accuracy", "matrx"])


# Several runs -------------------------------------------------------------------------------------


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


# Colours ------------------------------------------------------------------------------------------


def colour_of(folder: Path, strategies: Sequence[str], name: str) -> tuple[Any, ...]:
    """Colour, dashes and marker of a strategy in a figure of these."""
    for number, strategy in enumerate(strategies):
        make_run(folder, strategy, tasks=2, rounds=1, variant=f"{number:08x}")
    groups = group_runs(find_runs([folder]))
    axes = curves_figure(groups, accuracy_curve, "Accuracy", "percent").axes[0]
    line = axes.lines[[group.label for group in groups].index(name)]
    return line.get_color(), str(line.get_linestyle()), line.get_marker()


@pytest.mark.parametrize("name", ["finetune", "lander", "mine"])
def test_a_strategy_is_drawn_alike_whoever_is_drawn_beside_it(tmp_path: Path, name: str) -> None:
    company = ([], ["joint"], ["aaa", "joint", "target"], ["fedlwf", "zzz"])
    found = {colour_of(tmp_path / str(k), [*others, name], name) for k, others in enumerate(company)}
    assert len(found) == 1


def test_strategies_of_the_house_differ_and_floor_and_ceiling_keep_their_colours() -> None:
    names = [Name(name, "0" * 8, name) for name in HOUSE]
    assert len(HOUSE) == 14
    with look():
        drawn = [line_style(place) for place in places(names)]
    assert len({(str(style["color"]), str(style["linestyle"])) for style in drawn}) == 14
    own = {style["color"] for name, style in zip(HOUSE, drawn, strict=True) if name in ("finetune", "joint")}
    assert own.isdisjoint(s["color"] for n, s in zip(HOUSE, drawn, strict=True) if n not in ("finetune", "joint"))
    shipped = {path.stem for path in (Path(__file__).parents[2] / "strategies").glob("[!_]*.py")}
    assert shipped - {"distill"} <= set(HOUSE)


def test_places_of_unknown_names_come_from_their_hash_and_no_two_are_alike() -> None:
    for names in (["mine"], ["mine", "yours", "theirs"], [f"method{k}" for k in range(40)], ["mine", *HOUSE]):
        asked = [Name(name, "0" * 8, name) for name in names]
        found = places(asked)
        assert len(set(found)) == len(names)
        assert places(asked[::-1]) == found[::-1]
        colours = {place % len(CYCLE) for place in found}
        assert len(colours) == min(len(names), len(CYCLE))
    first = {places([Name(f"method{k}", "0" * 8, "")])[0] for k in range(40)}
    assert first == set(range(6))  # not gray and black, which are for floor and ceiling


def test_settings_of_a_strategy_share_its_colour_beside_others_and_have_their_own_alone() -> None:
    def lander(k: int) -> Name:
        return Name("lander", f"{k:08x}", f"lander (radius {k})")

    joint = Name("joint", "0" * 8, "joint")
    with look():
        mixed = [line_style(place) for place in places([joint, lander(1), lander(2), Name("glfc", "0" * 8, "glfc")])]
        alone = [line_style(place) for place in places([lander(k) for k in range(5)])]
    assert mixed[1]["color"] == mixed[2]["color"] == mixed[3]["color"] == CYCLE[0]
    assert len({(str(style["linestyle"]), style["marker"]) for style in mixed[1:]}) == 3
    assert mixed[1] == line_style_of("lander")
    assert len({style["color"] for style in alone}) == 5


def line_style_of(name: str) -> dict[str, Any]:
    with look():
        return line_style(HOUSE[name])


def test_a_file_says_how_names_are_drawn(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text('lander: "#ff0000"\nfinetune: {colour: navy, dash: dotted, marker: x}\nnobody: red\n')
    groups = group_runs(find_runs([make_results(tmp_path / "runs", seeds=[0])]))
    with styled(colours=path):
        lines = curves_figure(groups, accuracy_curve, "Accuracy", "percent").axes[0].lines
        assert [(line.get_color(), line.get_linestyle(), line.get_marker()) for line in lines] == [
            ("navy", ":", "x"), ("#ff0000", "-", "o"),
        ]  # fmt: skip
        runs = [run for group in groups for run in group.runs]
        assert remarks(runs) == ['colours: "nobody" is not drawn.']
        assert "several runs" in remarks(runs[:1])[0]
    assert curves_figure(groups, accuracy_curve, "", "").axes[0].lines[1].get_color() == CYCLE[0]
    assert remarks(runs) == []


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("lander: #0072B2\n", 'lander: null is not allowed; a colour of hex digits stands in quotes: "#0072B2"'),
        (
            "lander: crimsn\n",
            'lander.colour: "crimsn" is no colour (crimson and "#0072B2" are). Did you mean "crimson"?',
        ),
        ("lander: none\n", 'lander.colour: "none" is no colour'),
        ("lander: {color: red}\n", "lander.color: unknown key (allowed: colour, dash, marker)"),
        ("lander: {dash: wavy}\n", "lander.dash: 'wavy' is not allowed"),
        ("lander: {marker: heart}\n", 'lander.marker: "heart" is no marker (have: '),
        ("lander: 3\n", "lander: 3 is not allowed"),
        ("- lander\n", "expected a mapping of names to colours"),
        ("", "expected a mapping of names to colours"),
    ],
)
def test_a_file_of_colours_that_is_none_is_refused_in_one_line(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError) as caught, styled(colours=path):
        pass
    assert str(caught.value).startswith(f"{path}: ")
    assert said in str(caught.value)


def test_the_command_takes_colours_and_leaves_titles_away(tmp_path: Path, command: Command) -> None:
    home = make_results(tmp_path / "runs", seeds=[0])
    colours = tmp_path / "mine.yaml"
    colours.write_text("lander: crimson\nfinetun: navy\n")
    command("plot", home, "--kind", "accuracy", "--out", tmp_path / "a")
    said = command("plot", home, "--kind", "accuracy", "--colours", colours, "--no-titles", "--out", tmp_path / "b")
    assert said.code == 0
    assert said.err == 'colours: "finetun" is not drawn. Did you mean "finetune"?\n'
    heights = [mpl.image.imread(tmp_path / name / "accuracy.png").shape[0] for name in "ab"]
    assert heights[1] < heights[0]
    assert not (home / "drawn.json").exists()  # what lies elsewhere is no figure of the folder
    assert_refused(command("plot", home, "--colors", tmp_path / "none.yaml"), "none.yaml: no such file")
    assert command("plot", home, "--kind", "accuracy").code == 0
    assert list(json.loads((home / "drawn.json").read_text())["figures"]) == ["accuracy"]


# For a paper --------------------------------------------------------------------------------------


def numbers_of(axis: Axis) -> list[str]:
    """The numbers beside an axis, within its ends."""
    low, high = axis.get_view_interval()
    ticks = [v for v in axis.get_majorticklocs() if low <= v <= high]
    return [str(axis.get_major_formatter()(v)) for v in ticks]


@pytest.mark.parametrize(
    "sizes",
    [
        (90e6, 95e6),
        (75e6, 75e6),
        (75e6, 75.1e6),
        (1e6, 9e6),
        (1.1e6, 1.9e6),
        (3e6, 40e6),
        (11e6, 385e6),
        (1e3, 9e9),
        (1, 2),
    ],
)
def test_an_axis_of_bytes_has_numbers_wherever_the_runs_lie(tmp_path: Path, sizes: tuple[float, float]) -> None:
    for number, size in enumerate(sizes):
        folder = make_run(tmp_path, f"strategy{number}", tasks=2, rounds=1, variant=f"{number:08x}")
        told = json.loads(folder.summary.read_text())
        folder.summary.write_text(json.dumps({**told, "bytes_up": int(size), "bytes_down": 0}))
    figure = bytes_accuracy_figure(group_runs(find_runs([tmp_path])))
    numbers = numbers_of(figure.axes[0].xaxis)
    assert len(numbers) >= 2
    assert len(set(numbers)) == len(numbers)
    figure.draw_without_rendering()
    drawn = [t for t in figure.axes[0].get_xticklabels() if t.get_text() in numbers]
    boxes = sorted((t.get_window_extent() for t in drawn), key=lambda box: box.x0)
    assert len(boxes) == len(numbers)
    assert all(a.x1 < b.x0 for a, b in pairwise(boxes))
    low, high = figure.axes[0].get_xlim()
    assert low < min(sizes) <= max(sizes) < high


def test_figures_without_titles_are_lower_and_their_axes_as_large(tmp_path: Path) -> None:
    make_results(tmp_path, seeds=[0])
    runs = find_runs([tmp_path])
    groups, run = group_runs(runs), load_run(runs[-1].path)
    draws = [partial(draw, run) for draw in (accuracy_figure, matrix_figure, rounds_figure, bytes_figure, tasks_figure)]
    draws += [partial(partition_figure, run), partial(bytes_accuracy_figure, groups), partial(matrices_figure, groups)]
    draws += [partial(curves_figure, groups, accuracy_curve, "Accuracy", "percent")]
    for draw in draws:
        whole = draw()
        with styled(titles=False):
            bare = draw()
        (title,) = (t.get_text() for t in whole.texts if t.get_fontweight() == "bold")
        assert title not in texts(bare)
        assert not any("n = 1" in text for text in texts(bare))
        assert bare.get_size_inches()[0] == whole.get_size_inches()[0]
        assert bare.get_size_inches()[1] < whole.get_size_inches()[1] - 0.3
        for figure in (whole, bare):
            figure.draw_without_rendering()
        heights = [figure.axes[0].get_window_extent().height / figure.dpi for figure in (whole, bare)]
        assert heights[1] == pytest.approx(heights[0], abs=0.05)
    x = np.zeros((2, 1, 8, 8), np.uint8)
    with styled(titles=False):
        assert texts(synthetic_grid(x, np.array([0, 1]), ["a", "b"])) == ["a", "b"]


@pytest.mark.parametrize(("count", "tasks"), [(2, 5), (6, 5), (6, 10), (14, 5)])
def test_matrices_of_many_strategies_have_numbers_that_fit(tmp_path: Path, count: int, tasks: int) -> None:
    for number in range(count):
        make_run(tmp_path, f"strategy{number}", tasks=tasks, rounds=1, variant=f"{number:08x}")
    groups = group_runs(find_runs([tmp_path]))
    figure = matrices_figure(groups)
    figure.draw_without_rendering()
    for axes, group in zip(figure.axes, groups, strict=False):
        told = [t.get_text() for t in axes.texts]
        assert sorted(told) == sorted(f"{v:.0f}" for v in task_accuracies(group.runs[0]).ravel() if np.isfinite(v))
        cell = axes.get_window_extent().width / tasks
        assert all(t.get_window_extent().width <= cell for t in axes.texts)
    assert figure.get_size_inches()[0] in (3.3, 6.9)
    assert figure.get_size_inches()[1] < 11


def test_matrices_whose_numbers_would_not_fit_have_none(tmp_path: Path) -> None:
    for number in range(6):
        make_run(tmp_path, f"strategy{number}", tasks=30, rounds=1, variant=f"{number:08x}")
    figure = matrices_figure(group_runs(find_runs([tmp_path])))
    assert not any(axes.texts for axes in figure.axes)


# Words --------------------------------------------------------------------------------------------

BIRD = "a very long name of a bird, common kingfisher (Alcedo atthis)"
NAMES = ["猫の写真がとても長い名前です", "كلب", BIRD, "$x_1$ & 50% \\frac", "😀🐱", "प"]


def test_names_of_any_alphabet_and_length_stay_in_their_place_without_a_word_on_the_terminal(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = make_run(tmp_path, tasks=3, rounds=1)
    folder.write_partition(make_partition(3, 4, 0) | {"class_names": NAMES})
    draw_run(folder.path)
    long = "a_strategy_with_a_very_long_name_of_its_own_version_"
    for number, strategy in enumerate([f"{long}one", f"{long}two", "方法", "α$_{β}$"]):
        for seed in range(1 + number % 2):
            make_run(tmp_path, strategy, seed, tasks=3, rounds=1, variant=f"{number + 5:08x}")
    groups, run = group_runs(find_runs([tmp_path])), load_run(folder.path)
    draw_comparison(find_runs([tmp_path]), tmp_path / "figures")
    figures = [partition_figure(run), curves_figure(groups, accuracy_curve, "Accuracy", "percent")]
    figures += [bytes_accuracy_figure(groups), matrices_figure(groups), lines_figure(groups, task_accuracies, "x", "y")]
    figures += [synthetic_grid(np.zeros((6, 1, 8, 8), np.uint8), np.arange(6), NAMES)]
    for figure in figures:
        figure.draw_without_rendering()
        width, height = figure.get_size_inches() * figure.dpi
        for text in figure.findobj(Text):
            assert isinstance(text, Text)
            if text.get_text().strip() and text.get_visible():
                box = text.get_window_extent()
                assert box.x0 >= -1, text
                assert box.x1 <= width + 1, text
                assert box.y0 >= -1, text
                assert box.y1 <= height + 1, text
        for axes in figure.axes:
            box = axes.get_window_extent()
            assert box.height > 0.5 * figure.dpi, "the names leave room for what they name"
    assert capfd.readouterr() == ("", "")
    shown = texts(figures[1])
    assert any(t.startswith("a_str") and "_two" in t for t in shown)  # both ends: names may begin alike
    assert any(t.startswith("a_str") and "_one" in t for t in shown)
    assert [t.get_text() for t in figures[0].axes[0].get_xticklabels()][1] == NAMES[1]
    assert NAMES[4] in texts(figures[5])


def test_a_letter_that_no_font_has_is_a_square_and_one_that_another_font_has_is_drawn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(words, "_extra", [])
    with look():
        points = words._points("STIXGeneral") - words._points("DejaVu Sans")
        only = min(point for point in points if chr(point).isprintable() and unicodedata.category(chr(point)) != "Mn")
        monkeypatch.setattr(words, "_others", lambda: ())
        assert words.drawable(f"a{chr(only)}b\N{VARIATION SELECTOR-16}") == f"a{words.SQUARE}b\N{VARIATION SELECTOR-16}"
        assert words.drawable("\U000e0101") == ""  # what only changes a letter before it
        assert class_name(1, ["x", chr(only)]) == "class 1"
        assert class_name(0, ["x", chr(only)]) == "x"
        monkeypatch.setattr(words, "_others", lambda: ("STIXGeneral",))
        assert words.drawable(f"a{chr(only)}b") == f"a{chr(only)}b"
        figure = Figure(figsize=(1, 1))
        assert "STIXGeneral" in figure.text(0.5, 0.5, chr(only)).get_fontfamily()
        figure.draw_without_rendering()  # which would warn
    with look():
        assert mpl.rcParams["font.family"] == ["DejaVu Sans", "STIXGeneral"]


def test_what_is_too_long_loses_its_middle_and_what_is_broken_fits() -> None:
    with look():
        for inches in (0.3, 0.8, 2.0):
            cut = words.fit("automobiles_of_the_year_2021", inches)
            assert words.width_of(cut) <= inches
        assert words.fit("automobiles_of_the_year_2021", 0.8).endswith("2021")
        assert words.fit("short", 2.0) == "short"
        lines = words.wrap("one two three four five six seven eight nine ten", 0.7, 3).split("\n")
        assert len(lines) == 3
        assert max(map(words.width_of, lines)) <= 0.7
        assert lines[-1].endswith("ten")
        assert words.wrap("two\nlines", 2.0, 3) == "two lines"
        assert words.fit("a\x1b[2J\tb", 2.0) == "a\\x1b[2J b"


def test_a_style_whose_font_is_not_installed_says_nothing_on_the_terminal(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "mine.mplstyle"
    path.write_text("font.family: Nowhere Sans\n")
    folder = make_run(tmp_path, tasks=2, rounds=1)
    with styled(path):
        draw_run(folder.path, tmp_path / "figures", ["accuracy"])
        assert remarks([load_run(folder.path)]) == [
            'font "Nowhere Sans" is not installed here; DejaVu Sans is in its place'
        ]
    assert caplog.records == []


def test_matplotlib_says_nothing_where_its_folder_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    environment = {**os.environ, "MPLCONFIGDIR": str(tmp_path / "file" / "below")}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    code = "import fcil.plots; import matplotlib.font_manager; print(matplotlib.get_cachedir())"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert Path(done.stdout.strip()) != tmp_path / "file" / "below"
