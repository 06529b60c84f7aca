"""The figures of one run, drawn from its folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.figure import Figure

from fcil import metrics
from fcil.errors import StoreError
from fcil.io.atomic import sweep, write_bytes
from fcil.plots.classes import classes_figure, clients_figure, confusion_figure
from fcil.plots.cost import bytes_figure
from fcil.plots.distillation import distillation_drawers, is_distillation
from fcil.plots.drawn import digest_of, digest_of_quality, lacking, note
from fcil.plots.grid import synthetic_grid
from fcil.plots.look.colours import CYCLE, INK, MARKERS
from fcil.plots.look.labels import label_ends
from fcil.plots.look.style import (
    COLUMN,
    FAINT,
    PAGE,
    SHADES,
    bare,
    head,
    look,
    new_figure,
    percent_axis,
    png,
    task_axis,
)
from fcil.plots.look.words import fit
from fcil.plots.many import save_all
from fcil.plots.panels import LONGEST, lines_figure, task_accuracies, write_numbers
from fcil.plots.partition import partition_figure
from fcil.plots.pool import read_pool
from fcil.plots.rounds import rounds_figure, subtitle
from fcil.store.groups import group_runs
from fcil.store.read import Run, load_run, task_labels

Array = npt.NDArray[np.float64]
MOST_NARROW, MOST_NUMBERS = 10, 24
"""Tasks of a matrix that fits a column with its numbers, and of one whose numbers are written out at all."""


def draw_run(folder: Path | str, out: Path | str | None = None, kinds: Sequence[str] = ()) -> list[Path]:
    """Draw what a run folder holds so far into its `figures/`, or into `out`: accuracy, forgetting, the line of each
    task, matrix, rounds, bytes, partition and the synthetic samples of the last task that has some.

    A figure that says nothing (the forgetting of one task) is left out. A distillation has figures of its own.

    Args:
        kinds: names of the figures to draw, those drawn on request among them; without them all others.
    Returns:
        The files written, a PNG and a PDF for each figure.
    Raises:
        StoreError: it is no run folder, a file in it is damaged, or there is nothing to draw.
    """
    run = load_run(folder)
    drawers = _drawers(run) | (_on_request(run) if kinds else {})
    chosen = [name for name, (worthwhile, _) in drawers.items() if worthwhile and (not kinds or name in kinds)]
    lacking = [kind for kind in kinds if kind not in chosen]
    if lacking or not chosen:
        what = f" as {', '.join(lacking)}" if lacking else ""
        raise StoreError(f"{folder}: nothing to draw{what}{'' if run.finished else ' yet'}")
    place = run.folder.figures if out is None else Path(out)
    paths = save_all([(place / name, partial(drawers[name][1], run)) for name in chosen])
    if out is None:
        wanted = _wanted(run)
        note(run.path, {name: wanted[name] for name in chosen if name in wanted})
    return paths


def undrawn(run: Run) -> list[str]:
    """Names of figures, and of pictures of samples, that were not drawn of a run's record as it stands."""
    return lacking(run.path, _wanted(run))


def draw_missing(run: Run) -> list[Path]:
    """Draw what was not drawn of a run's record as it stands: its figures, and the pictures beside its samples.

    What was drawn and deleted since is left alone.

    Returns:
        The files written.
    Raises:
        StoreError: a file of the run is damaged, or nothing can be written to its folder.
    """
    wanted = _wanted(run)
    sweep(run.folder.figures)
    names = [name for name in lacking(run.path, wanted) if "/" not in name]
    paths = draw_run(run.path, kinds=names) if names else []
    pictures = [name for name in lacking(run.path, wanted) if "/" in name]
    for name in pictures:
        path = run.path / f"{name}.png"
        if not path.is_file():
            x, y = read_pool(path.with_suffix(".safetensors"))
            write_bytes(path, png(synthetic_grid(x, y, run.partition()[1])))
            paths.append(path)
    if pictures:
        note(run.path, {name: wanted[name] for name in pictures})
    return paths


def _wanted(run: Run) -> dict[str, str]:
    """The digest of what is shown by each figure of a run, and by each picture of samples, `synthetic/task1`."""
    record = digest_of(run)
    wanted = {name: record for name, (worthwhile, _) in _drawers(run).items() if worthwhile}
    if "accuracy" in wanted and is_distillation(run):
        wanted["accuracy"] += digest_of_quality(run)
    pools = run.folder.synthetic.glob("task*.safetensors") if run.folder.partition.is_file() else ()
    return wanted | {f"{path.parent.name}/{path.stem}": record for path in sorted(pools)}


def _drawers(run: Run) -> dict[str, tuple[bool, Callable[[Run], Figure]]]:
    """Return by the name of a figure whether there is something to draw, and the function that draws it."""
    told = any(r.get("terms") or r.get("accuracy") is not None for r in run.rounds)
    drawers: dict[str, tuple[bool, Callable[[Run], Figure]]] = {
        "accuracy": (bool(run.rows), accuracy_figure),
        "forgetting": (len(run.rows) > 1, forgetting_figure),
        "tasks": (len(run.rows) > 1, tasks_figure),
        "matrix": (bool(run.rows), matrix_figure),
        "rounds": (told, rounds_figure),
        "bytes": (bool(run.rows) and any(r.get("bytes_up") or r.get("bytes_down") for r in run.rounds), bytes_figure),
        "partition": (run.folder.partition.is_file(), partition_figure),
        "synthetic": (bool(_pools(run)) and run.folder.partition.is_file(), synthetic_figure),
    }
    return distillation_drawers(run) | {"synthetic": drawers["synthetic"]} if is_distillation(run) else drawers


def _on_request(run: Run) -> dict[str, tuple[bool, Callable[[Run], Figure]]]:
    """Return the same of figures that are drawn where they are asked for by name."""
    details = run.folder.details
    return {
        "task_aware": (run.folder.task_aware.is_file(), task_aware_figure),
        "classes": (details["classes"].is_file(), classes_figure),
        "clients": (details["clients"].is_file(), clients_figure),
        "confusion": (details["confusion"].is_file(), confusion_figure),
    }


def _pools(run: Run) -> list[Path]:
    """The files of synthetic samples, in order of their tasks."""
    found = [p for p in run.folder.synthetic.glob("task*.safetensors") if p.stem.removeprefix("task").isdigit()]
    return sorted(found, key=lambda p: int(p.stem.removeprefix("task")))


def synthetic_figure(run: Run) -> Figure:
    """Samples of each class in the last pool."""
    x, y = read_pool(_pools(run)[-1])
    return synthetic_grid(x, y, run.partition()[1])


def accuracy_figure(run: Run) -> Figure:
    """After each task: over all classes seen, over the task just learnt, over those before it."""
    matrix, examples = metrics.accuracy_matrix(run.rows)
    old = [np.average(matrix[t, :t], weights=examples[:t]) if t else np.nan for t in range(len(matrix))]
    lines = [
        ("all seen", metrics.accuracy_after_each_task(matrix, examples), CYCLE[0], MARKERS[0]),
        ("new task", np.diag(matrix), CYCLE[2], MARKERS[2]),
        ("old tasks", np.array(old), CYCLE[1], MARKERS[1]),
    ]
    return _curves(lines if len(matrix) > 1 else lines[:1], "Accuracy after each task", subtitle(run))


def task_aware_figure(run: Run) -> Figure:
    """After each task, over all classes seen: task-agnostic, and where the task of each sample is given."""
    agnostic, aware = (
        metrics.accuracy_after_each_task(*metrics.accuracy_matrix(rows)) for rows in (run.rows, run.task_aware_rows)
    )
    lines = [
        ("task-agnostic", agnostic, CYCLE[0], MARKERS[0]),
        ("task-aware", aware, CYCLE[3], MARKERS[3]),
    ]
    return _curves(lines, "Accuracy without and with the task given", subtitle(run))


def _curves(lines: Sequence[tuple[str, Array, str, str]], title: str, about: str) -> Figure:
    """Draw accuracies after each task, the first line as the main one; each has name, values, colour and marker."""
    count = max(len(values) for _, values, _, _ in lines)
    with look():
        figure = new_figure(2.2)
        axes = figure.subplots()
        for place, (_, values, colour, marker) in enumerate(lines):
            axes.plot(range(1, len(values) + 1), 100 * values, color=colour, marker=marker, zorder=2 if place else 3,
                      linewidth=1.0 if place else 1.8, clip_on=False)  # fmt: skip
        percent_axis(axes, "accuracy (%)")
        task_axis(axes, count)
        head(figure, title, about)
        label_ends(axes, [(len(v), 100 * v[-1], name, c) for name, v, c, _ in lines if len(lines) > 1])
    return figure


def forgetting_figure(run: Run) -> Figure:
    """Draw how far each task has fallen from its best, and the mean of the falls (Chaudhry's forgetting)."""
    matrix, _ = metrics.accuracy_matrix(run.rows)
    count = len(matrix)
    mean = 100 * metrics.forgetting_after_each_task(matrix)
    names = [fit(name, LONGEST) for name in task_labels([run], count)]
    shades = colormaps["viridis"](np.linspace(0.0, 0.85, max(count - 1, 1)))
    ends: list[tuple[float, float, str, Any]] = [(count, mean[-1], "mean", INK)]
    with look():
        figure = new_figure(2.2)
        axes = figure.subplots()
        axes.axhline(0, color=FAINT, linewidth=0.8)
        for j in range(count - 1):
            best = np.maximum.accumulate(matrix[j:, j])
            falls = [0.0, *100 * (best[:-1] - matrix[j + 1 :, j])]
            axes.plot(range(j + 1, count + 1), falls, color=shades[j], linewidth=0.9, marker=".", markersize=3)
            if count <= 11 or j in (0, count - 2):
                ends.append((count, falls[-1], names[j], shades[j]))
        axes.plot(range(1, count + 1), mean, color=INK, linewidth=2.0, marker="o", zorder=4)
        percent_axis(axes, "drop from best (points)")
        task_axis(axes, count)
        head(figure, "Forgetting", subtitle(run))
        label_ends(axes, ends)
    return figure


def tasks_figure(run: Run) -> Figure:
    """The accuracy on each task from when it was learnt."""
    (group,) = group_runs([run])
    return lines_figure([group], task_accuracies, "Accuracy on each task", "accuracy (%)")


def matrix_figure(run: Run) -> Figure:
    """The accuracy matrix as a heat map, with its numbers in percent as long as they can be read."""
    return heat_map(task_accuracies(run), subtitle(run), run.domains)


def heat_map(matrix: Array, about: str, domains: Sequence[str] = ()) -> Figure:
    """An accuracy matrix in percent; columns are named by their domains, where tasks are such."""
    count = len(matrix)
    width = COLUMN if count <= MOST_NARROW else PAGE
    with look():
        figure = new_figure(0.82 * width if width == COLUMN else 0.72 * width, width)
        axes = figure.subplots()
        top = max(float(np.nanmax(matrix)), 1.0)
        picture = axes.imshow(matrix, cmap=SHADES, vmin=0, vmax=top)
        if count <= MOST_NUMBERS:
            write_numbers(axes, matrix, top, ".0f" if count > 6 else ".1f")
        ticks = range(0, count, max(1, round(count / 12)))
        if len(domains) >= count:
            names = [fit(domains[t], LONGEST) for t in ticks]
            axes.set_xticks(ticks, names, rotation=30, ha="right", rotation_mode="anchor")
        else:
            axes.set_xticks(ticks, [str(t + 1) for t in ticks])
        axes.set_yticks(ticks, [str(t + 1) for t in ticks])
        axes.set_xlabel("domain tested" if len(domains) >= count else "task tested")
        axes.set_ylabel("domains learnt" if len(domains) >= count else "tasks learnt")
        bare(axes)
        bar = figure.colorbar(picture, ax=axes, fraction=0.045, pad=0.03)
        bar.set_label("accuracy (%)")
        bar.outline.set_visible(False)
        head(figure, "Accuracy on each task", about)
    return figure
