"""Runs of plans: checked first, then played one after another or several at once, with figures."""

from __future__ import annotations

import io
import platform
from collections.abc import Callable, Sequence
from contextlib import closing, nullcontext
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

from rich.console import Console

from fcil.config import Where
from fcil.console.progress import choose_progress
from fcil.console.tables import accuracy_table, failures_line, metrics_table
from fcil.federation.context import Datasets, RunContext
from fcil.federation.engine import Engine
from fcil.federation.observer import Observer, Observers
from fcil.federation.persistence.smoke import MEANING, is_smoke
from fcil.federation.plan import Plan, from_json
from fcil.federation.preconditions import facts
from fcil.federation.ray.runs import Outcome
from fcil.federation.runtime.interrupts import Interrupts
from fcil.io.lock import claimed
from fcil.plots import draw_run
from fcil.profiling import Profiler
from fcil.runs.completion import complete, conclude
from fcil.runs.continuation import begin, check_begun, finished_line
from fcil.runs.failure_report import failure_card
from fcil.runs.loggers import logged
from fcil.runs.parallel import how_many, run_in_parallel
from fcil.runs.pictures import SamplePictures
from fcil.runs.preflight import introduce, named, preflight
from fcil.runs.sequential import (
    Engines,
    PlayOne,
    SequentialContext,
    free_runs,
    note_failure,
    report_failures,
    run_sequentially,
)
from fcil.store import Run, RunFolder, RunRecorder, check_writable, load_run
from fcil.store.activity import unused_components_of
from fcil.store.nets import NetKeeper


def execute(
    plans: Sequence[Plan],
    out: Path,
    console: Console,
    where: Where,
    open_engine: Callable[..., Engine] = Engine,
    jobs: int | None = 1,
    datasets: Datasets | None = None,
    measure: Callable[[list[Run]], None] = lambda runs: None,
    profiler: Profiler | None = None,
) -> list[Run]:
    """Play plans whose runs are not finished; draw figures of each, and of all runs of their folder.

    Args:
        open_engine: makes the engine of federation settings, resources and interrupts.
        jobs: runs that are played at once; None: as many as fit.
        datasets: what the caller has decoded for these plans; it is let go of when any was played.
        measure: what else is to be measured of finished runs, before figures and tables of all.
        profiler: profiles each run, which it plays in this process, one after the other.
    """
    datasets = datasets or Datasets()
    check_writable(out)
    plans = list({plan.folder: plan for plan in plans}.values())  # two cells of a matrix may be the same run
    unfinished = []
    for plan in plans:
        if RunFolder(out / plan.folder).finished:
            console.print(finished_line(out / plan.folder, plan), markup=False, soft_wrap=True)
        else:
            unfinished.append(plan)
    play_one: PlayOne = execute_run
    if profiler is not None:
        jobs, open_engine, play_one = 1, profiler.engine, profiler.around(execute_run)
    with profiler or nullcontext(), Interrupts(lambda line: console.print(line, markup=False)) as interrupts:
        preflight(unfinished, datasets, console, where, lambda plan: RunFolder(out / plan.folder).saved)
        with named(where):
            at_once = how_many(unfinished, jobs)
        told = check_begun(unfinished, datasets, out) if len(unfinished) > 1 else []  # one alone looks when it begins
        if at_once > 1:
            for line in told:
                console.print(line, markup=False, soft_wrap=True)
            failed = run_in_parallel(unfinished, datasets, out, console, interrupts, at_once, execute_in_worker)
        else:
            with Engines(open_engine, interrupts) as engines, closing(free_runs(unfinished, out, console)) as turns:
                stage = SequentialContext(out, console, where, engines, datasets, play_one)
                failed = run_sequentially(turns, stage, alone=len(plans) == 1)
    if unfinished:
        datasets.forget()
    runs = [load_run(out / plan.folder) for plan in plans if plan.folder not in failed]
    measure(runs)
    complete(runs, console)
    conclude(list(dict.fromkeys(out / plan.name for plan in plans)), console, played=len(unfinished) > len(failed))
    report_failures(failed, plans, out, console)
    return runs


def execute_in_worker(text: str, path: Path, inode: int) -> Outcome:
    """Play a run in this process, which a driver has started for it, with its clients.

    Args:
        text: the plan.
        inode: of the folder of all results, as the driver sees it; on another machine it may be another folder.
    """
    plan, out = from_json(text), path.parents[2]
    if not out.is_dir() or out.stat().st_ino != inode:
        return Outcome("failed", f"{platform.node()} has another {out}; machines of a cluster have to share the folder")
    with claimed(path) as ours:
        if not ours:
            return Outcome("elsewhere")
        if RunFolder(path).finished:
            return Outcome("finished")
        alone = replace(plan.federation, backend="inprocess")
        try:
            with Interrupts() as interrupts, Engine(alone, plan.resources, interrupts) as engine:
                execute_run(engine, _datasets().open(plan), path, Console(file=io.StringIO(), quiet=True))
        except KeyboardInterrupt:
            return Outcome("interrupted")
        except Exception as error:
            return Outcome("failed", note_failure(path, error))
    return Outcome("finished")


@cache
def _datasets() -> Datasets:
    """The data of this process, which plays one run after another."""
    return Datasets()


def execute_run(
    engine: Engine, context: RunContext, path: Path, console: Console, observer: Observer | None = None
) -> None:
    """One run, from its beginning or its last checkpoint to its figures; `observer` is told last of what happens."""
    folder, plan = RunFolder(path), context.plan
    introduce(context, console)
    say = partial(console.print, markup=False, soft_wrap=True)
    recorder = RunRecorder(folder, say, facts(context), context.scenario.held_up_to)
    pictures = SamplePictures(folder, context.scenario.tasks[-1].names)
    lines = begin(folder, context)
    for line in lines.said:
        recorder.tell(line)
    for line in lines.logged:
        recorder.note(line)
    with failure_card(path, plan, console), choose_progress(console) as progress, logged(plan, folder) as log:
        engine.run(
            context,
            path,
            Observers(recorder, pictures, NetKeeper(folder, context), progress, log, observer or Observer()),
        )
    draw_run(path)
    run = load_run(path)
    console.print(accuracy_table(run.rows, run.domains), metrics_table(run.summary))
    last = MEANING if is_smoke(run.config) else str(run.summary.get("collapsed") or "")
    for line in (failures_line(run.summary), *(f"inert: {one}" for one in unused_components_of(run)), last):
        if line:
            console.print(line, markup=False, soft_wrap=True)
    console.print(f"{path}: accuracy.csv, rounds.jsonl, summary.json, figures/", markup=False, soft_wrap=True)
