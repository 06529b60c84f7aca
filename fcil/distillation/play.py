"""From a distillation's file to its runs: teachers, students, sample quality and loss from quantisation."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from rich.console import Console
from safetensors.torch import load_file

from fcil.config import Where
from fcil.config.matrix import Source, place_of
from fcil.distillation.plans import check_all, expected_plans
from fcil.distillation.quality import is_measured, measure, quality_table
from fcil.distillation.quantisation import quantise, quantised_table
from fcil.distillation.settings import Distillation, read
from fcil.distillation.teachers import doubt, exported, given_teacher
from fcil.federation.context import Datasets
from fcil.federation.plan import Plan
from fcil.io.lock import clear
from fcil.profiling import Profiler, check_alone
from fcil.runs.continuation import check_begun
from fcil.runs.play import execute
from fcil.runs.preflight import preflight, share_out
from fcil.store import Run, check_writable, load_run

Asked = tuple[Distillation, int]
"""A requested student: its settings and its seed."""


def distill(
    source: Source,
    *overrides: str,
    out: str | Path = "results",
    smoke: bool = False,
    jobs: int | None = 1,
    console: Console | None = None,
    profiler: Profiler | None = None,
) -> list[Run]:
    """Train or load the teachers of a file, and train every student that is not finished yet.

    Args:
        smoke: run one seed with two steps of everything, again if it was run before.
        jobs: runs that execute at once, each in a process of its own on Ray; None: as many as fit.
        profiler: writes a profile of each run, which is then played in this process.
    Returns:
        The runs of the students, those finished before included.
    Raises:
        UserError: something in the file, the data, a teacher or the output folder is wrong.
    """
    check_alone(profiler, jobs)
    out, console, where = Path(out), console or Console(), place_of(source)
    found = read(source, overrides)
    if smoke:
        found = [one.smoke() for one in found]
        for plan in expected_plans(found):
            clear(out / plan.folder)
    check_writable(out)
    datasets = Datasets()
    check_all(found, datasets, where)
    given = {(one.teacher, one.data): given_teacher(one, datasets, where) for one in found if one.teacher.file}
    for line in filter(None, map(doubt, dict.fromkeys(given.values()))):
        console.print(line, markup=False, soft_wrap=True)
    asked = [(one, seed) for one in found for seed in one.seeds]
    preflight([one.student_plan(seed) for one, seed in asked], datasets, console, where)
    students = [one.student_plan(seed, given.get((one.teacher, one.data))) for one, seed in asked]
    begun = list({plan.folder: plan for plan in students}.values())
    check_begun(begun, datasets, out)  # before a teacher is trained for them
    trained = trained_teachers(asked, datasets, out, console, where, jobs, profiler)
    files = [given.get((one.teacher, one.data)) or trained[one.teacher_plan(seed).folder] for one, seed in asked]
    plans = [one.student_plan(seed, file) for (one, seed), file in zip(asked, files, strict=True)]

    def measured(runs: list[Run]) -> None:
        for folder, file in trained.items():
            accuracy = load_run(out / folder).summary["final_accuracy"]
            console.print(f"teacher: {100 * accuracy:.1f} % ({file})", markup=False, soft_wrap=True)
        finished = {run.path: run for run in runs}
        for plan, file, (one, seed) in zip(plans, files, asked, strict=True):
            if run := finished.get((out / plan.folder).absolute()):
                look_at(run, one, one.teacher_plan(seed), file, datasets, console, where)

    runs = execute(plans, out, console, where, jobs=jobs, datasets=datasets, measure=measured, profiler=profiler)
    console.print(quality_table(runs))
    return runs


def trained_teachers(
    asked: Sequence[Asked],
    datasets: Datasets,
    out: Path,
    console: Console,
    where: Where,
    jobs: int | None,
    profiler: Profiler | None,
) -> dict[Path, Path]:
    """Train the teachers that no file holds; return the file of each, by the folder of its run."""
    plans = {plan.folder: plan for one, seed in asked if not one.teacher.file for plan in [one.teacher_plan(seed)]}
    execute(list(plans.values()), out, console, where, jobs=jobs, datasets=datasets, profiler=profiler)
    return {folder: exported(out / folder, partial(share_out, plan, datasets, where)) for folder, plan in plans.items()}


def look_at(
    run: Run, one: Distillation, teacher: Plan, file: Path, datasets: Datasets, console: Console, where: Where
) -> None:
    """Measure and print the quality of a student's pool, and the teacher's loss at eight bits; reuse known results."""
    weights = load_file(file)
    if not is_measured(run, weights):
        measure(run, share_out(teacher, datasets, where), weights)
    if one.quantise:
        console.print(quantised_table(quantise(run, teacher, weights, one.quantise, datasets)))
