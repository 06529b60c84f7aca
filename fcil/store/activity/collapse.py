"""Nets that give one answer to everything.

A step that is too long for a batch may push the inputs of all of a layer's units below zero, where a rectifier lets
no gradient through; such a net seldom recovers. It takes all test samples for one class, and its accuracy is
that class' share: a number like others in a table, that says nothing of the method.
"""

from __future__ import annotations

from fcil.errors import SHORTER_STEPS
from fcil.store import files
from fcil.store.folder import RunFolder


def collapsed(folder: RunFolder) -> str | None:
    """Say from which task on a run's net took all test samples for one class; None: at its end it told some apart.

    A new task of one class is left out: to take everything for the newest class is to forget, not to collapse.
    """
    answers: dict[int, set[int]] = {}
    seen: dict[int, int] = {}  # classes that there are test samples of
    for task, true, predicted, _ in files.kept_details(folder.details["confusion"], "confusion"):
        answers.setdefault(task, set()).add(predicted)
        seen[task] = max(seen.get(task, 0), true + 1)
    begin = None
    for task in sorted(answers, reverse=True):
        if len(answers[task]) > 1 or seen[task] - seen.get(task - 1, 0) == 1:
            break
        begin = task
    if begin is None:
        return None
    when = f"from the end of task {begin} on" if begin < max(answers) else f"at the end of task {begin}"
    return f"the net took all test samples for one class {when}; {SHORTER_STEPS}"
