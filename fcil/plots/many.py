"""Many figures, drawn by as many processes as there are processors for them."""

from __future__ import annotations

import gc
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

from matplotlib.figure import Figure

from fcil.plots.look.style import save

Job = tuple[Path, Callable[[], Figure]]
"""Job of drawing: the path of a figure without `.png` and `.pdf`, and the function that draws it."""
FEW = 6
"""Figures that one process draws before a second one is worth its start."""
MOST_PROCESSES = 4
PATIENCE = 20.0
"""Seconds that a helper may take beyond three times what this process took for its own share."""


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
    """Give every `count`-th job to each of `count` processes, of which this is one.

    A helper is a copy of a process that may have had other threads, and what they held stays locked in the copy. One
    that does not end is ended, and its share is drawn here.
    """
    if count < 2 or "fork" not in multiprocessing.get_all_start_methods():
        _save(jobs)
    else:
        context = multiprocessing.get_context("fork")  # a closure cannot be sent to a fresh process
        helpers = [context.Process(target=_help, args=(jobs[k::count],), daemon=True) for k in range(1, count)]
        for helper in helpers:
            helper.start()
        began = time.monotonic()
        try:
            _save(jobs[::count])
        finally:
            _wait(helpers, PATIENCE + 3 * (time.monotonic() - began))
        for k, helper in enumerate(helpers, start=1):
            if helper.exitcode:  # here its error reaches the user
                _save(jobs[k::count])


def _wait(helpers: Sequence[BaseProcess], patience: float) -> None:
    """Wait until all have ended, and end those that have not after `patience` seconds."""
    until = time.monotonic() + patience
    for helper in helpers:
        helper.join(max(until - time.monotonic(), 0))
        if helper.is_alive():
            helper.kill()
            helper.join()


def _help(jobs: Sequence[Job]) -> None:
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(1)  # the pool of its threads is not there in a copy, and would be waited for
    _save(jobs)


def _save(jobs: Sequence[Job]) -> None:
    for path, draw in jobs:
        save(draw(), path)


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
