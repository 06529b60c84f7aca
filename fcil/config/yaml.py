"""YAML of bounded size, read and written by rules of our own.

The meaning of a file must not depend on the installed release of PyYAML. So PyYAML
finds the nodes, and this module interprets them: which text is a number, and which value a
mapping has that merges others (`<<`). PyYAML 6.0.4 distinguishes merged keys by the identity of their
text: of a list of mappings the last one wins for keys of two letters or more, where 6.0.3 and the
specification take the first, and for keys of one letter a mapping that overrides what it merges loses
its own value when it is merged itself (`findings/pyyaml_merge_precedence.sh`).

    plain text                    is
    12, -3, 0x1f, 0b11, 1_000     an integer
    1.5, .5, 1e-3, 5.0E4, .inf    a number
    true, yes, on, false, no, off a boolean
    null, ~, nothing              null
    032, 1:30                     refused: 26 and 90 to readers of YAML 1.1, 32 and text to those of 1.2
    anything else                 text, dates too

Of several merged mappings the first that has a key gives its value, and a key of the mapping itself
overrides them all (https://yaml.org/type/merge.html).
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from fcil.errors import ConfigError, nearest_file
from fcil.io.bounded import read_text

MAX_BYTES = 2**20
"""Most bytes of a YAML file."""
MAX_NODES = 100_000
"""Most keys and values of a YAML file, with aliases expanded."""
MAX_DEPTH = 50
"""Most mappings and lists within each other."""
MAX_DIGITS = 100
"""Most characters of a number."""
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
_YAML = "tag:yaml.org,2002:"
_AMBIGUOUS = f"{_YAML}ambiguous"
_SEXAGESIMAL = re.compile(r"[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?")
_FORMS = {
    "bool": re.compile("(?:yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF)$"),
    "int": re.compile("[-+]?(?:0|[1-9][0-9_]*|0b_*[01][01_]*|0x_*[0-9a-fA-F][0-9a-fA-F_]*)$"),
    "float": re.compile(
        r"(?:[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*|[0-9][0-9_]*(?=[eE]))(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
    ),
    "ambiguous": re.compile(f"(?:[-+]?0[0-9_]+|{_SEXAGESIMAL.pattern})$"),
    "merge": re.compile("<<$"),
    "null": re.compile("(?:~|null|Null|NULL|)$"),
}
_FIRSTS = {
    "bool": "yYnNtTfFoO",
    "int": "-+0123456789",
    "float": "-+.0123456789",
    "ambiguous": "-+0123456789",
    "merge": "<",
    "null": ["~", "n", "N", ""],
}
_RESOLVERS: dict[str, list[tuple[str, re.Pattern[str]]]] = {}
for _kind, _firsts in _FIRSTS.items():
    for _first in _firsts:
        _RESOLVERS.setdefault(_first, []).append((f"{_YAML}{_kind}", _FORMS[_kind]))


class _Loader(yaml.SafeLoader):
    """Safe YAML of bounded size whose keys are text, each given once, and whose values JSON has too."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = self._nodes = 0
        self._sizes: dict[int, int] = {}  # nodes in each node that is complete; an alias may stand for it

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Compose a node and count it, so that a file that expands to billions of nodes is refused at once."""
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
        """Return a mapping whose keys are text, with its merges resolved: PyYAML finds no `<<` in it any more."""
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _refusal("found unhashable key", key)
            if key.tag not in (f"{_YAML}str", f"{_YAML}merge"):
                raise _refusal(f'key "{key.value}" is not text; put it in quotes', key)
            if (key.tag, key.value) in seen:
                raise _refusal(f'key "{key.value}" is given twice', key)
            seen.add((key.tag, key.value))
        _merge(node)
        return node

    def text(self, node: yaml.ScalarNode) -> Any:
        """Return a string without characters that move a cursor or end a path."""
        value = self.construct_scalar(node)
        found = _CONTROL.search(value)
        if found:
            raise _refusal(f"the text holds the control character U+{ord(found[0]):04X}", node)
        return value

    def plain(self, node: yaml.Node) -> Any:
        """Return a number, boolean or null, also where only a tag marks it as one."""
        kind, text = node.tag.removeprefix(_YAML), node.value
        if not isinstance(text, str) or len(text) > MAX_DIGITS or not _FORMS[kind].match(text):
            raise _refusal(f'"{str(text)[:20]}" is no {kind} of at most {MAX_DIGITS} characters', node)
        return _value_of(kind, text)

    def ambiguous(self, node: yaml.ScalarNode) -> Any:
        """Refuse values that readers of YAML 1.1 and 1.2 understand differently."""
        raise _refusal(_two_readings(node.value), node)


_Loader.yaml_implicit_resolvers = _RESOLVERS
_Loader.yaml_constructors = {
    **{f"{_YAML}{kind}": yaml.SafeLoader.yaml_constructors[f"{_YAML}{kind}"] for kind in ("map", "seq")},
    **{f"{_YAML}{kind}": _Loader.plain for kind in ("null", "bool", "int", "float")},
    f"{_YAML}str": _Loader.text,
    _AMBIGUOUS: _Loader.ambiguous,
    None: yaml.SafeLoader.yaml_constructors[None],
}


def _refusal(problem: str, node: yaml.Node) -> yaml.constructor.ConstructorError:
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


def _merge(node: yaml.MappingNode) -> None:
    """Insert the merged pairs of a mapping before its own, each key once, with the value that counts."""
    merged = [value for key, value in node.value if key.tag == f"{_YAML}merge"]
    if not merged:
        return
    sources = merged[0].value if isinstance(merged[0], yaml.SequenceNode) else merged
    pairs: dict[str, tuple[yaml.Node, yaml.Node]] = {}
    for source in sources:
        if not isinstance(source, yaml.MappingNode):
            problem = f"expected a mapping or list of mappings for merging, but found {source.id}"
            raise _refusal(problem, source)
        for key, value in source.value:  # merged themselves when they were read
            pairs.setdefault(key.value, (key, value))
    own = {key.value: (key, value) for key, value in node.value if key.tag != f"{_YAML}merge"}
    node.value = [*(pairs | own).values()]


def _value_of(kind: str, text: str) -> bool | int | float | None:
    """Return the value of text that has the form of its kind."""
    digits = text.replace("_", "")
    if kind == "null":
        return None
    if kind == "bool":
        return text.lower() in ("yes", "true", "on")
    if kind == "int":
        return int(digits, 0)
    return float(digits.replace(".inf", "inf").replace(".nan", "nan") if digits[-1].isalpha() else digits)


def _two_readings(text: str) -> str:
    """Return the error message for a number that differs between YAML 1.1 and 1.2."""
    if len(text) > MAX_DIGITS:
        return f'"{text[:20]}" is no int of at most {MAX_DIGITS} characters'
    if ":" in text:
        wish = "write the number, or put the text in quotes"
        return f'"{text}" is a number to base 60 in YAML 1.1 and text in 1.2; {wish}'
    sign, digits = ("-" if text[0] == "-" else ""), text.lstrip("+-").replace("_", "")
    octal = f"{sign}{int(digits, 8)}" if not set(digits) - set("01234567") else "text"
    decimal = f"{sign}{int(digits)}"
    return f'"{text}" is {octal} in YAML 1.1 and {decimal} in 1.2; write {decimal}, or put the text in quotes'


def load_yaml(path: Path) -> Any:
    """Read a YAML file.

    Raises:
        ConfigError: the file is missing, unreadable, too large or no YAML.
    """
    if not os.path.lexists(path):
        near = nearest_file(path, "*.y*ml")
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


class _Dumper(yaml.SafeDumper):
    """A dumper that writes no aliases, puts short lists on one line, and writes text so that it is read as text."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_sequence(self, tag: str, sequence: Any, flow_style: bool | None = None) -> yaml.SequenceNode:
        plain = all(isinstance(v, str | int | float | bool | None) for v in sequence)
        return super().represent_sequence(tag, sequence, flow_style=True if plain else flow_style)


_Dumper.yaml_implicit_resolvers = {
    first: [*_RESOLVERS.get(first, []), *yaml.SafeDumper.yaml_implicit_resolvers.get(first, [])]
    for first in {*_RESOLVERS, *yaml.SafeDumper.yaml_implicit_resolvers}
}
_Dumper.add_representer(tuple, lambda dumper, value: dumper.represent_list(list(value)))


def dump_yaml(values: Mapping[str, Any]) -> str:
    """Return the text of plain values, in the order given; `parse_yaml`, and other readers of YAML, give them back."""
    return yaml.dump(dict(values), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
