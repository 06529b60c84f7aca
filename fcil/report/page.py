"""Content and order of the page; its look is in the files beside this one."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup, escape

from fcil.compare import Comparison, compare
from fcil.errors import StoreError
from fcil.io.atomic import write_text
from fcil.plots.look.colours import CYCLE
from fcil.report import below, below_tables, curves, tables, trouble
from fcil.report.activity import Activity, activity
from fcil.report.details import Detail, details_of
from fcil.report.figures import Heat, Lines, shades
from fcil.report.pictures import Album, Picture
from fcil.report.tables import Table
from fcil.store import find_runs
from fcil.store.groups import Group, group_runs
from fcil.store.read import Run

MOST_PARTITIONS = 12
"""Partitions that are drawn, at most; each seed has one of its own."""
MOST_LOGS = 20
MOST_LINES = 100
"""Lines on what was left out, at most."""
OPEN = 3
"""Groups up to this number are shown in full from the beginning."""
NAME = "report.html"


@dataclass(frozen=True)
class Chapter:
    """All about one group of runs."""

    key: str
    group: Group
    final: str
    figures: Sequence[Lines | Heat]
    below: Sequence[Table]
    """Tables below the task."""
    activity: Activity
    settings: Table | None
    pictures: Sequence[Picture]


@dataclass(frozen=True)
class Section:
    """One split: tables and figures over all its groups."""

    label: str
    tables: Sequence[Table]
    tests: Table | None
    figures: Sequence[Lines]
    chapters: Sequence[Chapter]


@dataclass
class Found:
    """Content of the folders."""

    finished: list[Run]
    unfinished: list[Run]
    left_out: list[str] = field(default_factory=list)


def find(dirs: Iterable[Path]) -> Found:
    """Every run in or below some folders; what cannot be read is named.

    Raises:
        StoreError: a folder does not exist.
    """
    found = Found([], [], [])
    for run in find_runs(dirs, unfinished=True, skipped=found.left_out):
        try:
            run.rounds  # noqa: B018 (read when first asked for, which may tell of damage)
        except StoreError as error:
            found.left_out.append(str(error))
        else:
            (found.finished if run.finished else found.unfinished).append(run)
    return found


def report(dirs: Sequence[Path], *, watch: bool = False) -> str:
    """The page as HTML.

    Raises:
        StoreError: a folder does not exist, or there is no run in them; a page that is watched can wait for one.
    """
    found = find(dirs)
    if not (found.finished or found.unfinished or watch):
        reason = f" ({found.left_out[0]})" if found.left_out else ""
        raise StoreError(f"{', '.join(map(str, dirs))}: no run there{reason}")
    return _environment().get_template("page.html").render(**_content(found), watch=watch)


def write_report(dirs: Sequence[Path], out: Path | None = None) -> Path:
    """Write the page to a file, by default `report.html` in the first folder; the path of it."""
    text = report(dirs)
    path = out or dirs[0] / NAME
    if path.is_dir():
        raise StoreError(f"{path}: is a folder; --out names a file")
    write_text(path, text)
    return path


def _content(found: Found) -> dict[str, Any]:
    """Return everything the template asks for."""
    comparison = compare(found.finished, teachers=True)
    groups = group_runs(found.finished)
    begun = group_runs(found.unfinished)
    album = Album(found.left_out)
    sections = _sections(comparison, groups, album, found.left_out)
    runs = [*found.finished, *found.unfinished]
    return {
        "title": tables.cut(", ".join(dict.fromkeys(run.name for run in runs))) or "No run yet",
        "made": time.strftime("%Y-%m-%d %H:%M"),
        "facts": _facts(found, comparison),
        "remarks": tables.remarks(comparison) if groups else [],
        "sections": sections,
        "many": sum(len(section.chapters) for section in sections) > OPEN,
        "album_full": album.full,
        "running": [_progress(group, run) for group in begun for run in group.runs],
        "running_figures": [figure for group in begun for figure in _underway(group)],
        "settings": tables.settings([*groups, *begun]),
        "runs": tables.each_run(groups) if groups else None,
        "partitions": curves.partitions(runs, MOST_PARTITIONS, found.left_out),
        "most_partitions": MOST_PARTITIONS,
        "failures": trouble.failures([*groups, *begun]),
        "logs": [log for run in found.unfinished[:MOST_LOGS] if (log := trouble.log_end(run))],
        "cards": trouble.cards(runs, found.left_out),
        "left_out": found.left_out[:MOST_LINES],
        "more_left_out": max(0, len(found.left_out) - MOST_LINES),
        **_parts(),
    }


def _sections(comparison: Comparison, groups: Sequence[Group], album: Album, problems: list[str]) -> list[Section]:
    found = []
    for number, split in enumerate(comparison.splits, start=1):
        there = {curves.address(entry.group) for entry in split.entries}
        alike = [group for group in groups if curves.address(group) in there]
        # The order of the table, the best first.
        details = [details_of(entry.group, problems) for entry in split.entries]
        chapters = [
            _chapter(entry.group, tables.headline(entry), album, told)
            for entry, told in zip(split.entries, details, strict=True)
        ]
        every = tables.of_split(split, number)
        every[2:2] = below_tables.of_split(split, details, number)  # what was learnt, before what it cost
        found.append(Section(split.label, every, tables.tests(split, number), curves.beside(alike), chapters))
    return found


def _chapter(group: Group, final: str, album: Album, details: Sequence[Detail]) -> Chapter:
    name = curves.key("group", *curves.address(group))
    figures = [*curves.alone(group), *below.figures(group, details)]
    told = below_tables.of_group(details)
    return Chapter(name, group, final, figures, told, activity(group), tables.own_settings(group), album.of(group))


def _underway(group: Group) -> list[Lines]:
    """The figures of runs that go on; their names tell them from finished ones."""
    found = [figure for figure in (*curves.beside([group]), curves.terms(group)) if figure is not None]
    return [
        replace(one, key=curves.key(one.key, *curves.address(group)), title=f"{one.title}: {group.label}")
        for one in found
    ]


def _progress(group: Group, run: Run) -> tables.Progress:
    try:
        wrote = max(os.stat(path).st_mtime for path in (run.folder.rounds, run.folder.config) if path.exists())
        seen = time.strftime("%Y-%m-%d %H:%M", time.localtime(wrote))
    except (OSError, ValueError):
        seen = "unknown"
    return tables.progress(run, group.label, seen)


def _facts(found: Found, comparison: Comparison) -> list[tuple[str, str]]:
    """A few numbers at the top."""
    seeds = len({run.seed for run in found.finished})
    strategies = len({run.strategy for run in found.finished})
    counts = [
        (len(found.finished), "finished run", "finished runs"),
        (strategies, "strategy", "strategies"),
        (seeds, "seed", "seeds"),
        (len(comparison.splits), "split of data", "splits of data"),
    ]
    rest = [(len(found.unfinished), "not finished", "not finished"), (len(found.left_out), "left out", "left out")]
    return [(str(n), one if n == 1 else many) for n, one, many in [*counts, *(c for c in rest if c[0])]]


# Files beside this one ----------------------------------------------------------------------------


@cache
def _environment() -> Environment:
    """Return the template's environment, which escapes everything it writes."""
    found = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
                        loader=FunctionLoader(_file))  # fmt: skip
    found.filters["breakable"] = _breakable
    return found


def _breakable(text: str) -> Markup:
    """Escaped text that may go on in the next line after each underscore or full stop of a long name."""
    return Markup("<wbr>").join(escape(part) for part in re.split(r"(?<=[_.])(?=\w{3})", text))


@cache
def _file(name: str) -> str:
    return resources.files("fcil.report").joinpath(name).read_text(encoding="utf-8")


@cache
def _parts() -> dict[str, Any]:
    """Style and script, which are ours and stand as they are, and the one script that a browser may run."""
    script = _file("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    return {"style": _colours() + _file("page.css"), "script": script, "digest": digest}


def _colours() -> str:
    """The colours of the figures as variables, those of a heat map turned round where the page is dark."""
    light = "".join(f"--c{i}:{c};" for i, c in enumerate(CYCLE)) + _steps(shades())
    # On a dark page lines are a little lighter, and black becomes white.
    lifted = (f"--c{i}:color-mix(in srgb, {c} 72%, white);" for i, c in enumerate(CYCLE) if c != "#000000")
    dark = "".join(lifted) + f"--c{CYCLE.index('#000000')}:#f2f2f2;" + _steps(shades()[::-1])
    return f":root{{{light}}}\n@media screen and (prefers-color-scheme: dark){{:root{{{dark}}}}}\n"


def _steps(colours: Sequence[str]) -> str:
    return "".join(f"--s{i}:{c};" for i, c in enumerate(colours))
