"""Flower's commands as processes that are started together and end together."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from fcil.errors import TrainingError
from fcil.federation.runtime.watcher import Watcher, end

LAST_LINES = 5
"""Lines quoted from the output of a process that ended unasked."""
COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class Processes:
    """A context that ends what was started in it. A watcher does so if this process cannot, because it was killed.

    Args:
        folder: for what the processes write; the watcher removes it.
        environment: what all of them see besides this process's own.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.folder, self._watcher = folder, Watcher(folder)
        self.mark = self._watcher.mark
        self._environment = {**os.environ, **environment, **self._watcher.environment}
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Processes:
        self._watcher.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        end(self.mark)
        for process in self._running.values():
            process.wait()
        self._watcher.dismiss()

    def start(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start a process that is to run until the context ends; what it writes goes to `<name>.log`."""
        with self._log(name).open("wb") as log:
            self._running[name] = subprocess.Popen(
                command,
                env={**self._environment, **environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def check(self) -> None:
        """Check that all that was started still runs.

        Raises:
            TrainingError: something has ended; says what it wrote last.
        """
        for name, process in self._running.items():
            if process.poll() is not None:
                raise TrainingError(f"{name} ended with exit code {process.returncode}: {self.last_words(name)}")

    def last_words(self, name: str) -> str:
        text = COLOURS.sub("", self._log(name).read_text(encoding="utf-8", errors="replace"))
        lines = [line.strip() for line in text.splitlines()]
        told = [line for line in lines if line and not line.startswith("INFO")]
        return " ".join(told[-LAST_LINES:]) or "it wrote nothing"

    def call(self, command: Sequence[str], environment: Mapping[str, str], seconds: float = 120.0) -> tuple[int, str]:
        """Exit code and output of a process that ends by itself.

        Raises:
            TrainingError: it does not.
        """
        process = self.follow(command, environment)
        try:
            output, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise TrainingError(f"{' '.join(command[:3])} did not end within {seconds:g} seconds") from None
        return process.returncode, output.decode(errors="replace")

    def follow(self, command: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
        """A process whose output can be read while it runs."""
        return subprocess.Popen(
            command,
            env={**self._environment, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def _log(self, name: str) -> Path:
        return self.folder / f"{name.replace(' ', '-')}.log"
