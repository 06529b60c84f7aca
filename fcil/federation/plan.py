"""A plan is one run, fully resolved: what the server and every worker need to know, as values."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

from fcil.anchors import AnchorSettings
from fcil.config import Where, choice, dump, is_folder_name, parse
from fcil.config.effect import effective, without
from fcil.config.parts import PartFile, parts_in
from fcil.data import DataSettings
from fcil.errors import ConfigError
from fcil.federation.persistence.smoke import CUT, SUFFIX
from fcil.federation.settings import FederationSettings, Resources
from fcil.methods.loading import StrategySpec, strategy_class
from fcil.nets import NetSettings
from fcil.optimizer import OptimizerSettings
from fcil.synthesis import Synthesizer
from fcil.types import Index

Logger = Literal["tensorboard", "wandb"]


@dataclass(frozen=True, kw_only=True)
class Sections:
    """The sections of an experiment, which are those of each of its runs: the one list of them."""

    name: str
    """Name of the experiment, and of the folder of the results."""
    data: DataSettings
    """Data set and its split by task and by client."""
    federation: FederationSettings = FederationSettings()
    """Clients, rounds and epochs of training."""
    optimizer: OptimizerSettings = OptimizerSettings()
    """Optimizer of the clients."""
    net: NetSettings = NetSettings()
    """Net that is trained."""
    anchors: AnchorSettings = AnchorSettings()
    """Source of the label-text embeddings."""
    strategy: StrategySpec
    """Strategy (the method) and its hyper-parameters."""
    resources: Resources = Resources()
    """Resources the run may use."""
    logger: Logger | None = None
    """Logger that is told of every round: `tensorboard` or `wandb`; null: none."""

    def sections(self) -> dict[str, Any]:
        """Return the value of each section, by its key."""
        return {f.name: getattr(self, f.name) for f in fields(Sections)}


_CLASSES = get_type_hints(Sections).items()
_SETTINGS = {k: c for k, c in _CLASSES if isinstance(c, type) and is_dataclass(c) and c is not StrategySpec}


@dataclass(frozen=True, kw_only=True)
class Plan(Sections):
    """Plan of one run: one strategy, one seed, one scenario."""

    seed: Index
    """Seed of the run, from which every random stream is derived."""

    def __post_init__(self) -> None:
        names: dict[str, str] = {}
        for part in self.parts:
            if names.setdefault(part.name, part.path) != part.path:
                raise ConfigError(
                    f'{part.name}: "{names[part.name]}" and "{part.path}" are two files of this name in one run, '
                    "whose folder keeps both under it; rename one"
                )

    @cached_property
    def parts(self) -> tuple[PartFile, ...]:
        """Return the files of the user's own net, data set, partition and synthesizers, each once."""
        sections = {**self.sections(), "strategy": vars(self.strategy.strategy)}
        return tuple(dict.fromkeys(parts_in(sections)))

    @cached_property
    def decisive(self) -> dict[str, Any]:
        """Return every setting that can change the result, the seed aside."""
        parts = without(effective(self.to_yaml()), ("name", "seed"))
        if self.data.split is not None:
            parts["data"]["split"] = self.data.split.digest  # the same split, in whichever file
        texts = {part.name: sha256(part.source.encode()).hexdigest() for part in self.parts}
        return parts | {"strategy": self.strategy.fingerprint()} | ({"parts": texts} if texts else {})

    @cached_property
    def variant(self) -> str:
        """Eight hex digits of the decisive settings."""
        return sha256(json.dumps(self.decisive, sort_keys=True).encode()).hexdigest()[:8]

    @property
    def folder(self) -> Path:
        """Return the folder of its results, below the output folder."""
        return Path(self.name) / f"{self.strategy.name}-{self.variant}" / f"seed{self.seed}"

    def smoke(self) -> Plan:
        """Return the plan of a smoke run: two tasks, one round, two batches, to see that it runs at all."""
        federation = replace(self.federation, **CUT)
        strategy = replace(self.strategy, strategy=self.strategy.strategy.smoke())
        return replace(self, name=f"{self.name}{SUFFIX}", federation=federation, strategy=strategy)

    def to_yaml(self) -> dict[str, Any]:
        return {"name": self.name, "seed": self.seed} | {k: dump(value) for k, value in self.sections().items()}

    def to_json(self) -> str:
        """Return the plan for a worker, with the texts of the strategy's file and of the user's other own files."""
        spec = self.strategy
        strategy = {"name": spec.name, "options": spec.strategy.options(), "source": spec.source, "path": spec.path}
        own = {"parts": {part.path: part.source for part in self.parts}} if self.parts else {}
        return json.dumps({**self.to_yaml(), "strategy": strategy, **own}, sort_keys=True)


def check_runs(name: str, seeds: Sequence[int]) -> None:
    """Check that runs of these seeds can lie in a folder of this name.

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
    """The plan that `Plan.to_json` wrote; a user's strategy and other own parts are loaded from their texts."""
    values = json.loads(text)
    return _resolved(values, Where("plan", files=values.get("parts", {}).__getitem__))


def from_yaml(values: Any, source: str, where: Where) -> Plan:
    """The plan that `Plan.to_yaml` gave, with the text of the strategy's file; `where.files` has those of other parts.

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


def needs_anchors(plan: Plan) -> bool:
    """Return whether the strategy, or a synthesizer of its, reads label-text embeddings."""
    strategy = plan.strategy.strategy
    required = [value.required for value in vars(strategy).values() if isinstance(value, Synthesizer)]
    return "anchors" in strategy.needs.union(*required)
