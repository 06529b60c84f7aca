"""Mods of the clients, by name: what is done to an update before it leaves its client, or noted about it.

A mod sees a client's message on its way in and the reply on its way out; of several, the first in the
list is the outermost. Mods work on training, not on what clients send when a task ends.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import Field

from fcil.config import Where
from fcil.config.json_schema import Schema, Schemas
from fcil.federation.protection.tagged_choice import read_tagged, short_form
from fcil.types import Positive

NORM_BIT = "norm_bit"
"""The metric in which a client says whether `adaptive_clipping` has shortened its step."""
SHARED_NORM = "clipping_norm"
"""The name under which the server shares the norm of `adaptive_clipping`."""


@dataclass(frozen=True, kw_only=True)
class Mod:
    """A mod by name: `arrays_size`, or `{fixed_clipping: {norm: 1.0}}`."""

    name: ClassVar[str] = ""

    def to_yaml(self) -> Any:
        return short_form(self)


@dataclass(frozen=True, kw_only=True)
class ArraysSize(Mod):
    """Logs elements and bytes of the arrays a client receives and sends."""

    name = "arrays_size"


@dataclass(frozen=True, kw_only=True)
class MessageSize(Mod):
    """Logs the bytes of all a client receives and sends."""

    name = "message_size"


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
    """Largest L2 distance between two clients' steps; see above."""
    epsilon: Positive = 1.0
    """Epsilon of one upload; a smaller one is more private and noisier."""
    delta: Annotated[float, Field(gt=0, lt=1)] = 1e-5
    """Delta of one upload."""


@dataclass(frozen=True, kw_only=True)
class FixedClipping(Mod):
    """Shortens a client's step to a norm before it leaves the client."""

    name = "fixed_clipping"

    norm: Positive = 1.0
    """Longest step of a client, in the L2 norm over all real tensors it sends."""


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
    """Rate at which the norm follows."""

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
    """Mods from the outermost to the innermost."""

    def get(self, kind: type[M]) -> M | None:
        """The mod of this kind, if it is chosen."""
        return next((mod for mod in self.chosen if isinstance(mod, kind)), None)

    @classmethod
    def from_yaml(cls, raw: Any, where: Where) -> Mods:
        if not isinstance(raw, list | tuple):
            raise where.error(f"{raw!r} is not allowed; expected a list of mods (have: {', '.join(MODS)})")
        chosen = tuple(read_tagged(MODS, "mod", item, where.at(number)) for number, item in enumerate(raw))
        for number, mod in enumerate(chosen):
            if any(mod.name == other.name for other in chosen[:number]):
                raise where.at(number).error(f'mod "{mod.name}" is given twice')
        return cls(chosen=chosen)

    @classmethod
    def to_json_schema(cls, schemas: Schemas) -> Schema:
        return {"type": "array", "items": schemas.of_choice("mod", MODS), "uniqueItems": True}

    def to_yaml(self) -> Any:
        return [mod.to_yaml() for mod in self.chosen]
