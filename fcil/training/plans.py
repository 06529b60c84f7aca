"""Runs of a file of `fcil train`, before any of them is played."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from fcil.config import Where
from fcil.config.matrix import Source, place_of
from fcil.federation.context import Datasets, RunContext
from fcil.federation.plan import Plan
from fcil.nets import check_batch, check_inputs
from fcil.runs.estimate import Estimate, estimate_plans
from fcil.runs.preflight import named, share_out
from fcil.training.settings import Training, introductions, read


def training_plans(trainings: Sequence[Training], *, smoke: bool = False, jobs: int | None = None) -> list[Plan]:
    """Return the runs of trainings, each once: two cells of a matrix may be the same run.

    Args:
        jobs: as of `train`; runs are played in this process where it is 1, or there is one run alone.
    """
    beside = jobs != 1 and sum(len(training.seeds) for training in trainings) > 1
    plans = [training.plan(seed, beside=beside) for training in trainings for seed in training.seeds]
    if smoke:
        plans = [training.plan(training.seeds[0], beside=beside).smoke() for training in trainings]
    return list({plan.folder: plan for plan in plans}.values())


def check_all(trainings: Sequence[Training], datasets: Datasets, where: Where) -> None:
    """Check that nets read the data, in batches of such a size.

    Raises:
        ConfigError: one does not.
    """
    for training in trainings:
        shape = share_out(training.plan(training.seeds[0]), datasets, where).scenario.dataset.shape
        with named(where):
            check_inputs(training.net, shape, "net.name")
            check_batch(training.net, shape, training.batch_size, "train.batch_size")


def survey(source: Source, overrides: Sequence[str] = (), datasets: Datasets | None = None) -> Iterator[RunContext]:
    """Yield every run of a file and its data; nothing is played."""
    datasets = datasets or Datasets()
    for plan in training_plans(read(source, overrides)):
        yield share_out(plan, datasets, place_of(source))


def forecast(
    source: str | Path,
    *overrides: str,
    out: str | Path = "results",
    smoke: bool = False,
    jobs: int | None = None,
) -> Estimate:
    """Return the runs that `train` would play with the same arguments.

    Raises:
        UserError: something in the file or the data is wrong.
    """
    where, trainings = Where(str(source)), read(source, overrides)
    ahead = estimate_plans(training_plans(trainings, smoke=smoke, jobs=jobs), Path(out), where, smoke=smoke, jobs=jobs)
    return replace(ahead, notes=(*introductions(source, overrides), *ahead.notes))
