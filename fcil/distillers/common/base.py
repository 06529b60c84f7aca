"""The seam of distillation: a `Distiller` turns the outputs of student and teacher into a loss.

The caller owns the student, its optimizer and the samples:

    state = distiller.start(problem, student, samples, key)
    optimizer = SGD([*student.parameters(), *distiller.parameters(state)])
    for views in ...:
        with no_grad: teacher = problem.teacher(views.x)
        terms = distiller.loss(state, student(views.x), teacher, views)
        descend along the sum of the terms
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn

from fcil.config import Where, dump_fields
from fcil.config.json_schema import Schema, Schemas
from fcil.config.registry import class_in, names_in, read_choice
from fcil.nets import Net
from fcil.rng import Key
from fcil.synthesis.common.base import SynthesisProblem, Views
from fcil.types import Output, Terms


@dataclass
class Stateless:
    """The state of a stateless distiller."""


@dataclass(frozen=True, kw_only=True)
class Distiller:
    """A method of distillation: `self` is hyper-parameters; its state is an argument."""

    def start(self, problem: SynthesisProblem, student: Net, samples: int, key: tuple[Key, ...]) -> Any:
        """Return the state before the first step: a dataclass that `fcil.synthesis.common.state_codec` saves.

        Args:
            samples: the most that the pool will ever hold; every `Views.id` is below it.
            key: names the random streams.
        """
        return Stateless()

    def parameters(self, state: Any) -> Iterable[nn.Parameter]:
        """Return the parameters that the student's optimizer trains beside the student."""
        return ()

    def loss(self, state: Any, student: Output, teacher: Output, views: Views) -> Terms:
        """Return the weighted terms whose sum is minimised in this step; may change `state`.

        Args:
            student: with gradients.
            teacher: without.
        """
        raise NotImplementedError

    # The rest is shared -------------------------------------------------------------------------

    @property
    def needs_numbers(self) -> bool:
        """Return whether it needs the number of a view's sample in the pool (`Views.id`); fresh samples have none."""
        return False

    @property
    def name(self) -> str:
        return type(self).__module__.rpartition(".")[2]

    @classmethod
    def from_yaml(cls, raw: object, where: Where) -> Distiller:
        return read_choice(raw, where, "distiller", distiller_names(), distiller_class)

    @classmethod
    def to_json_schema(cls, schemas: Schemas) -> Schema:
        return schemas.of_choice("distiller", {name: distiller_class(name) for name in distiller_names()})

    def to_yaml(self) -> dict[str, Any]:
        return {self.name: dump_fields(self)}


def distiller_names() -> list[str]:
    """Return the methods of this package."""
    return names_in("fcil.distillers")


def distiller_class(name: str) -> type[Distiller]:
    """Return the `Distiller` subclass defined in the module of this name."""
    return class_in(f"fcil.distillers.{name}", Distiller)


def create(name: str, **options: Any) -> Distiller:
    """Return a distiller by name, with its options checked.

    Raises:
        ConfigError: unknown name or option, or a value that is not allowed.
    """
    return Distiller.from_yaml({name: options}, Where("fcil.distillers.create"))
