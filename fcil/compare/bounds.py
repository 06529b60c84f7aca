"""Lower and upper bound of a comparison: plain fine-tuning, and training on all data, on the same split.

A number of a method says little without them. What is missing is said in a line, with a command that adds it:

    fcil run digits.yaml 'matrix.strategy=[finetune,joint]'
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from fcil.config.matrix import cells
from fcil.errors import StoreError, UserError, printable
from fcil.federation.persistence.smoke import is_smoke
from fcil.store import RunFolder, find_runs
from fcil.store.files import read_json
from fcil.store.groups import is_student, split_label
from fcil.store.read import Run

BOUNDS = {"finetune": "floor", "joint": "ceiling"}


@dataclass(frozen=True)
class Command:
    """A `fcil run` or `fcil search`: its file, its overrides, and where its results go."""

    source: Path
    overrides: tuple[str, ...] = ()
    out: str = "results"

    @classmethod
    def of(cls, folder: RunFolder) -> Command | None:
        """Return the command that a run was begun with; None if it was another, or its file is not there any more."""
        try:
            words = read_json(folder.env).get("command")
        except StoreError:
            return None
        words = [str(word) for word in words] if isinstance(words, list) else []
        verb = next((word for word in words if word in ("run", "search")), None)
        given = words[words.index(verb) + 1 :] if verb else []
        out = next((b for a, b in pairwise(given) if a == "--out"), "results")
        source = next((w for w in given if w.endswith((".yaml", ".yml")) and os.path.isfile(w)), None)
        overrides = [w for w in given if "=" in w and not w.startswith("-") and w != source]
        if verb == "search":  # its winner learns from all training samples
            overrides = [w for w in overrides if not w.startswith(("search", "data.validation="))]
            overrides += ["search=null", "data.validation=0"]
        return None if source is None else cls(Path(source), tuple(overrides), out)

    def with_seeds(self, seeds: Iterable[int]) -> Command:
        """Return the same for these seeds, if seeds were named in it at all."""
        wanted = f"seeds=[{','.join(map(str, sorted(seeds)))}]"
        changed = (wanted if text.startswith("seeds=") else text for text in self.overrides)
        return replace(self, overrides=tuple(changed))

    def adding(self, strategies: Sequence[str]) -> str | None:
        """The command line that plays these strategies instead, all else as it was; None if there is none."""
        kept = [text for text in self.overrides if not text.startswith(("strategy", "matrix.strategy"))]
        ways = [[f"matrix.strategy=[{','.join(strategies)}]"]] if len(strategies) > 1 else []
        ways.append([f"strategy={name}" for name in strategies])
        for way in ways:
            if all(self._plays([*kept, change], strategies) for change in way):
                return " && ".join(self._line([*kept, change]) for change in way)
        return None

    def _plays(self, overrides: list[str], strategies: Sequence[str]) -> bool:
        try:
            return all(cell.get("strategy") in strategies for cell in cells(self.source, overrides))
        except (UserError, TypeError):
            return False

    def _line(self, overrides: list[str]) -> str:
        where = [] if self.out == "results" else ["--out", self.out]
        return printable(shlex.join(["fcil", "run", str(self.source), *overrides, *where]))


def lacking(strategies: Iterable[str]) -> list[str]:
    """Return the bounds that are not among some strategies."""
    there = set(strategies)
    return [name for name in BOUNDS if name not in there]


def sentence(split: str, missing: Sequence[str], command: Command | None) -> str:
    """Name the bounds that a table of a split lacks, and the command that adds them."""
    names = " and no ".join(f"{name} (the {BOUNDS[name]})" for name in missing)
    line = command.adding(missing) if command is not None else None
    change = f"strategy={missing[0]}" if len(missing) == 1 else f"matrix.strategy=[{','.join(missing)}]"
    line = line or f"fcil run EXPERIMENT.yaml {shlex.quote(change)}"
    return f"{split}: no {names} to compare with; {line} adds {'it' if len(missing) == 1 else 'them'}"


def has_bounds(run: Run) -> bool:
    """Return whether both bounds make sense: tasks that can be forgotten, in a federation that learns from data."""
    return not is_student(run.strategy) and _tasks(run.summary) > 1 and not is_smoke(run.config)


def _tasks(summary: dict[str, Any]) -> int:
    tasks = summary.get("tasks")
    return tasks if type(tasks) is int else 0


def offer(run: Run, command: Command) -> str:
    """Return the sentence about a run that stands alone in its folder; nothing where bounds make no sense.

    Beside others a comparison has said what they lack.
    """
    home = run.path.parent.parent
    if len(find_runs([home] if home.is_dir() else [])) > 1 or not has_bounds(run):
        return ""
    return sentence(split_label(run.config), lacking([run.strategy]), command)
