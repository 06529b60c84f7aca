"""Malicious clients, for studying what withstands them.

Which clients are malicious is drawn once for a run. One that flips labels trains honestly on wrong
labels; the others train honestly and then lie about what came out. With g the global net and w what
the client made of it, they send

    sign_flip  g - scale (w - g)        scale  g + factor (w - g)        noise  w + N(0, std^2)

in every real tensor, batch-norm statistics included; variances stay at a tenth of what they were or
more, for a net of NaN would give them away. Batch counters, metrics and numbers of examples stay true,
and so does what clients send when a task ends. A malicious client runs what it likes, so the federation's
mods do not hold it back; what the server clips (`federation.privacy`), it does clip.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from fcil.config import Where
from fcil.config.json_schema import Schema, Schemas
from fcil.data import Shard
from fcil.federation.protection.tagged_choice import read_tagged, short_form
from fcil.rng import generator
from fcil.types import Fraction, Positive, Task


@dataclass(frozen=True, kw_only=True)
class Attack:
    """Attack of malicious clients, by name: `{label_flip: {share: 0.2}}`."""

    name: ClassVar[str] = ""
    forges: ClassVar[bool] = True  # whether it changes what training has made, or what training is given

    share: Fraction = 0.2
    """Share of the clients that are malicious, rounded to whole clients."""

    def clients(self, seed: int, clients: int) -> list[int]:
        """The malicious clients of a run."""
        order = torch.randperm(clients, generator=generator(seed, "attack"))
        return sorted(order[: round(self.share * clients)].tolist())

    def forged(self, honest: Tensor, start: Tensor, stream: torch.Generator) -> Tensor:
        """Return the tensor that is sent in place of an honest one."""
        return honest

    @classmethod
    def from_yaml(cls, raw: Any, where: Where) -> Attack:
        return read_tagged(ATTACKS, "attack", raw, where)

    @classmethod
    def to_json_schema(cls, schemas: Schemas) -> Schema:
        return schemas.of_choice("attack", ATTACKS)

    def to_yaml(self) -> Any:
        return short_form(self)


@dataclass(frozen=True, kw_only=True)
class LabelFlip(Attack):
    """Trains with every label turned to the next class of its task, that of the last class to the first."""

    name = "label_flip"
    forges = False


@dataclass(frozen=True, kw_only=True)
class SignFlip(Attack):
    """Sends its step backwards."""

    name = "sign_flip"

    scale: Positive = 1.0
    """Length of the step backwards, as a multiple of the honest one."""

    def forged(self, honest: Tensor, start: Tensor, stream: torch.Generator) -> Tensor:
        return start - self.scale * (honest - start)


@dataclass(frozen=True, kw_only=True)
class Noise(Attack):
    """Adds Gaussian noise to all it sends."""

    name = "noise"

    std: Positive = 1.0
    """Standard deviation of the noise."""

    def forged(self, honest: Tensor, start: Tensor, stream: torch.Generator) -> Tensor:
        return honest + self.std * torch.randn(honest.shape, generator=stream).to(honest)


@dataclass(frozen=True, kw_only=True)
class Scale(Attack):
    """Lengthens its step, to outweigh all others in a mean."""

    name = "scale"

    factor: Positive = 10.0
    """Length of the step, as a multiple of the honest one."""

    def forged(self, honest: Tensor, start: Tensor, stream: torch.Generator) -> Tensor:
        return start + self.factor * (honest - start)


ATTACKS: dict[str, type[Attack]] = {c.name: c for c in (LabelFlip, SignFlip, Noise, Scale)}


def flipped(shard: Shard, tasks: Sequence[Task]) -> Shard:
    """The same samples, each with the label of the next class of its task."""
    first = torch.tensor([task.classes.start for task in tasks]).to(shard.labels)[shard.tasks - 1]
    count = torch.tensor([len(task.classes) for task in tasks]).to(shard.labels)[shard.tasks - 1]
    return replace(shard, labels=first + (shard.labels - first + 1) % count)
