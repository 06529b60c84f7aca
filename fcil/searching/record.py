"""Record of a search: `search.json` and `search.csv` in `NAME-search/`, and `search.json` beside each of the winner's
summaries, so that a table of results can say from how many trials it was chosen.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fcil.errors import StoreError
from fcil.io.bounded import UnreadableError, read_bytes
from fcil.store import files
from fcil.store.checks import is_count, is_name, is_number
from fcil.store.read import Run

SUFFIX = "-search"
"""Ends the name under which trials lie, beside that of the winner's runs."""
NAME, TABLE = "search.json", "search.csv"
COLUMNS = ("trial", "rung", "rounds", "seeds")
LAST = ("metric", "seconds", "status", "reason", "folders")
MOST_ROWS = 100_000


@dataclass(frozen=True)
class Row:
    """A line of `search.csv`, as far as figures show it."""

    trial: int
    rung: int
    value: float | None
    seconds: float
    status: str


def sentence(run: Run) -> str | None:
    """Return in a few words how the settings of a run were chosen, or None if no search chose them."""
    path = run.path / NAME
    try:
        found = files.read_json(path) if path.is_file() else {}
    except StoreError:
        return None
    trials, share, space = (found.get(key) for key in ("trials", "validation", "space"))
    if not is_count(trials) or share is None or not is_number(share) or not isinstance(space, Mapping):
        return None
    keys, earlier = [key for key in space if is_name(key)], found.get("earlier_trials")
    more = f" and {earlier} of earlier searches" if is_count(earlier) and earlier else ""
    shown = ", ".join(keys[:6]) + (f" and {len(keys) - 6} more" if len(keys) > 6 else "")
    return (
        f"chosen from {trials} trial{'s' * (trials != 1)}{more} ({found.get('sampler')} over {shown}), "
        f"judged on {100 * share:g} % of the training samples"
    )


def read_record(home: Path) -> dict[str, Any]:
    """Return the record of the search in a folder of trials; nothing if there is none.

    Raises:
        StoreError: it is damaged.
    """
    return files.read_json(home / NAME) if files.is_there(home / NAME) else {}


def read_rows(home: Path) -> list[Row]:
    """Return the trials of a search, in the order in which they were tried.

    Raises:
        StoreError: there is no table, or it is damaged.
    """
    path = home / TABLE
    try:
        text = read_bytes(path, files.SIZE_LIMIT).decode()
        lines = list(csv.DictReader(io.StringIO(text)))
    except (UnreadableError, UnicodeDecodeError, csv.Error) as error:
        raise StoreError(f"{path}: cannot be read ({error})") from None
    if len(lines) > MOST_ROWS:
        raise StoreError(f"{path}: has more than {MOST_ROWS:,} lines")
    return [_row(line, path, number) for number, line in enumerate(lines, start=2)]


def _row(line: Mapping[str, Any], path: Path, number: int) -> Row:
    try:
        value = float(line["metric"]) if line["metric"] else None
        row = Row(int(line["trial"]), int(line["rung"]), value, float(line["seconds"] or 0), str(line["status"]))
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(f"{path}: line {number} is no trial ({type(error).__name__}: {error})") from None
    numbers = row.seconds, 0.0 if row.value is None else row.value
    if not all(map(is_number, numbers)) or not 1 <= row.trial <= 10**6 or not 1 <= row.rung <= 1000:
        raise StoreError(f"{path}: line {number} is no trial; a number is out of range")
    return row


def find_searches(dirs: Sequence[Path]) -> list[Path]:
    """Return the folders of trials that some folders are, hold, or are the results of.

    Raises:
        StoreError: there is none.
    """
    found: dict[Path, None] = {}
    for folder in dirs:
        places = [folder, folder.with_name(f"{folder.name}{SUFFIX}"), *(p.parent for p in folder.glob(f"*/{TABLE}"))]
        found |= dict.fromkeys(place for place in places if (place / TABLE).is_file())
    if not found:
        raise StoreError(f"{', '.join(map(str, dirs))}: no {TABLE} there, which fcil search writes")
    return list(found)
