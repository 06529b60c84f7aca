"""The verbs of a strategy, and checks of a class for failed attempts at one.

A misspelt method is never called, and the run would be plain federated averaging under another name.
So a class is checked before it is used: methods that are never called and that resemble a verb of ours or
of another framework, verbs with the wrong signature, and classes whose hyper-parameters
could not be read or sent.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from difflib import get_close_matches

from fcil.config.parts import class_problems
from fcil.strategy import Strategy

CALLED_WITH = {
    "local_loss": ("client", "batch"),
    "local_train": ("client",),
    "after_local_task": ("client",),
    "before_task": ("server",),
    "aggregate": ("server", "updates"),
    "after_task": ("server", "updates"),
    "forget": ("server", "sent"),
    "trainable": ("net",),
    "predict": ("net", "x", "shared"),
    "sample": ("server", "count"),
}
"""Verbs that the engine calls, and their arguments."""
FOREIGN = {
    **dict.fromkeys(("training_step", "compute_loss", "criterion", "get_loss", "forward", "loss"), "local_loss"),
    **dict.fromkeys(("fit", "train", "train_step", "local_update", "client_update", "observe"), "local_train"),
    **dict.fromkeys(("on_task_end", "end_task", "task_end", "after_training_exp"), "after_task"),
    **dict.fromkeys(("on_task_start", "begin_task", "start_task", "before_training_exp"), "before_task"),
    **dict.fromkeys(("aggregate_fit", "aggregate_train", "server_update", "aggregate_updates"), "aggregate"),
    **dict.fromkeys(("configure_fit", "configure_train", "select_clients", "sample_clients"), "sample"),
    **dict.fromkeys(("unlearn", "remove_client", "erase"), "forget"),
    **dict.fromkeys(("evaluate", "inference", "classify", "eval_task"), "predict"),
}
"""Methods of other frameworks, and the verb that comes closest."""
DECLARED = ("needs", "data", "paper", "uses", "loss_terms", "broadcasts")
"""Class variables that a strategy may set."""
CLOSE = 0.8


def problems(kind: type[Strategy], source: str) -> Iterator[str]:
    """Yield the errors in a strategy's class before anything is run.

    Args:
        source: the text of its file.
    """
    yield from class_problems(kind, [*DECLARED])
    yield from _verb_problems(kind, source)


def _verb_problems(kind: type[Strategy], source: str) -> Iterator[str]:
    known = set(dir(Strategy))
    called = {node.attr for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Attribute)}
    overridden = [name for name in CALLED_WITH if getattr(kind, name) is not getattr(Strategy, name)]
    annotated = set(vars(kind).get("__annotations__", {}))
    for name, value in vars(kind).items():
        if name.startswith("_") or name in known or name in annotated:
            continue
        method = callable(value) or isinstance(value, staticmethod | classmethod)
        if method and name not in called:
            meant = _meant(name, [*CALLED_WITH, "smoke", "decisive", "options"])
            if meant or not overridden:
                yield f"class {kind.__name__}: nobody calls {name}; {_guess(meant)}"
        elif not method and name not in called and (meant := _meant(name, [*DECLARED, "weighting"])):
            yield f"class {kind.__name__}: nobody reads {name}; {_guess(meant)}"
    for name in overridden:
        yield from _signature_problems(kind, name)


def _meant(name: str, known: list[str]) -> str | None:
    close = get_close_matches(name, known, n=1, cutoff=CLOSE)
    return FOREIGN.get(name) or (close[0] if close else None)


def _guess(meant: str | None) -> str:
    verbs = ", ".join(CALLED_WITH)
    return f'did you mean "{meant}"?' if meant else f"a strategy overrides one of {verbs}"


def _signature_problems(kind: type[Strategy], name: str) -> Iterator[str]:
    wanted = CALLED_WITH[name]
    try:
        signature = inspect.signature(getattr(kind, name))
        bound = isinstance(inspect.getattr_static(kind, name), staticmethod | classmethod)
        signature.bind(*([] if bound else ["self"]), *wanted)
    except TypeError:
        yield (
            f"class {kind.__name__}: {name}{signature} cannot be called as the engine does; "
            f"expected {name}(self, {', '.join(wanted)})"
        )
    except ValueError:  # a callable without a readable signature
        return
