"""The figures there are, by name."""

from __future__ import annotations

from collections.abc import Sequence

from fcil.errors import ConfigError, nearest, printable

KINDS = {
    "accuracy": "over all classes seen, after each task",
    "forgetting": "after each task, the mean and, of one run, each task",
    "tasks": "the accuracy on each task, line by line",
    "task_forgetting": "how far each task is below its best, line by line (of several runs)",
    "matrix": "the accuracy on every task after every task",
    "task_aware": "with and without the task of each sample given (of one run; where it is asked for)",
    "classes": "the accuracy on each class after each task (of one run; where it is asked for)",
    "clients": "on each client's own mix of classes, with mean and worst (of one run; where it is asked for)",
    "confusion": "which classes are taken for which, at the end (of one run; where it is asked for)",
    "rounds": "accuracy and the terms of the loss, round after round (of one run)",
    "bytes": "what was sent, and the accuracy it bought",
    "partition": "who holds what (of one run)",
    "synthetic": "samples of the last synthetic pool (of one run)",
    "terms": "the terms of the loss of a distillation",
    "samples_over_rounds": "samples as a distillation goes on",
    "search": "the trials of a search, and the best so far over time (asked for alone)",
}


def check_kinds(kinds: Sequence[str]) -> None:
    """Refuse a figure that there is not.

    Raises:
        ConfigError: names it and those there are.
    """
    for kind in kinds:
        if kind not in KINDS:
            shown = printable(kind)
            raise ConfigError(f'plot: unknown kind "{shown}" (have: {", ".join(KINDS)}).{nearest(kind, KINDS)}')
