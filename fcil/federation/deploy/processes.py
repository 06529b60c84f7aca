"""Processes that are started together and end together, however the one that started them ends.

Flower's commands start further processes, some in sessions of their own, and so does Ray. All of them
inherit a mark in their environment. By it they are found again, even those whose parents are gone.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from uuid import uuid4

import psutil

from fcil.errors import TrainingError

MARK = "FCIL_TOGETHER"
"""The variable of the environment that holds the mark."""
LAST_LINES = 5
"""Of what a process wrote before it ended unasked, as they are told."""
COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class Processes:
    """A context that ends what was started in it. A watcher does so if this process cannot, because it was killed.

    Args:
        folder: for what the processes write; the watcher removes it.
        environment: what all of them see besides this process's own.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.folder, self.mark = folder, uuid4().hex
        self._environment = {**os.environ, **environment, MARK: self.mark}
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._watcher: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Processes:
        # A session of its own: a signal from the terminal is for this process.
        command = [sys.executable, "-m", __name__, self.mark, str(self.folder)]
        self._watcher = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        end(self.mark)
        for process in self._running.values():
            process.wait()
        if self._watcher is not None:
            self._watcher.communicate(b"done")

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
        """See that all that was started still runs.

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


def marked(mark: str) -> list[psutil.Process]:
    """The processes that carry a mark."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):  # of another user, or gone
            if _carries(process, mark):
                found.append(process)
    return found


def _carries(process: psutil.Process, mark: str) -> bool:
    # Ray's processes write their titles over the beginning of their environment, where psutil then stops reading.
    raw = Path(f"/proc/{process.pid}/environ")
    return mark.encode() in raw.read_bytes() if raw.exists() else process.environ().get(MARK) == mark


def end(mark: str, seconds: float = 30.0) -> None:
    """End the processes that carry a mark, and those that they start meanwhile."""
    deadline = time.monotonic() + seconds
    while (left := marked(mark)) and time.monotonic() < deadline:
        for process in left:
            with contextlib.suppress(psutil.Error):  # psutil compares start times: a number used again is not the same
                process.kill()
        psutil.wait_procs(left, timeout=0.2)


def watch(mark: str, folder: str) -> None:
    """Wait until the pipe to the one who started the processes closes, and end those it could not."""
    if sys.stdin.buffer.read(4) != b"done":
        end(mark)
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    watch(sys.argv[1], sys.argv[2])
