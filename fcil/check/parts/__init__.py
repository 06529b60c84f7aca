"""Laws of the other files of one's own: nets, data sets, synthesizers and partitions."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fcil.check.contract import Check
from fcil.check.parts import datasets, nets, partitions, synthesizers
from fcil.check.parts.case import PartCase, check_options, check_source
from fcil.check.report import Report, Result, made
from fcil.config import Where, parse_yaml
from fcil.config.parts import PartFile, class_of, is_path, parse_part, read_part
from fcil.methods.parts import BASES, kind_of

PART_CHECKS: dict[str, tuple[Check, ...]] = {
    "net": nets.CHECKS,
    "dataset": datasets.CHECKS,
    "synthesizer": synthesizers.CHECKS,
    "partition": partitions.CHECKS,
}
"""Checks of each kind, after those of the file itself."""


def other_part(name: str | Path) -> PartFile | None:
    """Return the file of this path, if it defines another part than a strategy.

    Raises:
        ConfigError: it does not load.
    """
    if not is_path(path := str(name)) or not os.path.isfile(path):
        return None
    where = Where("fcil check")
    part = read_part(path, "part", where)
    return None if kind_of(part, where) == "strategy" else part


def check_part(part: PartFile, overrides: Sequence[str], say: Callable[[Result, int], None]) -> Report:
    """Hold a net, data set, synthesizer or partition to the laws of its kind.

    Args:
        overrides: settings of its class, `key=value`; of a data set `root=FOLDER` besides.
        say: is told of each check when it is done, and how many are left.
    Raises:
        ConfigError: it has no such setting.
    """
    began, where = time.monotonic(), Where("fcil check")
    kind, options = kind_of(part, where), dict[str, Any]()
    for text in overrides:
        key, given, value = text.partition("=")
        if not given or not key:
            raise where.error(f'"{text}" is not allowed; expected key=value')
        options[key] = parse_yaml(value, f'override "{key}"')
    root = options.pop("root", None) if kind == "dataset" else None
    cls: type[Any] = class_of(part, BASES[kind], kind, where)
    case = PartCase(part, parse_part(cls, options, part, where.at(part.path)), None if root is None else str(root))
    chosen = (Check("options", check_options), Check("source", check_source), *PART_CHECKS[kind])
    results: list[Result] = []
    for one in chosen:
        results.append(made(one, case, part.path, results))
        say(results[-1], len(chosen) - len(results))
    return Report(part.stem, tuple(results), time.monotonic() - began, kind)
