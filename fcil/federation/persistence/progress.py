"""Log of a run kept with its checkpoints: rounds and accuracies that are lost are written again.

The newest lines are in the list of a checkpoint itself. When they have become many they are made a part, a page,
which later checkpoints name; so a checkpoint does not grow with the rounds before it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from fcil.federation.observer import Observer, Restored
from fcil.io.blobs import Blobs, DamagedError
from fcil.metrics import AccuracyRow
from fcil.types import Task

PAGE = 2**15
"""Characters of lines that a list holds itself."""


class _Line(NamedTuple):
    task: int
    round: float  # infinity for what is told when the task has ended
    text: str


class Record(Observer):
    """Observer that records what the run folder is told, and gives it back from a checkpoint."""

    def __init__(self) -> None:
        self._known = True  # False if what was told before is not: an earlier fcil wrote the checkpoint, or damage
        self._pages: list[str] = []
        self._lines: list[_Line] = []

    def round_done(self, record: dict[str, Any]) -> None:
        self._lines.append(_Line(record["task"], record["round"], json.dumps({"round": record})))

    def task_concluded(self, task: int, record: dict[str, Any]) -> None:
        self._lines.append(_Line(task, math.inf, json.dumps({"after_task": record})))

    def task_done(self, task: Task, rows: Sequence[AccuracyRow]) -> None:
        self._lines.append(_Line(task.number, math.inf, json.dumps({"rows": [list(row) for row in rows]})))

    def saved(self, task: int, round: int, parts: Blobs) -> dict[str, Any]:
        """Return the log's entry in the list of a checkpoint after `round` rounds of `task`.

        Raises:
            StoreError: a page cannot be written.
        """
        while self._lines and self._lines[-1][:2] > (task, round):  # told in a round that was dropped
            self._lines.pop()
        if not self._known:
            return {}
        texts = [line.text for line in self._lines]
        if sum(map(len, texts)) > PAGE:
            self._pages.append(parts.put({"lines": json.dumps(texts)}))
            self._lines, texts = [], []
        return {"record": {"pages": list(self._pages), "lines": texts}}

    def restore(self, about: Mapping[str, Any], parts: Blobs, task: int, round: int) -> Restored:
        """Go back to what was told up to a checkpoint.

        Args:
            about: the list of the checkpoint.
        Returns:
            Where that is and what was told; without rounds if that is not known.
        """
        try:
            pages, texts = list(about["record"]["pages"]), list(about["record"]["lines"])
            paged = [text for page in pages for text in json.loads(str(parts.get(page)["lines"]))]
            found = _replayed([json.loads(text) for text in [*paged, *texts]])
            lines = [_Line(task, 0, text) for text in texts]  # none of them is dropped any more
        except (DamagedError, KeyError, TypeError, ValueError, AttributeError, IndexError):
            self._known, self._pages, self._lines = False, [], []
            return Restored(task, round, None, [])
        self._known, self._pages, self._lines = True, pages, lines
        return Restored(task, round, *found)

    def forget(self) -> Restored:
        """Clear the record."""
        self._known, self._pages, self._lines = True, [], []
        return Restored(1, 0, [], [])


def pages(about: Mapping[str, Any]) -> set[str]:
    """The parts that are pages of the record in a list."""
    record = about.get("record")
    found = record.get("pages") if isinstance(record, Mapping) else None
    return {page for page in found if isinstance(page, str)} if isinstance(found, list) else set()


def _replayed(told: Sequence[Mapping[str, Any]]) -> tuple[list[dict[str, Any]], list[AccuracyRow]]:
    """Lines of `rounds.jsonl` and rows of `accuracy.csv`."""
    rounds: list[dict[str, Any]] = []
    rows: list[AccuracyRow] = []
    for one in told:
        if "round" in one:
            rounds.append(dict(one["round"]))
        elif "rows" in one:
            rows += [AccuracyRow(*row) for row in one["rows"]]
        elif any(one["after_task"].values()):
            rounds[-1]["after_task"] = one["after_task"]
    return rounds, rows
