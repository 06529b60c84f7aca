"""YAML to frozen dataclasses and back, with a closed schema and errors that name the key.

A settings class is a frozen, keyword-only dataclass whose field types are the schema. A class that
accepts a short form (`partition: iid`) has a class method `from_yaml(raw, where)` and a method
`to_yaml()`.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
import textwrap
import types
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from functools import cache
from itertools import pairwise
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError

from fcil.errors import MOST_ERRORS, ConfigError, all_of, collect, guess, nearest

T = TypeVar("T")


@dataclass(frozen=True)
class Where:
    """A place in a file, for error messages."""

    source: str
    path: str = ""
    files: Callable[[str], str] | None = field(default=None, compare=False, repr=False)
    """Returns the text of the file of a part of one's own, by its path, where the settings came with the texts of such
    files; None: they are read from the disk."""

    def at(self, key: object) -> Where:
        return Where(self.source, f"{self.path}.{key}" if self.path else str(key), self.files)

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


def parse_fields(cls: type[T], raw: Any, where: Where, own: Any = None) -> T:
    """Build a dataclass field by field, without its short form.

    `READ_ELSEWHERE` of the class names keys of its file that are handled before.

    Args:
        own: the part of one's own that is its field `own`, with settings beside these, which were read before.
    Raises:
        ConfigError: as `parse`; it lists all errors, in the order of the keys.
    """
    if not isinstance(raw, Mapping):
        raise where.error(f"{raw!r} is not allowed; expected a mapping of {_names(cls)}")
    known, elsewhere = [f.name for f in settable(cls)], getattr(cls, "READ_ELSEWHERE", ())
    if own is not None:
        elsewhere = (*elsewhere, *(f.name for f in settable(type(own))))

    def read(key: Any) -> tuple[str, Any]:
        if key not in known:
            names = [*known, *elsewhere]
            raise where.at(key).error(f"unknown key (allowed: {', '.join(names)}).{nearest(key, names)}")
        return key, _value(cls, key, raw[key], where.at(key))

    values, errors = collect(read, raw)
    missing = [f.name for f in settable(cls) if f.name not in raw and f.default is f.default_factory is MISSING]
    if len(errors) <= MOST_ERRORS:
        misspelt = {guess(key, known) for key in raw if key not in known}
        errors += [where.at(k).error("missing; this key is required") for k in missing if k not in misspelt]
    if errors:
        raise all_of(errors)
    try:
        return cls(**dict(values), **({} if own is None else {"own": own}))
    except ValueError as error:
        key, _, rest = str(error).partition(": ")
        if key in known:
            raise where.at(key).error(rest) from None
        raise where.error(str(error)) from None


def settable(cls: Any) -> list[Field[Any]]:
    """Return the fields of a dataclass, or of an object of one, that a file may set."""
    return [f for f in fields(cls) if f.init and f.metadata.get("in_yaml", True)]


def _names(cls: type) -> str:
    return ", ".join(f.name for f in settable(cls))


@cache
def hints(cls: type) -> dict[str, Any]:
    """Return the types of a dataclass's fields, with their bounds."""
    return get_type_hints(cls, include_extras=True)


@cache
def _model(cls: type, key: str) -> TypeAdapter[Any]:
    """Return the cached adapter for a field's values; it takes longer to build than to read a file with."""
    return TypeAdapter(hints(cls)[key])


def _value(cls: type, key: str, raw: Any, where: Where) -> Any:
    hint = hints(cls)[key]
    nested = settings_class(hint)
    if nested is not None:
        if raw is None and type(None) in get_args(hint):
            return None
        return parse(nested, raw, where)
    try:
        text = json.dumps(raw, allow_nan=False)
        return _model(cls, key).validate_json(text, strict=True)
    except (TypeError, ValueError) as error:
        raise where.error(_complaint(error, raw)) from None


def settings_class(hint: Any) -> type | None:
    """Return the dataclass in `X` or `X | None`, if there is one."""
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
    """Return the plain YAML values of a settings object; `parse` reads them back."""
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
    """Return the fields of a dataclass as plain YAML values, without its short form."""
    return {f.name: dump(getattr(value, f.name)) for f in settable(value)}


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
    """Return whether a folder can have this name on every system: one printable path part, no control characters."""
    plain = bool(text.strip()) and text.isprintable() and len(text.encode()) <= 200
    return plain and text not in (".", "..") and not set(text) & {"/", "\\"}


def field_docs(cls: type) -> dict[str, str]:
    """Return the sentence under each field of a dataclass, base classes included."""
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
