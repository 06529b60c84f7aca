"""Laws of a partition, on tasks of three sizes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fcil.check.contract import Advice, Check
from fcil.check.parts.case import PartCase, touched
from fcil.rng import numpy_generator

Indices = NDArray[np.int64]
TASKS = {"even": [40, 40, 40], "uneven": [90, 20, 10], "one class": [60]}
"""Samples of each class of a task."""
CLIENTS = (1, 2, 5, 10)


def labels_of(task: str) -> Indices:
    return np.repeat(np.arange(len(TASKS[task])), TASKS[task])


def deal(case: PartCase, task: str, clients: int = 5, seed: int = 0) -> list[Indices]:
    found: list[Indices] = case.settings.dealt(labels_of(task), clients, numpy_generator(seed, "partition", task))
    return found


def alike(first: list[Indices], second: list[Indices]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def check_dealt(case: PartCase) -> str | None:
    """Every sample is dealt once, to one client, whatever the number of clients."""
    for task in TASKS:
        for clients in CLIENTS:
            deal(case, task, clients)
    return None


def check_few(case: PartCase) -> str | None:
    """As many clients as samples, and one sample alone, are dealt with too."""
    rng = numpy_generator("few")
    case.settings.dealt(np.array([0, 1, 1, 0]), 4, rng)
    case.settings.dealt(np.array([0]), 1, rng)
    return None


def check_repeat(case: PartCase) -> str | None:
    """The same seed deals the same, and no global random stream is used or touched."""
    found, problem = touched(lambda _: deal(case, "uneven"))
    if not all(alike(one, deal(case, "uneven")) for one in found):
        return "the same seed deals otherwise the next time; draw from rng alone"
    return problem


def check_order(case: PartCase) -> str | None:
    """It does not matter which tasks were dealt before."""
    forwards = {task: deal(case, task) for task in TASKS}
    backwards = {task: deal(case, task) for task in reversed(TASKS)}
    other = [task for task in TASKS if not alike(forwards[task], backwards[task])]
    return f"a task ({other[0]}) is dealt otherwise after others; is there a variable of the module?" if other else None


def check_labels(case: PartCase) -> str | None:
    """The labels that it is given are left as they are."""
    labels = labels_of("uneven")
    case.settings.deal(labels, 5, numpy_generator("labels"))
    return None if np.array_equal(labels, labels_of("uneven")) else "deal changes labels; copy them first"


def check_empty(case: PartCase) -> str | None:
    """Each client is dealt a sample."""
    empty = [client for client, part in enumerate(deal(case, "even")) if not len(part)]
    if not empty:
        return None
    return Advice(f"client {empty[0]} of 5 is dealt none of 120, and gets one of the client that holds most")


CHECKS = (
    Check("dealt", check_dealt),
    Check("few", check_few, ("dealt",)),
    Check("repeat", check_repeat, ("dealt",)),
    Check("order", check_order, ("dealt", "repeat")),
    Check("labels", check_labels, ("dealt",)),
    Check("empty", check_empty, ("dealt",)),
)
