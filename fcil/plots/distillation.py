"""The figures of a distillation, which has rounds and one task: how its student learnt, and from what."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fcil.errors import StoreError, printable
from fcil.plots.grid import class_name, sheet, some_labels
from fcil.plots.look.colours import CYCLE
from fcil.plots.look.labels import label_ends
from fcil.plots.look.style import head, look, new_figure, percent_axis
from fcil.plots.look.words import fit
from fcil.plots.pool import read_pool
from fcil.plots.rounds import draw_terms, subtitle
from fcil.store.files import is_there, read_json
from fcil.store.groups import flat
from fcil.store.read import Run

Array = npt.NDArray[np.float64]
STUDENT = "student_"
"""Begins the names of the student's terms."""
CROWDED = 50
"""Percent above which all values must be for an axis that does not begin at zero."""
MOST_SNAPSHOTS = 12
"""Rows of the picture of samples over rounds."""


def is_distillation(run: Run) -> bool:
    return run.strategy == "distill"


def _about(run: Run) -> str:
    """Describe a run with its synthesizer in the place of its strategy, which is that of every distillation."""
    return subtitle(replace(run, strategy=_method(run)))


def _method(run: Run) -> str:
    return printable(str(flat(run.config).get("strategy.distill.synthesizer", run.strategy)))


def distillation_drawers(run: Run) -> dict[str, tuple[bool, Callable[[Run], Figure]]]:
    """Return by the name of a figure whether there is something to draw, and the function that draws it."""
    return {
        "accuracy": (bool(np.isfinite(learning_curve(run)).any()), learning_figure),
        "terms": (any(r.get("terms") for r in run.rounds), terms_figure),
        "samples_over_rounds": (bool(snapshots(run)) and run.folder.partition.is_file(), samples_figure),
    }


# Accuracy -----------------------------------------------------------------------------------------


def learning_curve(run: Run) -> Array:
    """Return the percent on the test images after each round; NaN for a round without an evaluation."""
    told = [r.get("accuracy") for r in run.rounds]
    values = np.array([100.0 * a if isinstance(a, int | float) else np.nan for a in told])
    if run.rows and len(values):  # rows are written once the last round is over
        values[-1] = 100 * sum(r.correct for r in run.rows) / sum(r.examples for r in run.rows)
    return values


def teacher_accuracy(run: Run) -> float | None:
    """Percent on the same images; None where it was not measured.

    Raises:
        StoreError: it is no share.
    """
    path = run.path / "quality.json"
    value = read_json(path).get("teacher_accuracy") if is_there(path) else None
    if value is None:
        return None
    if not isinstance(value, int | float) or not 0 <= value <= 1:
        raise StoreError(f"{path}: teacher_accuracy is {value!r}; expected a share from 0 to 1")
    return 100.0 * value


def round_axis(runs: Iterable[Run]) -> Callable[[Axes, int], None]:
    """An axis of rounds, with the accuracy of the teacher as a level if all runs had one as good."""
    levels = {teacher_accuracy(run) for run in runs}
    level = levels.pop() if len(levels) == 1 else None

    def name(axes: Axes, rounds: int) -> None:
        axes.set_xlim(1 - 0.02 * max(rounds - 1, 1), rounds + 0.02 * max(rounds - 1, 1))
        axes.xaxis.set_major_locator(round_ticks())
        axes.set_xlabel("round")
        low = axes.dataLim.intervaly[0]
        if low > CROWDED:
            axes.set_ylim(low - 0.1 * (100 - low), 100 + 0.05 * (100 - low))
        if level is not None:
            bottom, top = axes.get_ylim()
            axes.set_ylim(top=max(top, level + 0.1 * (level - bottom)))
            axes.axhline(level, color="#777777", linewidth=0.9, linestyle=(0, (4, 2)), zorder=1)
            axes.annotate(f"teacher {level:.1f}", (0.0, level), xycoords=("axes fraction", "data"), xytext=(3, 2),
                          textcoords="offset points", fontsize=6.0, color="#666666")  # fmt: skip

    return name


def round_ticks() -> MaxNLocator:
    return MaxNLocator(nbins=7, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1)


def student_label(label: str) -> str:
    """Return the part of a label that distinguishes students: `fast` of `distill (fast)`."""
    found = re.fullmatch(r"distill \((.*)\)", label)
    return found[1] if found else label


def learning_figure(run: Run) -> Figure:
    """The accuracy of the student round after round, below its teacher's."""
    values = learning_curve(run)
    known = np.flatnonzero(np.isfinite(values))
    with look():
        figure = new_figure(2.2)
        axes = figure.subplots()
        axes.plot(known + 1, values[known], color=CYCLE[0], marker="o" if len(known) <= 25 else None, clip_on=False)
        percent_axis(axes, "accuracy (%)")
        round_axis([run])(axes, len(values))
        head(figure, "Accuracy of the student", _about(run))
        last = values[known[-1]]
        label_ends(axes, [(known[-1] + 1, last, f"{last:.1f}", CYCLE[0])])
    return figure


# Terms --------------------------------------------------------------------------------------------


def terms_figure(run: Run) -> Figure:
    """The terms of the synthesizer's loss and of the student's, round after round, a panel for each."""
    sides: dict[str, list[dict[str, Any]]] = {"synthesizer": [], "student": []}
    for record in run.rounds:
        terms = record.get("terms") or {}
        own = {name.removeprefix(STUDENT): v for name, v in terms.items() if name.startswith(STUDENT)}
        rest = {name: v for name, v in terms.items() if not name.startswith(STUDENT)}
        for side, part in (("synthesizer", rest), ("student", own)):
            sides[side].append({"task": record["task"], "terms": part})
    sides = {side: records for side, records in sides.items() if any(r["terms"] for r in records)}
    with look():
        figure = new_figure(0.9 + 1.25 * len(sides))
        panels = np.atleast_1d(figure.subplots(len(sides), 1, sharex=True))
        head(figure, "Terms of the losses", _about(run))
        panels[0].set_xlim(0.5, len(run.rounds) + 0.5)  # shared; before the ends of lines are named
        panels[-1].xaxis.set_major_locator(round_ticks())
        for axes, (side, records) in zip(panels, sides.items(), strict=True):
            draw_terms(axes, records, list(dict.fromkeys(name for r in records for name in r["terms"])))
            axes.set_ylabel(f"{side}'s\n{axes.get_ylabel()}")
        panels[-1].set_xlabel("round")
    return figure


# Samples ------------------------------------------------------------------------------------------


def snapshots(run: Run) -> dict[int, Path]:
    """The samples that were kept in a round, by the round; of the last task that has some."""
    found: dict[tuple[int, int], Path] = {}
    for path in run.folder.synthetic.glob("task*-round*.safetensors"):
        task, _, round = path.stem.removeprefix("task").partition("-round")
        if task.isdigit() and round.isdigit():
            found[int(task), int(round)] = path
    last = max((task for task, _ in found), default=0)
    return {round: found[task, round] for task, round in sorted(found) if task == last}


def samples_figure(run: Run) -> Figure:
    """Draw the samples as they were in some rounds: a row for each of them, the newest sample of each class.

    Raises:
        StoreError: samples of two rounds are not of one shape.
    """
    kept = list(snapshots(run).items())
    kept = [
        kept[i] for i in np.unique(np.linspace(0, len(kept) - 1, min(MOST_SNAPSHOTS, len(kept))).round().astype(int))
    ]
    pools = {round: read_pool(path) for round, path in kept}
    shapes = {x.shape[1:] for x, _ in pools.values()}
    if len(shapes) > 1:
        raise StoreError(f"{run.folder.synthetic}: samples of different rounds have the shapes {sorted(shapes)}")
    labels = some_labels(np.concatenate([y for _, y in pools.values()]))
    names = run.partition()[1]
    x = np.concatenate([x for x, _ in pools.values()])
    x = np.concatenate([x, np.full_like(x[:1], 255 if x.dtype == np.uint8 else x.max(initial=1))])  # a blank at the end
    rows, begin = [], 0
    for round, (_, y) in pools.items():
        found = [np.flatnonzero(y == label) for label in labels]
        rows.append((f"round {round}", np.array([begin + own[-1] if len(own) else len(x) - 1 for own in found])))
        begin += len(y)
    return sheet(
        f"Samples over rounds ({fit(_method(run), 1.1)}, seed {run.seed})",
        x,
        rows,
        len(labels),
        [class_name(label, names) for label in labels],
    )
