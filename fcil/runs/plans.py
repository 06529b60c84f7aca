"""From a YAML file to plans: overrides, the matrix, the seeds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from fcil.anchors import AnchorSettings
from fcil.config import parse_fields
from fcil.config.matrix import DISTILLS, MAX_RUNS, Source, cells, is_distillation, place_of
from fcil.data import DataSettings
from fcil.errors import all_of, collect
from fcil.federation.context import Datasets, RunContext
from fcil.federation.plan import Logger, Plan, check_runs
from fcil.federation.settings import FederationSettings, Resources
from fcil.methods.loading import StrategySpec
from fcil.nets import NetSettings
from fcil.optimizer import OptimizerSettings
from fcil.runs.preflight import share_out
from fcil.types import Index


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


def survey(source: Source, overrides: Sequence[str] = (), datasets: Datasets | None = None) -> Iterator[RunContext]:
    """Every run of an experiment and who would hold what in it; nothing is played."""
    datasets = datasets or Datasets()
    for plan in (plan for experiment in read(source, overrides) for plan in experiment.plans()):
        yield share_out(plan, datasets, place_of(source))
