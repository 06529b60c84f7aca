"""YAML to frozen dataclasses and back, with a closed schema and errors that name the key.

A settings class is a frozen, keyword-only dataclass whose field types are the schema. A class that
accepts a short form (`partition: iid`) has a class method `from_yaml(raw, where)` and a method
`to_yaml()`.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import os
import re
import textwrap
import types
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml
from pydantic import TypeAdapter, ValidationError

from fcil.errors import ConfigError, nearest
from fcil.reading import read_text

T = TypeVar("T")


@dataclass(frozen=True)
class Where:
    """A place in a file, for error messages."""

    source: str
    path: str = ""

    def at(self, key: object) -> Where:
        return Where(self.source, f"{self.path}.{key}" if self.path else str(key))

    def error(self, problem: str) -> ConfigError:
        place = f"{self.source}: {self.path}" if self.path else self.source
        return ConfigError(f"{place}: {problem}")

    def unknown(self, kind: str, value: object, known: list[str]) -> ConfigError:
        return self.error(f'unknown {kind} "{value}" (have: {", ".join(known)}).{nearest(value, known)}')


def parse(cls: type[T], raw: Any, where: Where) -> T:
    """Build `cls` from plain YAML values.

    Raises:
        ConfigError: for an unknown key, a missing key or a value that is not allowed.
    """
    short: Callable[[Any, Where], T] | None = getattr(cls, "from_yaml", None)
    if short is not None:
        return short(raw, where)
    return parse_fields(cls, raw, where)


def parse_fields(cls: type[T], raw: Any, where: Where) -> T:
    """Build a dataclass field by field, without its short form."""
    if not isinstance(raw, Mapping):
        raise where.error(f"{raw!r} is not allowed; expected a mapping of {_names(cls)}")
    known = [f.name for f in fields(cls) if f.init]  # type: ignore[arg-type]
    for key in raw:
        if key not in known:
            raise where.at(key).error(f"unknown key (allowed: {', '.join(known)}).{nearest(key, known)}")
    hints = get_type_hints(cls, include_extras=True)
    values = {k: _value(hints[k], v, where.at(k)) for k, v in raw.items()}
    for f in fields(cls):  # type: ignore[arg-type]
        if f.init and f.name not in values and f.default is MISSING and f.default_factory is MISSING:
            raise where.at(f.name).error("missing; this key is required")
    try:
        return cls(**values)
    except ValueError as error:
        field, _, rest = str(error).partition(": ")
        if field in known:
            raise where.at(field).error(rest) from None
        raise where.error(str(error)) from None


def _names(cls: type) -> str:
    return ", ".join(f.name for f in fields(cls) if f.init)


def _value(hint: Any, raw: Any, where: Where) -> Any:
    nested = _settings_class(hint)
    if nested is not None:
        if raw is None and type(None) in get_args(hint):
            return None
        return parse(nested, raw, where)
    try:
        text = json.dumps(raw, allow_nan=False)
        return TypeAdapter(hint).validate_json(text, strict=True)
    except (TypeError, ValueError) as error:
        raise where.error(_complaint(error, raw)) from None


def _settings_class(hint: Any) -> type | None:
    """The dataclass in `X` or `X | None`, if there is one."""
    options = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    found = [o for o in options if is_dataclass(o) or hasattr(o, "from_yaml")]
    return found[0] if found else None


def _complaint(error: Exception, raw: Any) -> str:
    if not isinstance(error, ValidationError):
        wish = "a number, text, list or mapping" if isinstance(error, TypeError) else "finite numbers"
        return f"{raw!r} is not allowed; expected {wish}"
    wishes = [e["msg"].removeprefix("Input ").removeprefix("Value error, ") for e in error.errors()]
    literals = [w for e in error.errors() for w in re.findall(r"'([^']*)'", e.get("ctx", {}).get("expected", ""))]
    return f"{raw!r} is not allowed; it {' or '.join(dict.fromkeys(wishes))}.{nearest(raw, literals)}"


def dump(value: Any) -> Any:
    """The plain YAML values of a settings object; `parse` reads them back."""
    if hasattr(value, "to_yaml"):
        return value.to_yaml()
    if is_dataclass(value):
        return dump_fields(value)
    if isinstance(value, Mapping):
        return {k: dump(v) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return [dump(v) for v in value]
    return value


def dump_fields(value: Any) -> dict[str, Any]:
    """The fields of a dataclass as plain YAML values, without its short form."""
    return {f.name: dump(getattr(value, f.name)) for f in dataclasses.fields(value) if f.init}


def choice(raw: Any, where: Where, kind: str) -> tuple[str, dict[str, Any]]:
    """Read `name` or `{name: {option: value}}`."""
    if isinstance(raw, str):
        return raw, {}
    if isinstance(raw, Mapping) and len(raw) == 1:
        name, options = next(iter(raw.items()))
        options = {} if options is None else options
        if isinstance(name, str) and isinstance(options, Mapping):
            return name, dict(options)
    raise where.error(f"{raw!r} is not allowed; expected a {kind} name or {{name: {{option: value}}}}")


def is_folder_name(text: str) -> bool:
    """Whether a folder can have this name on every system: one printable part of a path that no terminal obeys."""
    plain = bool(text.strip()) and text.isprintable() and len(text.encode()) <= 200
    return plain and text not in (".", "..") and not set(text) & {"/", "\\"}


def field_docs(cls: type) -> dict[str, str]:
    """The sentence that stands under each field of a dataclass, base classes included."""
    docs: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if not is_dataclass(base):
            continue
        try:
            body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0].body  # type: ignore[attr-defined]
        except (OSError, TypeError):
            continue
        for node, after in pairwise(body):
            if isinstance(node, ast.AnnAssign) and isinstance(after, ast.Expr) and isinstance(node.target, ast.Name):
                docs[node.target.id] = " ".join(str(ast.literal_eval(after.value)).split())
    return docs


MAX_BYTES = 2**20
"""Of a YAML file."""
MAX_NODES = 100_000
"""Keys and values of a YAML file, with what aliases stand for written out."""
MAX_DEPTH = 50
"""Mappings and lists within each other."""
MAX_DIGITS = 100
"""Characters of a number."""
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


class _Loader(yaml.SafeLoader):
    """Safe YAML of bounded size whose keys are text, each given once, and whose values JSON has too.

    It reads `1e-3` as a number and a date as text.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = self._nodes = 0
        self._sizes: dict[int, int] = {}  # nodes in each node that is complete; an alias may stand for it

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Count as the tree grows, so that a file that stands for billions of nodes is refused at once."""
        mark, before = self.peek_event().start_mark, self._nodes  # type: ignore[no-untyped-call]
        if self.check_event(yaml.AliasEvent):
            node = super().compose_node(parent, index)
            if id(node) not in self._sizes:
                raise yaml.composer.ComposerError(None, None, "found an alias within what it stands for", mark)
            self._nodes += self._sizes[id(node)]
        else:
            if self._depth >= MAX_DEPTH:
                raise yaml.composer.ComposerError(None, None, "nested too deeply", None)
            self._depth += 1
            node = super().compose_node(parent, index)
            self._depth -= 1
            self._nodes += 1
            self._sizes[id(node)] = self._nodes - before
        if self._nodes > MAX_NODES:
            problem = f"more than {MAX_NODES:,} values, counted with what aliases stand for"
            raise yaml.composer.ComposerError(None, None, problem, mark)
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            problem = None
            if not isinstance(key, yaml.ScalarNode):
                problem = "found unhashable key"
            elif key.tag not in (f"{_YAML}str", f"{_YAML}merge"):
                problem = f'key "{key.value}" is not text; put it in quotes'
            elif (key.tag, key.value) in seen:
                problem = f'key "{key.value}" is given twice'
            if problem:
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add((key.tag, key.value))
        return node

    def text(self, node: yaml.ScalarNode) -> Any:
        """A string; nothing in it can move a cursor or end a path."""
        value = self.construct_scalar(node)
        found = _CONTROL.search(value)
        if found:
            problem = f"the text holds the control character U+{ord(found[0]):04X}"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        return value

    def plain(self, node: yaml.Node) -> Any:
        """A number, boolean or null, also where a tag only says that it is one."""
        try:
            if len(node.value) > MAX_DIGITS:
                raise ValueError
            return yaml.SafeLoader.yaml_constructors[node.tag](self, node)
        except (ValueError, LookupError, OverflowError, TypeError):
            kind, shown = node.tag.removeprefix(_YAML), str(node.value)[:20]
            problem = f'"{shown}" is no {kind} of at most {MAX_DIGITS} characters'
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark) from None


_YAML = "tag:yaml.org,2002:"
_Loader.yaml_constructors = {
    **{f"{_YAML}{kind}": yaml.SafeLoader.yaml_constructors[f"{_YAML}{kind}"] for kind in ("map", "seq")},
    **{f"{_YAML}{kind}": _Loader.plain for kind in ("null", "bool", "int", "float")},
    f"{_YAML}str": _Loader.text,
    None: yaml.SafeLoader.yaml_constructors[None],
}
_Loader.yaml_implicit_resolvers = {
    first: [(tag, form) for tag, form in forms if tag not in (f"{_YAML}timestamp", f"{_YAML}value")]
    for first, forms in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(  # YAML 1.1 wants a dot in 1.0e-3 and reads 1e-3 as text
    f"{_YAML}float", re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def load_yaml(path: Path) -> Any:
    """Read a YAML file.

    Raises:
        ConfigError: the file is missing, unreadable, too large or no YAML.
    """
    if not os.path.lexists(path):
        near = nearest(path.name, [p.name for p in path.parent.glob("*.y*ml")] if path.parent.is_dir() else [])
        raise ConfigError(f"{path}: no such file.{near}")
    return parse_yaml(read_text(path, MAX_BYTES, ConfigError), str(path))


def parse_yaml(text: str, source: str) -> Any:
    """Read YAML text.

    Raises:
        ConfigError: with line and column of what is malformed or not allowed.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ConfigError(f"{source}: not valid YAML{place}: {problem}") from None
    except (ValueError, OverflowError) as error:  # an escape or a %YAML line that PyYAML does not check
        raise ConfigError(f"{source}: not valid YAML: {error}") from None
    except RecursionError:
        raise ConfigError(f"{source}: not valid YAML: nested too deeply") from None
