"""The keys of a file of `fcil train`, and the plans made from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from fcil.config import Where, parse_fields
from fcil.config.matrix import DISTILLS, Source, cells, is_distillation, is_training, place_of
from fcil.data import DataSettings
from fcil.data.settings import HELD
from fcil.errors import all_of, collect
from fcil.federation.plan import Logger, Plan, check_runs
from fcil.federation.settings import FederationSettings, Resources
from fcil.methods.loading import StrategySpec
from fcil.nets import NetSettings
from fcil.optimizer import OptimizerSettings
from fcil.runs.plans import TrainSettings
from fcil.types import Index

CENTRAL = "-central"
"""Ends the name under which the runs lie, beside those of `fcil run` on the same file."""
ALONE = {"finetune": {"weighting": "uniform"}}
"""Strategy of the one client: its net is the mean as it stands, where a weight of n examples would round n w / n."""
UNREAD = ("strategy", "anchors")
"""Sections of an experiment that a central training has no use for."""
SHARING = (*HELD, "split")
"""Keys of `data` that distribute it over tasks and clients."""
EVALUATIONS, CHECKPOINTS = 10, 50
"""About how many evaluations and checkpoints there are in a training, unless told otherwise."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """The keys of a file of `fcil train`, `matrix` aside; an experiment's other keys are left out."""

    name: str
    """Names the folder of the results, which has `-central` behind it."""
    seeds: tuple[Index, ...] = (0,)
    """A run for each."""
    data: DataSettings
    """Data set; it is one task, and one client holds it."""
    train: TrainSettings = TrainSettings()
    """Length of the training."""
    optimizer: OptimizerSettings = OptimizerSettings(state="kept")
    """Optimizer; its state is kept from epoch to epoch unless the file says fresh."""
    net: NetSettings = NetSettings()
    """Net that is trained."""
    resources: Resources = Resources()
    """Resources the run may use."""
    logger: Logger | None = None
    """Logger that is told of every epoch: `tensorboard` or `wandb`; null: none."""
    federation: FederationSettings = FederationSettings()
    """Read for the defaults of `train` alone."""

    READ_ELSEWHERE: ClassVar = ("matrix", *UNREAD)

    def __post_init__(self) -> None:
        check_runs(self.name, self.seeds)
        if self.train.epochs is None and self.federation.local_steps is not None:
            raise ValueError("train: epochs is missing, and federation.local_steps counts no passes; set it")

    @property
    def epochs(self) -> int:
        """Return the passes over the training data."""
        return self.train.epochs or self.federation.rounds * self.federation.local_epochs

    @property
    def batch_size(self) -> int:
        """Return the samples per step."""
        return self.train.batch_size or self.federation.batch_size

    def plan(self, seed: int, *, beside: bool = False) -> Plan:
        """Return the training as a run: one client who holds everything.

        Args:
            beside: whether it may be played beside others, in a process of its own; else in this one.
        """
        every = self.train.evaluate_every
        federation = FederationSettings(
            clients=1,
            rounds=self.epochs,
            local_epochs=1,
            batch_size=self.batch_size,
            backend=self.federation.backend if beside and ":" not in self.resources.device else "inprocess",
            evaluate_every=max(1, self.epochs // EVALUATIONS) if every is None else every,
            checkpoint_every=max(1, self.epochs // CHECKPOINTS),
        )
        return Plan(
            name=f"{self.name}{CENTRAL}",
            seed=seed,
            data=self.data,
            federation=federation,
            optimizer=self.optimizer,
            net=self.net.shared(),
            strategy=StrategySpec.from_yaml(ALONE, Where("train")),
            resources=self.resources,
            logger=self.logger,
        )

    def introduction(self, cell: Mapping[str, Any]) -> str:
        """Return a line about what is trained how long, and what of the values it was read from is not read."""
        unread = [key for key in UNREAD if key in cell]
        unread += [f"data.{key}" for key in SHARING if key in cell["data"]]
        of_use = ["backend"] + ["batch_size"] * (not self.train.batch_size)
        of_use += ["rounds", "local_epochs"] * (not self.train.epochs)
        unread += [f"federation.{key}" for key in cell.get("federation", {}) if key not in of_use]
        source = "" if self.train.epochs else ", as many passes as federation.rounds x local_epochs"
        not_read = f"; not read: {', '.join(unread)}" if unread else ""
        return (
            f"train: {self.net.name} on all classes of {self.data.dataset} at once, {self.epochs} epochs{source}, in "
            f"batches of {self.batch_size}; the result is the last epoch's{not_read}"
        )


def read(source: Source, overrides: Sequence[str] = ()) -> list[Training]:
    """Return the trainings of a file or mapping: one, or the product of its `matrix`.

    Raises:
        ConfigError: names the file, the key path, the value and what is allowed, a line for each error.
    """
    where, found = place_of(source), cells(source, overrides)
    if strange := next((cell for cell in found if is_distillation(cell)), None):
        keys = " and ".join(f'"{key}"' for key in strange if key in DISTILLS)
        raise where.error(f"is a distillation, as it has {keys} and no strategy; it is for fcil distill")
    trainings, errors = collect(lambda cell: _read(cell, where), found)
    if errors:
        raise all_of(errors)
    return trainings


def introductions(source: Source, overrides: Sequence[str] = ()) -> list[str]:
    """Return a line about each training of a file that `read` accepts, those alike once."""
    trainings = zip(cells(source, overrides), read(source, overrides), strict=True)
    return list(dict.fromkeys(training.introduction(cell) for cell, training in trainings))


def is_for_training(source: Source, overrides: Sequence[str] = ()) -> bool:
    """Return whether a file is for `fcil train` alone.

    Raises:
        ConfigError: there is no such file, or it is no YAML.
    """
    return all(is_training(cell) for cell in cells(source, overrides))


def _read(cell: Mapping[str, Any], where: Where) -> Training:
    """Return the training of one cell, whose data is one task."""
    data, optimizer = cell.get("data"), cell.get("optimizer", {})
    values = {key: value for key, value in cell.items() if key not in UNREAD}
    if isinstance(data, Mapping):
        values["data"] = {key: value for key, value in data.items() if key not in SHARING} | {"tasks": 1}
    if isinstance(optimizer, Mapping):
        values["optimizer"] = {"state": "kept", **optimizer}
    return parse_fields(Training, values, where)
