"""JSON schema (draft 7) of settings: with it an editor completes, explains and checks a file while it is written.

Types, bounds and choices come from the hints that `fcil.config.parse` reads values by, descriptions from the field
docstrings. A class with a short form describes it in a class method `to_json_schema(schemas)`, beside `from_yaml`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, Field
from types import NoneType
from typing import Any, get_args

from pydantic import TypeAdapter

from fcil.config.parts import ENDING
from fcil.config.schema import dump, field_docs, hints, settable, settings_class

Schema = dict[str, Any]
_PLACE = "#/definitions/"


class Schemas:
    """Builder of schemas that stores those of classes as definitions to refer to."""

    def __init__(self) -> None:
        self.definitions: dict[str, Schema] = {}
        self._classes: dict[str, type] = {}

    def of(self, hint: Any) -> Schema:
        """Return the schema of a field of this type."""
        cls = settings_class(hint)
        if cls is None:
            return TypeAdapter(hint).json_schema()
        short = getattr(cls, "to_json_schema", None)
        found = self._defined(cls.__name__, cls, self.of_fields if short is None else lambda _: short(self))
        return _or_null(found) if NoneType in get_args(hint) else found

    def of_fields(self, cls: type) -> Schema:
        """Return the schema of a dataclass as a mapping, without its short form."""
        docs = field_docs(cls)
        properties = {
            f.name: {**self.of(hints(cls)[f.name]), **_default(f), **_described(docs.get(f.name))}
            for f in settable(cls)
        }
        required = [f.name for f in settable(cls) if f.default is f.default_factory is MISSING]
        closed = {"type": "object", "properties": properties, "additionalProperties": False}
        return closed | ({"required": required} if required else {})

    def of_fields_beside(self, cls: type, key: str) -> Schema:
        """Return the schema of a dataclass that is open where `key` names a file, whose class has settings beside."""
        found = self.of_fields(cls)
        del found["additionalProperties"]
        closed = {"properties": dict.fromkeys(found["properties"], True), "additionalProperties": False}
        return {**found, "if": {"properties": {key: {"pattern": ENDING}}, "required": [key]}, "else": closed}

    def of_choice(self, what: str, kinds: Mapping[str, type], own: str | None = None) -> Schema:
        """Return the schema of `name` or `{name: {option: value}}`.

        Args:
            what: the word for the choice.
            kinds: the class whose fields are the options, for each name.
            own: pattern of other names that are allowed, if any are.
        """
        options = {}
        for name, cls in kinds.items():
            found = self._defined(f"{what}.{name}", cls, self.of_fields)
            options[name] = {**_or_null(found), **_described(_sentence(cls, name))}
        alone: Schema = {"type": "object", "minProperties": 1, "maxProperties": 1}
        names: list[Schema] = [{"enum": [*kinds]}, *([{"type": "string", "pattern": own}] if own is not None else [])]
        if own is not None:
            alone["patternProperties"] = {f"^(?!({'|'.join(kinds)})$).*{own}": {"type": ["object", "null"]}}
        return {"anyOf": [*names, {**alone, "properties": options, "additionalProperties": False}]}

    def of_matrix(self, name: str) -> Schema:
        """Return the schema of the `matrix` over the definition of this name: key paths, each with a list of values."""
        paths: dict[str, Schema] = {}
        open_ended = [path for path, inside in self._paths(name, paths) if not inside]
        deeper = rf"^({'|'.join(path.replace('.', '[.]') for path in open_ended)})[.]"
        closed = {"type": "object", "minProperties": 1, "additionalProperties": False}
        entry = {**closed, "properties": paths, "patternProperties": {deeper: {}}}
        entries = {"type": ["array", "null"], "items": entry}
        lists: dict[str, Schema] = {path: {"type": "array", "minItems": 1, "items": paths[path]} for path in paths}
        several = {"type": ["array", "null"], "items": {"anyOf": [entry, {"type": "string"}]}}
        told = "Values to add to combinations, or combinations of their own; a text names a file that holds an entry."
        lists["include"] = {**several, "description": told}
        lists["exclude"] = {**entries, "description": "Combinations that are left out."}
        return {**closed, "properties": lists, "patternProperties": {deeper: {"type": "array", "minItems": 1}}}

    def _paths(self, name: str, found: dict[str, Schema], prefix: str = "") -> Iterator[tuple[str, bool]]:
        """Yield the key paths of a definition that have paths below them, and whether those were found too."""
        for key, schema in self.definitions[name]["properties"].items():
            found[f"{prefix}{key}"] = {"$ref": f"{_PLACE}{name}/properties/{key}"}
            for reference in (part["$ref"] for part in (schema, *schema.get("anyOf", ())) if "$ref" in part):
                inner = reference.removeprefix(_PLACE)
                inside = "properties" in self.definitions[inner]
                yield f"{prefix}{key}", inside
                if inside:
                    yield from self._paths(inner, found, f"{prefix}{key}.")

    def _defined(self, name: str, cls: type, make: Callable[[type], Schema]) -> Schema:
        """Return a reference to the definition of this name, which is made if there is none yet."""
        if self._classes.setdefault(name, cls) is not cls:
            raise ValueError(f"two classes of settings are called {name}")
        if name not in self.definitions:
            self.definitions[name] = {}  # it may lie within itself
            self.definitions[name] = make(cls)
        return {"$ref": f"{_PLACE}{name}"}


def _or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def _described(text: str | None) -> Schema:
    return {"description": text} if text else {}


def _default(field: Field[Any]) -> Schema:
    """Return the default as in a file; nothing for nested settings, whose own fields have defaults."""
    if field.default is field.default_factory is MISSING:
        return {}
    default = field.default if field.default_factory is MISSING else field.default_factory()
    value = dump(default)
    if isinstance(value, dict) and len(value) == 1 and hasattr(default, "to_yaml"):
        value = next(iter(value))  # a method with options of its own
    return {} if isinstance(value, dict) else {"default": value}


def _sentence(cls: type, name: str) -> str:
    """Return the description of a class chosen by name: its module's first line if that has this name, else its own."""
    module = sys.modules[cls.__module__]
    text = (module.__doc__ if cls.__module__.endswith(f".{name}") else vars(cls).get("__doc__")) or ""
    return "" if text.startswith(f"{cls.__name__}(") else text.partition("\n")[0]
