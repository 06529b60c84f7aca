"""Packages of methods: every module is one method, named like it, and defines one class.

Synthesizers and distillers are found and read in this way; strategies in `fcil.methods.loading`.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from fcil.config import Where, choice, parse_fields
from fcil.config.parts import class_of as class_of_file
from fcil.config.parts import is_path, parse_part, read_part

T = TypeVar("T")


def files_in(package: str) -> dict[str, Path]:
    """Return name and file of every method of a package, which is not imported."""
    spec = importlib.util.find_spec(package)
    folders = list(spec.submodule_search_locations or []) if spec else []
    files = sorted(p for folder in folders for p in Path(folder).glob("*.py") if not p.stem.startswith("_"))
    return {p.stem: p for p in files}


def names_in(package: str) -> list[str]:
    """Return the modules of a package; packages within it hold what the modules share."""
    return list(files_in(package))


def class_in(module: str, base: type[T]) -> type[T]:
    """Return the one subclass of `base` that a module defines."""
    found = vars(importlib.import_module(module)).values()
    (own,) = (v for v in found if isinstance(v, type) and issubclass(v, base) and v.__module__ == module)
    return own


def read_choice(
    raw: object,
    where: Where,
    kind: str,
    names: list[str],
    class_of: Callable[[str], type[T]],
    base: type[T] | None = None,
) -> T:
    """Return a method from `name` or `{name: {option: value}}`.

    Args:
        base: base of the classes, where a name may also be the path of a file with one of one's own.
    Raises:
        ConfigError: unknown name or option, or a value that is not allowed.
    """
    name, options = choice(raw, where, kind)
    if is_path(name) and base is not None:
        part = read_part(name, kind, where)
        return parse_part(class_of_file(part, base, kind, where), options, part, where.at(name))
    if is_path(name):
        raise where.error(
            f'{kind} "{name}" is a path, and a {kind} is read from none; it is named, '
            f"as a file of the package (see CONTRIBUTING.md; have: {', '.join(names)})"
        )
    if name not in names:
        raise where.unknown(kind, name, names)
    return parse_fields(class_of(name), options, where.at(name))
