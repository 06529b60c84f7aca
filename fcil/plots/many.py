"""Many figures, drawn by as many processes as there are processors for them."""

from __future__ import annotations

import gc
import multiprocessing
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from fcil.plots.look.style import save

Job = tuple[Path, Callable[[], Figure]]
"""Job of drawing: the path of a figure without `.png` and `.pdf`, and the function that draws it."""
FEW = 6
"""Figures that one process draws before a second one is worth its start."""
MOST_PROCESSES = 4


def save_all(jobs: Sequence[Job]) -> list[Path]:
    """Draw and save, and return the files in the order of the jobs."""
    count = min(len(jobs) // FEW, _processors(), MOST_PROCESSES)
    collecting = gc.isenabled()
    gc.disable()  # figures are full of cycles, and to search a thousand runs for them costs more than they hold
    try:
        _shared_out(jobs, count)
    finally:
        if collecting:
            gc.enable()
    return [path.with_name(f"{path.name}.{kind}") for path, _ in jobs for kind in ("png", "pdf")]


def _shared_out(jobs: Sequence[Job], count: int) -> None:
    """Give every `count`-th job to each of `count` processes, of which this is one."""
    if count < 2 or "fork" not in multiprocessing.get_all_start_methods():
        _save(jobs)
    else:
        context = multiprocessing.get_context("fork")  # a closure cannot be sent to a fresh process
        helpers = [context.Process(target=_save, args=(jobs[k::count],)) for k in range(1, count)]
        for helper in helpers:
            helper.start()
        try:
            _save(jobs[::count])
        finally:
            for helper in helpers:
                helper.join()
        for k, helper in enumerate(helpers, start=1):
            if helper.exitcode:  # here its error reaches the user
                _save(jobs[k::count])


def _save(jobs: Sequence[Job]) -> None:
    for path, draw in jobs:
        save(draw(), path)


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
