"""Groups of runs: the seeds of one setting, and the settings that share a split of the data."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fcil.config.effect import effective, track_of
from fcil.errors import printable
from fcil.federation.persistence.smoke import is_smoke
from fcil.store.read import Run

OF_RUNS = ("seed", "matrix")
"""Keys in which runs of one group may differ."""
CHOICES = ("synthesizer", "distiller")
"""Settings that name a method and hold its options."""
UNTOLD = ("strategy.distill.teacher", "strategy.distill.digest")
"""Settings that follow from others and would tell a reader nothing."""


TEACHER = "-teacher"
"""Ends the name under which a distillation trains its teacher."""


def is_student(strategy: str) -> bool:
    """Return whether runs of a strategy are students that learnt from a teacher without data."""
    return strategy == "distill"


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seed alone."""

    label: str
    """The strategy, with what tells it from others of its name in the same split."""
    strategy: str
    variant: str
    split: str
    runs: tuple[Run, ...]

    @property
    def method(self) -> str:
        """The strategy, or of a distillation what tells its student from others: `fast` of `distill (fast)`."""
        found = re.fullmatch(r"distill \((.*)\)", self.label) if self.strategy == "distill" else None
        return found[1] if found else self.label if self.strategy == "distill" else self.strategy


def group_runs(runs: Sequence[Run]) -> list[Group]:
    """Groups in the order in which their first runs come."""
    members: dict[tuple[str, str, str], list[Run]] = {}
    for run in runs:
        members.setdefault((run.name, run.strategy, run.variant), []).append(run)
    splits = {key: split_label(group[0].config) for key, group in members.items()}
    rivals: dict[tuple[str, str], list[Run]] = {}
    for key, group in members.items():
        rivals.setdefault((key[1], splits[key]), []).append(group[0])
    groups = []
    for key, group in members.items():
        _, strategy, variant = key
        label = f"{strategy}{_difference(group[0], rivals[strategy, splits[key]])}"
        groups.append(Group(label, strategy, variant, splits[key], tuple(group)))
    return groups


def split_label(config: Mapping[str, Any]) -> str:
    """Name the split in a few words: `cifar100, 5 tasks, dirichlet 0.5`; a smoke run says so, and stands apart, and so
    does one of a pretrained net.
    """
    label = _data_label(config.get("data"))
    if track_of(config) != "scratch":
        label = f"{label}, {track_of(config)}"
    return f"{label}, smoke run" if is_smoke(config) else label


def _data_label(data: Any) -> str:
    if not isinstance(data, Mapping):
        return "unknown data"
    words = [short(data.get("dataset", "unknown data"))]
    if data.get("base") is not None:
        words.append(f"base {short(data['base'])} + {short(data.get('increment'))}")
    elif data.get("tasks") is not None:
        words.append(f"{short(data['tasks'])} task{'' if data['tasks'] == 1 else 's'}")
    elif data.get("scenario") == "domains":
        words.append(_domains_label(data.get("domains")))
    if isinstance(data.get("classes"), list):
        words.append(f"{len(data['classes'])} of its classes")
    partition = data.get("partition")
    if isinstance(data.get("split"), Mapping):
        words.append(f"split {short(data['split'].get('digest'))}")
    if isinstance(partition, Mapping):
        words += [f"{short(key)} {short(_telling(value))}".rstrip() for key, value in list(partition.items())[:4]]
    elif partition is not None:
        words.append(short(partition))
    return ", ".join(words)


def _domains_label(domains: Any) -> str:
    """Name the domains by their number and the way in which they are made: `4 domains (rotated)`."""
    if isinstance(domains, list):
        return f"{len(domains)} domain{'s' * (len(domains) != 1)}"
    if not isinstance(domains, Mapping) or len(domains) != 1:
        return "domains"
    ((kind, value),) = domains.items()
    return f"{short(len(value) if isinstance(value, list) else value)} domains ({short(kind)})"


def _telling(value: Any) -> Any:
    """Return the digest or the level of clients that the data name, wherever their table lies; else all settings."""
    if not isinstance(value, Mapping):
        return value
    return (
        value.get("digest")
        or value.get("level")
        or " ".join(f"{short(k)} {short(v)}" for k, v in list(value.items())[:4])
    )


def _difference(run: Run, rivals: Sequence[Run]) -> str:
    """` (radius 0.01)`: what sets a run apart from others of the same strategy and split, or nothing."""
    if len(rivals) == 1:
        return ""
    flats, mine = [settings_of(r) for r in rivals], settings_of(run)
    keys = _differing(mine, flats)
    chosen = [k for k in keys if k.split(".")[-1] in CHOICES]  # their options are not those of another choice
    alike = [flat for flat in flats if all(flat.get(k) == mine[k] for k in chosen)]
    keys = chosen + [k for k in _differing(mine, alike) if k not in chosen][: max(3 - len(chosen), 1)]
    words = [short(mine[k]) if k in chosen else f"{short(k.split('.')[-1])} {short(mine[k])}" for k in keys]
    twins = sum(all(f.get(k) == mine[k] for k in keys) for f in flats)
    if twins > 1:
        named = len({r.name for r in rivals}) == len(rivals)
        words.append(run.name if named else run.variant)
    return f" ({', '.join(words)})" if words else ""


def _differing(mine: Mapping[str, Any], others: Sequence[Mapping[str, Any]]) -> list[str]:
    return [k for k in mine if any(f.get(k) != mine[k] for f in others) and k not in ("name", *UNTOLD)]


def settings_of(run: Run) -> dict[str, Any]:
    """Key paths and values of all that can tell a run's group from others: what changes no result cannot."""
    return flat({key: value for key, value in effective(run.config).items() if key not in OF_RUNS})


def flat(value: Any, path: str = "") -> dict[str, Any]:
    """Key paths and their values."""
    if isinstance(value, Mapping):
        chosen = path.split(".")[-1] in CHOICES and len(value) == 1
        found: dict[str, Any] = {path: next(iter(value))} if chosen else {}
        for key, inner in value.items():
            found |= flat(inner, f"{path}.{key}" if path else str(key))
        return found
    return {path: value}


def short(value: Any) -> str:
    """A value in at most twenty characters."""
    text = f"{value:g}" if isinstance(value, float) else printable(str(value))
    return text if len(text) <= 20 else text[:19] + "…"
