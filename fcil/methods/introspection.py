"""What a strategy needs and sends, read from its file.

Nothing of it is written by hand beside the code, so that it cannot fall behind the code.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from fcil.strategy import Strategy


def paper(source: str) -> str:
    """The paragraph of a file's docstring that begins with `Paper:`, up to its first full stop after the year."""
    doc = ast.get_docstring(ast.parse(source)) or ""
    found = [block for block in doc.split("\n\n") if block.startswith("Paper:")]
    text = " ".join(found[0].split()).removeprefix("Paper: ") if found else ""
    return text.split(" Code")[0].split(". Federated")[0].rstrip(".")


def needs(kind: type[Strategy], source: str) -> list[str]:
    """What the method cannot do without, in a word each."""
    tree = ast.parse(source)
    called = {n.func.attr for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute)}
    found = sorted(kind.needs)
    if kind.data == "seen":
        found.append("all earlier data")
    if "keep" in called and "exemplars" not in found:
        found.append("exemplars")
    if "frozen" in called:
        found.append("a teacher on clients")
    if any("Synthesizer" in str(hint) for hint in kind.__annotations__.values()) or "synthesize" in called:
        found.append("synthesis on the server")
    if any(isinstance(n, ast.Attribute) and ast.unparse(n) == "client.memory" for n in ast.walk(tree)):
        found.append("notes of each client")
    return found


def sent(kind: type[Strategy], source: str) -> dict[str, str]:
    """What goes down to clients and up to the server, in words."""
    ends = kind.after_local_task is not Strategy.after_local_task and _answers(source)
    up = "part of the net" if kind.trainable is not Strategy.trainable else "the net"
    return {
        "down": ", ".join(["the net", *_shared(source)]),
        "up": f"{up}, and more when a task ends" if ends else up,
    }


def _shared(source: str) -> list[str]:
    """The names that the file gives to entries of `server.shared`, in order."""
    names: dict[str, None] = {}
    for node in ast.walk(ast.parse(source)):
        keys: list[ast.expr | None] = []
        if isinstance(node, ast.Assign):
            found = [t for t in node.targets if isinstance(t, ast.Subscript) and _is_shared(t.value)]
            keys = [t.slice for t in found]
        elif isinstance(node, ast.AugAssign) and _is_shared(node.target) and isinstance(node.value, ast.Dict):
            keys = [*node.value.keys]
        names |= {str(key.value) if isinstance(key, ast.Constant) else ast.unparse(key): None for key in keys if key}
    return list(names)


def _is_shared(node: ast.expr) -> bool:
    return ast.unparse(node) == "server.shared"


def _answers(source: str) -> bool:
    """Whether `after_local_task` returns anything but nothing."""

    def returned(tree: ast.AST) -> Iterator[ast.expr]:
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and node.name == "after_local_task":
                yield from (n.value for n in ast.walk(node) if isinstance(n, ast.Return) and n.value is not None)

    return any(not (isinstance(v, ast.Constant) and v.value is None) for v in returned(ast.parse(source)))
