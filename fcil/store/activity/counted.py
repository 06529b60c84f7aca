"""Activity by task, counted from the lines of `rounds.jsonl`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Records = Sequence[Mapping[str, Any]]
DIGITS = 4
"""Decimal digits of a share."""


def activity(
    records: Records, counts: npt.NDArray[np.int64] | None = None, samples: Mapping[int, int] | None = None
) -> dict[str, Any]:
    """Return what each ingredient of a run did, task by task.

    Args:
        records: the lines of `rounds.jsonl`.
        counts: examples (tasks, clients, classes) that clients hold.
        samples: sizes of the synthetic pools by task, for runs whose records do not tell.
    Returns:
        `terms`: by name, its mean share of the sum of absolute terms; `samples`, `episodes`: of syntheses;
        `absent`: classes that a synthesizer was asked for and made no sample of;
        `drawn`: by pool, images that clients drew; `exemplars`: held when the task ended; `skipped`, `retried`:
        answers of clients; `empty`: clients without an image of the task. What is not known is left out.
    """
    tasks = range(1, max((r["task"] for r in records), default=0) + 1)
    by_task = [[r for r in records if r["task"] == task] for task in tasks]
    parts = [[p for r in alike for p in _parts(r)] for alike in by_task]
    found: dict[str, Any] = {"terms": _by_name([term_shares(alike) for alike in by_task])}
    if audited(records):
        found["drawn"] = _by_name([_sums(p.get("drawn") for p in some) for some in parts])
        found["exemplars"] = [_last(some, "exemplars") for some in parts]
    made = [[m for p in some for m in _mappings(p.get("synthesis"))] for some in parts]
    if any(made):
        found["samples"], found["episodes"] = ([_sum(m.get(k) for m in some) for some in made]
                                               for k in ("samples", "episodes"))  # fmt: skip
        if all("asked" in m for some in made for m in some):  # runs of earlier versions do not tell
            found["absent"] = [_sum(m["asked"] - m["classes"] for m in some) for some in made]
    elif samples:
        found["samples"] = [samples.get(task, 0) for task in tasks]
    failures = [[f for p in some for f in _mappings(p.get("failures"))] for some in parts]
    for outcome in ("skipped", "retried"):
        found[outcome] = [sum(f.get("outcome") == outcome for f in some) for some in failures]
    if counts is not None and len(counts) >= len(tasks):
        found["empty"] = [int((counts[task - 1].sum(axis=1) == 0).sum()) for task in tasks]
    return found


def term_shares(records: Records, digits: int = DIGITS) -> dict[str, float]:
    """The mean over rounds of each term's share of the sum of absolute terms."""
    shares: dict[str, list[float]] = {}
    for record in records:
        terms = {name: abs(value) for name, value in (record.get("terms") or {}).items() if value is not None}
        total = sum(terms.values())
        for name, value in terms.items():
            shares.setdefault(name, []).append(value / total if total else 0.0)
    return {name: round(sum(some) / len(some), digits) for name, some in shares.items()}


def audited(records: Records) -> bool:
    """Return whether clients told what they drew, kept and touched; runs of earlier versions did not."""
    return any("touched" in part for record in records for part in _parts(record))


def shared_sizes(record: Mapping[str, Any]) -> dict[str, int]:
    """Bytes of what the server shared when a task ended."""
    sizes = (record.get("after_task") or {}).get("shared")
    return _counts(sizes)


def _parts(record: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield record
    if isinstance(record.get("after_task"), Mapping):
        yield record["after_task"]


def _mappings(value: Any) -> list[Mapping[str, Any]]:
    return [v for v in value if isinstance(v, Mapping)] if isinstance(value, list) else []


def _counts(value: Any) -> dict[str, int]:
    return {str(k): v for k, v in value.items() if type(v) is int} if isinstance(value, Mapping) else {}


def _sum(values: Iterator[Any]) -> int:
    return sum(v for v in values if type(v) is int)


def _sums(values: Iterator[Any]) -> dict[str, int]:
    sums: dict[str, int] = {}
    for value in values:
        for name, count in _counts(value).items():
            sums[name] = sums.get(name, 0) + count
    return sums


def _last(parts: Records, key: str) -> int:
    """Return the value at the end of the task; of its last round where no client is asked at the end."""
    return next((p[key] for p in reversed(parts) if type(p.get(key)) is int), 0)


def _by_name(tasks: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    names = dict.fromkeys(name for one in tasks for name in one)
    return {name: [one.get(name) for one in tasks] for name in names}
