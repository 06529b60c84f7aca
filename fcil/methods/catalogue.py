"""Descriptions of methods, data sets and nets without running code, so that a listing need not wait for torch.

`catalogue.json` beside this module stores the rows of `fcil.methods.listing`: those of built-in methods under the
digest of the method's file, those of other kinds with the digest of the files that say what there is. A user's own
method, and what a file says that was changed since, is read live.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from fcil.config import Where
from fcil.config.registry import files_in
from fcil.methods.files import built_in_files, own_files, read_source, source_digest

SHIPPED = Path(__file__).with_name("catalogue.json")
_PACKAGE = Path(__file__).parents[1]
NAMED = {"strategies": "strategy", "synthesizers": "synthesizer"}
"""Kinds that are stored by method, and the key of a row that holds the name."""
SOURCES = {
    "datasets": ("data/catalog.py", "data/remote/origins.py"),
    "nets": ("nets/backbone.py", "nets/backbones.py", "nets/norms.py", "nets/plain.py", "nets/resnet.py"),
    "encoders": ("anchors/encoders.py",),
}
"""Kinds that are stored as a whole, and the files below `fcil` that say what there is of them."""
Row = dict[str, Any]


def rows(kind: str) -> list[Row]:
    """Return the rows of a kind, as in `fcil.methods.listing`."""
    if kind in SOURCES and (whole := _whole(kind)):
        listed: list[Row] = whole["rows"]
        return listed
    kept = {name: _kept(kind, name, path) for name, path in _files(kind).items()}
    if kept and all(kept.values()):
        return [{key: value for key, value in kept[name].items() if key != "options"} for name in sorted(kept)]
    from fcil.methods.listing import LISTINGS

    return LISTINGS[kind]()


def one(kind: str, name: str) -> Row:
    """Return a row of a listing, with the file and the options of a method.

    Raises:
        ConfigError: nothing of this kind has this name.
    """
    path = _files(kind).get(name)
    if path is not None and (row := _kept(kind, name, path)):
        options, file = row.pop("options"), {"file": str(path)} if kind == "strategies" else {}
        return {**row, **file, "options": options}
    if kind in SOURCES and name in (more := _whole(kind).get("more", {})):
        found: Row = more[name]
        return found
    from fcil.methods import listing

    return listing.one(kind, name)


def written() -> str:
    """Return the text of `catalogue.json`, from the current methods."""
    from fcil.methods.listing import LISTINGS, one, options
    from fcil.methods.loading import strategy_class
    from fcil.synthesis import synthesizer_class

    found: dict[str, dict[str, Any]] = {}
    for kind, key in NAMED.items():
        files, kept = built_in_files() if kind == "strategies" else _files(kind), {}
        for row in LISTINGS[kind]():
            if path := files.get(name := row.pop(key)):
                source = read_source(path, Where(str(path)))
                strategy = kind == "strategies"
                cls = strategy_class(name, None, source, Where(str(path))) if strategy else synthesizer_class(name)
                kept[source_digest(source)] = {**row, "options": options(cls)}
        found[kind] = kept
    for kind in SOURCES:
        told = LISTINGS[kind]()
        more = {name: one(kind, name) for name in (next(iter(row.values())) for row in told)}
        found[kind] = {"digest": _sources(kind), "rows": told, "more": more}
    return json.dumps(found, indent=1, ensure_ascii=False) + "\n"


def _kept(kind: str, name: str, path: Path) -> Row:
    """Return the row of a method whose file has not changed since the catalogue was written; else an empty one."""
    row = _shipped()[kind].get(_digest(path))
    return {} if row is None else {NAMED[kind]: name, **row}


def _whole(kind: str) -> dict[str, Any]:
    """Return what is stored of a kind whose files have not changed since; else nothing."""
    kept = _shipped()[kind]
    return kept if kept["digest"] == _sources(kind) else {}


def _sources(kind: str) -> str:
    return source_digest("".join(_digest(_PACKAGE / name) for name in SOURCES[kind]))


@cache
def _shipped() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = json.loads(SHIPPED.read_text(encoding="utf-8"))
    return found


def _files(kind: str) -> dict[str, Path]:
    """Return name and file of each method of a kind; none for a kind that is no package of methods."""
    if kind == "strategies":
        return {**built_in_files(), **own_files()}
    return files_in("fcil.synthesis") if kind == "synthesizers" else {}


def _digest(path: Path) -> str:
    return source_digest(read_source(path, Where(str(path))))
