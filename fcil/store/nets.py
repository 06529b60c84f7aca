"""The trained net of a run: one safetensors file with everything that is needed to build the net again.

net.safetensors         the net at the end of the run: weights, and in the metadata, under `fcil`, the rest as JSON
net/task<k>.safetensors the net at the end of task k, with `resources.keep: tasks`
<one of these>_shared.safetensors  what `predict` of the strategy reads beside the net, where it has a rule of its own
<one of these>_memo.safetensors    the server's own notes, of a net out of which a client was taken
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fcil.config import Where, dump, parse
from fcil.errors import ConfigError, StoreError
from fcil.federation.context import RunContext
from fcil.federation.observer import Observer
from fcil.io.blobs import DamagedError, read_tensors, write_tensors
from fcil.io.state import flatten, unflatten
from fcil.nets import Net, NetSettings, net_of
from fcil.roles import Server
from fcil.store.checks import is_count, is_name, is_number
from fcil.store.folder import RunFolder
from fcil.strategy import Strategy
from fcil.types import State, Task, Tensors

FORMAT = 1
"""Version of the metadata."""
KEY = "fcil"
"""Name of the metadata in a file."""


@dataclass(frozen=True, kw_only=True)
class NetFacts:
    """What is needed to build a net again and to prepare samples for it."""

    net: dict[str, Any]
    """Its settings, as in `config.yaml`."""
    shape: tuple[int, ...]
    """Shape of a sample: (channels, height, width), or (channels, steps) of series."""
    task: int
    """Task that it had learnt last."""
    sizes: tuple[int, ...]
    """Classes of each task up to that."""
    classes: tuple[str, ...]
    """Names of the classes, one for each output, in order of appearance."""
    order: tuple[int, ...]
    """Their class numbers in the data set."""
    dataset: tuple[str, ...]
    """Names of all classes of the data set, by class number."""
    mean: tuple[float, ...]
    """Mean of each channel of the inputs, of levels in [0, 1]; it is subtracted."""
    std: tuple[float, ...]
    """Standard deviation of each channel, by which the difference is divided."""
    scale: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    """Mean and deviation of each channel by which series are standardised before that; None: they are not."""
    domains: tuple[str, ...] = ()
    """Domain of each task up to that, where tasks are domains; the first then has all classes."""
    own_rule: bool = False
    """Whether the strategy's `predict` is not the largest output of the net."""

    def to_json(self) -> str:
        told = {key: value for key, value in asdict(self).items() if key != "domains" or value}
        return json.dumps({"format": FORMAT, **told})


@dataclass(frozen=True)
class KeptNet:
    """A net that was read from a run folder, in evaluation mode on the CPU."""

    net: Net
    facts: NetFacts
    path: Path
    """File of its weights."""

    @property
    def shared(self) -> State:
        """What the strategy's `predict` reads beside the net.

        Raises:
            StoreError: the file is missing or damaged.
        """
        path = _beside(self.path)
        try:
            tensors, about = read_tensors(path)
            return unflatten(tensors, json.loads(about["scalars"]))
        except (DamagedError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise StoreError(f"{path}: cannot be read ({error})") from None


class NetKeeper(Observer):
    """Writes the nets of a run that `resources.keep` asks for, each whole or not at all."""

    def __init__(self, folder: RunFolder, context: RunContext) -> None:
        self._folder, self._context = folder, context
        self._keep = context.plan.resources.keep

    def task_trained(self, server: Server) -> None:
        if self._keep == "tasks":
            self._write(self._folder.net_of_task(server.task.number), server)

    def run_trained(self, server: Server) -> None:
        if self._keep != "none":
            self._write(self._folder.net, server)

    def _write(self, path: Path, server: Server) -> None:
        keep_net(path, server, net_facts(self._context, server.task))


def keep_net(path: Path, server: Server, facts: NetFacts, *, memo: bool = False) -> None:
    """Write the net of a server, and what its strategy's own rule of prediction reads; `memo`: its own notes too.

    Raises:
        StoreError: one of them cannot be written.
    """
    beside = {"shared": server.shared} if facts.own_rule else {}
    for name, state in (beside | ({"memo": server.memo} if memo else {})).items():
        tensors, scalars = flatten(state)
        write_tensors(_beside(path, name), tensors, {"scalars": json.dumps(scalars)})
    write_net(path, server.net.state_dict(), facts)  # last: it stands for all of them


def net_facts(context: RunContext, task: Task) -> NetFacts:
    """Return what is to be known of the net of a run at the end of a task."""
    scenario, data, plan = context.scenario, context.scenario.dataset, context.plan
    return NetFacts(
        net=dump(plan.net),
        shape=tuple(data.shape),
        task=task.number,
        sizes=scenario.split.sizes[: task.number],
        classes=task.names,
        order=tuple(int(number) for number in scenario.order[: task.num_seen]),
        dataset=data.class_names,
        mean=data.mean,
        std=data.std,
        scale=data.scale,
        domains=tuple(one.domain for one in context.tasks[: task.number]) if task.domain else (),
        own_rule=type(plan.strategy.strategy).predict is not Strategy.predict,
    )


def write_net(path: Path, weights: Tensors, facts: NetFacts) -> None:
    """Write a net with what is to be known of it, whole or not at all.

    Raises:
        StoreError: it cannot be written.
    """
    write_tensors(path, weights, {KEY: facts.to_json()})


def kept_net(path: Path | str, task: int | None = None, *, trust: bool = False) -> KeptNet:
    """Return the net at the end of a run, or of one of its tasks.

    Args:
        trust: run the folder's copy of a net of the user's own, even if the file is another now, or gone.
    Raises:
        StoreError: it was not kept, its file is damaged, or it would run untrusted code.
    """
    folder = RunFolder(path)
    file = folder.net if task is None else folder.net_of_task(task)
    if not os.path.isfile(file):
        raise StoreError(_absent(folder, file, task))
    try:
        weights, about = read_tensors(file)
        if KEY not in about:
            raise StoreError(f"{file}: weights alone, without the settings of their net; no net can be built of them")
        facts = _facts_of(json.loads(about[KEY]))
        where = Where(str(file), files=folder.texts_of_parts(trust=trust))
        net = net_of(parse(NetSettings, facts.net, where.at("net")), weights, facts.shape)
    except DamagedError as error:
        raise StoreError(str(error)) from None
    except (KeyError, TypeError, ValueError, ConfigError, RecursionError) as error:
        raise StoreError(f"{file}: holds no net that can be built ({error})") from None
    if net.num_classes != len(facts.classes):
        raise StoreError(f"{file}: has {net.num_classes} outputs and names {len(facts.classes)} classes")
    net.class_names = facts.classes
    return KeptNet(net.eval(), facts, file)


def _beside(path: Path, name: str = "shared") -> Path:
    """Return the file of what is shared, or of the server's notes, beside that of a net."""
    return path.with_name(f"{path.stem}_{name}.safetensors")


def _absent(folder: RunFolder, file: Path, task: int | None) -> str:
    if not folder.finished and task is None:
        return f"{folder.path}: not finished, so there is no net yet (go on with: fcil resume {folder.path})"
    kept = sorted(int(p.stem.removeprefix("task")) for p in folder.nets.glob("task*") if p.stem[4:].isdigit())
    if task is not None:
        there = f"there are those of tasks {', '.join(map(str, kept))}" if kept else "set resources.keep: tasks for it"
        return f"{file}: no net of the end of task {task} was kept; {there}"
    return f"{file}: no net was kept; the run had resources.keep: none, or was played before nets were kept"


def _facts_of(values: Any) -> NetFacts:
    """Return the facts that a file tells.

    Raises:
        ValueError: they are not those of a net.
    """
    if not isinstance(values, Mapping) or values.get("format") != FORMAT:
        raise ValueError("metadata of another version")
    names = NetFacts.__dataclass_fields__
    found: dict[str, Any] = {key: _frozen(value) for key, value in values.items() if key in names}
    facts = NetFacts(**found)
    texts, counts, numbers = (
        (facts.classes, facts.dataset, facts.domains),
        (facts.shape, facts.sizes, facts.order),
        facts.scale or (),
    )
    sound = (
        all(isinstance(t, tuple) and all(map(is_name, t)) for t in texts)
        and all(isinstance(c, tuple) and all(map(is_count, c)) for c in (*counts, (facts.task,)))
        and all(isinstance(n, tuple) and all(map(is_number, n)) for n in (facts.mean, facts.std, *numbers))
        and len(facts.mean) == len(facts.std) == facts.shape[0]
        and len(facts.sizes) == facts.task
        and len(facts.domains) in (0, facts.task)
        and sum(facts.sizes) == len(facts.order) == len(facts.classes)
        and all(number < len(facts.dataset) for number in facts.order)
    )
    if not sound:
        raise ValueError("metadata that is not that of a net")
    return facts


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value
