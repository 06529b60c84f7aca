"""Check of a strategy against the contract: `fcil check mine.py`.

    from fcil.check import check
    report = check("mine.py")
    assert report.passed, report

Tiny federations are played in a temporary folder, nearly all in this process; on Ray only if asked for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
    Advice,
    Case,
    Check,
    NotApplicable,
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
from fcil.check.series import check_series
from fcil.check.trials import Trials, explain
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


@dataclass(frozen=True)
class Result:
    """Result of one check."""

    name: str
    what: str
    passed: bool | None
    """True if it passed; None where another check failed that this one needs, or where it is not about the strategy."""
    problem: str
    """Error and where to look, in one line; or why it was left out; or, for one that passed, an advice."""
    seconds: float
    applies: bool = True
    """Whether the check is about this strategy."""

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "seconds": round(self.seconds, 2)}

    def row(self) -> dict[str, Any]:
        """Return the row of the result in a table."""
        verdict = {True: "pass", False: "FAIL", None: "left out" if self.applies else "not applicable"}[self.passed]
        return {"check": self.name, "": verdict, "what": f"{self.what}\n{self.problem}".strip()}


@dataclass(frozen=True)
class Report:
    """All checks of a strategy."""

    strategy: str
    results: tuple[Result, ...]
    seconds: float

    @property
    def passed(self) -> bool:
        return all(result.passed for result in self.results if result.applies)

    @property
    def failed(self) -> list[Result]:
        """Return the checks that failed themselves, not those left out because of them."""
        return [result for result in self.results if result.passed is False]

    def to_json(self) -> dict[str, Any]:
        rows = [result.to_json() for result in self.results]
        return {"strategy": self.strategy, "passed": self.passed, "seconds": round(self.seconds, 1), "checks": rows}

    @property
    def conclusion(self) -> str:
        """Return the number of checks that passed, and the seconds they took."""
        made = [result.passed for result in self.results if result.applies]
        return f"{self.strategy}: {made.count(True)} of {len(made)} checks passed in {self.seconds:.0f} s"

    def __str__(self) -> str:
        lines = [f"{result.name}: {result.problem}" for result in self.failed]
        return f"{self.strategy}: {'; '.join(lines)}" if lines else self.conclusion


def check(
    strategy: str | Path,
    *overrides: str,
    ray: bool = False,
    process: bool = True,
    say: Callable[[Result, int], None] = lambda result, left: None,
) -> Report:
    """Hold a strategy to the contract.

    Args:
        strategy: a file, or the name of one that `fcil list strategies` knows.
        overrides: hyper-parameters, `key=value`.
        ray: play it on Ray too, which takes 20 seconds more.
        process: play it in another process too, which takes the seconds of importing torch.
        say: is told of each check when it is done, and how many are left.
    Raises:
        ConfigError: there is no such strategy, its file does not load, or it has no such hyper-parameter.
    """
    began, spec = time.monotonic(), find(strategy, overrides)
    chosen = [c for c in CHECKS if (ray or c.name != "ray") and (process or c.name != "process")]
    results: list[Result] = []
    with TemporaryDirectory(prefix="fcil-check-") as folder, Trials(Path(folder)) as stage:
        case = Case(spec, stage, series="images" not in spec.strategy.inputs)
        try:
            if process:
                case.apart = Apart.begin(Path(folder, "apart"), case.plan())
            for one in chosen:
                results.append(_made(one, case, results))
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


def _made(one: Check, case: Case, before: Sequence[Result]) -> Result:
    began = time.monotonic()
    missing = [r for r in before if r.name in one.needs and not r.passed]
    if missing:
        because = missing[0].problem if missing[0].passed is None else f"left out until {missing[0].name} passes"
        return Result(one.name, one.what, None, because, 0.0)
    try:
        problem = one.look(case)
    except Exception as error:  # whatever a strategy raises outside a run is a line too
        problem = explain(error, str(case.spec.path))
    applies = not isinstance(problem, NotApplicable)
    passed = (problem is None or isinstance(problem, Advice)) if applies else None
    return Result(one.name, one.what, passed, problem or "", time.monotonic() - began, applies)
