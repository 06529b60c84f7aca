"""Runs grouped over seeds and compared, in a table for each split."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from fcil import metrics
from fcil.compare.bounds import Command, has_bounds, lacking, sentence
from fcil.compare.comparable import collapsed, differences, idle, kept, mixed, replays_all
from fcil.compare.protocols import nearest_protocol
from fcil.compare.statistics import FEWEST, Pair, Ranks, Spread, friedman, least_p, pairs, spread, surely_better
from fcil.config.effect import Track, track_of
from fcil.federation.persistence.smoke import MEANING, is_smoke
from fcil.searching.record import sentence as sentence_of
from fcil.store.groups import TEACHER, Group, group_runs, is_student
from fcil.store.read import Run

Unit = Literal["percent", "points", "bytes", "seconds", "number"]
HEADLINE = "final_accuracy"
"""Metric that the tests compare."""


@dataclass(frozen=True)
class Metric:
    """Metric of a run."""

    name: str
    title: str
    unit: Unit
    better: Literal["more", "less"]
    of: Callable[[dict[str, Any]], Any]

    def value(self, run: Run) -> float | None:
        """Return the value in the unit of the table: shares become percent and points."""
        found = self.of(run.quality if self.name in STUDENTS else run.summary)
        if not isinstance(found, int | float):
            return None
        return 100 * found if self.unit in ("percent", "points") else float(found)


def _metrics() -> dict[str, Metric]:
    def key(name: str) -> Callable[[dict[str, Any]], Any]:
        return lambda summary: summary.get(name)

    def forgetting(name: str) -> Callable[[dict[str, Any]], Any]:
        return lambda summary: (summary.get("forgetting") or {}).get(name)

    found = [
        Metric(HEADLINE, "final accuracy", "percent", "more", key(HEADLINE)),
        Metric("average_incremental_accuracy", "average incremental", "percent", "more",
               key("average_incremental_accuracy")),
        Metric("forgetting", "forgetting", "points", "less", forgetting("chaudhry")),
        *(Metric(f"forgetting_{name}", f"forgetting ({name})", "points", "less", forgetting(name))
          for name in metrics.FORGETTING if name != "chaudhry"),
        Metric("bwt", "BWT", "points", "more", key("bwt")),
        Metric("plasticity", "plasticity", "percent", "more", key("plasticity")),
        Metric("stability", "stability", "percent", "more", key("stability")),
        Metric("bytes_up", "up", "bytes", "less", key("bytes_up")),
        Metric("bytes_down", "down", "bytes", "less", key("bytes_down")),
        Metric("seconds", "time", "seconds", "less", key("seconds")),
        Metric("peak_memory_bytes", "peak memory", "bytes", "less", key("peak_memory_bytes")),
        Metric("task_aware_final_accuracy", "task-aware final", "percent", "more", key("task_aware_final_accuracy")),
        Metric("task_aware_average_incremental_accuracy", "task-aware average", "percent", "more",
               key("task_aware_average_incremental_accuracy")),
        Metric("task_aware_forgetting", "task-aware forgetting", "points", "less", key("task_aware_forgetting")),
        Metric("client_accuracy_worst", "worst client", "percent", "more", key("client_accuracy_worst")),
        Metric("client_accuracy_mean", "mean of clients", "percent", "more", key("client_accuracy_mean")),
        Metric("client_accuracy_std", "spread of clients", "points", "less", key("client_accuracy_std")),
    ]  # fmt: skip
    return {metric.name: metric for metric in found}


METRICS = _metrics()
"""Metrics that are compared, by name; `forgetting` is Chaudhry's."""


def _of_students() -> dict[str, Metric]:
    def key(name: str) -> Callable[[dict[str, Any]], Any]:
        return lambda about: about.get(name)

    found = [
        Metric("teacher_accuracy", "teacher", "percent", "more", key("teacher_accuracy")),
        Metric("agreement", "agreement", "percent", "more", key("agreement")),
        Metric("bns", "bns", "number", "less", key("bns")),
        Metric("diversity", "diversity", "number", "more", key("diversity")),
        Metric("samples", "samples", "number", "less", key("samples")),
    ]
    return {metric.name: metric for metric in found}


STUDENTS = _of_students()
"""Metrics that `quality.json` of a distillation adds: the teacher's, and the similarity of the samples to it."""


@dataclass(frozen=True)
class Entry:
    """A line of a table: one setting over its seeds."""

    group: Group
    spreads: dict[str, Spread | None]
    keeps: str
    """Data of earlier tasks kept on clients: nothing, `images` or `all data`, which makes it an upper bound."""
    differs: tuple[str, ...]
    """Settings that differ from those of most of the table."""
    idle: tuple[str, ...] = ()
    """Ingredients that did nothing, a sentence each."""
    unlike_paper: tuple[str, ...] | None = None
    """Settings that differ from those of its paper; None where no protocol is known."""
    chosen: str | None = None
    """How a search chose its settings, if one did."""
    mixed: tuple[str, ...] = ()
    """Circumstances that changed as its runs were resumed, such as torch or the processor, with the values."""

    @property
    def label(self) -> str:
        return self.group.label

    @property
    def track(self) -> Track:
        """Return whether its nets began from drawn weights, or from a file; no table has both."""
        return track_of(self.group.runs[0].config)

    @property
    def rival(self) -> bool:
        """Return whether it may be called the best: a bound may not, nor one that was run under other circumstances."""
        return self.keeps != "all data" and not self.differs

    def by_seed(self, metric: str) -> dict[int, float]:
        found = {run.seed: METRICS[metric].value(run) for run in self.group.runs}
        return {seed: value for seed, value in found.items() if value is not None}


@dataclass(frozen=True)
class Split:
    """Results of all strategies on one split of the data."""

    label: str
    entries: tuple[Entry, ...]
    students: bool = False
    """True if they learnt from a teacher without data, each in a run of its own."""

    @property
    def smoke(self) -> bool:
        """Return whether its runs are smoke runs, which support no conclusion."""
        return any(is_smoke(run.config) for entry in self.entries for run in entry.group.runs)

    @cached_property
    def tests(self) -> list[Pair]:
        """Every two strategies that may be compared, on the final accuracy."""
        if self.smoke:
            return []
        return pairs({entry.label: entry.by_seed(HEADLINE) for entry in self.entries if entry.rival})

    def against_first(self) -> tuple[str, list[Pair]]:
        """The first strategy that may be called the best, and how far each of the others is from it."""
        first = next((entry.label for entry in self.entries if entry.rival), "")
        return first, [pair for pair in self.tests if pair.a == first]

    def best(self, metric: str) -> Entry | None:
        """The strategy that is better than every other of its table beyond doubt, or None.

        Beyond doubt: the bootstrap interval of its differences to each other, over at least five common
        seeds, lies on one side of zero.
        """
        if metric not in self._bests:
            self._bests[metric] = self._search(metric)
        return self._bests[metric]

    @cached_property
    def _bests(self) -> dict[str, Entry | None]:
        return {}

    def _search(self, metric: str) -> Entry | None:
        sign = 1 if METRICS[metric].better == "more" else -1
        rivals = [(e, {s: sign * v for s, v in e.by_seed(metric).items()}) for e in self.entries if e.rival]
        rivals = [(entry, values) for entry, values in rivals if values]
        if len(rivals) < 2 or self.smoke:
            return None
        first, values = max(rivals, key=lambda one: sum(one[1].values()) / len(one[1]))
        sure = all(surely_better(values, other) for entry, other in rivals if entry is not first)
        return first if sure else None


@dataclass(frozen=True)
class Comparison:
    """Every table, and what may be concluded from them."""

    splits: tuple[Split, ...]

    @cached_property
    def tracks(self) -> tuple[Track, ...]:
        """Return the tracks of its runs, each once."""
        return tuple(dict.fromkeys(entry.track for split in self.splits for entry in split.entries))

    @cached_property
    def ranks(self) -> Ranks | None:
        """Friedman's test with splits as blocks, on the mean final accuracy; None where there are two tracks."""
        blocks = []
        if len(self.tracks) > 1:
            return None
        for split in (split for split in self.splits if not split.smoke):
            found = {e.label: e.spreads[HEADLINE] for e in split.entries if e.rival}
            blocks.append({label: one.mean for label, one in found.items() if one is not None})
        return friedman(blocks)

    @property
    def warnings(self) -> list[str]:
        """Return the limits of the numbers, a line each."""
        lines = []
        for split in self.splits:
            if split.smoke:
                lines.append(f"{split.label}: {MEANING}")
                continue
            counts = {entry.group.label: len(entry.group.runs) for entry in split.entries}
            fewest = min(counts.values())
            if len(counts) > 1 and fewest < FEWEST:
                lines.append(
                    f"{split.label}: {fewest} seed{'s' * (fewest != 1)}; below {FEWEST} nothing is called the best, "
                    f"and Wilcoxon's test cannot give less than p = {least_p(fewest):.2g}"
                )
            if len(set(counts.values())) > 1:
                lines.append(f"{split.label}: not all have the same number of seeds")
            lines += [
                f"{split.label}: {e.label} was run with {', '.join(e.differs)}" for e in split.entries if e.differs
            ]
            lines += [
                f"{split.label}: {e.label} went on in another environment: {'; '.join(e.mixed)}"
                for e in split.entries
                if e.mixed
            ]
            lines += [
                f"{split.label}: {e.label} replays every example of earlier tasks, so it is an upper bound as joint "
                "is; its budget of exemplars is above what clients hold"
                for e in split.entries
                if replays_all(e.group)
            ]
        if self.ranks is not None and self.ranks.blocks < FEWEST:
            lines.append(f"Friedman's test over {self.ranks.blocks} splits says little")
        return lines

    @property
    def hints(self) -> list[str]:
        """Return the components that had no effect, the nets that collapsed, the settings that a search chose, and the
        missing lower and upper bounds, a line each."""
        lines = [f"{s.label}: {e.label}: {line}" for s in self.splits for e in s.entries for line in e.idle]
        lines += [
            f"{s.label}: {e.label}: {line}" for s in self.splits for e in s.entries for line in collapsed(e.group)
        ]
        lines += [f"{s.label}: {e.label}: {e.chosen}" for s in self.splits for e in s.entries if e.chosen]
        for split in self.splits:
            learnt = [e.group for e in split.entries if has_bounds(e.group.runs[0])]
            if learnt and (missing := lacking(group.strategy for group in learnt)):
                command, seeds = Command.of(learnt[0].runs[0].folder), {r.seed for g in learnt for r in g.runs}
                lines.append(sentence(split.label, missing, command and command.with_seeds(seeds)))
        return lines


def compare(runs: Sequence[Run], *, teachers: bool = False) -> Comparison:
    """Finished runs, grouped over seeds and put into a table for each split, the highest final accuracy first.

    Students of distillations have tables of their own, of which their teacher is a column.

    Args:
        teachers: whether runs that trained teachers of these students have a table too.
    """
    known = {f"{run.name}{TEACHER}" for run in runs if is_student(run.strategy) and not teachers}
    groups = group_runs([run for run in runs if run.finished and run.name not in known])
    splits = []
    for label, students in dict.fromkeys((group.split, is_student(group.strategy)) for group in groups):
        alike = [g for g in groups if (g.split, is_student(g.strategy)) == (label, students)]
        entries = [_entry(g, differs) for g, differs in zip(alike, differences(alike), strict=True)]
        named = f"{label}, students" if students else label
        splits.append(Split(named, tuple(sorted(entries, key=_final, reverse=True)), students))
    return Comparison(tuple(splits))


def _final(entry: Entry) -> float:
    found = entry.spreads[HEADLINE]
    return -1.0 if found is None else found.mean


def _entry(group: Group, differs: tuple[str, ...]) -> Entry:
    shown = METRICS | STUDENTS if is_student(group.strategy) else METRICS
    values = {name: [metric.value(run) for run in group.runs] for name, metric in shown.items()}
    spreads = {name: spread([v for v in column if v is not None]) for name, column in values.items()}
    known = nearest_protocol(group.runs[0].config)
    unlike = None if known is None else tuple(known[1])
    return Entry(group, spreads, kept(group), differs, idle(group), unlike, sentence_of(group.runs[0]), mixed(group))
