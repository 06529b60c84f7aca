"""Work left when runs have ended: missing figures, and all runs of a folder beside each other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console

from fcil.compare.terminal import comparison_table
from fcil.errors import StoreError
from fcil.io.lock import claimed, in_turn
from fcil.plots import draw_comparison, draw_missing, draw_missing_comparison, undrawn
from fcil.store import Run, find_runs


def complete(runs: Iterable[Run], console: Console) -> None:
    """Draw the missing figures of finished runs: a process may have ended between the last number and the figures.

    A run that another process holds is left to it.
    """
    for run in runs:
        if not undrawn(run):
            continue
        try:
            with claimed(run.path) as ours:
                paths = draw_missing(run) if ours else []
        except StoreError as error:  # the run is finished all the same
            console.print(f"{run.path}: its figures cannot be drawn ({error})", markup=False, soft_wrap=True)
            continue
        if paths:
            names = ", ".join(dict.fromkeys(path.stem for path in paths))
            console.print(f"{run.path}: drawn now: {names}", markup=False, soft_wrap=True)


def conclude(homes: Sequence[Path], console: Console, *, played: bool) -> bool:
    """Every finished run of some folders beside each other, as a table and as curves in the first folder.

    Args:
        homes: the folders of experiments.
        played: whether a run has ended just now; else only figures are drawn that are missing.
    Returns:
        Whether there was anything to compare.
    """
    there = [home for home in homes if home.is_dir()]
    if not there:
        return False
    with in_turn(there[0] / "figures"):  # of two processes the last one knows the runs of both
        damaged: list[str] = []
        found = find_runs(there, unfinished=True, skipped=damaged)
        runs = [run for run in found if run.finished]
        if len(runs) < 2:
            return False
        if played:
            console.print(comparison_table(runs))
            for line in _left_out(damaged, len(found) - len(runs)):
                console.print(line, markup=False, soft_wrap=True)
        for line in _drawn(runs, there[0], anew=played):
            console.print(line, markup=False, soft_wrap=True)
    return True


def _left_out(damaged: Sequence[str], unfinished: int) -> Iterable[str]:
    yield from (f"left out: {reason}" for reason in damaged)
    if unfinished:
        runs = "1 run of the folder that is" if unfinished == 1 else f"{unfinished} runs of the folder that are"
        yield f"left out: {runs} not finished"


def _drawn(runs: Sequence[Run], home: Path, *, anew: bool) -> list[str]:
    """The paths of the figures that were drawn of several runs, or why they could not be: the runs are finished."""
    try:
        paths = draw_comparison(runs, home / "figures", (), home) if anew else draw_missing_comparison(runs, home)
    except StoreError as error:
        return [f"{home}: its figures cannot be drawn ({error})"]
    return list(map(str, paths))
