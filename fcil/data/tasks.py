"""Order in which classes arrive, and their grouping into tasks.

Source: `DataManager` of github.com/tmtuan1307/lander @ 44d7acc, itself the rule of PyCIL: the order is
a permutation drawn by NumPy's legacy generator right after it was seeded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fcil.errors import ConfigError, nearest, printable

Order = Literal["natural", "seed"] | int | tuple[int, ...]
"""`natural`, `seed` (the run's), the number of a permutation, or the class numbers themselves."""

LEGACY_SEEDS = 2**32
"""NumPy's legacy generator takes seeds below this."""


def class_order(num_classes: int, order: Order, seed: int) -> NDArray[np.int64]:
    """Return the original class numbers in order of appearance, (num_classes,).

    Raises:
        ConfigError: a list names a class twice, leaves one out or has one that does not exist; or a
            seed is invalid for the legacy generator.
    """
    if order == "natural":
        return np.arange(num_classes, dtype=np.int64)
    if isinstance(order, str | int):
        return legacy_generator(seed if isinstance(order, str) else order).permutation(num_classes).astype(np.int64)
    check_classes("order", order, num_classes)
    missing = sorted(set(range(num_classes)) - set(order))
    if missing:
        raise ConfigError(
            f"order leaves out {len(missing)} of {num_classes} classes (the first is {missing[0]});"
            " to use a subset of the classes, list the tasks themselves, or name them in data.classes"
        )
    return np.array(order, dtype=np.int64)


def class_numbers(listed: Sequence[int | str], names: Sequence[str], folders: Sequence[str] = ()) -> tuple[int, ...]:
    """Return the original class numbers of classes chosen by name, folder name or number, in the order given.

    A number is the name of a class where classes are named by whole numbers, else a class number.

    Raises:
        ConfigError: there is no such class, it is chosen twice, or several have this name.
    """
    of_name: dict[str, list[int]] = {}
    for spelling in (folders, names):  # a name comes before a folder of the same spelling
        found: dict[str, list[int]] = {}
        for number, name in enumerate(spelling):
            found.setdefault(name, []).append(number)
        of_name |= found
    numbered = any(name.isdecimal() for name in names)
    chosen: dict[int, int | str] = {}
    for wish in listed:
        if isinstance(wish, int) and not numbered:
            if wish >= len(names):
                raise ConfigError(f"classes has class {wish}, but the classes are 0 to {len(names) - 1}")
            numbers = [wish]
        else:
            numbers = of_name.get(str(wish), [])
        if not numbers:
            guess = nearest(wish, of_name)
            raise ConfigError(f'classes has no class "{printable(str(wish))}" among the {len(names)} there are.{guess}')
        if len(numbers) > 1:
            several = " and ".join(map(str, numbers[:3]))
            raise ConfigError(f'classes has "{wish}", which is the name of classes {several}; give the number')
        if numbers[0] in chosen:
            raise ConfigError(f'classes has class "{names[numbers[0]]}" twice')
        chosen[numbers[0]] = wish
    return tuple(chosen)


def legacy_generator(seed: int) -> np.random.RandomState:
    """Return NumPy's legacy generator, for equality with the reference code."""
    if not 0 <= seed < LEGACY_SEEDS:
        raise ConfigError(f"seed {seed} cannot number a permutation; it must be from 0 to {LEGACY_SEEDS - 1}")
    return np.random.RandomState(seed)


def task_sizes(
    num_classes: int,
    *,
    tasks: int | None = None,
    base: int | None = None,
    increment: int | None = None,
    even: bool = False,
) -> tuple[int, ...]:
    """Return the number of classes of each task.

    `tasks` equal tasks of floor(num_classes / tasks) classes; the last one also takes the remainder, or, if
    `even`, the first ones take one class more each. Or `base` classes first, then `increment` at a time; a
    remainder is a last, smaller task.

    Differs: with `tasks` the reference makes a remainder an additional task, so that it can run more
    tasks than requested; here the number of tasks is exact.

    Raises:
        ConfigError: more tasks, or more classes in the first task, than there are classes.
    """
    if tasks is not None:
        if tasks > num_classes:
            raise ConfigError(f"tasks is {tasks}, but {_only(num_classes)}")
        each, left = divmod(num_classes, tasks)
        if even:
            return (each + 1,) * left + (each,) * (tasks - left)
        return (each,) * (tasks - 1) + (num_classes - each * (tasks - 1),)
    if base is None or increment is None:
        raise ConfigError("give tasks, or base and increment")
    if base > num_classes:
        raise ConfigError(f"base is {base}, but {_only(num_classes)}")
    later, rest = divmod(num_classes - base, increment)
    return (base,) + (increment,) * later + ((rest,) if rest else ())


def _only(classes: int) -> str:
    return f"there are only {classes} classes" if classes != 1 else "there is only one class"


@dataclass(frozen=True)
class TaskSplit:
    """The original class numbers of every task, tasks and classes in order of appearance."""

    classes: tuple[tuple[int, ...], ...]

    @classmethod
    def make(
        cls,
        num_classes: int,
        *,
        tasks: int | Sequence[Sequence[int]] | None = None,
        base: int | None = None,
        increment: int | None = None,
        even: bool = False,
        order: Order = "natural",
        seed: int = 0,
    ) -> TaskSplit:
        """Cut the class order into tasks; tasks given as lists may leave classes out.

        Raises:
            ConfigError: the values contradict each other or the number of classes.
        """
        if tasks is not None and not isinstance(tasks, int):
            check_classes("tasks", [c for task in tasks for c in task], num_classes)
            return cls(tuple(tuple(int(c) for c in task) for task in tasks))
        appearing = class_order(num_classes, order, seed)
        ends = np.cumsum(task_sizes(num_classes, tasks=tasks, base=base, increment=increment, even=even))
        return cls(tuple(tuple(part.tolist()) for part in np.split(appearing, ends[:-1])))

    def __len__(self) -> int:
        return len(self.classes)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Return the number of new classes of every task."""
        return tuple(len(task) for task in self.classes)

    @property
    def order(self) -> tuple[int, ...]:
        """Return the original class numbers in order of appearance: the class with new label i is `order[i]`."""
        return tuple(c for task in self.classes for c in task)


def check_classes(key: str, listed: Sequence[int], num_classes: int) -> None:
    """Check that every class exists, and none is listed twice.

    Raises:
        ConfigError: a class is missing or repeated; the line begins with `key`.
    """
    seen: set[int] = set()
    for number in listed:
        if not 0 <= number < num_classes:
            raise ConfigError(f"{key} has class {number}, but the classes are 0 to {num_classes - 1}")
        if number in seen:
            raise ConfigError(f"{key} has class {number} twice")
        seen.add(number)
