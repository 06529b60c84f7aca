"""Which runs may stand in one table: what must agree besides the strategy, and what each method keeps."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from fcil.config import MAX_BYTES
from fcil.errors import StoreError, printable
from fcil.store.files import read_text
from fcil.store.groups import Group, flat, short

SHARED = ("data", "federation", "optimizer", "net")
"""Sections in which the runs of a table must agree."""
MOST_LINES = 20
"""Sentences of one run about what did nothing."""
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
    """What a method's clients keep of earlier tasks: `all data`, `images`, or nothing.

    Exemplars are `all data` where there are as many as images: that is the upper bound under another name.
    """
    return "all data" if replays_all(group) else _told(_source(group))[0]


def replays_all(group: Group) -> bool:
    """Whether clients trained on every image of earlier tasks again, as the runs' summaries tell."""
    return all(run.summary.get("replayed_share") == 1 for run in group.runs)


def idle(group: Group) -> tuple[str, ...]:
    """Ingredients that did nothing, as the runs' summaries tell; with the seeds, where it was not so in all of them."""
    return _told_by(group, lambda summary: summary.get("inert"))


def mixed(group: Group) -> tuple[str, ...]:
    """What changed as runs were resumed, as their summaries tell: `torch 2.9.1 and 2.10.0 (seed 1)`."""
    return _told_by(group, lambda summary: _both(summary.get("mixed")))


def _both(found: Any) -> list[str]:
    """Each thing that was not the same all through a run, with the values it had."""
    facts = found if isinstance(found, Mapping) else {}
    lists = {name: values[:MOST_LINES] for name, values in facts.items() if isinstance(values, list)}
    return [f"{name} {' and '.join(map(short, values))}" for name, values in lists.items()]


def _told_by(group: Group, lines: Callable[[Mapping[str, Any]], Any]) -> tuple[str, ...]:
    """What summaries of the runs tell, each sentence once; with the seeds, where it was not so in all of them."""
    seeds: dict[str, list[int]] = {}
    for run in group.runs:
        told = lines(run.summary)
        for line in told[:MOST_LINES] if isinstance(told, list) else ():
            seeds.setdefault(printable(str(line)), []).append(run.seed)
    few = {line: f" (seed {', '.join(map(str, some))})" for line, some in seeds.items() if len(some) < len(group.runs)}
    return tuple(f"{line}{few.get(line, '')}" for line in seeds)


def _word(group: Group, word: str) -> bool:
    """Whether a constant of the strategy's file is this word."""
    return word in _told(_source(group))[1]


def _source(group: Group) -> str:
    """The strategy's file as it was when the run began; nothing where it cannot be read."""
    try:
        return read_text(group.runs[0].folder.strategy, MAX_BYTES)
    except StoreError:
        return ""


@lru_cache(1024)
def _told(source: str) -> tuple[str, frozenset[str]]:
    """What a strategy keeps and the words in its file, from the syntax alone: nothing is executed."""
    try:
        nodes = list(ast.walk(ast.parse(source)))
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return "", frozenset()
    words = frozenset(n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str))
    for node in nodes:
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "data" and _is(node.value, "seen"):
            return "all data", words
    called = {n.func.attr for n in nodes if isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute)}
    return "images" if "keep" in called else "", words


def _is(node: ast.AST | None, word: str) -> bool:
    return isinstance(node, ast.Constant) and node.value == word
