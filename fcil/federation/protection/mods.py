"""Flower's mods around the ClientApp, by name.

A mod sees a client's message on its way in and the reply on its way out; of several, the first in the
list is the outermost. The code is Flower's (`flwr.clientapp.mod`), called with what it can work on.
Mods work on training, not on what clients send when a task ends.
"""

from __future__ import annotations

from dataclasses import dataclass
from json import loads
from math import exp
from typing import Annotated, Any, ClassVar, TypeVar, cast

from flwr.app import ConfigRecord, Context, Message, MetricRecord
from flwr.clientapp.mod import LocalDpMod, adaptiveclipping_mod, arrays_size_mod, fixedclipping_mod, message_size_mod
from flwr.supercore.differential_privacy import KEY_CLIPPING_NORM, KEY_NORM_BIT
from pydantic import Field

from fcil.config import Where
from fcil.config.json_schema import Schema, Schemas
from fcil.federation.protection.flower_logs import overheard
from fcil.federation.protection.flower_messages import CallNext, numpy_seeded, rewrite, weighable
from fcil.federation.protection.tagged_choice import read_named, short_form
from fcil.types import Positive

LOG = "log"
"""The record of a reply that holds what mods have logged."""
LONGEST, MOST = 2000, 20
"""Characters of a line, and lines of a reply, that the server takes into its log."""
NORM_BIT: str = KEY_NORM_BIT
"""The metric in which a client says whether `adaptive_clipping` has shortened its step."""
Who = tuple[int, int, int]
"""Task, round and client."""
SHARED_NORM = "clipping_norm"
"""The name under which the server shares the norm of `adaptive_clipping`."""


@dataclass(frozen=True, kw_only=True)
class Mod:
    """A mod by name: `arrays_size`, or `{fixed_clipping: {norm: 1.0}}`."""

    name: ClassVar[str] = ""
    tells: ClassVar[bool] = False  # whether what it logs is the point of it

    def run(self, message: Message, reply: Message, context: Context) -> None:
        """Let Flower's mod see both, and change the reply in place."""
        raise NotImplementedError

    def to_yaml(self) -> Any:
        return short_form(self)


@dataclass(frozen=True, kw_only=True)
class ArraysSize(Mod):
    """Logs elements and bytes of the arrays a client receives and sends."""

    name, tells = "arrays_size", True

    def run(self, message: Message, reply: Message, context: Context) -> None:
        arrays_size_mod(weighable(message), context, lambda *_: weighable(reply))


@dataclass(frozen=True, kw_only=True)
class MessageSize(Mod):
    """Logs the bytes of all a client receives and sends."""

    name, tells = "message_size", True

    def run(self, message: Message, reply: Message, context: Context) -> None:
        message_size_mod(weighable(message), context, lambda *_: weighable(reply))


@dataclass(frozen=True, kw_only=True)
class LocalDp(Mod):
    """Clips a client's step and adds Gaussian noise before it leaves the client.

    The noise has the standard deviation sensitivity sqrt(2 ln(1.25 / delta)) / epsilon. It makes ONE
    upload (epsilon, delta)-private if epsilon is at most 1 (Dwork and Roth 2014, theorem A.1; above 1
    it is too little) and `sensitivity` is at least 2 `clip`, the farthest apart two clipped steps can
    be. Rounds add up. Metrics, the number of examples and batch counters go along as they are.
    """

    name = "local_dp"

    clip: Positive = 1.0
    """Longest step of a client, in the L2 norm over all real tensors it sends."""
    sensitivity: Positive = 2.0
    """How far apart, in the L2 norm, two clients' steps can be; see above."""
    epsilon: Positive = 1.0
    """Epsilon of one upload; a smaller one is more private and noisier."""
    delta: Annotated[float, Field(gt=0, lt=1)] = 1e-5
    """Delta of one upload."""

    def run(self, message: Message, reply: Message, context: Context) -> None:
        rewrite(LocalDpMod(self.clip, self.sensitivity, self.epsilon, self.delta), message, reply, context, {})


@dataclass(frozen=True, kw_only=True)
class FixedClipping(Mod):
    """Shortens a client's step to a norm before it leaves the client."""

    name = "fixed_clipping"

    norm: Positive = 1.0
    """Longest step of a client, in the L2 norm over all real tensors it sends."""

    def run(self, message: Message, reply: Message, context: Context) -> None:
        rewrite(fixedclipping_mod, message, reply, context, {KEY_CLIPPING_NORM: self.norm})


@dataclass(frozen=True, kw_only=True)
class AdaptiveClipping(Mod):
    """Shortens clients' steps to a norm that follows them, so that a chosen share is left as it is.

    Andrew et al., "Differentially Private Learning with Adaptive Clipping", NeurIPS 2021: with b the
    share of clients whose step was short enough, norm <- norm exp(-rate (b - target)).
    """

    name = "adaptive_clipping"

    norm: Positive = 0.1
    """The norm of the first round."""
    target: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Share of the clients whose step is to be left as it is."""
    rate: Positive = 0.2
    """How fast the norm follows."""

    def run(self, message: Message, reply: Message, context: Context) -> None:
        shared = cast("ConfigRecord | None", message.content.get(f"values/{SHARED_NORM}"))
        norm = self.norm if shared is None else float(loads(str(shared["values"]))[SHARED_NORM])
        bits = rewrite(adaptiveclipping_mod, message, reply, context, {KEY_CLIPPING_NORM: norm})
        cast(MetricRecord, reply.content["metrics"])[NORM_BIT] = bits[NORM_BIT]

    def followed(self, norm: float, clipped: float) -> float:
        """The next norm, after a round in which a share of `clipped` clients was shortened.

        Differs: Flower's server compares the share that was clipped with the target, which lowers a
        norm that is already too low.
        """
        return norm * exp(-self.rate * (1 - clipped - self.target))


M = TypeVar("M", bound=Mod)
MODS: dict[str, type[Mod]] = {c.name: c for c in (ArraysSize, MessageSize, LocalDp, FixedClipping, AdaptiveClipping)}


@dataclass(frozen=True, kw_only=True)
class Mods:
    """The mods of a federation; in YAML a list."""

    chosen: tuple[Mod, ...] = ()
    """From the outermost to the innermost."""

    def get(self, kind: type[M]) -> M | None:
        """The mod of this kind, if it is chosen."""
        return next((mod for mod in self.chosen if isinstance(mod, kind)), None)

    @classmethod
    def from_yaml(cls, raw: Any, where: Where) -> Mods:
        if not isinstance(raw, list | tuple):
            raise where.error(f"{raw!r} is not allowed; expected a list of mods (have: {', '.join(MODS)})")
        chosen = tuple(read_named(MODS, "mod", item, where.at(number)) for number, item in enumerate(raw))
        for number, mod in enumerate(chosen):
            if any(mod.name == other.name for other in chosen[:number]):
                raise where.at(number).error(f'mod "{mod.name}" is given twice')
        return cls(chosen=chosen)

    @classmethod
    def to_json_schema(cls, schemas: Schemas) -> Schema:
        return {"type": "array", "items": schemas.of_choice("mod", MODS), "uniqueItems": True}

    def to_yaml(self) -> Any:
        return [mod.to_yaml() for mod in self.chosen]


def around(mods: Mods, seed: int, who: Who, message: Message, context: Context, call_next: CallNext) -> Message:
    """Call the app with the mods around it, and return its reply as they leave it.

    No mod changes what a client receives, so all are called when it has trained. What the size mods log
    goes with the reply to the server's log (see `said`); on a worker nobody would read it.
    """
    reply = call_next(message, context)
    if not mods.chosen or reply.has_error() or "weights" not in reply.content:
        return reply
    task, round, client = who
    told: list[str] = []
    for mod in reversed(mods.chosen):
        with overheard() as lines, numpy_seeded(seed, mod.name, *who):
            mod.run(message, reply, context)
        told = [*(lines if mod.tells else []), *told]
    if told:
        place = f"client {client}, task {task}, round {round}"
        reply.content[LOG] = ConfigRecord({"lines": [f"{place}: {line}" for line in told]})
    return reply


def said(reply: Message) -> list[str]:
    """What the mods of a client have logged; printable and no longer than lines are, whoever wrote it."""
    record = reply.content.get(LOG)
    lines = record.get("lines") if isinstance(record, ConfigRecord) else None
    told = [line for line in lines if isinstance(line, str)] if isinstance(lines, list) else []
    return ["".join(c for c in line if c.isprintable())[:LONGEST] for line in told[:MOST]]
