"""From a YAML file to runs: overrides, the matrix, the seeds, and one run after another.

runs = run("experiments/quickstart.yaml", "federation.rounds=5", out="results")
"""

from __future__ import annotations

import io
import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import ClassVar

from rich.console import Console

from fcil.activity import idle_ingredients
from fcil.anchors import AnchorSettings
from fcil.compare.bounds import Command, offer
from fcil.config import Where, parse_fields
from fcil.data import DataSettings, Scenario
from fcil.errors import StoreError, all_of, collect
from fcil.federation.engine import Engine
from fcil.federation.foreseen import facts
from fcil.federation.interrupts import Interrupts
from fcil.federation.observer import Observers
from fcil.federation.plan import Logger, Plan, check_runs, from_json, scenario_of
from fcil.federation.runners import Outcome
from fcil.federation.settings import FederationSettings, Resources
from fcil.federation.smoke import MEANING, is_smoke
from fcil.matrix import DISTILLS, MAX_RUNS, Source, cells, expand, is_distillation, place, place_of
from fcil.nets import NetSettings
from fcil.optimizer import OptimizerSettings
from fcil.playing.conclusion import complete, conclude
from fcil.playing.continuation import begin, check_begun, finished_line
from fcil.playing.failure_card import failure_card
from fcil.playing.loggers import logged
from fcil.playing.parallel import asked, how_many, play_together
from fcil.playing.recorded import recorded_plan
from fcil.playing.rehearsal import introduce, named, rehearse_all, share_out
from fcil.playing.turns import Engines, Stage, free_runs, note_failure, play_in_turn, report_failures
from fcil.plots import draw_run
from fcil.plugins import StrategySpec
from fcil.progress import choose_progress
from fcil.store import Run, RunFolder, RunRecorder, check_writable, load_run
from fcil.store.claims import claimed, clear
from fcil.tables import accuracy_table, failures_line, metrics_table
from fcil.types import Index

__all__ = [
    "Experiment",
    "cells",
    "expand",
    "introduce",
    "named",
    "place",
    "play",
    "read",
    "recorded_plan",
    "rehearse_all",
    "resume",
    "run",
    "share_out",
    "survey",
]


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """The keys of an experiment file, `matrix` aside."""

    name: str
    """Names the folder of the results."""
    seeds: tuple[Index, ...] = (0,)
    """A run for each."""
    data: DataSettings
    """What is learnt, task by task and client by client."""
    federation: FederationSettings = FederationSettings()
    """Who trains, and for how long."""
    optimizer: OptimizerSettings = OptimizerSettings()
    """How clients train."""
    net: NetSettings = NetSettings()
    """What is trained."""
    anchors: AnchorSettings = AnchorSettings()
    """Where label-text embeddings come from."""
    strategy: StrategySpec
    """The method."""
    resources: Resources = Resources()
    """What the run may use."""
    logger: Logger | None = None
    """Who else is told of every round: `tensorboard` or `wandb`; null: nobody."""

    READ_ELSEWHERE: ClassVar = ("matrix",)

    def __post_init__(self) -> None:
        check_runs(self.name, self.seeds)

    def plans(self) -> list[Plan]:
        parts = {k: getattr(self, k) for k in Plan.__dataclass_fields__ if k != "seed"}
        return [Plan(seed=seed, **parts) for seed in self.seeds]


# Reading ------------------------------------------------------------------------------------------


def read(source: Source, overrides: Sequence[str] = ()) -> list[Experiment]:
    """The experiments of a file or mapping: one, or the product of its `matrix`.

    Args:
        overrides: `key.path=value`, each value read as YAML.
    Raises:
        ConfigError: names the file, the key path, the value and what is allowed, a line for each error.
    """
    where, found = place_of(source), cells(source, overrides)
    if strange := next((cell for cell in found if is_distillation(cell)), None):
        keys = " and ".join(f'"{key}"' for key in strange if key in DISTILLS)
        raise where.error(f"is a distillation, as it has {keys} and no strategy; it is for fcil distill")
    experiments, errors = collect(lambda cell: parse_fields(Experiment, cell, where), found)
    if errors:
        raise all_of(errors)
    runs = sum(len(experiment.seeds) for experiment in experiments)
    if runs > MAX_RUNS:
        raise where.at("seeds").error(f"makes {runs:,} runs; at most {MAX_RUNS:,} are allowed")
    return experiments


def planned(source: Source, overrides: Sequence[str] = (), smoke: bool = False) -> list[Plan]:
    """The runs of an experiment file, each once: two cells of a matrix may be the same run."""
    experiments = read(source, overrides)
    plans = [plan for experiment in experiments for plan in experiment.plans()]
    if smoke:
        plans = [experiment.plans()[0].smoke() for experiment in experiments]
    return list({plan.folder: plan for plan in plans}.values())


def survey(source: Source, overrides: Sequence[str] = ()) -> Iterator[tuple[Plan, Scenario]]:
    """Every run of an experiment and who would hold what in it; nothing is played."""
    for plan in (plan for experiment in read(source, overrides) for plan in experiment.plans()):
        yield plan, share_out(plan, place_of(source))


# Running ------------------------------------------------------------------------------------------


def run(
    source: Source,
    *overrides: str,
    out: str | Path = "results",
    smoke: bool = False,
    jobs: int | None = None,
    console: Console | None = None,
) -> list[Run]:
    """Play every run of an experiment that is not finished yet.

    Args:
        source: a YAML file, or a mapping of what one would hold.
        overrides: `key.path=value`, each value read as YAML.
        jobs: runs that are played at once, each in a process of its own on Ray; 1: one after the other; None: as
            many as fit, and one if the backend is `inprocess`.
    Returns:
        All its runs, those finished before included.
    Raises:
        UserError: something in the file, the data or the output folder is wrong; nothing was written.
        TrainingError: some runs failed; the others are finished.
    """
    plans, out = planned(source, overrides, smoke), Path(out)
    if smoke:
        for plan in plans:  # to try again is the point of it
            clear(out / plan.folder)
    console = console or Console()
    alone = len(plans) == 1 and not smoke and not RunFolder(out / plans[0].folder).finished
    runs = play(plans, out, console, place_of(source), jobs=asked(plans, jobs))
    if isinstance(source, Mapping):  # no command line can name it
        return runs
    if alone and (line := offer(runs[0], Command(Path(source), overrides, str(out)))):
        console.print(line, markup=False, soft_wrap=True)
    return runs


def play(
    plans: Sequence[Plan],
    out: Path,
    console: Console,
    where: Where,
    open_engine: Callable[..., Engine] = Engine,
    jobs: int | None = 1,
) -> list[Run]:
    """Play plans whose runs are not finished; draw figures of each, and of all runs of their folder.

    Args:
        open_engine: makes the engine of federation settings, resources and interrupts.
        jobs: runs that are played at once; None: as many as fit.
    """
    check_writable(out)
    plans = list({plan.folder: plan for plan in plans}.values())  # two cells of a matrix may be the same run
    unfinished = []
    for plan in plans:
        if RunFolder(out / plan.folder).finished:
            console.print(finished_line(out / plan.folder, plan), markup=False, soft_wrap=True)
        else:
            unfinished.append(plan)
    with Interrupts(lambda line: console.print(line, markup=False)) as interrupts:
        rehearse_all(unfinished, console, where, lambda plan: RunFolder(out / plan.folder).saved)
        with named(where):
            at_once = how_many(unfinished, jobs)
        told = check_begun(unfinished, out) if len(unfinished) > 1 else []  # one alone looks when it begins
        if at_once > 1:
            for line in told:
                console.print(line, markup=False, soft_wrap=True)
            failed = play_together(unfinished, out, console, interrupts, at_once, play_apart)
        else:
            with Engines(open_engine, interrupts) as engines, closing(free_runs(unfinished, out, console)) as turns:
                failed = play_in_turn(turns, Stage(out, console, where, engines, play_one), alone=len(plans) == 1)
    runs = [load_run(out / plan.folder) for plan in plans if plan.folder not in failed]
    complete(runs, console)
    conclude(list(dict.fromkeys(out / plan.name for plan in plans)), console, played=len(unfinished) > len(failed))
    report_failures(failed, plans, out, console)
    return runs


def play_apart(text: str, path: Path, inode: int) -> Outcome:
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
                play_one(engine, plan, path, Console(file=io.StringIO(), quiet=True))
        except KeyboardInterrupt:
            return Outcome("interrupted")
        except Exception as error:
            return Outcome("failed", note_failure(path, error))
    return Outcome("finished")


def play_one(engine: Engine, plan: Plan, path: Path, console: Console) -> None:
    """One run, from its beginning or its last checkpoint to its figures."""
    folder, scenario = RunFolder(path), scenario_of(plan)
    introduce(plan, scenario, console)
    say = partial(console.print, markup=False, soft_wrap=True)
    recorder = RunRecorder(folder, scenario.tasks[-1].names, say, facts(plan, scenario))
    lines = begin(folder, plan, scenario)
    for line in lines.said:
        recorder.tell(line)
    for line in lines.logged:
        recorder.note(line)
    with failure_card(path, plan, console), choose_progress(console) as progress, logged(plan, folder) as log:
        engine.run(plan, path, Observers(recorder, progress, log))
    draw_run(path)
    run = load_run(path)
    console.print(accuracy_table(run.rows), metrics_table(run.summary))
    smoke = MEANING if is_smoke(run.config) else ""
    for line in (failures_line(run.summary), *(f"inert: {one}" for one in idle_ingredients(run)), smoke):
        if line:
            console.print(line, markup=False, soft_wrap=True)
    console.print(f"{path}: accuracy.csv, rounds.jsonl, summary.json, figures/", markup=False, soft_wrap=True)


def resume(path: str | Path, console: Console | None = None, *, trust: bool = False) -> Run:
    """Go on with the run in a folder, with a strategy file of the user's own as it was when the run began.

    Args:
        trust: run the strategy.py of the folder even if the file it was copied from is another now, or gone.
    Raises:
        StoreError: the folder holds no run, one whose settings were changed, or code that may be a stranger's.
    """
    folder = RunFolder(os.path.realpath(path))
    plan, where = recorded_plan(folder, trust=trust), Where(str(folder.config))
    out = folder.path.parents[2] if len(folder.path.parents) > 2 else folder.path
    if out / plan.folder != folder.path:
        raise StoreError(f"{folder.path}: config.yaml or strategy.py was changed; they make {plan.folder}")
    if not folder.finished:
        with claimed(folder.path) as ours:
            if not ours:
                raise StoreError(f"{folder.path}: another process plays this run; it can be resumed when that ends")
    return play([plan], out, console or Console(), where)[0]
