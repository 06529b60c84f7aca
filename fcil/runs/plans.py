"""Plans of a YAML file: overrides, the matrix, the seeds."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from fcil.config import parse_fields
from fcil.config.matrix import DISTILLS, MAX_RUNS, SEARCHES, Source, cells, is_distillation, is_training, place_of
from fcil.errors import ConfigError, all_of, collect
from fcil.federation.context import Datasets, RunContext
from fcil.federation.plan import Plan, Sections, check_runs
from fcil.runs.preflight import share_out
from fcil.types import Count, Index


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """Length of a central training, for `fcil train`."""

    epochs: Count | None = None
    """Passes over the training data; null: as many as a client makes over its data of a task, `federation.rounds` x
    `local_epochs`, which are 20 at their defaults."""
    batch_size: Count | None = None
    """Samples per step; null: `federation.batch_size`."""
    evaluate_every: Index | None = None
    """Epochs between evaluations on the test data; 0: at the end alone; null: about ten in all. The result is that of
    the last epoch, whatever came before."""


@dataclass(frozen=True, kw_only=True)
class Experiment(Sections):
    """The keys of an experiment file, `matrix` aside."""

    seeds: tuple[Index, ...] = (0,)
    """A run for each."""
    train: TrainSettings = TrainSettings()
    """Length of a central training on the same data, by `fcil train`; `fcil run` does not read it."""

    READ_ELSEWHERE: ClassVar = ("matrix", SEARCHES)

    def __post_init__(self) -> None:
        check_runs(self.name, self.seeds)

    def plans(self) -> list[Plan]:
        return [Plan(seed=seed, **self.sections()) for seed in self.seeds]


def read(source: Source, overrides: Sequence[str] = (), *, searched: bool = False) -> list[Experiment]:
    """The experiments of a file or mapping: one, or the product of its `matrix`.

    Args:
        overrides: `key.path=value`, each value read as YAML.
        searched: whether the file may have `search`, which is left out; it cannot be played as it stands.
    Raises:
        ConfigError: names the file, the key path, the value and what is allowed, a line for each error.
    """
    where, found = place_of(source), cells(source, overrides)
    if strange := next((cell for cell in found if is_distillation(cell)), None):
        keys = " and ".join(f'"{key}"' for key in strange if key in DISTILLS)
        raise where.error(f"is a distillation, as it has {keys} and no strategy; it is for fcil distill")
    if any(is_training(cell) for cell in found):
        raise where.error('has "train" and no strategy; it is for fcil train')
    if not searched and any(cell.get(SEARCHES) is not None for cell in found):
        raise where.error(
            f'has "{SEARCHES}", which tries settings on held-out training samples; it is for fcil search'
            f" ({SEARCHES}=null data.validation=0 plays it with the settings of the file)"
        )
    values = [{key: value for key, value in cell.items() if key != SEARCHES} for cell in found]
    experiments, errors = collect(lambda cell: parse_fields(Experiment, cell, where), values)
    if errors:
        raise all_of(errors)
    runs = sum(len(experiment.seeds) for experiment in experiments)
    if runs > MAX_RUNS:
        raise where.at("seeds").error(f"makes {runs:,} runs; at most {MAX_RUNS:,} are allowed")
    return experiments


def planned(source: Source, overrides: Sequence[str] = (), smoke: bool = False, shard: str | None = None) -> list[Plan]:
    """The runs of an experiment file, each once: two cells of a matrix may be the same run.

    Args:
        shard: `i/n` for every n-th of them, from the i-th on, counted from 1; None: all.
    """
    first, step = (1, 1) if shard is None else read_shard(shard)
    experiments = read(source, overrides)
    plans = [plan for experiment in experiments for plan in experiment.plans()]
    if smoke:
        plans = [experiment.plans()[0].smoke() for experiment in experiments]
    return list({plan.folder: plan for plan in plans}.values())[first - 1 :: step]


def read_shard(text: str) -> tuple[int, int]:
    """Return i and n of a shard `i/n`.

    Raises:
        ConfigError: it is no such text, or i is not among 1 .. n.
    """
    found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text, re.ASCII)
    number, of = (int(part) for part in found.groups()) if found else (0, 0)
    if not 1 <= number <= of:
        raise ConfigError(f'--shard "{text}" is not allowed; expected i/n with i from 1 to n, such as 1/8')
    return number, of


def survey(source: Source, overrides: Sequence[str] = (), datasets: Datasets | None = None) -> Iterator[RunContext]:
    """Every run of an experiment and who would hold what in it; nothing is played."""
    datasets = datasets or Datasets()
    for plan in (plan for experiment in read(source, overrides, searched=True) for plan in experiment.plans()):
        yield share_out(plan, datasets, place_of(source))
