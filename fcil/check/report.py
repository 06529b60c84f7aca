"""The report of a check of a file: what each look at it has found, and the whole of it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fcil.check.contract import Advice, Check, NotApplicable
from fcil.check.trials import explain


@dataclass(frozen=True)
class Result:
    """Result of one check."""

    name: str
    what: str
    passed: bool | None
    """True if it passed; None where another check failed that this one needs, or where it is not about the part."""
    problem: str
    """Error and where to look, in one line; or why it was left out; or, for one that passed, an advice."""
    seconds: float
    applies: bool = True
    """Whether the check is about this part."""

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "seconds": round(self.seconds, 2)}

    def row(self) -> dict[str, Any]:
        """Return the row of the result in a table."""
        verdict = {True: "pass", False: "FAIL", None: "left out" if self.applies else "not applicable"}[self.passed]
        return {"check": self.name, "": verdict, "what": f"{self.what}\n{self.problem}".strip()}


@dataclass(frozen=True)
class Report:
    """All checks of a strategy, or of another part of one's own."""

    strategy: str
    """Name of the part."""
    results: tuple[Result, ...]
    seconds: float
    kind: str = "strategy"

    @property
    def passed(self) -> bool:
        return all(result.passed for result in self.results if result.applies)

    @property
    def failed(self) -> list[Result]:
        """Return the checks that failed themselves, not those left out because of them."""
        return [result for result in self.results if result.passed is False]

    def to_json(self) -> dict[str, Any]:
        rows = [result.to_json() for result in self.results]
        return {self.kind: self.strategy, "passed": self.passed, "seconds": round(self.seconds, 1), "checks": rows}

    @property
    def conclusion(self) -> str:
        """Return the number of checks that passed, and the seconds they took."""
        made = [result.passed for result in self.results if result.applies]
        return f"{self.strategy}: {made.count(True)} of {len(made)} checks passed in {self.seconds:.0f} s"

    def __str__(self) -> str:
        lines = [f"{result.name}: {result.problem}" for result in self.failed]
        return f"{self.strategy}: {'; '.join(lines)}" if lines else self.conclusion


def made(one: Check, case: Any, path: str, before: Sequence[Result]) -> Result:
    """Return the result of a check.

    Args:
        case: what it looks at.
        path: of the file, to name the line that raised.
        before: results so far; a check that needs one which did not pass is left out.
    """
    began = time.monotonic()
    missing = [r for r in before if r.name in one.needs and not r.passed]
    if missing:
        because = missing[0].problem if missing[0].passed is None else f"left out until {missing[0].name} passes"
        return Result(one.name, one.what, None, because, 0.0)
    try:
        problem = one.look(case)
    except Exception as error:  # whatever a user's code raises outside a run is a line too
        problem = explain(error, path)
    applies = not isinstance(problem, NotApplicable)
    passed = (problem is None or isinstance(problem, Advice)) if applies else None
    return Result(one.name, one.what, passed, problem or "", time.monotonic() - began, applies)
