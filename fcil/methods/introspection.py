"""Declarations of a strategy: its class variables, and the metadata of its fields.

The text of its file is not read: rewording a sentence changes nothing here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import Any, TypeVar, get_args, get_type_hints

from fcil.strategy import Strategy
from fcil.synthesis import Synthesizer
from fcil.types import Radius, Update, Weighs

T = TypeVar("T")
USES = {
    "exemplars": "exemplars",
    "teacher": "a teacher on clients",
    "samples": "",
    "notes": "notes of each client",
    "sums": "sums of the clients' samples",
}
"""Values of `Strategy.uses`, and their words in `fcil list`; samples are listed as what the server sends."""


def needs(kind: type[Strategy]) -> list[str]:
    """Return the requirements of the method, in a word each."""
    synthesizes = any(Synthesizer in (hint, *get_args(hint)) for hint in get_type_hints(kind).values())
    listed = [
        *sorted(kind.needs),
        "images" if "series" not in kind.inputs else "",
        "all earlier data" if kind.data == "seen" else "",
        *(USES[word] for word in ("exemplars", "teacher") if word in words(kind, "uses")),
        "synthesis on the server" if synthesizes else "",
        *(USES[word] for word in ("notes", "sums") if word in words(kind, "uses")),
    ]
    return [text for text in dict.fromkeys(listed) if text]


def sent(kind: type[Strategy]) -> dict[str, str]:
    """Return the messages to clients and to the server, in words; `after_local_task` with `-> None` sends nothing."""
    returned = getattr(kind.after_local_task, "__annotations__", {}).get("return", Update)
    ends = kind.after_local_task is not Strategy.after_local_task and returned not in (None, "None")
    up = "part of the net" if kind.trainable is not Strategy.trainable else "the net"
    return {
        "down": ", ".join(["the net", *words(kind, "broadcasts")]),
        "up": f"{up}, and more when a task ends" if ends else up,
    }


def declared(kind: type[Strategy]) -> dict[str, Any]:
    """Return the method's declarations for a run folder, as plain values; `fcil.store.declared` reads them back."""
    defaults = {f.name: f.default if isinstance(f.default, int | float) else None for f in fields(kind)}
    return {
        "data": kind.data,
        "uses": sorted({*kind.needs, *words(kind, "uses")}),
        "loss_terms": list(words(kind, "loss_terms")),
        "weights": {name: defaults[name] for name in marked(kind, Weighs)},
        "radii": {radius.term: name for name, radius in marked(kind, Radius).items()},
    }


def words(kind: type[Strategy], name: str) -> tuple[str, ...]:
    """Return a class variable that lists words; an empty tuple for a class in which the name has another meaning."""
    value = getattr(kind, name)
    return tuple(value) if isinstance(value, tuple | frozenset | set | list) else ()


def marked(kind: type, marker: type[T]) -> dict[str, T]:
    """Return the fields of a dataclass that have this metadata, in their order."""
    hints = get_type_hints(kind, include_extras=True)
    both = ((f.name, item) for f in fields(kind) for item in _metadata(hints[f.name]))
    return {name: item for name, item in both if isinstance(item, marker)}


def _metadata(hint: Any) -> Iterator[Any]:
    """Yield the metadata of an annotated type, and of the members of a union."""
    yield from getattr(hint, "__metadata__", ())
    for inner in get_args(hint):
        yield from _metadata(inner)
