"""A plan is one run, fully resolved: what the server and every worker need to know, as values."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from fcil.anchors import AnchorSettings
from fcil.config import Where, dump, parse
from fcil.data import DataSettings, Scenario, load_dataset
from fcil.federation.settings import FederationSettings, Resources
from fcil.nets import NetSettings
from fcil.optimizer import OptimizerSettings
from fcil.plugins import StrategySpec, strategy_class
from fcil.types import Index, Task


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One strategy, one seed, one scenario."""

    name: str
    """Of the experiment; the folder of its results."""
    seed: Index
    """Every random stream of the run is derived from it."""
    data: DataSettings
    """What is learnt, task by task and client by client."""
    federation: FederationSettings
    """Who trains, and for how long."""
    optimizer: OptimizerSettings
    """How clients train."""
    net: NetSettings
    """What is trained."""
    anchors: AnchorSettings
    """Where label-text embeddings come from."""
    strategy: StrategySpec
    """The method."""
    resources: Resources
    """What the run may use."""

    @cached_property
    def variant(self) -> str:
        """Eight hex digits of everything that can change the result, the seed aside."""
        federation = dump(self.federation)
        for key in ("backend", "timeout", "checkpoint_every"):
            del federation[key]
        parts: dict[str, Any] = {k: dump(getattr(self, k)) for k in ("data", "optimizer", "net", "anchors")}
        parts |= {"federation": federation, "strategy": self.strategy.fingerprint()}
        return sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:8]

    @property
    def folder(self) -> Path:
        """Where its results lie, below the output folder."""
        return Path(self.name) / f"{self.strategy.name}-{self.variant}" / f"seed{self.seed}"

    def smoke(self) -> Plan:
        """Two tasks, one round, two batches: does it run at all?"""
        federation = replace(self.federation, rounds=1, local_epochs=1, max_batches=2, stop_after=2)
        strategy = replace(self.strategy, strategy=self.strategy.strategy.smoke())
        return replace(self, name=f"{self.name}-smoke", federation=federation, strategy=strategy)

    def to_yaml(self) -> dict[str, Any]:
        return {f: dump(getattr(self, f)) for f in self.__dataclass_fields__}

    def to_json(self) -> str:
        """For a worker: the plan with the text of the strategy's file."""
        spec = self.strategy
        strategy = {"name": spec.name, "options": spec.strategy.options(), "source": spec.source, "path": spec.path}
        return json.dumps({**self.to_yaml(), "strategy": strategy}, sort_keys=True)


def from_json(text: str) -> Plan:
    """The plan that `Plan.to_json` wrote; a user's strategy is loaded from its text."""
    values = json.loads(text)
    where, given = Where("plan"), values.pop("strategy")
    path = Path(given["path"]) if given["path"] else None
    kind = strategy_class(given["name"], path, given["source"], where)
    spec = StrategySpec(given["name"], kind.parse(given["options"], where), given["source"], given["path"])
    hints = {"data": DataSettings, "federation": FederationSettings, "optimizer": OptimizerSettings}
    hints |= {"net": NetSettings, "anchors": AnchorSettings, "resources": Resources}
    parts: dict[str, Any] = {k: parse(cls, values[k], where.at(k)) for k, cls in hints.items()}
    return Plan(name=values["name"], seed=values["seed"], strategy=spec, **parts)


def scenario_of(plan: Plan) -> Scenario:
    """The data of a run, shared out; server and clients of one process use the same."""
    return _open(plan.data, plan.federation.clients, plan.seed, plan.resources.torch_device())


def tasks_of(plan: Plan) -> tuple[Task, ...]:
    """The tasks that are played; the last of them is the last there is, for strategies too."""
    tasks = scenario_of(plan).tasks[: plan.federation.stop_after]
    return tuple(replace(task, total=len(tasks)) for task in tasks)


@lru_cache(maxsize=2)
def _open(data: DataSettings, clients: int, seed: int, device: torch.device) -> Scenario:
    return Scenario(load_dataset(data), data, clients, seed, device)


def forget_scenarios() -> None:
    """Let go of the data this process holds."""
    _open.cache_clear()
