"""State of a process between clients: one net, the data, what the server shares, each loaded once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple, cast

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict

from fcil.errors import LeakError
from fcil.federation.codec import from_records
from fcil.federation.context import Datasets, RunContext
from fcil.federation.plan import Plan, from_json
from fcil.federation.runtime.isolation import (
    Anatomy,
    Untouched,
    anatomy,
    is_as_it_was,
    restore_switches,
    settle,
    switches,
)
from fcil.federation.runtime.lending import Lent
from fcil.federation.runtime.user_code import calling
from fcil.federation.settings import settle_arithmetic
from fcil.nets import Net, build_net, frozen
from fcil.rng import drawing
from fcil.roles import Client
from fcil.strategy import Strategy
from fcil.types import State, Tensors, Value

Companions = Callable[[], list[tuple[Message, Context]]]


class Kept(NamedTuple):
    """Content that the server shares under one name."""

    content_hash: str
    value: Value
    untouched: Untouched


class Teacher(NamedTuple):
    """A frozen net that has the weights of a shared value."""

    content_hash: str
    net: Net
    anatomy: Anatomy
    untouched: Untouched


@dataclass
class Site:
    """State of a process between messages of a run. Every client finds it as the first one did."""

    context: RunContext
    net: Net | None = None
    shared: dict[str, Kept] = field(default_factory=dict)
    frozen_nets: dict[str, Teacher] = field(default_factory=dict)
    companions: Companions = list
    """Messages that wait to be answered in this process, each with the context of its client."""
    trained: dict[str, Any] = field(default_factory=dict)
    """What clients trained together with one that was asked before them will answer, by the number of the message."""
    _anatomy: Anatomy = field(default_factory=lambda: ([], []))
    _lent: Lent = field(default_factory=Lent)

    @property
    def plan(self) -> Plan:
        return self.context.plan

    @property
    def device(self) -> torch.device:
        return self.context.device

    def resident_net(self, weights: Tensors, text_width: int | None) -> Net:
        """The one net of this process, holding these weights; a new one if a client has changed what it is made of."""
        if self.net is not None and not is_as_it_was(self.net, self._anatomy):
            self.net = None
        fresh = self.net is None
        if self.net is None:
            self.net = self._new_net(weights, text_width)
        classes = self.net.num_classes
        settle(self.net, training=True, requires_grad=True)
        self._lent.part(self.net)
        self.net.load(weights)
        if fresh or classes != self.net.num_classes:
            self._anatomy = anatomy(self.net)
        return self.net

    def whole(self, weights: Tensors) -> Tensors:
        """Return weights as they were sent, with those of a frozen backbone, which this process has from its file."""
        return {**self._fixed, **weights}

    @cached_property
    def _fixed(self) -> Tensors:
        if not self.plan.net.frozen:
            return {}
        net = self.context.first_net(text_head=False)
        return {name: t.to(self.device) for name, t in net.weights().items() if name in net.fixed()}

    def _new_net(self, weights: Tensors, text_width: int | None) -> Net:
        shape = self.context.scenario.dataset.shape
        classes = len(weights["classifier.bias"])
        return build_net(self.plan.net, shape=shape, num_classes=classes, text_width=text_width, key=("resident",)).to(
            self.device
        )

    def receive(self, content: RecordDict, hashes: dict[str, str]) -> State:
        """Return what the server shares, decoded where its content is new or a client has changed it."""
        for name, content_hash in hashes.items():
            known = self.shared.get(name)
            if known is None or known.content_hash != content_hash or not known.untouched.holds(known.value):
                arrays = cast(ArrayRecord, content[f"shared/{name}"])
                values = cast(ConfigRecord, content[f"values/{name}"])
                value = from_records(arrays, values, self.device)[name]
                self.shared[name] = Kept(content_hash, value, Untouched(value))
        return {name: self.shared[name].value for name in hashes}

    def frozen_net(self, name: str) -> Net:
        """The net whose weights are shared under this name, kept until they change or a client changes it."""
        kept, known = self.shared[name], self.frozen_nets.get(name)
        if known is None or known.content_hash != kept.content_hash:
            known = self._teacher(kept)
            if kept.untouched.holds(kept.value):  # else it is what this client made of it, and no other client's
                self.frozen_nets[name] = known
        return known.net

    def _teacher(self, kept: Kept) -> Teacher:
        weights = cast(Tensors, kept.value)
        head = weights.get("text_head.weight")
        net = self._new_net(weights, None if head is None else len(head))
        net.load(weights)
        still = frozen(net)
        return Teacher(kept.content_hash, still, anatomy(still), Untouched(still.state_dict(keep_vars=True)))

    def _forget_changed_teachers(self) -> None:
        for name, teacher in [*self.frozen_nets.items()]:
            weights = teacher.net.state_dict(keep_vars=True)
            if is_as_it_was(teacher.net, teacher.anatomy) and teacher.untouched.holds(weights):
                settle(teacher.net, training=False, requires_grad=False)
            else:
                del self.frozen_nets[name]

    @contextmanager
    def playing(self, client: Client, verb: str) -> Iterator[None]:
        """A client's turn: the strategy's code is called in the block.

        Raises:
            StrategyError: it raised something.
            LeakError: it has changed what other clients read too, and what cannot be had again.
        """
        self._forget_changed_teachers()
        strategy, set_before = self.plan.strategy.strategy, switches()
        start, shard = client.start, client.shard  # a strategy may put another shard in its place
        read_only = {
            "client.start": Untouched(start),
            "client.shard": Untouched(_tensors_of(shard)),
            f"self, of class {type(strategy).__name__},": Untouched(_hyper_parameters(strategy)),
            f"class {type(strategy).__name__}": Untouched(_plain(type(strategy))),
        }
        try:
            key = client.seed, "draws of nets", verb, client.task.number, client.round, client.index
            with drawing(*key), calling(verb):
                yield
        finally:
            restore_switches(set_before)
        now = start, _tensors_of(shard), _hyper_parameters(strategy), _plain(type(strategy))
        for (what, before), value in zip(read_only.items(), now, strict=True):
            if not before.holds(value):
                raise LeakError(
                    f"strategy {self.plan.strategy.name}, in {verb}: {what} is not as it was; other clients read it "
                    "too, so change a copy, and keep notes in client.memory"
                )


def _tensors_of(shard: Any) -> dict[str, Any]:
    return {name: value for name, value in vars(shard).items() if isinstance(value, torch.Tensor)}


def _hyper_parameters(strategy: Strategy) -> dict[str, Any]:
    """Return the attributes of `self`, without what `cached_property` has worked out from it."""
    kind = type(strategy)
    return {k: v for k, v in vars(strategy).items() if not isinstance(getattr(kind, k, None), cached_property)}


def _plain(kind: type) -> dict[str, Any]:
    return {name: value for name, value in vars(kind).items() if not name.startswith("__")}


class Sites:
    """The site of the run whose clients a process plays, until it is asked for another run's.

    Args:
        open_run: makes a run's context of its plan; None: from data sets that these sites hold.
    """

    def __init__(self, open_run: Callable[[Plan], RunContext] | None = None) -> None:
        self._open = open_run or Datasets().open
        self._text = ""
        self._site: Site | None = None
        self.companions: Companions = list

    def of(self, plan: str) -> Site:
        """The site of a plan, given as text."""
        if self._site is None or plan != self._text:
            self._site = None  # the nets of another run go before those of this one come
            resolved = from_json(plan)
            settle_arithmetic(resolved.resources.threads)
            self._text, self._site = plan, Site(self._open(resolved), companions=self.companions)
        return self._site
