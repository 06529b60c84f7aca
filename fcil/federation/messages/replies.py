"""Validation of a client's answer before it may touch the global net.

Clients are not trusted: one that sends NaN, a tensor of another shape or -3 examples would spoil
the net of all clients, and silently.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord

from fcil.data import Scenario
from fcil.federation.codec import to_tensors
from fcil.nets import Net
from fcil.strategy import Strategy
from fcil.types import Tensors, Update


class InvalidReplyError(ValueError):
    """An answer that cannot be aggregated; the message says what is wrong with it."""


@dataclass(frozen=True)
class Expected:
    """Properties that the updates of a round have in common."""

    shapes: dict[str, torch.Size]  # of the global net's tensors
    required: frozenset[str] | None  # the names an update holds, where the strategy does not make updates of its own
    most_examples: int
    device: torch.device

    @classmethod
    def of(
        cls, net: Net, strategy: Strategy, scenario: Scenario, *, training: bool, beside: str | None = None
    ) -> Expected:
        """Return what is expected; `beside` begins the names of a second tensor for each trained parameter."""
        plain = training and type(strategy).local_train is Strategy.local_train
        shapes, trained = (
            {name: t.shape for name, t in net.state_dict().items()},
            frozenset(strategy.trainable(net)) - net.fixed(),
        )
        if training and beside:
            stepped = [n for n, p in net.named_parameters() if n in trained and p.requires_grad]
            shapes |= {f"{beside}{name}": shapes[name] for name in stepped}
            trained |= {f"{beside}{name}" for name in stepped}
        return cls(
            shapes=shapes,
            required=trained if plain else None,
            most_examples=int(scenario.counts.sum()),
            device=net.classifier.weight.device,
        )


def read_update(reply: Message, expected: Expected) -> Update | None:
    """The update in a reply; None where the client had nothing to say.

    Raises:
        InvalidReplyError: it cannot be aggregated.
    """
    if "weights" not in reply.content:
        return None
    try:
        weights = to_tensors(cast(ArrayRecord, reply.content["weights"]), expected.device)
        metrics = {k: float(cast(float, v)) for k, v in cast(MetricRecord, reply.content["metrics"]).items()}
        examples = cast(ConfigRecord, reply.content["config"])["num_examples"]
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidReplyError(f"its answer cannot be read ({error})") from None
    _check_names(weights, expected)
    _check_tensors(weights, expected)
    for name, number in metrics.items():
        if not math.isfinite(number):
            raise InvalidReplyError(f'metric "{name}" is {number}')
    if type(examples) is not int or not 0 <= examples <= expected.most_examples:
        raise InvalidReplyError(
            f"it says it trained on {examples!r} examples; the data set has {expected.most_examples} in all"
        )
    return Update(weights, examples, metrics)


def _check_names(weights: Tensors, expected: Expected) -> None:
    if expected.required is None:
        return
    missing, extra = expected.required - weights.keys(), weights.keys() - expected.required
    if missing:
        raise InvalidReplyError(f"tensor {_first(missing)} is missing")
    if extra:
        raise InvalidReplyError(f"tensor {_first(extra)} was not asked for")


def _first(names: set[str] | frozenset[str]) -> str:
    more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
    return f'"{min(names)}"{more}'


def _check_tensors(weights: Tensors, expected: Expected) -> None:
    for name, tensor in weights.items():
        shape = expected.shapes.get(name)
        if shape is not None and tensor.shape != shape:
            raise InvalidReplyError(f'tensor "{name}" has the shape {list(tensor.shape)}; the net\'s has {list(shape)}')
    reals = {name: tensor for name, tensor in weights.items() if tensor.is_floating_point()}
    if _sum_of_squares_is_finite(reals.values()):
        return
    for name, tensor in reals.items():
        if not bool(torch.isfinite(tensor).all()):
            raise InvalidReplyError(f'tensor "{name}" holds NaN or infinity')


def _sum_of_squares_is_finite(tensors: Iterable[torch.Tensor]) -> bool:
    """Return whether it is, for each tensor: then all numbers are. It may overflow where they are finite, too.

    One pass at the speed of memory and one answer from the device, where `isfinite` makes a tensor of answers.
    """
    flat = [tensor.reshape(-1) for tensor in tensors]
    return not flat or bool(torch.stack([torch.dot(t, t).double() for t in flat]).isfinite().all())
