"""Parts of one's own: a strategy, net, data set, synthesizer or partition in one file, named by its path.

Wherever a part that comes with the package is named by its name, one's own is named by the path of its file. The file
defines one class of that kind, a frozen dataclass whose fields are its settings. The text of the file is part of a run:
of its hash, of its folder, and of what is sent to workers, which read no file (`Where.files`).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any, TypeGuard, TypeVar, get_type_hints

from pydantic import TypeAdapter

from fcil.config.schema import Where, parse_fields, settable
from fcil.config.yaml import MAX_BYTES
from fcil.errors import ConfigError, described, nearest_file
from fcil.io.bounded import read_text

T = TypeVar("T")
_FILE = "__part__"
"""Name in a module under which it holds the `PartFile` that it was made of."""
ENDING = r"\.py$"
"""Pattern of the paths of such files, for JSON schemas."""


@dataclass(frozen=True)
class PartFile:
    """A file as it was read."""

    path: str
    """Its path as the settings name it."""
    source: str
    """Its text."""

    @property
    def name(self) -> str:
        return Path(self.path).name

    @property
    def stem(self) -> str:
        return Path(self.path).stem


def is_path(name: object) -> TypeGuard[str]:
    """Return whether settings name a file, and not a part of the package."""
    return isinstance(name, str) and (name.endswith(".py") or ("/" in name and ":" not in name))


def existing(name: str, kind: str, where: Where) -> Path:
    """Return the path of a file that is there.

    Raises:
        ConfigError: there is no such file.
    """
    if not os.path.isfile(name):
        near = nearest_file(Path(name), "*.py")
        raise where.error(f'no {kind} file "{name}".{near}')
    return Path(name)


def read_source(path: Path, where: Where, kind: str) -> str:
    """Return the text of a file.

    Raises:
        ConfigError: it cannot be read, or is no text.
    """
    try:
        return read_text(path, MAX_BYTES, ConfigError, f'{kind} file "{path}"')
    except ConfigError as error:
        raise where.error(str(error)) from None


def read_part(name: str, kind: str, where: Where) -> PartFile:
    """Return the file of this path: its text that came with the settings (`where.files`), else what is on the disk.

    Raises:
        ConfigError: there is no such file, or it cannot be read.
    """
    if where.files is not None:
        return PartFile(name, where.files(name))
    return PartFile(name, read_source(existing(name, kind, where), where, kind))


def load_source(path: Path | str, source: str) -> ModuleType:
    """Return a module from its text, which travels with a run, so a worker needs no copy of the file."""
    digest = sha256("\n".join((str(path), source)).encode()).hexdigest()
    name = f"_part_{Path(path).stem}_{digest[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    module = ModuleType(name)
    module.__file__ = str(path)
    vars(module)[_FILE] = PartFile(str(path), source)
    sys.modules[name] = module  # dataclasses look their module up while it is being executed
    try:
        exec(compile(source, str(path), "exec"), vars(module))
    except BaseException:
        del sys.modules[name]
        raise
    return module


def loaded(part: PartFile, kind: str, where: Where) -> ModuleType:
    """Return the module of a file.

    Raises:
        ConfigError: its code raises, whatever it raises.
    """
    try:
        return load_source(part.path, part.source)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # any error of a user's file is shown as one line
        raise where.error(f'{kind} file "{part.path}" does not load: {described(error)}') from error


def defined(module: ModuleType, base: type[T]) -> list[type[T]]:
    """Return the subclasses of `base` that a module defines itself."""
    found = [v for v in vars(module).values() if isinstance(v, type) and issubclass(v, base)]
    return [v for v in found if v.__module__ == module.__name__]


def class_of(part: PartFile, base: type[T], kind: str, where: Where) -> type[T]:
    """Return the one subclass of `base` that a file defines.

    Raises:
        ConfigError: the file does not load, defines none or several, or its settings could not be read.
    """
    own = defined(loaded(part, kind, where), base)
    if len(own) != 1:
        names = ", ".join(v.__name__ for v in own) or "none"
        raise where.error(f'{kind} file "{part.path}" must define exactly one {base.__name__}; it defines {names}')
    if wrong := list(class_problems(own[0], [name for name in dir(base) if not name.startswith("_")])):
        raise where.error(f'{kind} file "{part.path}": {"; ".join(wrong[:3])}')
    return own[0]


def part_of(value: object) -> PartFile | None:
    """Return the file that defines the class of a value; None for a class of the package."""
    found = vars(sys.modules.get(type(value).__module__, sys)).get(_FILE)
    return found if isinstance(found, PartFile) else None


def parts_in(value: Any) -> Iterator[PartFile]:
    """Yield the file of each part within settings, at whatever depth, in the order of the fields."""
    if isinstance(value, Mapping):
        value = tuple(value.values())
    if isinstance(value, tuple | list):
        for inner in value:
            yield from parts_in(inner)
    elif is_dataclass(value) and not isinstance(value, type):
        if (part := part_of(value)) is not None:
            yield part
        for field in fields(value):
            yield from parts_in(getattr(value, field.name, None))


def parse_part(cls: type[T], options: object, part: PartFile, where: Where) -> T:
    """Return an object of the class of a file, from its settings.

    Raises:
        ConfigError: as `parse`; or a setting cannot be compared, as a list cannot.
    """
    made = parse_fields(cls, options, where)
    try:
        hash(made)
    except TypeError as error:
        raise where.error(f'"{part.path}": {error}: its settings are values; write tuple for list') from None
    return made


def parse_beside(cls: type[T], raw: Any, where: Where, key: str, kind: str, base: type) -> T:
    """Return settings of which `key` may name a file; the settings of the file's class stand beside the others.

    The object of the file's class becomes the field `own` of the settings.

    Raises:
        ConfigError: as `parse`, and as `class_of`.
    """
    name = raw.get(key) if isinstance(raw, Mapping) else None
    if not is_path(name):
        return parse_fields(cls, raw, where)
    part = read_part(name, kind, where.at(key))
    kept: type[Any] = class_of(part, base, kind, where.at(key))
    names, usual = [f.name for f in settable(kept)], [f.name for f in settable(cls)]
    if both := [name for name in names if name in usual]:
        raise where.at(both[0]).error(f'"{name}" has a setting of this name, and so has any other {kind}; rename it')
    own = parse_part(kept, {name: raw[name] for name in names if name in raw}, part, where)
    return parse_fields(cls, {name: value for name, value in raw.items() if name not in names}, where, own=own)


def class_problems(kind: type, declared: list[str]) -> Iterator[str]:
    """Yield the errors in the settings of a class, which could not be read or sent.

    Args:
        declared: class variables that it may set.
    """
    own, decorated = vars(kind), "__dataclass_fields__" in vars(kind)
    wish = f"put @dataclass(frozen=True, kw_only=True) above class {kind.__name__}"
    annotated = [name for name, hint in own.get("__annotations__", {}).items() if "ClassVar" not in str(hint)]
    if "__init__" in own and not decorated:
        yield f"class {kind.__name__} has an __init__ of its own; its hyper-parameters are fields: {wish}"
    elif not decorated and any(name not in declared for name in annotated):
        yield f"class {kind.__name__} has fields and is no dataclass; {wish}"
    if not decorated:
        return
    try:
        hints = get_type_hints(kind, include_extras=True)
    except Exception as error:  # for example, an undefined name in quotes
        yield f"class {kind.__name__}: a type cannot be read ({type(error).__name__}: {error})"
        return
    for field in (f for f in fields(kind) if f.init and f.name in own.get("__annotations__", {})):
        yield from _field_problems(kind, field.name, hints[field.name], field.default)


def _field_problems(kind: type, name: str, hint: Any, default: object) -> Iterator[str]:
    if hasattr(hint, "from_yaml") or hasattr(hint, "__dataclass_fields__"):
        return
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(hint)
    except Exception:  # pydantic has several kinds of errors for types it does not know
        if not any(hasattr(part, "from_yaml") for part in getattr(hint, "__args__", ())):
            shown = getattr(hint, "__name__", None) or str(hint)
            yield (
                f"class {kind.__name__}: {name} is of the type {shown}; hyper-parameters are numbers, text, booleans, "
                "lists or mappings of these, or a synthesizer, and state is an argument"
            )
        return
    if default is not MISSING and isinstance(default, str | int | float | bool | None):
        try:
            adapter.validate_python(default)
        except ValueError as error:
            said = str(error).splitlines()[2].strip().partition(" [")[0] if "\n" in str(error) else str(error)
            yield f"class {kind.__name__}: {name} is {default!r} by default, and its type allows no such value ({said})"
