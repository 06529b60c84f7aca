"""Finds strategies: a file is a method, and its name is the method's name.

Looked for in `./strategies` first, then among those that come with the project; a path to a
file is taken as it is. Exactly one `Strategy` subclass must be defined in the file.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import os
import sys
from dataclasses import dataclass
from filecmp import cmp
from hashlib import sha256
from pathlib import Path
from types import ModuleType

from fcil.config import MAX_BYTES, Where, choice, dump
from fcil.errors import ConfigError, described, nearest
from fcil.io.bounded import read_text
from fcil.methods.verbs import problems
from fcil.strategy import Strategy

BUILT_IN = "strategies"


@dataclass(frozen=True)
class StrategySpec:
    """A strategy as an experiment names it: values alone, so that it can be sent to a worker."""

    name: str
    """The file's stem."""
    strategy: Strategy
    """The method with its hyper-parameters."""
    source: str
    """The text of the file, which travels with the run and is kept in its folder."""
    path: str | None = None
    """Where the file lies, for a user's own; built-in strategies have none."""

    @classmethod
    def from_yaml(cls, raw: object, where: Where) -> StrategySpec:
        name, options = choice(raw, where, "strategy")
        path = locate(name, where)
        source = read_source(path or built_in_files()[name], where)
        kind = strategy_class(name, path, source, where)
        return cls(Path(name).stem, kind.parse(options, where.at(name)), source, str(path) if path else None)

    def to_yaml(self) -> dict[str, object]:
        return {self.path or self.name: dump(self.strategy.options())}

    def fingerprint(self) -> dict[str, object]:
        """What can change the result: the options, and the text of a user's own file."""
        source = sha256(self.source.encode()).hexdigest() if self.path else ""
        return {"name": self.name, "options": dump(self.strategy.decisive()), "source": source}


def built_in_files() -> dict[str, Path]:
    """Name and file of every strategy that comes with the project."""
    spec = importlib.util.find_spec(BUILT_IN)
    folders = list(spec.submodule_search_locations or []) if spec else []
    files = sorted(p for folder in folders for p in Path(folder).glob("*.py") if not p.stem.startswith("_"))
    return {p.stem: p for p in files}


def own_files() -> dict[str, Path]:
    """Name and file of every strategy in `./strategies`, but for those that are the built-in ones, or copies."""
    found = {p.stem: p for p in sorted(Path("strategies").glob("*.py")) if not p.stem.startswith("_")}
    built_in = built_in_files()
    return {name: p for name, p in found.items() if name not in built_in or not cmp(p, built_in[name], shallow=False)}


def locate(name: str, where: Where) -> Path | None:
    """The user's file of this name or path; None for a built-in strategy.

    Raises:
        ConfigError: there is no such strategy or file.
    """
    if name.endswith(".py") or "/" in name:
        if not os.path.isfile(name):
            near = nearest(Path(name).name, [p.name for p in Path(name).parent.glob("*.py")])
            raise where.error(f'no strategy file "{name}".{near}')
        return Path(name)
    if name in own_files():
        return own_files()[name]
    if name not in built_in_files():
        raise where.unknown("strategy", name, sorted({**built_in_files(), **own_files()}))
    return None


def read_source(path: Path, where: Where) -> str:
    """The text of a strategy's file.

    Raises:
        ConfigError: it cannot be read, or is no text.
    """
    try:
        return read_text(path, MAX_BYTES, ConfigError, f'strategy file "{path}"')
    except ConfigError as error:
        raise where.error(str(error)) from None


def source_digest(source: str) -> str:
    """Thirty-two hex digits that stand for the text of a strategy's file."""
    return sha256(source.encode()).hexdigest()[:32]


def strategy_class(name: str, path: Path | None, source: str, where: Where) -> type[Strategy]:
    """The one `Strategy` subclass defined in a strategy's file.

    Raises:
        ConfigError: the file does not load, or defines none or several.
    """
    try:
        module = importlib.import_module(f"{BUILT_IN}.{name}") if path is None else load_source(path, source)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # whatever a user's file raises is shown as one line
        raise where.error(f'strategy file "{path or name}" does not load: {described(error)}') from error
    found = [v for v in vars(module).values() if isinstance(v, type) and issubclass(v, Strategy)]
    own = [v for v in found if v.__module__ == module.__name__]
    if len(own) != 1:
        names = ", ".join(v.__name__ for v in own) or "none"
        raise where.error(f'strategy file "{path or name}" must define exactly one Strategy; it defines {names}')
    if wrong := list(problems(own[0], source)):
        raise where.error(f'strategy file "{path or name}": {"; ".join(wrong[:3])}')
    return own[0]


def load_source(path: Path, source: str) -> ModuleType:
    """A module from its text. The text travels with a run, so a worker needs no copy of the file."""
    name = f"_strategy_{path.stem}_{sha256(source.encode()).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    module = ModuleType(name)
    module.__file__ = str(path)
    sys.modules[name] = module  # dataclasses look their module up while it is being executed
    try:
        exec(compile(source, str(path), "exec"), vars(module))
    except BaseException:
        del sys.modules[name]
        raise
    return module


def first_line(source: str) -> str:
    """The first line of a file's docstring, without executing the file."""
    doc = ast.get_docstring(ast.parse(source)) or ""
    return doc.splitlines()[0] if doc else ""
