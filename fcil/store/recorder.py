"""Writes a run folder as the federation reports what happens."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from safetensors.torch import save_file

from fcil import metrics
from fcil.errors import StoreError
from fcil.federation.observer import Observer, Restored
from fcil.io.atomic import replacing, writing
from fcil.metrics import AccuracyRow, Counts, Predictions
from fcil.store import files
from fcil.store.activity import collapsed, of_folder
from fcil.store.environment import mixed
from fcil.store.folder import RunFolder
from fcil.store.memory import forget_peaks, peak_memory
from fcil.store.pools import distinct_samples, pool_sizes
from fcil.store.repair import check_whole, go_back
from fcil.types import Task, Tensors


class RunRecorder(Observer):
    """Keeps the folder true at every moment: what was reported is on disk when the method returns."""

    def __init__(
        self,
        folder: RunFolder,
        say: Callable[[str], None] = lambda line: None,
        facts: Mapping[str, Any] | None = None,
        held: Callable[[int], Counts] | None = None,
    ) -> None:
        """Record into a folder.

        Args:
            say: shows a line to the user; it is in the log as well.
            facts: what is known of the run before it begins, for its summary.
            held: training samples of the first tasks by client and class seen (K, C), from the number of these tasks.
        """
        self.folder = folder
        self._say = say
        self._facts = dict(facts or {})
        self._held = held
        self._tasks = 0
        self._found: Restored | None = None

    def restored(self, found: Restored) -> None:
        self._found = found

    def run_started(self, *, tasks: int, rounds: int, clients: int, finished_rounds: int) -> None:
        """Go back to the checkpoint the run goes on from: nothing is lost before it, and nothing counts twice.

        Raises:
            StoreError: something is lost of which there is no copy.
        """
        self._tasks = tasks
        forget_peaks()
        found, self._found = self._found, None
        if found is not None and found.rounds is not None:
            for line in go_back(self.folder, found):
                self.tell(line)
        else:
            task, round = finished_rounds // rounds + 1, finished_rounds % rounds
            # After the last round of a task its end may have been told or not, unless the checkpoint says so.
            ended = found.task - 1 if found is not None else max(0, task - 1 - (not round))
            check_whole(self.folder, (task, round), finished_rounds, ended)
            self.folder.truncate_after(task, round)
        self._log(f"{tasks} tasks of {rounds} rounds, {clients} clients a round, {finished_rounds} rounds done before")

    def task_started(self, task: Task) -> None:
        new = f"domain {task.domain}, {task.num_seen} classes" if task.domain else f"{task.num_new} new classes"
        seen = "" if task.domain else f", {task.num_seen} seen"
        self._log(f"[TASK {task.number}/{task.total}] {new}{seen}")

    def round_done(self, record: dict[str, Any]) -> None:
        self._append(self.folder.rounds, files.json_line(record))
        terms = ", ".join(f"{name} {value:.4f}" for name, value in record.get("terms", {}).items())
        accuracy = record.get("accuracy")
        tested = "" if accuracy is None else f"; accuracy {accuracy:.4f}"
        failures = _count(record.get("failures"))
        failed = f"; {failures} failed" if failures else ""
        if single := record.get("batches_of_one"):
            failed += f"; running statistics for the one example of clients {', '.join(map(str, single))}"
        self._log(f"[TASK {record['task']}/{self._tasks}] [ROUND {record['round']}] {terms}{tested}{failed}")

    def synthesis_done(self, task: int, samples: Tensors) -> None:
        """Write `synthetic/task<k>.safetensors`."""
        self._write_samples(f"task{task}", samples)
        made, distinct = len(samples["y"]), distinct_samples(samples["x"].cpu().numpy())
        copies = "" if distinct is None else f", {distinct} of them distinct"
        classes = len(set(samples["y"].tolist()))
        self._log(f"[TASK {task}/{self._tasks}] {made} synthetic samples{copies}, of {classes} classes")

    def synthesis_seen(self, task: int, round: int, samples: Tensors) -> None:
        """Write `synthetic/task<k>-round<r>.safetensors`."""
        self._write_samples(f"task{task}-round{round}", samples)

    def _write_samples(self, name: str, samples: Tensors) -> None:
        path = self.folder.synthetic / f"{name}.safetensors"
        with replacing(path) as temporary:
            save_file({k: v.detach().cpu().contiguous().clone() for k, v in samples.items()}, temporary)

    def task_predicted(self, task: Task, predictions: Predictions) -> None:
        """Add the task to `classes.csv`, `confusion.csv`, `quality.csv`, `clients.csv` and `task_aware.csv`."""
        held = None if self._held is None else self._held(task.number)
        for name, rows in files.details_of(task, predictions, held).items():
            path = self.folder.details[name]
            before = [row for row in files.kept_details(path, name) if row[0] != task.number]
            files.write_details(path, name, [*before, *rows])
        kept = [row for row in files.kept_accuracy(self.folder.task_aware) if row.trained_task != task.number]
        files.write_task_aware(self.folder.task_aware, [*kept, *predictions.task_aware_rows(task.number)])

    def task_done(self, task: Task, rows: Sequence[AccuracyRow]) -> None:
        path = self.folder.accuracy
        before = files.read_accuracy(path) if path.is_file() else []
        files.write_accuracy(path, [*(r for r in before if r.trained_task != task.number), *rows])
        seen = sum(r.correct for r in rows) / max(sum(r.examples for r in rows), 1)
        each = ", ".join(f"{r.tested_task}: {r.accuracy:.4f}" for r in rows)
        self._log(f"[TASK {task.number}/{task.total}] done; accuracy {seen:.4f} ({each})")

    def task_concluded(self, task: int, record: dict[str, Any]) -> None:
        """Add the cost of the end of a task to the line of its last round, as `after_task`."""
        if any(record.values()):
            files.add_to_last_line(self.folder.rounds, "after_task", record)

    def note(self, text: str) -> None:
        self._log(text)

    def tell(self, line: str) -> None:
        """A line for the log and the terminal."""
        self._log(line)
        self._say(line)

    def run_done(self, seconds: float, phases: dict[str, float]) -> None:
        """`summary.json`: the metrics of `accuracy.csv`, the cost in `rounds.jsonl`, seconds, what did how much."""
        try:
            numbers = metrics.summary(files.read_accuracy(self.folder.accuracy))
        except ValueError as error:
            raise StoreError(f"{self.folder.accuracy}: {error}") from None
        records = files.read_rounds(self.folder.rounds) if self.folder.rounds.is_file() else []
        self._log(f"done in {seconds:.0f} s; final accuracy {numbers['final_accuracy']:.4f}")
        memory = peak_memory()
        cost = {**_cost(records), **({} if memory is None else {"peak_memory_bytes": memory})}
        cost |= of_folder(self.folder, records) | self._mixed() | self._facts
        if (sentence := collapsed(self.folder)) is not None:
            cost["collapsed"] = sentence
        if pools := pool_sizes(self.folder):
            cost["synthetic"] = pools
        numbers |= self._task_aware(numbers["tasks"]) | self._clients(numbers["tasks"])
        files.write_json(self.folder.summary, {**numbers, "seconds": seconds, "seconds_by_phase": phases, **cost})

    def _task_aware(self, tasks: int) -> dict[str, Any]:
        """Return the numbers of `task_aware.csv`; nothing if it lacks tasks, as in a run begun before it was kept."""
        try:
            rows = files.kept_accuracy(self.folder.task_aware)
            return metrics.task_aware_summary(rows) if rows and rows[-1].trained_task == tasks else {}
        except ValueError:
            return {}

    def _clients(self, tasks: int) -> dict[str, Any]:
        """Return the accuracies of clients after the last task, in short; nothing if they were not kept."""
        rows = files.kept_details(self.folder.details["clients"], "clients")
        last = [np.nan if row[3] is None else row[3] for row in rows if row[0] == tasks]
        return metrics.client_summary(last) if last else {}

    def _mixed(self) -> dict[str, Any]:
        """Return the circumstances that changed during the run, so that a table can tell; nothing for most runs."""
        try:
            found = mixed(files.read_json(self.folder.env)) if files.is_there(self.folder.env) else {}
        except StoreError as error:  # it was sound when the run was begun or resumed
            self._log(f"{error}; whether all of the run was made alike is not known")
            found = {}
        return {"mixed": found} if found else {}

    def _log(self, text: str) -> None:
        stamp = time.strftime("%Y-%m-%d %H:%M:%S")
        self._append(self.folder.log, "".join(f"{stamp} {line}\n" for line in text.splitlines() or [""]))

    @staticmethod
    def _append(path: Any, text: str) -> None:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a", encoding="utf-8") as file:
                file.write(text)


def _cost(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Rounds, traffic and failures of a whole run, resumed or not."""
    parts = [part for r in records for part in (r, r.get("after_task") or {})]
    up, down = (sum(p.get(key) or 0 for p in parts) for key in ("bytes_up", "bytes_down"))
    failed = [f for p in parts if isinstance(p.get("failures"), list) for f in p["failures"]]
    return {
        "rounds": len(records),
        "bytes": up + down,
        "bytes_up": up,
        "bytes_down": down,
        "failures": sum(_count(p.get("failures")) for p in parts),
        "failures_by_kind": dict(sorted(Counter(f"{f['kind']}, {f['outcome']}" for f in failed).items())),
        **({"epsilon": records[-1]["epsilon"]} if records and "epsilon" in records[-1] else {}),
        "failures_by_client": _by_client(f["client"] for f in failed if "client" in f),
    }


def _by_client(clients: Iterable[Any]) -> dict[str, int]:
    """Return how often each client is named, by its number."""
    return dict(sorted(Counter(map(str, clients)).items(), key=lambda one: (len(one[0]), one[0])))


def _count(failures: Any) -> int:
    """A record tells of failures by number, or one by one."""
    return failures if isinstance(failures, int) else len(failures or ())
