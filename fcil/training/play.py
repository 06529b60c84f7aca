"""From a file of `fcil train` to its runs."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from fcil.config.matrix import Source, place_of
from fcil.federation.context import Datasets
from fcil.io.lock import clear
from fcil.profiling import Profiler, check_alone
from fcil.runs.parallel import jobs_asked_for
from fcil.runs.play import execute
from fcil.store import Run
from fcil.training.plans import check_all, training_plans
from fcil.training.settings import introductions, read


def train(
    source: Source,
    *overrides: str,
    out: str | Path = "results",
    smoke: bool = False,
    jobs: int | None = None,
    console: Console | None = None,
    profiler: Profiler | None = None,
) -> list[Run]:
    """Train the nets of a file that are not finished yet, each on the whole of its data set.

    Args:
        source: a YAML file, or a mapping of what one would hold; an experiment of `fcil run` is one too.
        overrides: `key.path=value`, each value read as YAML.
        smoke: play one seed with one epoch of two batches, again if it was played before.
        jobs: as of `fcil.run`.
        profiler: writes a profile of each run, which is then played in this process.
    Returns:
        The runs, those finished before included; their accuracy is the last epoch's.
    Raises:
        UserError: something in the file, the data or the output folder is wrong; nothing was written.
        TrainingError: some runs failed; the others are finished.
    """
    check_alone(profiler, jobs)
    trainings, out, console, where = read(source, overrides), Path(out), console or Console(), place_of(source)
    plans, datasets = training_plans(trainings, smoke=smoke, jobs=jobs), Datasets()
    check_all(trainings, datasets, where)
    if smoke:
        for plan in plans:
            clear(out / plan.folder)
    for line in introductions(source, overrides):
        console.print(line, markup=False, soft_wrap=True)
    at_once = jobs_asked_for(plans, jobs)
    return execute(plans, out, console, where, jobs=at_once, datasets=datasets, profiler=profiler)
