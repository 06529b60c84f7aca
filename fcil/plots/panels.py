"""Panels of each task: its accuracy line by line, its forgetting, and whole matrices beside each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fcil import metrics
from fcil.plots.look.labels import label_ends
from fcil.plots.look.style import COLUMN, PAGE, SHADES, bare, head, look, new_figure, percent_axis, task_axis
from fcil.plots.look.words import fit, width_of
from fcil.store.groups import Group
from fcil.store.read import Run, task_labels

Array = npt.NDArray[np.float64]
Values = Callable[[Run], Array]
"""Percents (tasks learnt, task), NaN where there is nothing."""
LONGEST = 0.9
"""Inches of the name of a domain."""
MOST_NAMED = 10
"""Tasks that a legend names one by one."""
USUAL, LARGEST, TALLEST = 1.15, 3.2, 8.5
"""Inches along a side of a matrix among others, of the largest one, and of all their rows."""


def task_accuracies(run: Run) -> Array:
    return 100 * metrics.accuracy_matrix(run.rows)[0]


def task_drops(run: Run) -> Array:
    """Return how far each task has fallen from its best so far; zero when it is learnt."""
    matrix = task_accuracies(run)
    best: Array = np.fmax.accumulate(matrix, axis=0)
    return best - matrix


def mean_matrix(group: Group, values: Values = task_accuracies) -> Array:
    """The mean over seeds, as far as every run has come."""
    found: Array = _stacked(group, values).mean(axis=0)
    return found


def lines_figure(groups: Sequence[Group], values: Values, text: str, label: str) -> Figure:
    """A panel for each group with a line for each task: the mean, and the range over seeds."""
    with look():
        figure, panels = _panels(groups, 1.3, 0.35)
        stacks = [_stacked(group, values) for group in groups]
        tasks = max(stack.shape[1] for stack in stacks)
        names = [fit(name, LONGEST) for name in task_labels([run for group in groups for run in group.runs], tasks)]
        shades = colormaps["viridis"](np.linspace(0.0, 0.88, max(tasks, 2)))
        for axes, stack in zip(panels, stacks, strict=True):
            for j in range(stack.shape[1]):
                x, drawn = np.arange(j + 1, stack.shape[1] + 1), stack[:, j:, j]
                if len(stack) > 1:
                    axes.fill_between(x, drawn.min(axis=0), drawn.max(axis=0), color=shades[j], alpha=0.15, linewidth=0)
                axes.plot(x, drawn.mean(axis=0), color=shades[j], linewidth=1.0, marker=".", markersize=3,
                          label=names[j])  # fmt: skip
        top = max(float(np.nanmax(stack)) for stack in stacks)
        for axes in panels:
            percent_axis(axes, "", high=1.05 * max(top, 1.0))
            task_axis(axes, tasks, most=6)
            axes.set_xlabel("tasks learnt" if axes.xaxis.get_tick_params()["labelbottom"] else "")
        figure.supylabel(label, fontsize=7)
        if len(groups) == 1:
            head(figure, text, f"{groups[0].label} · {_subtitle(groups)}")
            label_ends(panels[0], [(tasks, v[-1], names[j], shades[j]) for j, v in enumerate(_means(stacks[0]))])
            return figure
        handles, shown = max((axes.get_legend_handles_labels() for axes in panels), key=lambda one: len(one[0]))
        count = len(shown)
        chosen = range(count) if count <= MOST_NAMED else sorted({*np.linspace(0, count - 1, 6).astype(int)})
        figure.legend([handles[i] for i in chosen], [shown[i] for i in chosen], loc="outside lower center",
                      ncols=5 if len(panels) > 2 else 3, columnspacing=1.0, handlelength=1.4, frameon=False,
                      fontsize=7)  # fmt: skip
        head(figure, text, _subtitle(groups))
    return figure


def _means(stack: Array) -> list[Array]:
    """The line of each task, from when it was learnt."""
    return [stack[:, j:, j].mean(axis=0) for j in range(stack.shape[1])]


def matrices_figure(groups: Sequence[Group]) -> Figure:
    """The accuracy matrices of several groups on one scale, each the mean over its seeds."""
    means = [mean_matrix(group) for group in groups]
    top = max(1.0, *(float(np.nanmax(matrix)) for matrix in means))
    with look():
        size = max(map(len, means)) * (width_of(f"{top:.0f}") + 0.04)  # so that a cell holds its number
        columns, width, side = _room_for(len(groups), size)
        figure, panels = _panels(groups, side + 0.3, 0.25, columns, width)
        for axes, matrix in zip(panels, means, strict=True):
            picture = axes.imshow(matrix, cmap=SHADES, vmin=0, vmax=top)
            count = len(matrix)
            if side >= size:
                write_numbers(axes, matrix, top)
            step = max(1, round(count / 5))
            axes.set_xticks(range(0, count, step), [str(t + 1) for t in range(0, count, step)])
            axes.set_yticks(range(0, count, step), [str(t + 1) for t in range(0, count, step)])
            bare(axes)
        figure.supxlabel("task tested", fontsize=7)
        figure.supylabel("tasks learnt", fontsize=7)
        bar = figure.colorbar(picture, ax=panels, fraction=0.03, pad=0.02, aspect=30)
        bar.set_label("accuracy (%)")
        bar.outline.set_visible(False)
        head(figure, "Accuracy on each task", _subtitle(groups))
    return figure


def write_numbers(axes: Axes, matrix: Array, top: float, form: str = ".0f") -> None:
    """Write the values of a matrix into its cells."""
    for (t, j), value in np.ndenumerate(matrix):
        if np.isfinite(value):
            ink = "white" if value > 0.45 * top else "black"
            axes.text(j, t, f"{value:{form}}", ha="center", va="center", color=ink, fontsize=7)


def _room_for(count: int, wanted: float) -> tuple[int, float, float]:
    """Panels in a row, inches of the figure, and inches along a side of a square panel, which is `wanted` if it can."""
    usual = min(4, count) if count != 6 else 3
    first = [(usual, COLUMN if usual <= 2 else PAGE)]
    for columns, width in [*first, *((columns, PAGE) for columns in range(usual, 0, -1))]:
        side = min((width - 0.85) / columns - 0.12, LARGEST)
        if side >= wanted and (side + 0.3) * -(-count // columns) <= TALLEST:
            return columns, width, min(side, max(wanted, USUAL if count > 6 else 1.35 * USUAL))
    return *first[0], USUAL


def _panels(
    groups: Sequence[Group], height: float, more: float, columns: int = 0, width: float = 0.0
) -> tuple[Figure, list[Axes]]:
    """Axes beside and below each other, a title over each; the highest final accuracy is where `groups` has it."""
    columns = columns or (min(4, len(groups)) if len(groups) != 6 else 3)
    rows = -(-len(groups) // columns)
    width = width or (COLUMN if columns <= 2 else PAGE)
    figure = new_figure(0.6 + more + height * rows, width)
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for spare in grid.flat[len(groups) :]:
        spare.set_axis_off()
    panels = list(grid.flat[: len(groups)])
    for place, (axes, group) in enumerate(zip(panels, groups, strict=True)):
        axes.set_title(fit(group.label, (width - 0.6) / columns - 0.08) if len(groups) > 1 else "", fontsize=7, pad=3)
        axes.tick_params(labelbottom=place + columns >= len(groups), labelleft=place % columns == 0)
    return figure, panels


def _stacked(group: Group, values: Values) -> Array:
    """(runs, tasks learnt, tasks), as far as every run has come."""
    found = [values(run) for run in group.runs]
    shortest = min(map(len, found))
    return np.stack([matrix[:shortest, :shortest] for matrix in found])


def _subtitle(groups: Sequence[Group]) -> str:
    counts = sorted({len(group.runs) for group in groups})
    seeds = (
        "one seed (n = 1)" if counts == [1] else f"mean over n = {' to '.join(map(str, {counts[0], counts[-1]}))} seeds"
    )
    return f"{groups[0].split} · {seeds}"
