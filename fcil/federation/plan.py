"""A plan is one run, fully resolved: what the server and every worker need to know, as values."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cached_property, lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

import torch
from torch import Tensor

from fcil.anchors import AnchorSettings, load_anchors
from fcil.config import Where, choice, dump, is_folder_name, parse
from fcil.config.effect import effective, without
from fcil.data import Dataset, DataSettings, Scenario, load_dataset
from fcil.data.files.decode import Progress
from fcil.data.oddities import oddities
from fcil.data.splits import content_digest
from fcil.federation.persistence.smoke import CUT, SUFFIX
from fcil.federation.settings import FederationSettings, Resources
from fcil.io.state import digest
from fcil.methods.files import source_digest
from fcil.methods.loading import StrategySpec, strategy_class
from fcil.nets import Net, NetSettings, build_net
from fcil.optimizer import OptimizerSettings
from fcil.synthesis import Synthesizer
from fcil.types import Index, Task, Tensors

Logger = Literal["tensorboard", "wandb"]


@dataclass(frozen=True, kw_only=True)
class Sections:
    """The sections of an experiment, which are those of each of its runs: the one list of them."""

    name: str
    """Names the folder of the results."""
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

    def sections(self) -> dict[str, Any]:
        """The value of each, by its key."""
        return {f.name: getattr(self, f.name) for f in fields(Sections)}


_CLASSES = get_type_hints(Sections).items()
_SETTINGS = {k: c for k, c in _CLASSES if isinstance(c, type) and is_dataclass(c) and c is not StrategySpec}


@dataclass(frozen=True, kw_only=True)
class Plan(Sections):
    """One strategy, one seed, one scenario."""

    seed: Index
    """Every random stream of the run is derived from it."""

    @cached_property
    def decisive(self) -> dict[str, Any]:
        """Every setting that can change the result, the seed aside."""
        parts = without(effective(self.to_yaml()), ("name", "seed"))
        if self.data.split is not None:
            parts["data"]["split"] = self.data.split.digest  # the same split, in whichever file
        return parts | {"strategy": self.strategy.fingerprint()}

    @cached_property
    def variant(self) -> str:
        """Eight hex digits of the decisive settings."""
        return sha256(json.dumps(self.decisive, sort_keys=True).encode()).hexdigest()[:8]

    @property
    def folder(self) -> Path:
        """Where its results lie, below the output folder."""
        return Path(self.name) / f"{self.strategy.name}-{self.variant}" / f"seed{self.seed}"

    def smoke(self) -> Plan:
        """Two tasks, one round, two batches: does it run at all?"""
        federation = replace(self.federation, **CUT)
        strategy = replace(self.strategy, strategy=self.strategy.strategy.smoke())
        return replace(self, name=f"{self.name}{SUFFIX}", federation=federation, strategy=strategy)

    def to_yaml(self) -> dict[str, Any]:
        return {"name": self.name, "seed": self.seed} | {k: dump(value) for k, value in self.sections().items()}

    def to_json(self) -> str:
        """For a worker: the plan with the text of the strategy's file."""
        spec = self.strategy
        strategy = {"name": spec.name, "options": spec.strategy.options(), "source": spec.source, "path": spec.path}
        return json.dumps({**self.to_yaml(), "strategy": strategy}, sort_keys=True)


def check_runs(name: str, seeds: Sequence[int]) -> None:
    """See that runs of these seeds can lie in a folder of this name.

    Raises:
        ValueError: names the setting, the value and what is allowed.
    """
    if not seeds or len(set(seeds)) != len(seeds):
        raise ValueError(f"seeds: {list(seeds)} is not allowed; expected at least one, and none twice")
    if max(seeds) >= 10**18:
        raise ValueError(f"seeds: {max(seeds)} is not allowed; expected at most 18 digits")
    if not is_folder_name(name):
        raise ValueError(f'name: "{name}" is not allowed; it names a folder')


def from_json(text: str) -> Plan:
    """The plan that `Plan.to_json` wrote; a user's strategy is loaded from its text."""
    return _resolved(json.loads(text), Where("plan"))


def from_yaml(values: Any, source: str, where: Where) -> Plan:
    """The plan that `Plan.to_yaml` gave, with the text of the strategy's file.

    Raises:
        ConfigError: these are not the settings of a run, or the strategy's file does not load.
    """
    wanted = [f.name for f in fields(Plan) if f.name != "logger"]  # which runs of earlier versions do not write
    missing = [k for k in wanted if k not in values] if isinstance(values, Mapping) else ["name"]
    if missing:
        raise where.error(f"not the settings of a run; {', '.join(missing)} missing")
    if not isinstance(values["name"], str) or not is_folder_name(values["name"]):
        raise where.at("name").error(f"{values['name']!r} is not allowed; it names a folder")
    if type(values["seed"]) is not int or values["seed"] < 0:
        raise where.at("seed").error(f"{values['seed']!r} is not allowed; expected a whole number from 0")
    name, options = choice(values["strategy"], where, "strategy")
    path = name if name.endswith(".py") else None
    strategy = {"name": Path(name).stem, "options": options, "source": source, "path": path}
    return _resolved({**values, "strategy": strategy}, where)


def _resolved(values: dict[str, Any], where: Where) -> Plan:
    given = values["strategy"]
    path = Path(given["path"]) if given["path"] else None
    kind = strategy_class(given["name"], path, given["source"], where)
    options = kind.parse(given["options"], where.at("strategy"))
    spec = StrategySpec(given["name"], options, given["source"], given["path"])
    logger = values.get("logger")
    if logger not in (None, *get_args(Logger)):
        raise where.unknown("logger", logger, list(get_args(Logger)))
    parts: dict[str, Any] = {key: parse(cls, values[key], where.at(key)) for key, cls in _SETTINGS.items()}
    return Plan(name=values["name"], seed=values["seed"], strategy=spec, logger=logger, **parts)


def scenario_of(plan: Plan) -> Scenario:
    """The data of a run, shared out; server and clients of one process use the same."""
    return _open(plan.data, plan.federation.clients, plan.seed, plan.resources.torch_device())


def tasks_of(plan: Plan) -> tuple[Task, ...]:
    """The tasks that are played; the last of them is the last there is, for strategies too."""
    tasks = scenario_of(plan).tasks[: plan.federation.stop_after]
    return tuple(replace(task, total=len(tasks)) for task in tasks)


def needs_anchors(plan: Plan) -> bool:
    """Whether the strategy, or a synthesizer of its, reads label-text embeddings."""
    strategy = plan.strategy.strategy
    required = [value.required for value in vars(strategy).values() if isinstance(value, Synthesizer)]
    return "anchors" in strategy.needs.union(*required)


def anchors_of(plan: Plan) -> Tensor | None:
    """Label-text embeddings (classes, D) in order of appearance, if the strategy or a synthesizer of its needs them."""
    if not needs_anchors(plan):
        return None
    return load_anchors(plan.anchors, scenario_of(plan).tasks[-1].names)


def first_net(plan: Plan, anchors: Tensor | None) -> Net:
    """The net a run begins with, for the classes of the first task, on the CPU.

    It has a label-text head where the strategy asks for anchors; a synthesizer that does reads them alone.
    """
    headed = "anchors" in plan.strategy.strategy.needs
    return build_net(
        plan.net,
        shape=scenario_of(plan).dataset.shape,
        num_classes=scenario_of(plan).tasks[0].num_seen,
        text_width=anchors.shape[1] if anchors is not None and headed else None,
        key=(plan.seed, "net"),
    )


def trained_net(plan: Plan, weights: Tensors) -> Net:
    """The net of a plan as its training left it, in evaluation mode, on the CPU, and without a label-text head.

    Raises:
        ValueError: the weights are of another net.
    """
    net = first_net(plan, None)
    net.load({name: w for name, w in weights.items() if not name.startswith("text_head.")})
    return net.eval()


@lru_cache(maxsize=2)
def _open(data: DataSettings, clients: int, seed: int, device: torch.device) -> Scenario:
    return Scenario(dataset_of(data), data, clients, seed, device)


_DATASETS: dict[tuple[Any, ...], Dataset] = {}
_DIGESTS: dict[tuple[Any, ...], str] = {}
_ODDITIES: dict[tuple[Any, ...], tuple[str, ...]] = {}
_LOOKING = False


@contextmanager
def looking() -> Iterator[None]:
    """For a block, data is only looked at: nothing is downloaded, written or decoded that need not be; no training."""
    global _LOOKING
    before = _LOOKING
    forget_data()
    _LOOKING = True
    try:
        yield
    finally:
        _LOOKING = before
        forget_data()


def dataset_of(data: DataSettings, progress: Progress | None = None) -> Dataset:
    """The data set of these settings; the last one stays loaded, whatever its tasks and partition."""
    key = _key(data)
    if key not in _DATASETS:
        forget_data()
        _DATASETS[key] = load_dataset(data, progress=progress, look=_LOOKING)
    return _DATASETS[key]


def _key(data: DataSettings) -> tuple[Any, ...]:
    prepared = data.test_share, data.transparency, data.orientation, data.augment
    return data.dataset, data.root, data.resize, data.validation, data.per_class, *prepared


def oddities_of(plan: Plan) -> tuple[str, ...]:
    """What is odd about the data of a plan, a line each."""
    key = _key(plan.data)
    dataset = dataset_of(plan.data)
    if key not in _ODDITIES:
        _ODDITIES[key] = tuple(oddities(dataset))
    return _ODDITIES[key]


def inputs_of(plan: Plan) -> dict[str, str | None]:
    """Digests of what a run reads beside its settings: images, label-text embeddings, the file of its strategy."""
    key, anchors = _key(plan.data), anchors_of(plan)
    dataset = dataset_of(plan.data)
    if key not in _DIGESTS:
        _DIGESTS[key] = content_digest(dataset)
    return {
        "images": _DIGESTS[key],
        "anchors": None if anchors is None else digest({"anchors": anchors}, {}),
        "strategy.py": source_digest(plan.strategy.source),
    }


def forget_data() -> None:
    """Let go of the data this process holds."""
    _open.cache_clear()
    _DATASETS.clear()
    _DIGESTS.clear()
    _ODDITIES.clear()
