"""The record of a run that goes on, made what it was at the checkpoint it goes on from.

What came after the checkpoint is forgotten, or it would count twice. What the checkpoint knows and the files do not
(a line that an editor, a full disk or a power cut took) is written again; without a copy of it the run is refused
before anything is trained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fcil.errors import StoreError
from fcil.federation.observer import Restored
from fcil.io import bounded as reading
from fcil.io.atomic import write_text
from fcil.metrics import AccuracyRow
from fcil.store import files
from fcil.store.folder import RunFolder

Place = tuple[int, int]
"""Task and round."""


def go_back(folder: RunFolder, found: Restored) -> list[str]:
    """Make `rounds.jsonl` and `accuracy.csv` what a checkpoint says; returns a line for each that lacked something.

    Raises:
        StoreError: the files cannot be written.
    """
    rounds = [files.finite(record) for record in found.rounds or ()]
    told = [_about_rounds(folder.rounds, rounds), _about_rows(folder.accuracy, found.rows)]
    folder.summary.unlink(missing_ok=True)
    write_text(folder.rounds, "".join(map(files.json_line, rounds)))
    files.write_accuracy(folder.accuracy, found.rows)
    folder.forget_files_after(found.task, found.round)
    return [line for line in told if line]


def check_whole(folder: RunFolder, last: Place, rounds: int, tasks: int) -> None:
    """Check that the files hold what happened before a checkpoint that has no copy of it.

    Args:
        last: the task and the round of it that the checkpoint follows.
        rounds: how many there were up to it.
        tasks: how many had ended.
    Raises:
        StoreError: they do not.
    """
    way = "put back what was lost, or begin anew under another --out"
    there = files.read_rounds(folder.rounds) if files.is_there(folder.rounds) else []
    kept = sum(_place(record) <= last for record in there)
    if kept != rounds:
        raise StoreError(f"{folder.rounds}: holds {kept} rounds of the {rounds} before the checkpoint; {way}")
    rows = files.read_accuracy(folder.accuracy) if files.is_there(folder.accuracy) else []
    have = {(row.trained_task, row.tested_task) for row in rows}
    for trained in range(1, tasks + 1):
        for tested in range(1, trained + 1):
            if (trained, tested) not in have:
                raise StoreError(
                    f"{folder.accuracy}: the accuracy on task {tested} after task {trained} is missing; {way}"
                )


def _about_rounds(path: Path, rounds: Sequence[Mapping[str, Any]]) -> str:
    """Describe what the file lacks, in a line."""
    lines = _lines(path)
    known: dict[Place, dict[str, Any]] = {}
    for line in lines:
        known.setdefault(_place(line), line)
    lost = sum(not _same(known.get(_place(record)), record) for record in rounds)
    if lost:
        return f"{path}: {lost} of {len(rounds)} rounds were lost or changed; written again from the checkpoint"
    if [_place(line) for line in lines[: len(rounds)]] != [_place(record) for record in rounds]:
        return f"{path}: held lines that are no rounds, or not in order; written again from the checkpoint"
    return ""


def _lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a `rounds.jsonl`, whatever else is wrong with it; what is no record is an empty one."""
    try:
        text = reading.read_bytes(path, files.SIZE_LIMIT)
    except reading.UnreadableError:
        return []
    return [_parsed(line) for line in text.split(b"\n")[:-1]]


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        return files.parse_json_object(line, "")
    except StoreError:
        return {}


def _place(record: Mapping[str, Any]) -> Place:
    task, round = record.get("task"), record.get("round")
    return (task, round) if type(task) is int and type(round) is int else (0, 0)


def _same(there: Mapping[str, Any] | None, record: Mapping[str, Any]) -> bool:
    """Return whether a line is what was told; what was added to it after the checkpoint does not count."""
    if there is None:
        return False
    after = () if "after_task" in record else ("after_task",)
    return {key: value for key, value in there.items() if key not in after} == dict(record)


def _about_rows(path: Path, rows: Sequence[AccuracyRow]) -> str:
    """Describe what the file lacks, in a line."""
    try:
        there = set(files.read_accuracy(path))
    except StoreError:
        there = set()
    lost = len(set(rows) - there)
    if lost:
        return f"{path}: {lost} of {len(rows)} accuracies were lost or changed; written again from the checkpoint"
    return ""
