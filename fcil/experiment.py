"""Runs of an experiment file: overrides, the matrix, the seeds, and one run after another.

runs = run("experiments/quickstart.yaml", "federation.rounds=5", out="results")
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from fcil.compare.bounds import Command, offer
from fcil.config import Where
from fcil.config.matrix import Source, place_of
from fcil.errors import StoreError
from fcil.io.lock import claimed, clear
from fcil.profiling import Profiler, check_alone
from fcil.runs.parallel import jobs_asked_for
from fcil.runs.plans import Experiment, planned, read, survey
from fcil.runs.play import execute
from fcil.runs.recorded_plan import load_plan
from fcil.store import Run, RunFolder

__all__ = ["Experiment", "read", "resume", "run", "survey"]


def run(
    source: Source,
    *overrides: str,
    out: str | Path = "results",
    smoke: bool = False,
    jobs: int | None = None,
    console: Console | None = None,
    profiler: Profiler | None = None,
    shard: str | None = None,
) -> list[Run]:
    """Play every run of an experiment that is not finished yet.

    Args:
        source: a YAML file, or a mapping of what one would hold.
        overrides: `key.path=value`, each value read as YAML.
        jobs: runs that are played at once, each in a process of its own on Ray; 1: one after the other; None: as
            many as fit, and one if the backend is `inprocess`.
        profiler: writes a profile of each run, which is then played in this process.
        shard: `i/n` for every n-th run from the i-th on, counted from 1, as one of n machines plays them; None: all.
    Returns:
        All its runs, those finished before included.
    Raises:
        UserError: something in the file, the data or the output folder is wrong; nothing was written.
        TrainingError: some runs failed; the others are finished.
    """
    check_alone(profiler, jobs)
    plans, out = planned(source, overrides, smoke, shard), Path(out)
    if smoke:
        for plan in plans:  # to try again is the point of it
            clear(out / plan.folder)
    console = console or Console()
    if not plans:
        console.print(f"--shard {shard}: no run is left for it", markup=False, soft_wrap=True)
        return []
    alone = len(plans) == 1 and not smoke and shard is None and not RunFolder(out / plans[0].folder).finished
    runs = execute(plans, out, console, place_of(source), jobs=jobs_asked_for(plans, jobs), profiler=profiler)
    if isinstance(source, Mapping):  # no command line can name it
        return runs
    if alone and (line := offer(runs[0], Command(Path(source), overrides, str(out)))):
        console.print(line, markup=False, soft_wrap=True)
    return runs


def resume(
    path: str | Path, console: Console | None = None, *, trust: bool = False, profiler: Profiler | None = None
) -> Run:
    """Go on with the run in a folder, with a strategy file of the user's own as it was when the run began.

    Args:
        trust: run the strategy.py of the folder even if the file it was copied from is another now, or gone.
        profiler: writes a profile of what is played, in this process.
    Raises:
        StoreError: the folder holds no run, one whose settings were changed, or untrusted code.
    """
    folder = RunFolder(os.path.realpath(path))
    plan, where = load_plan(folder, trust=trust), Where(str(folder.config))
    out = folder.path.parents[2] if len(folder.path.parents) > 2 else folder.path
    if out / plan.folder != folder.path:
        raise StoreError(f"{folder.path}: config.yaml or strategy.py was changed; they make {plan.folder}")
    if not folder.finished:
        with claimed(folder.path) as ours:
            if not ours:
                raise StoreError(f"{folder.path}: another process plays this run; it can be resumed when that ends")
    return execute([plan], out, console or Console(), where, profiler=profiler)[0]
