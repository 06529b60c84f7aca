"""Text in and out of a run folder: whole files or nothing on the way in, bounded and checked on the way out."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fcil.errors import StoreError
from fcil.io import bounded as reading
from fcil.io.atomic import write_text, writing
from fcil.metrics import AccuracyRow, Counts, Predictions, client_accuracy, measures
from fcil.store.checks import MOST_TASKS, check_round, is_count

if TYPE_CHECKING:  # readers of folders need not wait for torch
    from fcil.types import Task

SIZE_LIMIT = 256 * 2**20
"""Bytes; a larger text file in a run folder was not written by us."""
LINE_LIMIT = 16 * 2**20
"""Bytes of one line of `rounds.jsonl`."""
TABLE_LIMIT = 32 * 2**20
"""Bytes of `accuracy.csv`."""
MOST_ROUNDS = 1_000_000
_SURROGATE = b"\\ud"
COLUMNS = ("trained_task", "tested_task", "correct", "examples", "accuracy")
DETAILS: dict[str, tuple[str, ...]] = {
    "classes": ("task", "class", "n", "correct"),
    "confusion": ("task", "true", "predicted", "n"),
    "quality": ("task", "top1", "top5", "ece", "old", "new"),
    "clients": ("task", "client", "examples", "accuracy"),
}
"""Columns of the tables below the task; classes count from 0, in order of appearance, clients from 0."""
SHARES = frozenset((*DETAILS["quality"][1:], "accuracy"))
"""Columns that hold shares from 0 to 1, or nothing."""
Detail = tuple[Any, ...]
"""A line of such a table, the task first: whole numbers, and in columns of `SHARES` shares or None."""


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON; a number that is not finite becomes null, because JSON has no word for it."""
    write_text(path, json.dumps(finite(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def json_line(value: Mapping[str, Any]) -> str:
    """One line of `rounds.jsonl`."""
    return json.dumps(finite(value), ensure_ascii=False, allow_nan=False, separators=(", ", ": ")) + "\n"


def add_to_last_line(path: Path, key: str, value: Any) -> None:
    """Add a key to the last line of a `rounds.jsonl`, whatever its length: only the end of the line is written.

    As where a line is appended, a process that dies at it leaves at worst a last line without its line feed.

    Raises:
        StoreError: there is no whole last line, or it cannot be written.
    """
    with writing(path), path.open("r+b") as file:
        if not os.fstat(file.fileno()).st_size:
            raise StoreError(f"{path}: holds no round")
        with mmap(file.fileno(), 0, access=ACCESS_READ) as content:
            start = content.rfind(b"\n", 0, len(content) - 1) + 1
            before = content[start:]
        after = json_line({**parse_json_object(before, f"{path}: its last line"), key: value}).encode()
        pairs = enumerate(zip(before, after, strict=False))
        same = next((place for place, (old, new) in pairs if old != new), len(before))
        if len(after) < len(before):
            file.truncate(start + same)
        file.seek(start + same)
        file.write(after[same:])


def finite(value: Any) -> Any:
    """The same tree with `None` for NaN and infinity."""
    if isinstance(value, Mapping):
        return {str(k): finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def is_there(path: Path) -> bool:
    """Return whether a run folder has this file.

    Raises:
        StoreError: something of this name is there, but no file; to read on without it would hide that.
    """
    if os.path.lexists(path) and not os.path.isfile(path):
        raise StoreError(f"{path}: cannot be read (it is not a file)")
    return os.path.lexists(path)


def read_text(path: Path, limit: int | None = None) -> str:
    """A text file of a run folder.

    Raises:
        StoreError: missing, too large, unreadable or not UTF-8.
    """
    return reading.read_text(path, min(limit or SIZE_LIMIT, SIZE_LIMIT), StoreError)


def parse_json_object(text: str | bytes, source: str) -> dict[str, Any]:
    """A JSON object; anything else is a `StoreError` that names `source`."""
    try:
        value = json.loads(text, parse_constant=_refuse)
        if _SURROGATE in (text if isinstance(text, bytes) else text.encode()).lower():
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        reason = (
            getattr(error, "msg", None) or getattr(error, "reason", None) or "nested too deeply or a number too long"
        )
        raise StoreError(f"{source}: not valid JSON ({reason})") from None
    if not isinstance(value, dict):
        raise StoreError(f"{source}: expected a JSON object, found {type(value).__name__}")
    return value


def _refuse(word: str) -> Any:
    raise json.JSONDecodeError(f"{word} is no JSON", word, 0)


def read_json(path: Path) -> dict[str, Any]:
    return parse_json_object(read_text(path), str(path))


def read_rounds(path: Path) -> list[dict[str, Any]]:
    """The records of `rounds.jsonl`, in order.

    A last line without its line feed is what a killed process leaves; it is no record yet and is
    left out. Any other damage is an error, and so is a line that was lost.
    """
    records: list[dict[str, Any]] = []
    last = (0, 0)
    for number, line in enumerate(_whole_lines(path), start=1):
        source = f"{path}: line {number}"
        record = parse_json_object(line, source)
        check_round(record, source)
        if (problem := _out_of_order(record["task"], record["round"], *last)) is not None:
            raise StoreError(f"{source}: {problem}")
        if number > MOST_ROUNDS:
            raise StoreError(f"{path}: more than {MOST_ROUNDS:,} rounds")
        last = record["task"], record["round"]
        records.append(record)
    return records


def _out_of_order(task: int, round: int, last_task: int, last_round: int) -> str | None:
    """Describe the error of a round that comes after another one; 0 and 0: of the first; None if it is in order."""
    if (task, round) in ((last_task, last_round + 1), (last_task + 1, 1)) and task:
        return None
    after = f"round {round} of task {task} after round {last_round} of {last_task}" if last_task else ""
    if (task, round) <= (last_task, last_round):
        return after
    return f"{after or f'round {round} of task {task} comes first'}; a line before it was lost"


def read_last_rounds(path: Path, most: int = 2**16) -> list[dict[str, Any]]:
    """The records that end within the last `most` bytes of a `rounds.jsonl` that may grow meanwhile; none if it is
    not there. To follow a run this is enough, whatever its length.
    """
    try:
        with reading.open_file(path, SIZE_LIMIT) as file:
            start = max(0, os.fstat(file.fileno()).st_size - most)
            file.seek(start)
            lines = file.read(most).split(b"\n")[bool(start) : -1]
    except (reading.UnreadableError, OSError):
        return []
    records = [parse_json_object(line, str(path)) for line in lines]
    for record in records:
        check_round(record, str(path))
    return records


def read_ends(path: Path) -> list[dict[str, Any]]:
    """The first record of `rounds.jsonl` and the last ones, without those between; nothing where it has no line.

    Raises:
        StoreError: one of them is damaged, or they are not in order.
    """
    first = next(_whole_lines(path), None)
    if first is None:
        return []
    begin = parse_json_object(first, f"{path}: line 1")
    check_round(begin, f"{path}: line 1")
    last = read_last_rounds(path, 2**12) or read_rounds(path)
    places = [(record["task"], record["round"]) for record in last]
    if any(b <= a for a, b in pairwise(places)) or places[0] < (begin["task"], begin["round"]):
        raise StoreError(f"{path}: its rounds are not in order")
    return [begin, *last]


def _whole_lines(path: Path) -> Iterator[bytes]:
    """The lines that end, one in memory at a time."""
    try:
        with reading.open_file(path, SIZE_LIMIT) as file:
            while line := file.readline(LINE_LIMIT):
                if not line.endswith(b"\n"):
                    if len(line) == LINE_LIMIT:
                        raise StoreError(f"{path}: a line has more than the {LINE_LIMIT:,} bytes allowed")
                    return
                yield line
    except (reading.UnreadableError, OSError) as error:
        raise StoreError(f"{path}: cannot be read ({error})") from None


def write_accuracy(path: Path, rows: Sequence[AccuracyRow]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows((*row, f"{row.accuracy:.6f}") for row in sorted(rows))
    write_text(path, text.getvalue())


def read_accuracy(path: Path) -> list[AccuracyRow]:
    """The counts of `accuracy.csv`, sorted; the accuracy column is derived from them and not read."""
    try:
        lines = list(csv.reader(read_text(path, TABLE_LIMIT).split("\n")))
    except csv.Error as error:
        raise StoreError(f"{path}: not a table ({error})") from None
    lines = lines[: -1 if lines and not lines[-1] else None]
    if not lines or tuple(lines[0]) != COLUMNS:
        raise StoreError(f"{path}: line 1: expected the columns {','.join(COLUMNS)}")
    rows: dict[tuple[int, int], AccuracyRow] = {}
    for number, cells in enumerate(lines[1:], start=2):
        try:
            row = AccuracyRow(*(int(cell) for cell in cells[:4]))
            if len(cells) != len(COLUMNS) or not all(is_count(n) for n in row):
                raise ValueError
        except (TypeError, ValueError):
            raise StoreError(f"{path}: line {number}: {','.join(cells)!r} is not four whole numbers and one") from None
        if not (1 <= row.tested_task <= row.trained_task and 0 <= row.correct <= row.examples and row.examples > 0):
            raise StoreError(f"{path}: line {number}: {','.join(cells)!r} cannot be an accuracy")
        if (row.trained_task, row.tested_task) in rows:
            raise StoreError(f"{path}: line {number}: task {row.tested_task} is tested twice")
        rows[row.trained_task, row.tested_task] = row
    return sorted(rows.values())


def write_task_aware(path: Path, rows: Sequence[AccuracyRow]) -> None:
    """Write `task_aware.csv`; without rows there is none."""
    if rows:
        write_accuracy(path, rows)
    else:
        path.unlink(missing_ok=True)


def kept_accuracy(path: Path) -> list[AccuracyRow]:
    """Return the rows of a run that goes on; nothing of a file that is damaged or not there."""
    try:
        return read_accuracy(path)
    except StoreError:
        return []


# Below the task -----------------------------------------------------------------------------------


def details_of(task: Task, predictions: Predictions, held: Counts | None = None) -> dict[str, list[Detail]]:
    """Return the lines of each table of `DETAILS` at the end of a task; of a confusion matrix those not zero.

    Args:
        held: training samples by client and class seen (K, C); None: there are no lines of clients.
    """
    confusion = predictions.confusion(task.num_seen)
    cells = [(int(a), int(b), int(confusion[a, b])) for a, b in np.argwhere(confusion)]
    each = zip(confusion.sum(1).tolist(), confusion.diagonal().tolist(), strict=True)
    return {
        "classes": [(task.number, label, n, correct) for label, (n, correct) in enumerate(each)],
        "confusion": [(task.number, *cell) for cell in cells],
        "quality": [(task.number, *measures(predictions, None if task.domain else task.num_old).values())],
        "clients": [] if held is None else _of_clients(task.number, held, confusion),
    }


def _of_clients(task: int, held: Counts, confusion: Counts) -> list[Detail]:
    accuracies = client_accuracy(held, confusion).tolist()
    totals = held.sum(1).tolist()
    return [(task, k, n, finite(a)) for k, (n, a) in enumerate(zip(totals, accuracies, strict=True))]


def write_details(path: Path, name: str, rows: Sequence[Detail]) -> None:
    """Write a table of `DETAILS`; without lines there is none."""
    if not rows:
        path.unlink(missing_ok=True)
        return
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(DETAILS[name])
    writer.writerows(("" if cell is None else cell for cell in row) for row in sorted(rows, key=_place))
    write_text(path, text.getvalue())


def read_details(path: Path, name: str) -> list[Detail]:
    """Return the lines of a table of `DETAILS`, sorted; nothing where there is no file.

    Raises:
        StoreError: it is damaged.
    """
    if not is_there(path):
        return []
    try:
        lines = list(csv.reader(read_text(path, TABLE_LIMIT).split("\n")))[:-1]
    except csv.Error as error:
        raise StoreError(f"{path}: not a table ({error})") from None
    columns = DETAILS[name]
    if not lines or tuple(lines[0]) != columns:
        raise StoreError(f"{path}: line 1: expected the columns {','.join(columns)}")
    rows = []
    for number, cells in enumerate(lines[1:], start=2):
        row = _detail(name, cells)
        if row is None:
            raise StoreError(f"{path}: line {number}: {','.join(cells)[:200]!r} is no line of {name}.csv")
        rows.append(row)
    return sorted(rows, key=_place)


def kept_details(path: Path, name: str) -> list[Detail]:
    """Return the same of a run that goes on, nothing of a damaged file: accuracies do not depend on it."""
    try:
        return read_details(path, name)
    except StoreError:
        return []


def _place(row: Detail) -> Detail:
    """Return what lines are sorted by."""
    return row[:3] if len(row) == 4 else row[:1]


def _detail(name: str, cells: Sequence[str]) -> Detail | None:
    """Return a line of a table, or None if it cannot be one."""
    try:
        task = int(cells[0])
        shares = [column in SHARES for column in DETAILS[name][1:]]
        pairs = list(zip(cells[1:], shares, strict=True))
        rest = [(float(cell) if cell else None) if share else int(cell) for cell, share in pairs]
    except (ValueError, IndexError):
        return None
    sound = (v is None or (0 <= v <= 1 if share else is_count(v)) for v, share in zip(rest, shares, strict=True))
    whole = 1 <= task <= MOST_TASKS and all(sound)
    if not whole or (name == "classes" and rest[2] > rest[1]):  # type: ignore[operator]
        return None
    return (task, *rest)
