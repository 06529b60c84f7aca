"""Checks of the files of a run folder: they are untrusted input, and tables and figures rely on them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args

from fcil import metrics
from fcil.config.effect import Track
from fcil.errors import StoreError

MOST_TASKS = 10_000
MOST_TERMS = 1000
MOST_CHARACTERS = 200
"""Characters of a name, at most."""
LARGEST = 1e100
"""No loss, count or time is larger; figures can still draw it."""
Wish = tuple[str, Callable[[Any], bool]]
"""Requirement on a value, in words and as a test."""


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -LARGEST <= value <= LARGEST


def is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= 10**18


def is_name(value: Any) -> bool:
    """Text that can be printed and drawn."""
    return isinstance(value, str) and value.isprintable() and 0 < len(value) <= MOST_CHARACTERS


def _is_position(value: Any) -> bool:
    return is_count(value) and value >= 1


def _are_numbers(value: Any) -> bool:
    named = isinstance(value, Mapping) and len(value) <= MOST_TERMS
    return named and all(is_name(k) and (v is None or is_number(v)) for k, v in value.items())


def _are_failures(value: Any) -> bool:
    if not isinstance(value, list):
        return is_count(value)
    return all(isinstance(f, Mapping) and is_name(f.get("kind")) and is_name(f.get("outcome")) for f in value)


_POSITION: Wish = ("a whole number from 1", _is_position)
_TASK: Wish = (f"a whole number from 1 to {MOST_TASKS:,}", lambda v: _is_position(v) and v <= MOST_TASKS)
_NUMBER: Wish = ("a number or null", lambda v: v is None or is_number(v))
_SHARE: Wish = ("a number from 0 to 1 or null", lambda v: v is None or (is_number(v) and 0 <= v <= 1))
_SIZE: Wish = ("a whole number from 0", lambda v: v is None or is_count(v))
_NUMBERS: Wish = (f"at most {MOST_TERMS} names with numbers", lambda v: v is None or _are_numbers(v))
_FAILURES: Wish = ("a number or a list of mappings with kind and outcome", lambda v: v is None or _are_failures(v))
_DIGEST: Wish = ("32 hex digits", lambda v: isinstance(v, str) and re.fullmatch("[0-9a-f]{32}", v) is not None)
_CLIENTS: Wish = (
    "a list of whole numbers from 0",
    lambda v: v is None or (isinstance(v, list) and all(map(is_count, v))),
)
_TRACK: Wish = ("scratch or pretrained", lambda v: v in (None, *get_args(Track)))
_COSTS = {"bytes_up": _SIZE, "bytes_down": _SIZE, "failures": _FAILURES}
_ROUND = {"task": _TASK, "round": _POSITION, "lr": _NUMBER, "accuracy": _SHARE, "terms": _NUMBERS, "seconds": _NUMBERS}
_ROUND |= {"clients": _CLIENTS, "weights": _DIGEST, **_COSTS}
_SUMMARY = {"seconds": _NUMBER, "seconds_by_phase": _NUMBERS, "rounds": _SIZE, "bytes": _SIZE, "failures": _SIZE}
_SUMMARY |= {"bytes_up": _SIZE, "bytes_down": _SIZE, "peak_memory_bytes": _SIZE, "replayed_share": _SHARE}
_SUMMARY |= {"track": _TRACK}
_SUMMARY |= {"task_aware_final_accuracy": _SHARE, "task_aware_average_incremental_accuracy": _SHARE}
_SUMMARY |= {"task_aware_forgetting": _NUMBER}
_SUMMARY |= {f"client_accuracy_{name}": _SHARE for name in ("worst", "mean", "std")}


def check_round(record: Mapping[str, Any], source: str) -> None:
    """Refuse a line of `rounds.jsonl` that does not hold what its keys promise.

    Raises:
        StoreError: names the key, the value and what is allowed.
    """
    _check({"task": None, "round": None, **record}, _ROUND, source)
    end = record.get("after_task")
    if end is not None:
        _check(end if isinstance(end, Mapping) else {"failures": end}, _COSTS, f"{source}: after_task")


def checked_summary(summary: Mapping[str, Any], rows: Sequence[Sequence[int]], source: str) -> dict[str, Any]:
    """A summary whose metrics are those of `rows`, whatever the file says of them.

    Raises:
        StoreError: a cost is no number, or an accuracy is not the one that `accuracy.csv` gives.
    """
    _check(summary, _SUMMARY, source)
    found = metrics.summary(rows)
    for key in ("final_accuracy", "average_incremental_accuracy"):
        told = summary.get(key, found[key])
        if not is_number(told) or abs(told - found[key]) > 1e-6:
            raise StoreError(f"{source}: {key} is {told!r}; accuracy.csv gives {found[key]:.6f}")
    return {**summary, **found}


def _check(values: Mapping[str, Any], wishes: Mapping[str, Wish], source: str) -> None:
    for key, (words, allowed) in wishes.items():
        if key in values and not allowed(values[key]):
            raise StoreError(f"{source}: {key} is {values[key]!r}; expected {words}")
