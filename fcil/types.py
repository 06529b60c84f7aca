"""Values exchanged between the parts of the library.

Shapes: B batch, C classes seen so far, F feature width, D width of a label-text embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, NamedTuple

from pydantic import Field
from torch import Tensor

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(gt=0, le=1)]
Count = Annotated[int, Field(ge=1)]
"""A whole number, at least one."""
Index = Annotated[int, Field(ge=0)]
"""A whole number, at least zero."""


@dataclass(frozen=True)
class Weighs:
    """Metadata of a hyper-parameter that multiplies a term of the loss; see `Weight`."""


@dataclass(frozen=True)
class Radius:
    """Metadata of a hyper-parameter: the distance from its label-text anchor at which an image's loss is still zero."""

    term: str
    """Name of the loss term, which is 0 where all images lie within."""


Weight = Annotated[NonNegative, Weighs()]
"""Weight of a term of the loss; 0 switches the term off."""

Tensors = dict[str, Tensor]
"""Named tensors, for example the weights of a net."""
Terms = dict[str, Tensor]
"""Named scalar parts of a loss, already weighted; their sum is minimised."""
Value = Tensor | float | int | str | Mapping[str, "Value"]
"""Content of state: a tree of named tensors, numbers and strings that can be sent and saved."""
State = dict[str, Value]


class Batch(NamedTuple):
    """Inputs ready for the net, with labels that count classes in order of appearance."""

    x: Tensor  # (B, channels, height, width), normalised
    y: Tensor  # (B,), int64


class Output(NamedTuple):
    """Output of a net for a batch."""

    logits: Tensor  # (B, C)
    features: Tensor  # (B, F), after the pooling, the input of the classifier
    embedding: Tensor | None  # (B, D), of the label-text head, where the net has one


Step = Callable[[Batch], tuple[Terms, Tensor]]
"""Step of training on a batch; returns the terms of the loss before it, and their sum."""


@dataclass(frozen=True)
class Task:
    """One group of new classes, or one domain of all classes. Tasks and rounds count from 1."""

    number: int
    total: int
    num_old: int
    num_new: int
    names: tuple[str, ...]  # of all classes seen so far, in order of appearance
    domain: str = ""  # of its samples, where tasks are domains: all classes are new in the first, and none is later

    @property
    def classes(self) -> range:
        """Return the classes of its samples: the new ones, or in a domain all of them."""
        return range(0 if self.domain else self.num_old, self.num_seen)

    @property
    def num_seen(self) -> int:
        return self.num_old + self.num_new

    @property
    def first(self) -> bool:
        return self.number == 1

    @property
    def last(self) -> bool:
        return self.number == self.total


@dataclass
class Update:
    """Message of a client to the server: named tensors, its number of training examples, and numbers."""

    weights: Tensors
    num_examples: int
    metrics: dict[str, float] = field(default_factory=dict)
