"""Paths of the files of a run, and the writing of those known before training."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from fcil.config import Where, dump_yaml
from fcil.config.parts import PartFile, read_source
from fcil.errors import StoreError
from fcil.io.atomic import write_text
from fcil.store import files
from fcil.store.environment import environment


class RunFolder:
    """The folder of one run; its attributes are the paths inside."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.accuracy = self.path / "accuracy.csv"
        self.task_aware = self.path / "task_aware.csv"
        self.rounds = self.path / "rounds.jsonl"
        self.summary = self.path / "summary.json"
        self.partition = self.path / "partition.json"
        self.env = self.path / "env.json"
        self.strategy = self.path / "strategy.py"
        self.parts = self.path / "parts"
        self.log = self.path / "log.txt"
        self.failure = self.path / "failure.json"
        self.failure_text = self.path / "failure.md"
        self.quality = self.path / "quality.json"
        self.profile = self.path / "profile.md"
        self.flame = self.path / "profile.html"
        self.checkpoints = self.path / "checkpoints"
        self.synthetic = self.path / "synthetic"
        self.figures = self.path / "figures"
        self.details = {name: self.path / f"{name}.csv" for name in files.DETAILS}
        self.net = self.path / "net.safetensors"
        self.nets = self.path / "net"

    def net_of_task(self, task: int) -> Path:
        """Return the file of the net at the end of a task."""
        return self.nets / f"task{task}.safetensors"

    @property
    def begun(self) -> bool:
        return os.path.isfile(self.config)

    @property
    def saved(self) -> bool:
        """Return whether there is a checkpoint to go on from."""
        return any(self.checkpoints.glob("task*.json"))

    @property
    def finished(self) -> bool:
        """`summary.json` is written last, and whole."""
        return os.path.isfile(self.summary)

    def write_config(self, config: Mapping[str, Any]) -> None:
        """`config.yaml`, every default written out, in the order given."""
        write_text(self.config, dump_yaml(config))

    def write_strategy(self, source: str) -> None:
        write_text(self.strategy, source)

    def part(self, name: str) -> Path:
        """Return the copy of a user's own file, of this path or name, other than the strategy's."""
        return self.parts / Path(name).name

    def write_parts(self, parts: Iterable[PartFile]) -> None:
        """Write `parts/`: a copy of each file of the user's own that the settings name, besides the strategy's."""
        for part in parts:
            write_text(self.part(part.name), part.source)

    def texts_of_parts(self, *, trust: bool) -> Callable[[str], str]:
        """Return what reads the copy of a user's own file, by the path in the settings (`Where.files`).

        A run folder may come from anywhere, and the text is going to be executed.

        Args:
            trust: return it even if the file of that path is another now, or gone.
        Raises:
            StoreError: (by what is returned) there is no copy, or running it would run untrusted code.
        """

        def text(path: str) -> str:
            copy, place = self.part(path), Where(str(self.config))
            source = read_source(copy, place, "part")
            if not trust:
                check_familiar(copy, path, source, "part")
            return source

        return text

    def write_partition(self, record: Mapping[str, Any]) -> None:
        """`partition.json`: who held what, a line for each key.

        Of the record, `counts` (examples by task, client and class) and `class_names` (both in order
        of appearance) are read back, by tables and figures.
        """
        write_split(self.partition, record)

    def write_env(
        self,
        *,
        devices: Iterable[str] = (),
        threads: int | None = None,
        inputs: Mapping[str, str | None] | None = None,
    ) -> None:
        """`env.json` of what is here now."""
        self.add_env(environment(devices, threads, inputs))

    def add_env(self, now: dict[str, Any]) -> None:
        """`env.json`; when a run is resumed, the new environment is added under `resumed`."""
        if files.is_there(self.env):
            first = self.read_env()
            now = {**first, "resumed": [*first.get("resumed", []), now]}
        files.write_json(self.env, now)

    def read_env(self) -> dict[str, Any]:
        """Return the content of `env.json`.

        Raises:
            StoreError: it cannot be read, or an environment could not be added.
        """
        found = files.read_json(self.env)
        before = found.get("resumed", [])
        if not isinstance(before, list):
            raise StoreError(f"{self.env}: resumed is {before!r}; expected a list")
        return found

    def truncate_after(self, task: int, round: int) -> None:
        """Delete records after `round` of `task`, the last one a checkpoint holds (round 0: none of the task).

        Accuracies of `task` itself stay if none of its rounds was dropped. Without this, a resumed
        run would count the rounds between its checkpoint and its death twice.
        """
        records = files.read_rounds(self.rounds) if self.rounds.is_file() else []
        kept = [r for r in records if (r["task"], r["round"]) <= (task, round)]
        whole = len(kept) == sum(r["task"] <= task for r in records) and round > 0
        rows = files.read_accuracy(self.accuracy) if self.accuracy.is_file() else []
        rows = [r for r in rows if r.trained_task < task or (whole and r.trained_task == task)]
        self.summary.unlink(missing_ok=True)
        write_text(self.rounds, "".join(files.json_line(r) for r in kept))
        files.write_accuracy(self.accuracy, rows)
        self.forget_files_after(task, round)

    def forget_files_after(self, task: int, round: int) -> None:
        """Delete synthetic samples made after `round` of `task`, nets kept and classes measured after it."""
        for name, path in self.details.items():
            files.write_details(path, name, [row for row in files.kept_details(path, name) if row[0] < task])
        files.write_task_aware(self.task_aware, [r for r in files.kept_accuracy(self.task_aware) if r[0] < task])
        self.net.unlink(missing_ok=True)
        for path in self.nets.glob("task*.safetensors"):
            if (place := re.fullmatch(r"task([0-9]{1,9})(?:_shared)?", path.stem)) and int(place[1]) >= task:
                path.unlink()
        for path in self.synthetic.glob("task*"):
            place = re.fullmatch(r"task([0-9]{1,9})(?:-round([0-9]{1,9}))?", path.stem)
            if place and (int(place[1]), int(place[2] or 1)) > (task, round):
                path.unlink()


def check_familiar(copy: Path, path: str, source: str, kind: str) -> None:
    """Check that no code would be run which is not also in the file that the settings name.

    Args:
        copy: in the run folder; `source` is its text.
        path: of the file that the settings name.
    Raises:
        StoreError: that file is another now, or gone.
    """
    if not (os.path.isfile(path) and read_source(Path(path), Where(str(copy)), kind) == source):
        raise StoreError(f"{copy}: not what is in {path} now; read it, and say --trust if its code may be run")


def write_split(path: Path, record: Mapping[str, Any]) -> None:
    """Write the partition as JSON with a line for each key."""
    lines = [f"{json.dumps(key)}: {json.dumps(files.finite(value))}" for key, value in record.items()]
    write_text(path, "{\n" + ",\n".join(lines) + "\n}\n")


def check_writable(out: Path | str) -> None:
    """Check that results can be written under `out`, and leave no trace.

    Raises:
        StoreError: `out` is no folder, or nothing can be written there.
    """
    out = Path(out)
    existing = next(p for p in (out.absolute(), *out.absolute().parents) if os.path.lexists(p))
    if not existing.is_dir():
        raise StoreError(f"{out}: results cannot be written there ({existing} is not a folder)")
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise StoreError(f"{out}: results cannot be written there ({error.strerror or error})") from None
