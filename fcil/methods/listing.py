"""Rows that `fcil list` prints."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import MISSING, Field
from pathlib import Path
from typing import Any

from fcil.anchors import ENCODERS
from fcil.config import Where, dump, field_docs
from fcil.config.kinds import ARCHIVES
from fcil.config.schema import settable
from fcil.data import DATASETS, DatasetInfo, dataset_info
from fcil.data.catalog import archived_sets
from fcil.data.remote.origins import about as published
from fcil.data.series.packages import find
from fcil.errors import ConfigError, DataError, nearest
from fcil.methods.files import built_in_files, first_line, locate, own_files, read_source
from fcil.methods.introspection import needs, sent
from fcil.methods.loading import strategy_class
from fcil.nets import BACKBONES, num_parameters
from fcil.synthesis import synthesizer_class, synthesizer_names

Row = dict[str, Any]


def strategies() -> list[Row]:
    """Return the built-in strategies and those in `./strategies`."""
    rows = []
    for name, path in sorted({**built_in_files(), **own_files()}.items()):
        rows.append(_strategy(name, locate(name, Where(str(path))), path))
    return rows


def _strategy(name: str, own: Path | None, file: Path) -> Row:
    where = Where(str(file))
    source = read_source(file, where)
    kind = strategy_class(name, own, source, where)
    about = {"paper": kind.paper, "needs": ", ".join(needs(kind)), **sent(kind)}
    return {"strategy": name, "what": first_line(source), **about}


def synthesizers() -> list[Row]:
    rows = []
    for name in synthesizer_names():
        kind = synthesizer_class(name)
        source = Path(inspect.getfile(kind)).read_text(encoding="utf-8")
        needs = ", ".join(sorted(kind.needs))
        rows.append(
            {"synthesizer": name, "what": first_line(source), "needs": needs, "makes": ", ".join(sorted(kind.makes))}
        )
    return rows


def datasets() -> list[Row]:
    """Return the data sets that have a name of their own, and the form of the names of those in archives."""
    return [_dataset(info) for info in (*DATASETS.values(), *(dataset_info(f"{name}:NAME") for name in ARCHIVES))]


def _dataset(info: DatasetInfo) -> Row:
    return {
        "dataset": info.name,
        "what": info.description,
        "classes": info.num_classes,
        "shape": None if info.shape is None else "x".join(map(str, info.shape)),
        "downloads": "yes" if info.downloads else "",
    }


def nets() -> list[Row]:
    return [
        {
            "net": name,
            "what": recipe.description,
            "inputs": recipe.inputs,
            "parameters": f"{num_parameters(recipe):,}",
        }
        for name, recipe in BACKBONES.items()
    ]


def encoders() -> list[Row]:
    return [
        {"encoder": e.name, "what": e.summary, "width": e.width, "network": "yes" if e.needs_network else ""}
        for e in ENCODERS
    ]


def one(kind: str, name: str) -> Row:
    """Return a row of a listing, with the options of a method: their defaults, as in an experiment file, and meaning.

    Args:
        name: of a strategy also the path of its file.
    Raises:
        ConfigError: nothing of this kind has this name.
    """
    if kind == "strategies" and (name.endswith(".py") or "/" in name):
        where = Where("list")
        own = locate(name, where)
        assert own is not None
        cls = strategy_class(name, own, _source(own), where)
        return {**_strategy(name, own, own), "file": str(own), "options": options(cls)}
    if kind == "datasets" and archived_sets(name):
        return _archived(dataset_info(name))
    rows = {next(iter(row.values())): row for row in LISTINGS[kind]()}
    if name not in rows:
        singular = {"strategies": "strategy"}.get(kind, kind.removesuffix("s"))
        raise ConfigError(f'list: unknown {singular} "{name}" (have: {", ".join(rows)}).{nearest(name, rows)}')
    if kind == "strategies":
        where = Where(name)
        path = locate(name, where)
        file = path or built_in_files()[name]
        return {**rows[name], "file": str(file), "options": options(strategy_class(name, path, _source(file), where))}
    if kind == "datasets":
        return {**rows[name], "files": DATASETS[name].files, **published(name)}
    return {**rows[name], "options": options(synthesizer_class(name))} if kind == "synthesizers" else rows[name]


def _archived(info: DatasetInfo) -> Row:
    """Return a row about a set of an archive, with the files that a run would read."""
    row = {**_dataset(info), "files": info.files}
    for name in archived_sets(info.name):
        with suppress(DataError):
            row |= {f"{name} at hand": str(find(name, None).train)}
    return row


def _source(file: Path) -> str:
    return read_source(file, Where(str(file)))


def options(kind: type) -> list[dict[str, str]]:
    """Return the settings of a method."""
    docs = field_docs(kind)
    return [{"option": f.name, "default": _default(f), "what": docs.get(f.name, "")} for f in settable(kind)]


def _default(field: Field[Any]) -> str:
    if field.default is MISSING and field.default_factory is MISSING:
        return "required"
    value = dump(field.default if field.default_factory is MISSING else field.default_factory())
    if isinstance(value, dict) and len(value) == 1:
        return str(next(iter(value)))  # a method with options of its own
    return "null" if value is None else json.dumps(value, default=str).strip('"')


LISTINGS: dict[str, Callable[[], list[Row]]] = {
    "strategies": strategies,
    "synthesizers": synthesizers,
    "datasets": datasets,
    "nets": nets,
    "encoders": encoders,
}
