"""Expansion of an experiment file: its values with overrides in place, and the cells of its `matrix`.

    matrix:
      strategy: [finetune, {lander: {radius: 0.01}}]
      data.tasks: [5, 10]
      exclude: [{strategy: finetune, data.tasks: 10}]
      include: [{strategy: lander, optimizer.lr: 0.1}, {strategy: joint, data.tasks: 20}]

The lists make a product. `exclude` removes the combinations that match every key of an entry. Then each
entry of `include` extends the remaining combinations whose own values it would not overwrite;
if there is none it becomes a cell of its own. So far this is the rule of GitHub Actions. Values added by one
entry of `include` may be replaced by a later one. In place of an entry of `include` there may be the name of a YAML
file that holds one, beside the experiment's file or in a folder there: settings of a method for all comparisons.

A value of an entry matches an equal value of the matrix; a name matches the choice of that name whatever
its options (`lander` matches `{lander: {radius: 0.01}}`), and a mapping one that holds at least its keys,
with values that match.
"""

from __future__ import annotations

import copy
import itertools
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fcil.config import MAX_DEPTH, Where, load_yaml, parse_yaml
from fcil.errors import ConfigError, nearest

MAX_RUNS = 10_000
"""Most runs of one file."""
Values = dict[str, Any]
DISTILLS = {"teacher", "student", "synthesizer", "distiller", "quantise"}
"""Keys of a distillation's file that no experiment has."""
FEDERATES = {"strategy", "federation"}
"""Keys of an experiment's file that no distillation has."""
TRAINS = "train"
"""Key of a file for `fcil train`; an experiment's file may have it too."""
SEARCHES = "search"
"""Key of an experiment's file for `fcil search`."""
Source = str | Path | Mapping[str, Any]
"""An experiment: a YAML file, or a mapping of the same content."""
LISTS = ("include", "exclude")
"""Keys of a matrix that are no key paths."""


def place_of(source: Source) -> Where:
    """Return the name of an experiment in errors: its file, or `experiment` for one that is given as a mapping."""
    return Where("experiment" if isinstance(source, Mapping) else str(source))


def cells(source: Source, overrides: Sequence[str] = ()) -> list[Values]:
    """Return the values of an experiment with overrides in place: one mapping, or one for each cell of its `matrix`.

    Args:
        source: a YAML file, or a mapping of the same content.
    """
    where = place_of(source)
    raw = plain(source, where) if isinstance(source, Mapping) else load_yaml(Path(source))
    if not isinstance(raw, Mapping):
        raise where.error("is not an experiment; expected keys such as name, data, strategy")
    name = "experiment" if isinstance(source, Mapping) else Path(source).stem
    values: Values = {"name": name, **copy.deepcopy(dict(raw))}
    changes = dict(_override(text) for text in overrides)
    known = values.get("matrix")
    of_matrix = {k: changes.pop(k) for k in list(changes) if k.partition(".")[0] == "matrix"}
    for key, value in of_matrix.items():
        _override_matrix(values, key, value)
    if isinstance(values.get("matrix"), Mapping):
        folder = Path() if isinstance(source, Mapping) else Path(source).parent
        fixed = {key: changes.pop(key) for key in list(changes) if key in values["matrix"] and key not in LISTS}
        lists = {key.partition(".")[2]: value for key, value in of_matrix.items() if isinstance(value, list)}
        listed = known if isinstance(known, Mapping) else {}
        values["matrix"] = _set_by_hand(_with_files(values["matrix"], folder), fixed, lists, listed)
    found = list(expand(values, where, known if isinstance(known, Mapping) else {}))
    for cell, (key, value) in itertools.product(found, changes.items()):
        place(cell, key, copy.deepcopy(value), Where(f'override "{key}"'))
    return found


def is_distillation(cell: Mapping[str, Any]) -> bool:
    """Return whether the values are for `fcil distill`, and not for `fcil run`."""
    return bool(DISTILLS & cell.keys()) and not FEDERATES & cell.keys()


def is_federation(cell: Mapping[str, Any]) -> bool:
    """Return whether they are for `fcil run`, and not for `fcil distill`."""
    return bool(FEDERATES & cell.keys()) and not DISTILLS & cell.keys()


def is_training(cell: Mapping[str, Any]) -> bool:
    """Return whether they are for `fcil train` alone."""
    return TRAINS in cell and not (FEDERATES | DISTILLS) & cell.keys()


def is_searched(source: Source, overrides: Sequence[str] = ()) -> bool:
    """Return whether an experiment's file has `search`."""
    return any(cell.get(SEARCHES) is not None for cell in cells(source, overrides))


def plain(value: Any, where: Where, depth: int = 0) -> Any:
    """Return the values as a YAML file would give them: dicts with keys of text, lists, numbers, text.

    Raises:
        ConfigError: there is another type among them, or they are nested too deeply.
    """
    if depth > MAX_DEPTH:
        raise where.error(f"nested too deeply; at most {MAX_DEPTH} mappings and lists within each other are allowed")
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise where.error(f"key {key!r} is not text")
        return {key: plain(inner, where.at(key), depth + 1) for key, inner in value.items()}
    if isinstance(value, list | tuple | range):
        return [plain(inner, where, depth + 1) for inner in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, os.PathLike):
        return os.fsdecode(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise where.error(f"a {type(value).__name__} is not allowed; expected a number, text, list or mapping")


def _override(text: str) -> tuple[str, Any]:
    key, given, value = text.partition("=")
    if not given or not key or key.count(".") > MAX_DEPTH:
        raise ConfigError(f'override "{text}" is not allowed; expected key.path=value')
    return key, parse_yaml(value, f'override "{key}"')


def _override_matrix(values: Values, key: str, value: Any) -> None:
    """Apply `matrix.data.tasks=[2, 5]`: the part after the first dot is one key of the matrix."""
    _, _, inner = key.partition(".")
    matrix = values.get("matrix") or {}
    if inner and not isinstance(matrix, Mapping):
        raise Where(f'override "{key}"').error(f'"matrix" is {matrix!r} and has no key "{inner}"')
    values["matrix"] = {**matrix, inner: value} if inner else value


def _with_files(matrix: Mapping[str, Any], folder: Path) -> Values:
    """Return the matrix with the content of the files that `include` names, from the experiment's folder."""
    entries = matrix.get("include")
    if not isinstance(entries, list):
        return dict(matrix)
    return {**matrix, "include": [_of_file(folder / e) if isinstance(e, str) else e for e in entries]}


def _of_file(path: Path) -> Values:
    values = load_yaml(path)
    if not isinstance(values, Mapping) or not values:
        raise ConfigError(f"{path}: holds no settings; expected a mapping of key paths, such as strategy: lander")
    return dict(values)


def _set_by_hand(
    matrix: Mapping[str, Any], fixed: Mapping[str, Any], lists: Mapping[str, list[Any]], listed: Mapping[str, Any]
) -> Values:
    """Return the matrix as overrides leave it: without entries of `include` about values that they leave out.

    A name for which the file's own list has nothing but entries with settings stands for these.

    Args:
        fixed: overrides such as `strategy=lander`. Lists below them (`strategy.radius`) belong to other values.
        lists: overrides such as `matrix.strategy=[lander, mfcl]`, in place already.
        listed: the matrix of the file.
    """
    below = tuple(f"{key}." for key in fixed)
    matrix = {key: value for key, value in matrix.items() if not key.startswith(below)}
    for key, values in {**{key: [value] for key, value in fixed.items()}, **lists}.items():
        if key not in LISTS:
            matrix[key] = [choice for value in values for choice in _as_listed(value, listed.get(key))]
    chosen = {key: matrix[key] for key in (*fixed, *lists) if key in matrix}
    if "include" in lists or not isinstance(matrix.get("include"), list):
        return matrix
    kept = [
        entry
        for entry in matrix["include"]
        if not isinstance(entry, Mapping)
        or all(any(matches(entry[key], value) for value in chosen[key]) for key in entry.keys() & chosen.keys())
    ]
    return {**matrix, "include": kept}


def _as_listed(value: Any, listed: Any) -> list[Any]:
    """Return the entries of a list of the file that have settings of this name; the value itself if there are none."""
    if not isinstance(value, str) or not isinstance(listed, list) or value in listed:
        return [value]
    return [choice for choice in listed if isinstance(choice, Mapping) and list(choice) == [value]] or [value]


def place(values: Values, path: str, value: Any, where: Where) -> None:
    """Set a value at a key path such as `data.tasks`.

    `strategy.radius` is set in the options of the named strategy.
    """
    *parents, last = path.split(".")
    spot: Any = values
    for depth, key in enumerate(parents):
        if not isinstance(spot, dict):
            raise where.error(f'"{".".join(parents[:depth])}" is {spot!r} and has no key "{key}"')
        if isinstance(spot.get(key), str) and key in ("strategy", "synthesizer"):
            spot[key] = {spot[key]: {}}
        spot = spot.setdefault(key, {})
        rest = [*parents, last][depth + 1]
        if key in ("strategy", "synthesizer") and isinstance(spot, dict) and len(spot) == 1 and rest not in spot:
            (name,) = spot
            spot[name] = spot[name] or {}
            spot = spot[name]
    if not isinstance(spot, dict):
        raise where.error(f'"{".".join(parents)}" is {spot!r} and has no key "{last}"')
    spot[last] = value


def expand(values: Values, where: Where, known: Mapping[str, Any] | None = None) -> Iterator[Values]:
    """Yield the cells of `matrix`: each combination of its lists, less `exclude`, with `include`, set at its key paths.

    Args:
        known: the matrix in the file. An entry of `exclude` is no typo if it matches something there.
    """
    values = dict(values)
    matrix = values.pop("matrix", None)
    if matrix is None:
        yield values
        return
    here = where.at("matrix")
    for combination in _combinations(matrix, here, known or {}):
        cell = copy.deepcopy(values)
        for key, value in combination.items():
            place(cell, key, copy.deepcopy(value), here.at(key))
        yield cell


def _combinations(matrix: Any, where: Where, known: Mapping[str, Any]) -> list[Values]:
    """Return key paths and values of each cell."""
    lists = {str(k): v for k, v in matrix.items() if k not in LISTS} if isinstance(matrix, Mapping) else {}
    included = _entries(matrix, "include", where) if isinstance(matrix, Mapping) else []
    if not (lists or included) or not all(isinstance(v, list) and v for v in lists.values()):
        raise where.error(f"{matrix!r} is not allowed; expected key paths, each with a list of values")
    size = math.prod(len(choices) for choices in lists.values()) + len(included)
    if size > MAX_RUNS:
        raise where.error(f"makes {size:,} experiments; at most {MAX_RUNS:,} are allowed")
    if any(key.count(".") > MAX_DEPTH for key in itertools.chain(lists, *included)):
        raise where.error(f"a key path has more than {MAX_DEPTH} parts")
    excluded = _entries(matrix, "exclude", where)
    for number, entry in enumerate(excluded):
        _check_exclude(entry, where.at(f"exclude[{number}]"), lists, known)
    product = (dict(zip(lists, values, strict=True)) for values in itertools.product(*lists.values()))
    kept = [one for one in product if lists and not any(_covers(entry, one) for entry in excluded)]
    found = _including(kept, included)
    if not found:
        raise where.at("exclude").error("leaves nothing of the matrix")
    return found


def _entries(matrix: Mapping[str, Any], name: str, where: Where) -> list[Values]:
    """Return the entries of `include` or `exclude`."""
    entries = matrix.get(name) or []
    if not isinstance(entries, list):
        raise where.at(name).error(f"{entries!r} is not allowed; expected a list of mappings of key paths")
    for number, entry in enumerate(entries):
        if not isinstance(entry, Mapping) or not entry:
            raise where.at(f"{name}[{number}]").error(
                f"{entry!r} is not allowed; expected a mapping of key paths, such as {{data.tasks: 5}}"
            )
    return entries


def _check_exclude(entry: Values, where: Where, lists: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    """Check that an entry could match something, here or in the file's own matrix; if not it is likely a typo."""
    for key, value in entry.items():
        if key not in lists:
            problem = f'"{key}" is not varied (the matrix has: {", ".join(lists)}).'
            raise where.error(f"{problem}{nearest(key, lists)}")
        before = known.get(key)
        choices = [*lists[key], *(before if isinstance(before, list) else [])]
        if not any(matches(value, choice) for choice in choices):
            names = [str(next(iter(c)) if isinstance(c, Mapping) and c else c) for c in choices]
            told = f"{value!r} matches no value of matrix.{key} (have: {', '.join(dict.fromkeys(names))})."
            raise where.at(key).error(f"{told}{nearest(value, names)}")


def _covers(entry: Values, combination: Values) -> bool:
    return all(matches(value, combination[key]) for key, value in entry.items())


def _including(combinations: list[Values], entries: Sequence[Values]) -> list[Values]:
    """Return the combinations as extended by `include`, and after them its own cells."""
    extended, own = [dict(one) for one in combinations], []
    for entry in entries:
        takers = [new for new, one in zip(extended, combinations, strict=True) if not _overwrites(entry, one)]
        for taker in takers:
            taker |= {key: value for key, value in entry.items() if key not in combinations[0]}
        if not takers:
            own.append(dict(entry))
    return [*extended, *own]


def _overwrites(entry: Values, combination: Values) -> bool:
    """Return whether an entry would replace a value of a combination."""
    for key, value in entry.items():
        if key in combination:
            if not matches(value, combination[key]):
                return True
            continue
        for path, there in combination.items():
            if path.startswith(f"{key}."):
                return True
            if key.startswith(f"{path}."):
                inside = _inside(there, key.removeprefix(f"{path}.").split("."))
                if inside and not matches(value, inside[0]):
                    return True
    return False


def _inside(value: Any, path: Sequence[str]) -> list[Any]:
    """Return the values at a key path in a value, past the name of a method with options; empty if there is none."""
    for key in path:
        if isinstance(value, Mapping) and key not in value and len(value) == 1:
            (value,) = value.values()
        if not isinstance(value, Mapping) or key not in value:
            return []
        value = value[key]
    return [value]


def matches(wanted: Any, value: Any) -> bool:
    """Return whether a value of an entry matches a value of the matrix; see the head of this module."""
    if isinstance(wanted, str) and isinstance(value, Mapping):
        return list(value) == [wanted]
    if isinstance(wanted, Mapping) and isinstance(value, str):
        return list(wanted) == [value] and not wanted[value]
    if isinstance(wanted, Mapping) and isinstance(value, Mapping):
        return all(key in value and matches(_options(inner), _options(value[key])) for key, inner in wanted.items())
    return isinstance(wanted, bool) == isinstance(value, bool) and bool(wanted == value)


def _options(value: Any) -> Any:
    """Return the options of a choice; `{lander: null}` has none."""
    return {} if value is None else value
