"""Check of a strategy against the contract: `fcil check mine.py`.

    from fcil.check import check
    report = check("mine.py")
    assert report.passed, report

Tiny federations are played in a temporary folder, nearly all in this process; on Ray only if asked for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fcil.check.apart import Apart
from fcil.check.circumstances import (
    check_growth,
    check_predict,
    check_scale,
    check_skipped,
    check_tested,
    check_uneven,
)
from fcil.check.contract import (
    Case,
    Check,
    check_declared,
    check_ends,
    check_finite,
    check_leaks,
    check_options,
    check_order,
    check_process,
    check_random,
    check_ray,
    check_repeat,
    check_resume,
    check_sent,
    check_separate,
    check_source,
    check_state,
)
from fcil.check.parts import check_part, other_part
from fcil.check.report import Report, Result, made
from fcil.check.series import check_series
from fcil.check.trials import Trials
from fcil.config import Where, parse_yaml
from fcil.config.matrix import place
from fcil.config.registry import files_in
from fcil.methods.files import built_in_files, locate, own_files
from fcil.methods.loading import StrategySpec

_STEADY = ("ends", "sent", "repeat", "random")
CHECKS = (
    Check("options", check_options),
    Check("source", check_source),
    Check("state", check_state),
    Check("finite", check_finite, ("state",)),
    Check("leaks", check_leaks, ("state",)),
    Check("ends", check_ends, ("state", "finite", "leaks")),
    Check("sent", check_sent, ("ends",)),
    Check("declared", check_declared, ("ends", "sent")),
    Check("repeat", check_repeat, ("ends", "sent")),
    Check("random", check_random, ("ends", "sent", "repeat")),
    Check("separate", check_separate, _STEADY),
    Check("process", check_process, _STEADY),
    Check("resume", check_resume, (*_STEADY, "separate")),
    Check("order", check_order, _STEADY),
    Check("uneven", check_uneven, ("ends",)),
    Check("growth", check_growth, ("ends",)),
    Check("skipped", check_skipped, ("ends",)),
    Check("tested", check_tested, _STEADY),
    Check("predict", check_predict, ("ends", "tested")),
    Check("scale", check_scale, ("ends",)),
    Check("series", check_series, (*_STEADY, "resume", "tested", "predict")),
    Check("ray", check_ray, (*_STEADY, "separate", "process", "resume", "order")),
)
"""Checks in order: cheap ones and those that explain others first."""


def check(
    strategy: str | Path,
    *overrides: str,
    ray: bool = False,
    process: bool = True,
    say: Callable[[Result, int], None] = lambda result, left: None,
) -> Report:
    """Hold a strategy to the contract, or a file of another kind to the laws of that.

    Args:
        strategy: a file, or the name of a strategy that `fcil list strategies` knows. What a file defines says what it
            is: a strategy, net, data set, synthesizer or partition.
        overrides: hyper-parameters, `key=value`.
        ray: play it on Ray too, which takes 20 seconds more.
        process: play it in another process too, which takes the seconds of importing torch.
        say: is told of each check when it is done, and how many are left.
    Raises:
        ConfigError: there is no such strategy, its file does not load, or it has no such hyper-parameter.
    """
    if (part := other_part(strategy)) is not None:
        return check_part(part, overrides, say)
    began, spec = time.monotonic(), find(strategy, overrides)
    chosen = [c for c in CHECKS if (ray or c.name != "ray") and (process or c.name != "process")]
    results: list[Result] = []
    with TemporaryDirectory(prefix="fcil-check-") as folder, Trials(Path(folder)) as stage:
        case = Case(spec, stage, series="images" not in spec.strategy.inputs)
        try:
            if process:
                case.apart = Apart.begin(Path(folder, "apart"), case.plan())
            for one in chosen:
                results.append(made(one, case, str(case.spec.path), results))
                say(results[-1], len(chosen) - len(results))
        finally:
            if case.apart is not None:
                case.apart.end()
    return Report(spec.name, tuple(results), time.monotonic() - began)


def find(strategy: str | Path, overrides: Sequence[str] = ()) -> StrategySpec:
    """The strategy of a file or name, with hyper-parameters; a built-in one by its file, as a user's own."""
    where = Where("fcil check")
    if (name := str(strategy)) in files_in("fcil.synthesis") and name not in {**built_in_files(), **own_files()}:
        raise where.error(
            f'"{name}" is a synthesizer, and strategies are checked; in a checkout '
            f"`python -m pytest tests/synthesis/test_synthesis_acceptance.py -k {name}` holds it to its contract"
        )
    path = locate(name, where) or built_in_files()[name]
    values: dict[str, Any] = {"strategy": {str(path): {}}}
    for text in overrides:
        key, given, value = text.partition("=")
        if not given or not key:
            raise where.error(f'"{text}" is not allowed; expected key=value')
        place(values, f"strategy.{key}", parse_yaml(value, f'override "{key}"'), where)
    return StrategySpec.from_yaml(values["strategy"], where)
