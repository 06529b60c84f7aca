"""Loading of strategies: a file is a method, and its name is the method's name.

`./strategies` is searched first, then the built-in strategies; a path to a
file is taken as it is. Exactly one `Strategy` subclass must be defined in the file.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from fcil.config import Where, choice, dump
from fcil.config.effect import as_before, stemmed
from fcil.config.json_schema import Schema, Schemas
from fcil.config.parts import PartFile, defined, loaded
from fcil.errors import described
from fcil.methods.files import BUILT_IN, built_in_files, locate, read_source
from fcil.methods.verbs import problems
from fcil.strategy import Strategy
from fcil.synthesis import Synthesizer


@dataclass(frozen=True)
class StrategySpec:
    """A strategy as named in an experiment: values alone, so that it can be sent to a worker."""

    name: str
    """The file's stem."""
    strategy: Strategy
    """The method with its hyper-parameters."""
    source: str
    """The text of the file, which is sent with the run and stored in its folder."""
    path: str | None = None
    """Path of a user's own file; None for built-in strategies."""

    @classmethod
    def from_yaml(cls, raw: object, where: Where) -> StrategySpec:
        name, options = choice(raw, where, "strategy")
        path = locate(name, where)
        source = read_source(path or built_in_files()[name], where)
        kind = strategy_class(name, path, source, where)
        return cls(Path(name).stem, kind.parse(options, where.at(name)), source, str(path) if path else None)

    @classmethod
    def to_json_schema(cls, schemas: Schemas) -> Schema:
        """Return the schema of built-in strategies, and any other name or file, which may be a user's own."""
        where = Where(BUILT_IN)
        kinds = {n: strategy_class(n, None, read_source(p, where), where) for n, p in built_in_files().items()}
        return schemas.of_choice("strategy", kinds, own="")

    def to_yaml(self) -> dict[str, object]:
        return {self.path or self.name: dump(self.strategy.options())}

    def fingerprint(self) -> dict[str, object]:
        """Return the values that can change the result: the options, and the text of a user's own file."""
        source = sha256(self.source.encode()).hexdigest() if self.path else ""
        return {"name": self.name, "options": as_before(stemmed(dump(self.strategy.decisive()))), "source": source}


def strategy_class(name: str, path: Path | None, source: str, where: Where) -> type[Strategy]:
    """Return the one `Strategy` subclass defined in a strategy's file.

    Raises:
        ConfigError: the file does not load, or defines none or several.
    """
    if path is not None:
        module = loaded(PartFile(str(path), source), "strategy", where)
    else:
        try:
            module = importlib.import_module(f"{BUILT_IN}.{name}")
        except ImportError as error:
            raise where.error(f'strategy file "{name}" does not load: {described(error)}') from error
    own = defined(module, Strategy)
    if len(own) != 1:
        names = ", ".join(v.__name__ for v in own) or "none"
        if any(isinstance(v, type) and issubclass(v, Synthesizer) for v in vars(module).values()) and not own:
            names += " (a Synthesizer is named by its path where a strategy's settings name one)"
        raise where.error(f'strategy file "{path or name}" must define exactly one Strategy; it defines {names}')
    if wrong := list(problems(own[0], source)):
        raise where.error(f'strategy file "{path or name}": {"; ".join(wrong[:3])}')
    return own[0]
