"""Failures: answers of clients that did not come, and the last lines of the logs of runs that stand still."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from fcil.errors import StoreError
from fcil.io.bounded import last_lines
from fcil.report.tables import Cell, Table, cut, names
from fcil.store import files
from fcil.store.groups import Group, flat
from fcil.store.read import Run

MOST_FAILURES = 200
"""Failures that are listed, at most."""
CARD_LIMIT = 2**20
"""Bytes of `failure.json`."""


@dataclass(frozen=True)
class Log:
    """The end of a log."""

    name: str
    lines: tuple[str, ...]


def failures(groups: Sequence[Group]) -> Table | None:
    """Every answer of a client that did not come as it should; None where all came."""
    rows = [
        [*names(group.label), Cell(str(run.seed)), Cell(str(task)), Cell(str(round)), *cells]
        for group in groups
        for run in group.runs
        for task, round, cells in _failed(run)
    ]
    if not rows:
        return None
    more = f" The first {MOST_FAILURES} of {len(rows)}; all are in rounds.jsonl." if len(rows) > MOST_FAILURES else ""
    columns = ["strategy", "seed", "task", "round", "client", "what", "then", "reason"]
    caption = f"Answers of clients that did not come as they should, one a line.{more}"
    return Table(key="failures", caption=caption, columns=columns, rows=rows[:MOST_FAILURES])


def _failed(run: Run) -> Iterator[tuple[int, int, list[Cell]]]:
    for record in run.rounds:
        for part in (record, record.get("after_task") or {}):
            found: Any = part.get("failures")
            if isinstance(found, int) and found:
                yield record["task"], record["round"], names("", f"{found} failures", "", "")
            for one in found if isinstance(found, list) else []:
                said = (one.get("client", ""), one["kind"], one["outcome"], one.get("reason", ""))
                yield record["task"], record["round"], names(*said)


def cards(runs: Sequence[Run], problems: list[str]) -> list[Table]:
    """Return a table for each run that died, of what it has left behind."""
    found = []
    for run in runs:
        path = run.folder.failure
        if not path.is_file():
            continue
        try:
            card = files.parse_json_object(files.read_text(path, CARD_LIMIT), str(path))
        except StoreError as error:
            problems.append(str(error))
            continue
        rows = [names(key.replace("_", " "), value) for key, value in flat(card).items() if key != "log"]
        caption = f"{'/'.join(run.path.parts[-3:])} failed; from its {path.name}."
        found.append(Table(key="card", caption=caption, columns=["what", "value"], rows=rows))
    return found


def log_end(run: Run) -> Log | None:
    """The last lines of a run's log; None where there is none to read."""
    lines = last_lines(run.folder.log)
    return Log("/".join(run.path.parts[-3:]), tuple(map(cut, lines))) if lines else None
