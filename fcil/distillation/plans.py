"""Runs of a distillation's file, before any of them is executed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from fcil.config import Where
from fcil.config.matrix import Source, place_of
from fcil.data import Scenario
from fcil.distillation.checks import check_batches
from fcil.distillation.quantisation import check_installed
from fcil.distillation.settings import Distillation, read
from fcil.distillation.teachers import check_teacher, teacher_file
from fcil.federation.context import Datasets
from fcil.federation.plan import Plan
from fcil.runs.estimate import Estimate, data_at_hand, estimate_plans
from fcil.runs.preflight import named, share_out
from fcil.store.groups import TEACHER


def check_all(found: Sequence[Distillation], datasets: Datasets, where: Where) -> None:
    """Check distillations without a download or a file written.

    Raises:
        ConfigError: one of them is impossible.
    """
    if any(one.quantise for one in found):
        with named(where.at("quantise")):
            check_installed()
    for one in found:
        path = teacher_file(one)
        if path is not None and (one.teacher.file != "torchvision" or path.is_file()):
            check_teacher(path, one.teacher_plan(one.seeds[0]), datasets, where)
        check_batches(one, datasets, where)


def expected_plans(found: Sequence[Distillation]) -> list[Plan]:
    """Return the teachers to be trained and the students, each once, a teacher before its students."""
    plans: dict[Path, Plan] = {}
    for one in found:
        path = teacher_file(one)
        for seed in one.seeds:
            if path is None:
                plans.setdefault((teacher := one.teacher_plan(seed)).folder, teacher)
            student = one.student_plan(seed, path if path is not None and path.is_file() else None)
            plans.setdefault(student.folder, student)
    return list(plans.values())


def survey(
    source: Source, overrides: Sequence[str] = (), datasets: Datasets | None = None
) -> Iterator[tuple[Distillation, Scenario]]:
    """Yield every distillation of a file, and the data of its teacher; nothing is executed."""
    datasets = datasets or Datasets()
    for one in read(source, overrides):
        yield one, share_out(one.teacher_plan(one.seeds[0]), datasets, place_of(source)).scenario


def forecast(
    source: str | Path,
    *overrides: str,
    out: str | Path = "results",
    smoke: bool = False,
    jobs: int | None = 1,
) -> Estimate:
    """Return the runs that `distill` would execute with the same arguments; nothing is downloaded or written.

    Raises:
        UserError: something in the file, the data or a given teacher is wrong.
    """
    where, found = Where(str(source)), read(source, overrides)
    found = [one.smoke() for one in found] if smoke else found
    here = [one for one in found if data_at_hand(one.teacher_plan(one.seeds[0]), where)]
    check_all(here, Datasets(look=True), where)
    ahead = estimate_plans(expected_plans(found), Path(out), where, smoke=smoke, jobs=jobs)
    names = {f"{one.name}{TEACHER}" for one in found}
    runs = (
        replace(run, label=f"teacher · seed {run.seed}") if Path(run.folder).parts[-3] in names else run
        for run in ahead.runs
    )
    return replace(ahead, runs=tuple(runs))
