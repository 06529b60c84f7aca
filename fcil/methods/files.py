"""Files of methods, and their contents that are read without running them or loading torch."""

from __future__ import annotations

import ast
from filecmp import cmp
from hashlib import sha256
from pathlib import Path

from fcil.config import Where, parts
from fcil.config.registry import files_in

BUILT_IN = "strategies"


def built_in_files() -> dict[str, Path]:
    """Return name and file of every built-in strategy."""
    return files_in(BUILT_IN)


def own_files() -> dict[str, Path]:
    """Return name and file of every strategy in `./strategies`, except the built-in ones and copies of them."""
    found = {p.stem: p for p in sorted(Path("strategies").glob("*.py")) if not p.stem.startswith("_")}
    built_in = built_in_files()
    return {name: p for name, p in found.items() if name not in built_in or not cmp(p, built_in[name], shallow=False)}


def locate(name: str, where: Where) -> Path | None:
    """Return the user's file of this name or path; None for a built-in strategy.

    Raises:
        ConfigError: there is no such strategy or file.
    """
    if parts.is_path(name):
        return parts.existing(name, "strategy", where)
    if name in own_files():
        return own_files()[name]
    if name not in built_in_files():
        raise where.unknown("strategy", name, sorted({**built_in_files(), **own_files()}))
    return None


def read_source(path: Path, where: Where) -> str:
    """Return the text of a strategy's file.

    Raises:
        ConfigError: it cannot be read, or is no text.
    """
    return parts.read_source(path, where, "strategy")


def source_digest(source: str) -> str:
    """Return thirty-two hex digits that identify the text of a strategy's file."""
    return sha256(source.encode()).hexdigest()[:32]


def first_line(source: str) -> str:
    """Return the first line of a file's docstring, without executing the file."""
    doc = ast.get_docstring(ast.parse(source)) or ""
    return doc.splitlines()[0] if doc else ""
