"""Calls of a strategy's code: an error names the verb, whatever was raised."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from fcil.errors import FCILError, TrainingError, described
from fcil.federation.messages.failures import shortage
from fcil.federation.runtime.interrupts import OutOfTime
from fcil.types import Update


class StrategyError(TrainingError):
    """Error raised by a strategy's code; the cause is what it raised."""


@contextmanager
def calling(verb: str, place: str = "") -> Iterator[None]:
    """Run a strategy's code in the block.

    Args:
        verb: which of its methods, for the message.
        place: when, if the message is not given it later: "task 2, round 3".
    Raises:
        StrategyError: it raised anything that is no error of ours, `SystemExit` included.
    """
    try:
        yield
    except (FCILError, KeyboardInterrupt, OutOfTime):
        raise
    except BaseException as error:
        if isinstance(error, MemoryError | RuntimeError) and _is_shortage(error):
            raise
        raise StrategyError(f"{place}{': ' if place else ''}{described(error)} (in {verb})") from error


def _is_shortage(error: BaseException) -> bool:
    try:
        return shortage(error) is not None
    except BaseException:  # its text cannot be had
        return False


def check_update(update: Any, verb: str, *, optional: bool) -> None:
    """Check that what a strategy returned is an update.

    Raises:
        TrainingError: says what it is, and what it must be.
    """
    if update is None and optional:
        return
    wish = "an Update of named tensors, a number of examples and numbers by name"
    if not isinstance(update, Update):
        raise TrainingError(f"{verb} returned {kind_of_value(update)}; it must return {wish}{' or None' * optional}")
    for part, kind in (("weights", Tensor), ("metrics", int | float)):
        values = getattr(update, part)
        if not isinstance(values, Mapping):
            raise TrainingError(f"{verb} returned an Update whose {part} are {kind_of_value(values)}; expected {wish}")
        for name, value in values.items():
            if not isinstance(name, str) or not isinstance(value, kind):
                raise TrainingError(
                    f"{verb} returned an Update whose {part}[{name!r}] is {kind_of_value(value)}; expected {wish}"
                )


def kind_of_value(value: Any) -> str:
    """Name the kind of a value, for messages: `None`, `a list`, `an int`."""
    if value is None:
        return "None"
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"


@contextmanager
def named_state(owner: str) -> Iterator[None]:
    """Encode state in the block.

    Args:
        owner: whose it is: `server.shared`, `client.memory`.
    Raises:
        TrainingError: a value in it is none that can travel and be saved; names it.
    """
    try:
        yield
    except TypeError as error:
        raise TrainingError(f"{owner}: {error}") from error
