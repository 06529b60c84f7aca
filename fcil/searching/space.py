"""Search space: for each key path the values that are tried."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from fcil.config import Where, dump
from fcil.errors import nearest

Kind = Literal["uniform", "log", "int"]
KINDS: tuple[Kind, ...] = get_args(Kind)
RANGES: dict[Kind, str] = {
    "uniform": "Numbers from the first to the second.",
    "log": "Numbers from the first to the second, uniform in the logarithm.",
    "int": "Whole numbers from the first to the second, both included.",
}
EXAMPLES = "a list of values, {uniform: [a, b]}, {log: [a, b]} or {int: [a, b]}"
DIGITS = 4
"""Significant digits of a number that is drawn, so that a table can show what was run."""
LARGEST = 10**12
"""Greatest number of a range."""
UNSEARCHED = ("name", "seeds", "matrix", "search", "resources", "logger", "train")
"""Sections that a search does not vary: what changes no result, or names it."""
METHOD_OF_DATA = ("data.augment", "data.normalise")
"""Keys of `data` that belong to the method; others make it another problem, whose accuracy is not to be chosen by."""


@dataclass(frozen=True)
class Choices:
    """List of values, each as likely as the others."""

    values: tuple[Any, ...]

    def at(self, share: float) -> Any:
        """Return the value at a share of the list, from 0 to below 1."""
        return self.values[min(int(share * len(self.values)), len(self.values) - 1)]

    @property
    def size(self) -> int | None:
        return len(self.values)

    @property
    def ends(self) -> tuple[Any, ...]:
        """Return the values to check before anything is run."""
        return self.values

    def to_yaml(self) -> Any:
        return dump(list(self.values))


@dataclass(frozen=True)
class Range:
    """Range of numbers: `uniform`, `log` (uniform in the logarithm), or `int` (whole numbers, both ends included)."""

    kind: Kind
    low: float
    high: float

    def at(self, share: float) -> float | int:
        """Return the number at a share of the range, from 0 to below 1, to `DIGITS` significant digits."""
        if self.kind == "int":
            return min(int(self.low) + int(share * self.size), int(self.high))  # type: ignore[operator]
        if self.kind == "log":
            return self.rounded(math.exp(math.log(self.low) + share * math.log(self.high / self.low)))
        return self.rounded(self.low + share * (self.high - self.low))

    def rounded(self, value: float) -> float:
        """Return the number as it is run and written."""
        return min(max(float(f"{value:.{DIGITS}g}"), self.low), self.high)

    @property
    def size(self) -> int | None:
        return int(self.high) - int(self.low) + 1 if self.kind == "int" else None

    @property
    def ends(self) -> tuple[Any, ...]:
        """Return the values to check before anything is run."""
        return (int(self.low), int(self.high)) if self.kind == "int" else (self.low, self.high)

    def to_yaml(self) -> Any:
        return {self.kind: list(self.ends)}


Dimension = Choices | Range


@dataclass(frozen=True)
class Space:
    """Dimensions by key path, in the order of the file."""

    dimensions: dict[str, Dimension]

    @classmethod
    def from_yaml(cls, raw: Any, where: Where) -> Space:
        if not isinstance(raw, Mapping) or not raw:
            raise where.error(f"{raw!r} is not allowed; expected key paths, each with {EXAMPLES}")
        for key in raw:
            _check_key(key, where)
        return cls({key: _dimension(value, where.at(key)) for key, value in raw.items()})

    def to_yaml(self) -> dict[str, Any]:
        return {key: dimension.to_yaml() for key, dimension in self.dimensions.items()}

    @property
    def size(self) -> int | None:
        """Return how many combinations there are; None: more than can be counted."""
        sizes = [dimension.size for dimension in self.dimensions.values()]
        return None if None in sizes else math.prod(size for size in sizes if size is not None)

    @classmethod
    def to_json_schema(cls, schemas: Any) -> dict[str, Any]:
        """Return the schema without the key paths, which are those of the file; `fcil.terminal.shipped` adds them."""
        numbers = {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2}
        ranges = {
            "type": "object",
            "properties": {kind: {**numbers, "description": text} for kind, text in RANGES.items()},
            "additionalProperties": False,
            "minProperties": 1,
            "maxProperties": 1,
        }
        return {"type": "object", "minProperties": 1, "additionalProperties": {"anyOf": [_LIST, ranges]}}


_LIST: dict[str, Any] = {"type": "array", "minItems": 1}


def searchable(key: str) -> bool:
    """Return whether a key path is a setting of the method; other settings of data make another problem."""
    if key.partition(".")[0] == "data":
        return any(key == name or key.startswith(f"{name}.") for name in METHOD_OF_DATA)
    return key.partition(".")[0] not in UNSEARCHED


def _check_key(key: Any, where: Where) -> None:
    """Check that a key path is one that a search may vary; whether there is such a key is seen when it is set."""
    if not isinstance(key, str):
        raise where.error(f"key {key!r} is not text")
    if searchable(key):
        return
    if key.partition(".")[0] == "data":
        allowed = " and ".join(METHOD_OF_DATA)
        raise where.at(key).error(f"cannot be searched, as it makes another problem; of data only {allowed} can")
    raise where.at(key).error("cannot be searched; it is no setting of the method")


def _dimension(raw: Any, where: Where) -> Dimension:
    if isinstance(raw, list) and raw:
        if any(value in raw[:i] for i, value in enumerate(raw)):
            raise where.error(f"{raw!r} is not allowed; it has a value twice")
        return Choices(tuple(raw))
    if not isinstance(raw, Mapping) or len(raw) != 1:
        raise where.error(f"{raw!r} is not allowed; expected {EXAMPLES}")
    ((kind, ends),) = raw.items()
    if kind not in KINDS:
        raise where.error(f'unknown range "{kind}" (have: {", ".join(KINDS)}).{nearest(kind, KINDS)}')
    here = where.at(kind)
    numbers = isinstance(ends, list) and len(ends) == 2 and all(type(end) in (int, float) for end in ends)
    if not numbers or not all(abs(end) <= LARGEST for end in ends):
        raise here.error(f"{ends!r} is not allowed; expected two numbers [a, b], a below b")
    if not ends[0] < ends[1]:
        raise here.error(f"{ends!r} is not allowed; the first has to be below the second")
    if kind == "log" and ends[0] <= 0:
        raise here.error(f"{ends!r} is not allowed; numbers of log are above 0")
    if kind == "int" and any(type(end) is not int for end in ends):
        raise here.error(f"{ends!r} is not allowed; expected whole numbers")
    return Range(kind, *ends)
