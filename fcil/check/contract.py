"""The contract of a strategy, check by check.

Each check plays one tiny federation or looks at one that was played, and says in a line what is
wrong, or nothing. Its docstring is what the report calls it. A check is made only if those named in
`needs` passed, so that one mistake shows as one failure.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from fcil.check.apart import Apart
from fcil.check.laws import global_draws, offences
from fcil.check.trials import TrialRun, Trials, plan_of
from fcil.config import Where, dump_fields, dump_yaml, field_docs, parse_fields, parse_yaml
from fcil.errors import ConfigError, nearest
from fcil.federation.plan import Plan
from fcil.io.state import flatten
from fcil.methods.files import first_line
from fcil.methods.introspection import USES, words
from fcil.methods.loading import StrategySpec
from fcil.strategy import Strategy


@dataclass
class Case:
    """A strategy under check, and the runs that several checks look at."""

    spec: StrategySpec
    stage: Trials
    apart: Apart | None = None
    series: bool = False
    """Whether it is played on series."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the federations, unless a check changes them."""

    @property
    def kind(self) -> type[Strategy]:
        return type(self.spec.strategy)

    @cached_property
    def base(self) -> TrialRun:
        """The run that others are compared with."""
        return self.play("base")

    def play(self, name: str, **options: Any) -> TrialRun:
        return self.stage.play(name, self.plan(), **options)

    def plan(self, data: dict[str, Any] | None = None, **federation: Any) -> Plan:
        """Return the plan of `plan_of` on samples of the kind that the strategy is tried on."""
        series = self.stage.series if self.series else None
        return plan_of(self.spec, data, series=series, **{**self.settings, **federation})


class Advice(str):
    """A line about what had better be declared; the check passes nevertheless."""


class NotApplicable(str):
    """The reason why a check is not about this strategy; it neither passes nor fails."""


Look = Callable[[Any], str | None]
"""Returns what is wrong with the case it is given, in a line."""


@dataclass(frozen=True)
class Check:
    """One clause of the contract."""

    name: str
    look: Look
    needs: tuple[str, ...] = ()

    @property
    def what(self) -> str:
        return (self.look.__doc__ or "").strip()


# The file -----------------------------------------------------------------------------------------


def check_options(case: Case) -> str | None:
    """Its fields are settings: frozen, documented, and the same after a journey through YAML."""
    return options_problem(case.spec.strategy, case.spec.source, "`fcil list strategies` says")


def options_problem(settings: Any, source: str, reader: str) -> str | None:
    """Return what is wrong with the fields of a class as settings.

    Args:
        settings: an object of the class.
        source: the text of its file.
        reader: what reads the first line of its docstring.
    """
    kind = type(settings)
    own = vars(kind).get("__annotations__", {})
    plain = [name for name, hint in own.items() if "ClassVar" not in str(hint)]
    tree = ast.parse(source)
    if not first_line(source):
        return f"the file begins with no docstring; its first line is what {reader}"
    documented = field_docs(kind)
    for name in plain:
        if not documented.get(name):
            return f"{name} has no sentence under it that says what it is ({_line_of(tree, name)})"
    written = dump_yaml(dump_fields(settings))
    try:
        again = parse_fields(kind, parse_yaml(written, "options"), Where("options"))
    except ConfigError as error:
        return f"its own options are refused when they are read back: {error}"
    if again != settings:
        differ = [n for n, v in vars(settings).items() if vars(again).get(n) != v]
        return f"{', '.join(differ) or 'its options'} is another after a journey through YAML"
    return None


def _line_of(tree: ast.AST, name: str) -> str:
    found = [n.lineno for n in ast.walk(tree) if isinstance(n, ast.AnnAssign) and ast.unparse(n.target) == name]
    return f"line {found[0]}" if found else "in a base class"


def check_source(case: Case) -> str | None:
    """Its file prints, logs and pickles nothing, and names no device, data set or engine."""
    return next((f"line {line}: {deed}" for line, deed in offences(case.spec.source)), None)


# A run --------------------------------------------------------------------------------------------

NO_VALUE = re.compile(
    r'state ".*" is a |cannot be a name|cannot be read|tensor ".*" (is missing|was not asked|has the shape)'
)
NOT_FINITE = re.compile(r"\b(nan|inf|NaN|infinity)\b")


def check_state(case: Case) -> str | None:
    """What it keeps, shares and sends is values: tensors, numbers and strings by name."""
    problem = case.base.problem
    return problem if problem and NO_VALUE.search(problem) else None


def check_finite(case: Case) -> str | None:
    """Every loss term and every tensor of a run is finite."""
    if case.base.problem:
        return case.base.problem if NOT_FINITE.search(case.base.problem) else None
    server = case.base.server()
    tensors, _ = flatten({"server.net": server.net.weights(), "server.shared": server.shared})
    bad = [name for name, t in tensors.items() if t.is_floating_point() and not bool(torch.isfinite(t).all())]
    return f"{bad[0].replace('/', '.')} holds NaN or infinity at the end of a run" if bad else None


LEAKS = re.compile(
    r"client \d+, task \d+, round \d+: (used|keeps) \d+ (image|series)|while test (images|series) were shown"
)


def check_leaks(case: Case) -> str | None:
    """No client uses or keeps an image that it may not see, and nothing is kept of test images."""
    problem = case.base.problem
    return problem if problem and LEAKS.search(problem) else None


def check_ends(case: Case) -> str | None:
    """A run of two tasks ends."""
    return case.base.problem


def check_sent(case: Case) -> str | None:
    """A client leaves what it was sent as it was, and all clients of a round send the same tensors."""
    assert case.base.grid is not None
    if case.base.grid.changed:
        return case.base.grid.changed[0]
    for (task, number), names in case.base.grid.names.items():
        (first, expected), *rest = names.items()
        for client, sent in rest:
            if sent != expected:
                odd = min(sent ^ expected)
                has, lacks = (client, first) if odd in sent else (first, client)
                return f"task {task}, round {number}: client {has} sends {odd} and client {lacks} does not"
    return None


def check_declared(case: Case) -> str | None:
    """What listings and tables say of it is declared by its class."""
    uses, records = {*case.kind.needs, *words(case.kind, "uses")}, case.base.records.values()
    if strange := [word for word in words(case.kind, "uses") if word not in USES]:
        return Advice(f'uses has "{strange[0]}" (have: {", ".join(USES)}).{nearest(strange[0], list(USES))}')
    met = {"exemplars": "exemplars", "drawn": "samples"}  # key of a record: word
    if missing := [word for key, word in met.items() if word not in uses and any(r.get(key) for r in records)]:
        return Advice(f'add "{missing[0]}" to the class variable uses, so that listings and diagnostics know of it')
    listed = words(case.kind, "broadcasts")
    unlisted = [name for name in case.base.server().shared if name not in listed]
    return Advice(f'add "{unlisted[0]}" to the class variable broadcasts: clients are sent it') if unlisted else None


# The same run again -------------------------------------------------------------------------------


def check_repeat(case: Case) -> str | None:
    """The same settings give the same run, to the bit."""
    found = difference(case.play("again").outcome(), case.base.outcome())
    return found and f"{found}; does something outlive a run in a variable of the module?"


def check_random(case: Case) -> str | None:
    """Global random streams are neither used nor touched: client.generator and server.generator are there."""
    played = case.play("seeded", seed=2)
    found = difference(played.outcome(), case.base.outcome())
    path, draws = case.spec.path, list(global_draws(case.spec.source))
    places = f" ({Path(str(path)).name}:{draws[0][0]}, {draws[0][1]})" if draws else ""
    if found:
        return f"under another global seed {found}{places}"
    touched = played.touched
    return f"the global stream of {touched[0]} is not as it was before the run{places}" if touched else None


def check_separate(case: Case) -> str | None:
    """Clients and server share nothing but what they are handed."""
    found = difference(case.stage.play_apart("separate", case.plan()).outcome(), case.base.outcome())
    return found and f"with clients in a process of their own {found}; is there a variable of the module?"


def check_process(case: Case) -> str | None:
    """A run in another process, where sets have another order, is the same to the bit."""
    assert case.apart is not None
    found = difference(case.apart.outcome(), case.base.outcome())
    return found and f"{found}; is a set or hash() gone through in its own order? sort it"


def check_resume(case: Case) -> str | None:
    """A run that is interrupted after each round and task, and resumed, equals one that was not."""
    resumed = case.stage.play_resumed("resumed", case.plan())
    found = difference(resumed.outcome(), case.base.outcome())
    return found and f"{found}; what must outlive a round belongs in server.shared, server.memo or client.memory"


def check_order(case: Case) -> str | None:
    """It does not matter in which order clients train."""
    found = difference(case.play("backwards", backwards=True).outcome(), case.base.outcome())
    return found and f"last client first, {found}; does a client leave something behind for the next?"


def check_ray(case: Case) -> str | None:
    """A run on Ray workers is the same to the bit."""
    found = difference(case.stage.play_on_ray("ray", case.plan()).outcome(), case.base.outcome())
    return found and f"on Ray {found}; do clients share something that they are not handed?"


def difference(got: dict[str, Any], expected: dict[str, Any]) -> str | None:
    """Describe the first difference between two outcomes."""
    if got["problem"] or expected["problem"]:
        return got["problem"] if got["problem"] != expected["problem"] else None
    for place, record in expected["records"].items():
        other = got["records"].get(place, {})
        for key, value in record.items():
            if other.get(key) == value:
                continue
            if isinstance(value, dict) and isinstance(other.get(key), dict):
                names = [n for n in {**value, **other[key]} if value.get(n) != other[key].get(n)]
                return f"{place}: {key} {names[0]} is {other[key].get(names[0])}, and was {value.get(names[0])}"
            return f"{place}: {key} is {other.get(key)}, and was {value}"
    names = [n for n in {**expected["parts"], **got["parts"]} if expected["parts"].get(n) != got["parts"].get(n)]
    if names:
        return f"{_owner(names[0])} is another at the end of the run"
    return None if got["rows"] == expected["rows"] else "accuracies differ"


def _owner(part: str) -> str:
    kind, _, name = part.partition("/")
    known = {"shared": f'server.shared["{name}"]', "clients": f"the memory of client {name}"}
    return known.get(kind, f"server.{kind}")
