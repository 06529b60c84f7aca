"""Finds strategies: a file is a method, and its name is the method's name.

Looked for in `./strategies` first, then among those that come with the project; a path to a
file is taken as it is. Exactly one `Strategy` subclass must be defined in the file.
"""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from types import ModuleType

from fcil.config import Where, choice, dump
from fcil.config.json_schema import Schema, Schemas
from fcil.errors import described
from fcil.methods.files import BUILT_IN, built_in_files, locate, read_source
from fcil.methods.verbs import problems
from fcil.strategy import Strategy


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

    @classmethod
    def to_json_schema(cls, schemas: Schemas) -> Schema:
        """The strategies that come with the project, and any other name or file, which may be a user's own."""
        where = Where(BUILT_IN)
        kinds = {n: strategy_class(n, None, read_source(p, where), where) for n, p in built_in_files().items()}
        return schemas.of_choice("strategy", kinds, own=True)

    def to_yaml(self) -> dict[str, object]:
        return {self.path or self.name: dump(self.strategy.options())}

    def fingerprint(self) -> dict[str, object]:
        """What can change the result: the options, and the text of a user's own file."""
        source = sha256(self.source.encode()).hexdigest() if self.path else ""
        return {"name": self.name, "options": dump(self.strategy.decisive()), "source": source}


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
