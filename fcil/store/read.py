"""Runs as values: everything that tables, figures and reports read."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fcil import metrics
from fcil.config import MAX_BYTES, parse_yaml
from fcil.errors import ConfigError, StoreError
from fcil.metrics import AccuracyRow
from fcil.store import files
from fcil.store.checks import checked_summary, is_name, is_number
from fcil.store.folder import RunFolder

if TYPE_CHECKING:  # half a second that a table of finished runs need not wait
    import pandas as pd

    from fcil.nets import Net

MOST_EXAMPLES = 2**40
"""Examples of a class on a client, at most; sums of them still fit into 64 bits."""
MOST_FOLDERS = 64
"""Folders within each other in which runs are looked for, at most."""
LONG_TEXT = 2**16
"""Characters of a configuration that is not read section by section."""


@dataclass(frozen=True)
class Run:
    """One run, read back from its folder."""

    path: Path
    name: str
    """Name of the experiment."""
    strategy: str
    variant: str
    """Eight hex digits of the settings' hash."""
    seed: int
    config: dict[str, Any]
    """Settings of the run. Not to be changed: runs share what is equal in theirs."""
    rows: tuple[AccuracyRow, ...]
    """The accuracy matrix as counts, sorted."""
    summary: dict[str, Any]
    """Summary of a finished run; empty before."""

    @cached_property
    def rounds(self) -> list[dict[str, Any]]:
        """The lines of `rounds.jsonl`, read when they are first asked for.

        Raises:
            StoreError: one is damaged or lost.
        """
        path = self.folder.rounds
        return files.read_rounds(path) if files.is_there(path) else []

    @cached_property
    def quality(self) -> dict[str, Any]:
        """Numbers on the quality of a distillation's samples, read when first asked for.

        Raises:
            StoreError: the file is damaged.
        """
        path = self.folder.quality
        found = files.read_json(path) if files.is_there(path) else {}
        return {key: value for key, value in found.items() if is_number(value)}

    @property
    def finished(self) -> bool:
        return bool(self.summary)

    @property
    def accuracy(self) -> pd.DataFrame:
        """`accuracy.csv`: a line for each tested task after each trained task."""
        return _frame(self.rows)

    @property
    def task_aware(self) -> pd.DataFrame:
        """`task_aware.csv`: the same where the task of each sample is given, so that the largest score among the
        classes of its own task decides (task-incremental learning); empty if there is no such file.

        Raises:
            StoreError: it is damaged.
        """
        return _frame(self.task_aware_rows)

    @cached_property
    def task_aware_rows(self) -> tuple[AccuracyRow, ...]:
        """Counts of `task_aware.csv`, sorted; errors as of `task_aware`."""
        path = self.folder.task_aware
        rows = tuple(files.read_accuracy(path)) if files.is_there(path) else ()
        try:
            if rows:
                metrics.accuracy_matrix(rows)
        except ValueError as error:
            raise StoreError(f"{path}: {error}") from None
        return rows

    @property
    def classes(self) -> pd.DataFrame:
        """`classes.csv`: task, class (in order of appearance, from 0), n, correct, and the accuracy; empty if there
        is no such file.

        Raises:
            StoreError: it is damaged.
        """
        frame = self._details("classes")
        return frame.assign(accuracy=frame.correct / frame.n)

    @property
    def confusion(self) -> pd.DataFrame:
        """`confusion.csv`: after each task, how many samples of class `true` were taken for class `predicted`; cells
        that are zero are left out. Errors as of `classes`.
        """
        return self._details("confusion")

    @property
    def measures(self) -> pd.DataFrame:
        """`quality.csv`: top-1 and top-5 accuracy, calibration error (15 bins), accuracy on old and on new classes
        after each task. Errors as of `classes`.
        """
        return self._details("quality")

    @property
    def clients(self) -> pd.DataFrame:
        """`clients.csv`: after each task the training samples of each client so far, and the accuracy of the global
        net on the client's own mix of classes (`fcil.metrics.client_accuracy`). Errors as of `classes`.
        """
        return self._details("clients")

    def _details(self, name: str) -> pd.DataFrame:
        import pandas as pd

        columns = files.DETAILS[name]
        kind = {c: "float64" if c in files.SHARES else "int64" for c in columns}
        return pd.DataFrame(files.read_details(self.folder.details[name], name), columns=list(columns)).astype(kind)

    @property
    def folder(self) -> RunFolder:
        return RunFolder(self.path)

    def net(self, task: int | None = None, *, trust: bool = False) -> Net:
        """The trained net in evaluation mode, on the CPU; `class_names` of it names its outputs.

        Args:
            task: the net at the end of this task, where `resources.keep` is `tasks`; None: that of the end of the run.
            trust: run the folder's copy of a net of the user's own, even if the file is another now, or gone.
        Raises:
            StoreError: it was not kept, its file is damaged, or it would run untrusted code.
        """
        from fcil.store.nets import kept_net

        return kept_net(self.path, task, trust=trust).net

    def partition(self) -> tuple[npt.NDArray[np.int64], list[str]]:
        """Examples (tasks, clients, classes) and the class names in order of appearance."""
        path = self.folder.partition
        raw = files.read_json(path)
        names = raw.get("class_names")
        if not isinstance(names, list) or not all(map(is_name, names)):
            raise StoreError(f"{path}: class_names is {names!r}; expected a list of printable text")
        try:
            counts = np.array(raw["counts"])
        except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
            raise StoreError(f"{path}: not a partition ({type(error).__name__}: {error})") from None
        if counts.ndim != 3 or counts.shape[2] != len(names) or counts.size == 0:
            raise StoreError(f"{path}: counts are {counts.shape}; expected (tasks, clients, {len(names)} classes)")
        if counts.dtype != np.int64 or counts.min() < 0 or counts.max() > MOST_EXAMPLES:
            raise StoreError(f"{path}: counts are not all whole numbers from 0 to {MOST_EXAMPLES:,}")
        return counts, names

    @cached_property
    def domains(self) -> tuple[str, ...]:
        """Names of the domains in order of the tasks; none where tasks are new classes, or the names are damaged."""
        data = self.config.get("data")
        if not isinstance(data, Mapping) or data.get("scenario") != "domains" or data.get("tasks") is not None:
            return ()
        try:
            names = files.read_json(self.folder.partition).get("domains")
        except StoreError:
            return ()
        return tuple(names) if isinstance(names, list) and all(map(is_name, names)) else ()


def task_labels(runs: Iterable[Run], count: int) -> list[str]:
    """Return a label for each of `count` tasks: `task 1`, or its domain where all runs have the same in it."""
    named = {run.domains for run in runs}
    (names,) = named if len(named) == 1 else ((),)
    return list(names[:count]) if len(names) >= count else [f"task {number}" for number in range(1, count + 1)]


def _frame(rows: Sequence[AccuracyRow]) -> pd.DataFrame:
    """Return accuracy rows as a table."""
    import pandas as pd

    counts = pd.DataFrame([tuple(r) for r in rows], columns=list(files.COLUMNS[:4]), dtype="int64")
    return counts.assign(accuracy=[r.accuracy for r in rows])


def load_run(path: Path | str) -> Run:
    """Read a run folder, finished or not.

    Raises:
        StoreError: it is no run folder, or a file in it is damaged.
    """
    run = _load(path)
    found, told = len(run.rounds), run.summary.get("rounds")  # read now: a caller wants to hear of damage here
    if told is not None and told != found:
        raise StoreError(
            f"{run.folder.rounds}: holds {found} rounds, summary.json tells of {told}; the run's last checkpoint may "
            "know them: delete summary.json and resume the run"
        )
    return run


def _load(path: Path | str) -> Run:
    """A run of which the rounds are not read yet."""
    folder = RunFolder(os.path.realpath(path))
    seed = re.fullmatch(r"seed([0-9]{1,18})", folder.path.name)
    method = re.fullmatch(r"(.+)-([0-9a-f]{8})", folder.path.parent.name)
    if not folder.begun or seed is None or method is None:
        raise StoreError(f"{path}: not a run folder (expected <name>/<strategy>-<8 hex>/seed<k>/ with a config.yaml)")
    config = _config(folder)
    name = config.get("name") or folder.path.parent.parent.name
    if not is_name(name) or not all(map(is_name, folder.path.parts[-3:])):
        raise StoreError(f"{folder.config}: name is {name!r}; expected printable text, as in the names of the folders")
    rows = files.read_accuracy(folder.accuracy) if files.is_there(folder.accuracy) else []
    files.is_there(folder.rounds)
    summary = files.read_json(folder.summary) if files.is_there(folder.summary) else {}
    files.is_there(folder.partition)
    _check(folder, rows, summary)
    summary = checked_summary(summary, rows, str(folder.summary)) if folder.finished else {}
    return Run(folder.path, name, method[1], method[2], int(seed[1]), config, tuple(rows), summary)


def _config(folder: RunFolder) -> dict[str, Any]:
    text = files.read_text(folder.config, MAX_BYTES)
    try:
        config = _by_section(text) or parse_yaml(text, str(folder.config))
    except ConfigError as error:
        raise StoreError(str(error)) from None
    if not isinstance(config, dict):
        raise StoreError(f"{folder.config}: expected a mapping, found {type(config).__name__}")
    return config


def _by_section(text: str) -> dict[str, Any]:
    """The same as reading it whole, for a plain file; nothing for any other.

    A thousand runs have some dozens of different sections between them, and YAML is slow to read.
    """
    starts = [m.start() for m in re.finditer(r"^[^\s#]", text, re.MULTILINE)]
    if len(text) > LONG_TEXT or not starts or starts[0] or "&" in text:
        return {}
    try:
        parts = [_section(text[a:b]) for a, b in zip(starts, [*starts[1:], len(text)], strict=True)]
    except ConfigError:  # told when it is read whole, with the right line
        return {}
    found = {key: value for part in parts for key, value in part.items()}
    return found if all(len(part) == 1 for part in parts) and len(found) == len(parts) else {}


@lru_cache(4096)
def _section(text: str) -> dict[str, Any]:
    found = parse_yaml(text, "")
    return found if isinstance(found, dict) else {}


def _check_ends(run: Run) -> None:
    """Look at the first and the last round alone: a file that was cut off, or is none of ours, shows there.

    Raises:
        StoreError: they are damaged, or not the ends of what the run did.
    """
    path = run.folder.rounds
    ends = files.read_ends(path) if os.path.lexists(path) else []
    last = ends[-1]["task"] if ends else 0
    if run.summary.get("rounds") and last != run.summary["tasks"]:
        raise StoreError(f"{path}: the last round is one of task {last}, summary.json tells of {run.summary['tasks']}")


def _check(folder: RunFolder, rows: list[AccuracyRow], summary: dict[str, Any]) -> None:
    try:
        tasks = len(metrics.accuracy_matrix(rows)[0]) if rows else 0
    except ValueError as error:
        raise StoreError(f"{folder.accuracy}: {error}") from None
    if folder.finished and (tasks == 0 or summary.get("tasks") != tasks):
        raise StoreError(f"{folder.path}: summary.json tells of {summary.get('tasks')} tasks, accuracy.csv of {tasks}")


def find_runs(paths: Iterable[Path | str], *, unfinished: bool = False, skipped: list[str] | None = None) -> list[Run]:
    """All runs in or below some folders, sorted by path and seed, each once.

    Args:
        paths: run folders or any folders above them.
        unfinished: whether runs that have not ended count too.
        skipped: collects one line for each run left out, with the reason.

    Raises:
        StoreError: a path does not exist or is no folder.
    """
    found: dict[Path, None] = {}
    reasons = [] if skipped is None else skipped
    for path in map(Path, paths):
        if not os.path.isdir(path):
            raise StoreError(f"{path}: {'not a folder' if os.path.exists(path) else 'no such folder'}")
        top = os.path.realpath(path)
        for place, folders, names in os.walk(top, onerror=lambda e: reasons.append(_unreadable(e))):
            if "config.yaml" in names and re.fullmatch(r"seed[0-9]+", Path(place).name):
                found[Path(place)] = None
                folders.clear()
            elif place.count(os.sep) - top.count(os.sep) >= MOST_FOLDERS and folders:
                reasons.append(f"{place}: more than {MOST_FOLDERS} folders within each other")
                folders.clear()
    runs = []
    for place_ in sorted(found, key=lambda path: (path.parent, len(path.name), path.name)):
        try:
            run = _load(place_)
            _check_ends(run)
        except StoreError as error:
            reasons.append(str(error))
            continue
        if run.finished or unfinished:
            runs.append(run)
        else:
            reasons.append(f"{place_}: not finished (go on with: fcil resume {place_})")
    return runs


def _unreadable(error: OSError) -> str:
    return f"{error.filename}: cannot be read ({error.strerror or error})"
