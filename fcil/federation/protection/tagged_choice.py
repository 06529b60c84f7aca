"""Settings that are chosen by name: `median`, or `{krum: {malicious: 1}}`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, TypeVar

from fcil.config import Where, choice, dump_fields, parse_fields


class TaggedChoice(Protocol):
    name: ClassVar[str]


T = TypeVar("T", bound=TaggedChoice)


def read_tagged(kinds: Mapping[str, type[T]], what: str, raw: Any, where: Where) -> T:
    """The settings object that `raw` names, with its options.

    Raises:
        ConfigError: there is no such name or option, or a value is not allowed.
    """
    name, options = choice(raw, where, what)
    if name not in kinds:
        raise where.unknown(what, name, list(kinds))
    return parse_fields(kinds[name], options, where.at(name))


def short_form(settings: TaggedChoice) -> Any:
    """The shortest form that `read_tagged` reads back."""
    options = dump_fields(settings)
    return {settings.name: options} if options else settings.name
