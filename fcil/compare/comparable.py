"""Comparability of runs: settings that must agree besides the strategy, and data that each method keeps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fcil.compare.bounds import BOUNDS
from fcil.config.effect import DETAIL, UNWRITTEN
from fcil.config.kinds import kind_of
from fcil.errors import printable
from fcil.store.declared import read_declared, used_anchors
from fcil.store.groups import Group, settings_of, short
from fcil.store.read import Run

APART = ("name", "strategy", "anchors")
"""Sections in which the runs of a table may differ; the anchors only where none were read."""
MOST_LINES = 20
"""Sentences of one run about what did nothing."""


def confounders(group: Group) -> dict[str, str]:
    """Return the settings a group was run under, by key path; the encoder only where the runs have used one."""
    run = group.runs[0]
    apart = APART[:2] if used_anchors(run.folder) else APART
    found = {key: value for key, value in settings_of(run).items() if key.split(".")[0] not in apart}
    return {key: printable(str(value)) for key, value in found.items() if key not in DETAIL}


def differences(groups: Sequence[Group]) -> list[tuple[str, ...]]:
    """Return for each group its differences from most of the groups: `federation.rounds 10 (others 20)`."""
    under = [confounders(group) for group in groups]
    for key in dict.fromkeys(key for one in under for key in one if key.startswith(UNWRITTEN)):
        for one in under:
            one.setdefault(key, "left out")
    usual: dict[str, str] = {}
    for key in dict.fromkeys(key for one in under for key in one):
        counts = Counter(one[key] for one in under if key in one)
        usual[key] = counts.most_common(1)[0][0]
    return [tuple(f"{k} {v} (others {usual[k]})" for k, v in one.items() if v != usual[k]) for one in under]


def kept(group: Group) -> str:
    """Return what a method's clients keep of earlier tasks: `all data`, `images` or `series`, or nothing.

    Exemplars are `all data` where there are as many as images: that is the upper bound under another name. What a
    method has not declared, its runs may have counted.
    """
    declared = read_declared(group.runs[0].folder)
    if replays_all(group) or declared.data == "seen" or BOUNDS.get(group.strategy) == "ceiling":
        return "all data"
    return (
        kind_of(str(settings_of(group.runs[0]).get("data.dataset")))
        if "exemplars" in declared.uses or any(map(_held, group.runs))
        else ""
    )


def _held(run: Run) -> bool:
    """Return whether clients held images of earlier tasks when a task ended, according to the run's summary."""
    activity = run.summary.get("activity")
    counts = activity.get("exemplars") if isinstance(activity, Mapping) else None
    return isinstance(counts, list) and any(isinstance(count, int) and count > 0 for count in counts)


def replays_all(group: Group) -> bool:
    """Return whether clients trained on every image of earlier tasks again, according to the runs' summaries."""
    return all(run.summary.get("replayed_share") == 1 for run in group.runs)


def idle(group: Group) -> tuple[str, ...]:
    """Ingredients that did nothing, as the runs' summaries tell; with the seeds, where it was not so in all of them."""
    return _told_by(group, lambda summary: summary.get("inert"))


def collapsed(group: Group) -> tuple[str, ...]:
    """Return what the runs' summaries say of nets that took all test samples for one class; with the seeds."""
    return _told_by(group, lambda summary: [one] if (one := summary.get("collapsed")) else [])


def mixed(group: Group) -> tuple[str, ...]:
    """Return what changed as runs were resumed, according to their summaries: `torch 2.9.1 and 2.10.0 (seed 1)`."""
    return _told_by(group, lambda summary: _both(summary.get("mixed")))


def _both(found: Any) -> list[str]:
    """Each thing that was not the same all through a run, with the values it had."""
    facts = found if isinstance(found, Mapping) else {}
    lists = {name: values[:MOST_LINES] for name, values in facts.items() if isinstance(values, list)}
    return [f"{name} {' and '.join(map(short, values))}" for name, values in lists.items()]


def _told_by(group: Group, lines: Callable[[Mapping[str, Any]], Any]) -> tuple[str, ...]:
    """Return the sentences of the runs' summaries, each once; with the seeds, where it was not so in all of them."""
    seeds: dict[str, list[int]] = {}
    for run in group.runs:
        told = lines(run.summary)
        for line in told[:MOST_LINES] if isinstance(told, list) else ():
            seeds.setdefault(printable(str(line)), []).append(run.seed)
    few = {line: f" (seed {', '.join(map(str, some))})" for line, some in seeds.items() if len(some) < len(group.runs)}
    return tuple(f"{line}{few.get(line, '')}" for line in seeds)
