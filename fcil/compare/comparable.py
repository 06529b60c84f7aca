"""Which runs may stand in one table: what must agree besides the strategy, and what each method keeps."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Sequence

from fcil.config import Where
from fcil.errors import UserError, printable
from fcil.groups import Group, flat
from fcil.plugins import read_source

SHARED = ("data", "federation", "optimizer", "net")
"""Sections in which the runs of a table must agree."""
FREE = (
    "data.root",
    "federation.backend",
    "federation.timeout",
    "federation.checkpoint_every",
    "federation.evaluate_every",
    "federation.on_failure",
    "federation.retries",
    "federation.min_success",
)
"""Settings in them that change no result."""


def circumstances(group: Group) -> dict[str, str]:
    """What a group was run under, by key path; the encoder only where the strategy has used one."""
    config = group.runs[0].config
    parts = {k: v for k, v in config.items() if k in SHARED}
    if _word(group, "anchors"):
        parts["anchors"] = config.get("anchors", {})
    return {key: printable(str(value)) for key, value in flat(parts).items() if key not in FREE}


def differences(groups: Sequence[Group]) -> list[tuple[str, ...]]:
    """For each group in what it differs from what most of them have: `federation.rounds 10 (others 20)`."""
    under = [circumstances(group) for group in groups]
    usual: dict[str, str] = {}
    for key in dict.fromkeys(key for one in under for key in one):
        counts = Counter(one[key] for one in under if key in one)
        usual[key] = counts.most_common(1)[0][0]
    return [tuple(f"{k} {v} (others {usual[k]})" for k, v in one.items() if v != usual[k]) for one in under]


def kept(group: Group) -> str:
    """What a method's clients keep of earlier tasks: `all data`, `images`, or nothing."""
    tree = _tree(group)
    for node in ast.walk(tree):
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "data" and _is(node.value, "seen"):
            return "all data"
    called = {n.func.attr for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute)}
    return "images" if "keep" in called else ""


def _word(group: Group, word: str) -> bool:
    """Whether a constant of the strategy's file is this word."""
    return any(_is(node, word) for node in ast.walk(_tree(group)))


def _is(node: ast.AST | None, word: str) -> bool:
    return isinstance(node, ast.Constant) and node.value == word


def _tree(group: Group) -> ast.AST:
    """The syntax of the strategy's file as it was when the run began; nothing is executed."""
    path = group.runs[0].folder.strategy
    try:
        return ast.parse(read_source(path, Where(str(path))))
    except (UserError, ValueError, SyntaxError, RecursionError, MemoryError):
        return ast.Module([], [])
