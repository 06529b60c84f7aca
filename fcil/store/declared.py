"""Declarations of the method of a run, read back from `env.json`.

Runs of earlier versions have written none of it: of those, readers know what the records tell.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fcil.errors import StoreError
from fcil.store import files
from fcil.store.environment import environments
from fcil.store.folder import RunFolder

KEY = "method"
"""Key of `env.json` under which they stand."""
MOST = 100
"""Entries of a list that are read, at most."""


@dataclass(frozen=True, kw_only=True)
class Declared:
    """Declarations of a class, as `fcil.methods.introspection.declared` returns them."""

    data: str = "task"
    """`seen` where clients use all data of earlier tasks."""
    uses: frozenset[str] = frozenset()
    loss_terms: tuple[str, ...] = ()
    weights: Mapping[str, Any] = field(default_factory=dict)
    """Hyper-parameters that weigh a term of the loss, and their defaults; None for one that is no number."""
    radii: Mapping[str, str] = field(default_factory=dict)
    """Hyper-parameter within which the term is 0, by loss term."""


def read_declared(folder: RunFolder) -> Declared:
    """Read the declarations in a run folder, the newest if the run was resumed; the defaults where there is nothing."""
    return parse_declared(next((one[KEY] for one in reversed(_environments(folder)) if KEY in one), None))


def used_anchors(folder: RunFolder) -> bool:
    """Return whether a run has read label-text embeddings, as far as it is written."""
    inputs = [one.get("inputs") for one in _environments(folder)]
    return any(isinstance(one, Mapping) and one.get("anchors") is not None for one in inputs)


def parse_declared(raw: Any) -> Declared:
    """The values of one environment; what is not of its kind is left out."""
    raw = raw if isinstance(raw, Mapping) else {}
    weights, radii = ({str(k): v for k, v in _mapping(raw.get(key))} for key in ("weights", "radii"))
    return Declared(
        data=str(raw.get("data")),
        uses=frozenset(_words(raw.get("uses"))),
        loss_terms=tuple(_words(raw.get("loss_terms"))),
        weights=weights,
        radii={term: name for term, name in radii.items() if isinstance(name, str)},
    )


def _environments(folder: RunFolder) -> list[Mapping[str, Any]]:
    try:
        return environments(files.read_json(folder.env)) if files.is_there(folder.env) else []
    except StoreError:
        return []


def _words(raw: Any) -> list[str]:
    return [word for word in raw[:MOST] if isinstance(word, str)] if isinstance(raw, list) else []


def _mapping(raw: Any) -> list[tuple[Any, Any]]:
    return list(raw.items())[:MOST] if isinstance(raw, Mapping) else []
