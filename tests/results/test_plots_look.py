"""The look of figures: styles, colours, sizes for a paper, and words of any alphabet."""

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
from figure_texts import texts
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.text import Text
from run_folders import make_partition, make_results, make_run

from fcil.errors import ConfigError
from fcil.plots import KINDS, check_kinds, draw_comparison, draw_run, remarks, styled, synthetic_grid
from fcil.plots.comparison import accuracy_curve, curves_figure
from fcil.plots.cost import bytes_accuracy_figure, bytes_figure
from fcil.plots.grid import class_name
from fcil.plots.look import words
from fcil.plots.look.colours import HOUSE, Name, line_style, places
from fcil.plots.look.style import CYCLE, look
from fcil.plots.panels import lines_figure, matrices_figure, task_accuracies
from fcil.plots.partition import partition_figure
from fcil.plots.run import accuracy_figure, matrix_figure, rounds_figure, tasks_figure
from fcil.store import find_runs, load_run
from fcil.store.groups import group_runs


@pytest.fixture(autouse=True)
def _warnings_are_errors() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


# Style ------------------------------------------------------------------------------------------


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


# Colours ----------------------------------------------------------------------------------------


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
    assert len(HOUSE) == 17
    with look():
        drawn = [line_style(place) for place in places(names)]
    assert len({(str(style["color"]), str(style["linestyle"])) for style in drawn}) == 17
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


# For a paper ------------------------------------------------------------------------------------


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


# Words ------------------------------------------------------------------------------------------


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
