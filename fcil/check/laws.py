"""Laws on the text of a strategy's file, checked on its syntax tree; nothing is executed."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from fcil.check.floors import floor

PICKLES = {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
LOGS = {"logging", "wandb", "tensorboard"}
ENGINES = {"flwr", "ray"}
LOADERS = {"sklearn.datasets", "torchvision.datasets"}
DRAWS = {
    *(f"torch.{n}" for n in ("rand", "randn", "randint", "randperm", "rand_like", "randn_like", "randint_like")),
    *(f"torch.{n}" for n in ("normal", "bernoulli", "multinomial", "manual_seed", "seed")),
    *("F.dropout", "F.dropout2d", "F.gumbel_softmax"),
}
FOR_EXPERIMENTS = {"Run", "distill", "load", "resume", "run", "show"}
"""Names of `fcil` itself that begin or read runs; all others are for strategies, too."""


def offences(source: str) -> Iterator[tuple[int, str]]:
    """Find every line that a strategy may not hold, and what it does."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from ((node.lineno, deed) for name in _imported(node) if (deed := _import(name)))
        elif isinstance(node, ast.Call) and (deed := _call(node)):
            yield node.lineno, deed
        elif isinstance(node, ast.Attribute) and node.attr == "DataLoader":
            yield node.lineno, "a DataLoader; batches come from client.batches"


def global_draws(source: str) -> Iterator[tuple[int, str]]:
    """Find the line and name of each call that looks as if it drew from a global random stream, or seeded it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and not any(k.arg == "generator" for k in node.keywords):
            called = ast.unparse(node.func)
            if called.startswith(("random.", "np.random.", "numpy.random.")) or called in DRAWS:
                yield node.lineno, called


def _imported(node: ast.Import | ast.ImportFrom) -> list[str]:
    """Return whole names: `from a import b` is `a.b`."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names]


def _import(name: str) -> str | None:
    top, parts = name.split(".")[0], name.split(".")
    if not top:
        return "a relative import; a strategy is one file"
    if top in PICKLES:
        return f"imports {top}; state is values, and the house saves it"
    if top in LOGS:
        return f"imports {top}; numbers in an update's metrics are logged by the house"
    if top in ENGINES or (top == "fcil" and len(parts) > 1 and _is_above(name, parts)):
        return f"imports {name}, which plays strategies; a strategy is handed what it may use"
    if name.endswith(".DataLoader"):
        return "a DataLoader; batches come from client.batches"
    if ".".join(parts[:2]) in LOADERS or name.endswith(".load_dataset"):
        return f"imports {name}; the data a strategy may see is in client.shard"
    return None


def _is_above(name: str, parts: list[str]) -> bool:
    """Return whether a module of `fcil` lies above strategies: one law for built-in strategies and those of users."""
    theirs, own = floor(name), floor("strategies")
    return (len(parts) == 2 and parts[1] in FOR_EXPERIMENTS) or (
        theirs is not None and own is not None and theirs > own
    )


def _call(node: ast.Call) -> str | None:
    called = ast.unparse(node.func)
    arguments = " ".join(map(ast.unparse, [*node.args, *(k.value for k in node.keywords)]))
    if called == "print":
        return "print(); numbers in an update's metrics are logged by the house"
    if called.endswith(".cuda") or (called.endswith(".to") and ("device" in arguments or "cuda" in arguments)):
        return f"{ast.unparse(node)}: all it is handed is on the right device"
    if called in {"torch.load", "torch.save"}:
        return f"{called}, which pickles; state is values, and the house saves it"
    if any(k.arg == "allow_pickle" and ast.unparse(k.value) != "False" for k in node.keywords):
        return "allow_pickle"
    return None
