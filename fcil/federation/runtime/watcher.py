"""Ends the processes that a process has started, however that process itself ends.

Ray's daemons and Flower's commands start further processes, some in sessions of their own, and outlive a process that
is killed. All of them inherit a mark in their environment, by which they are found again, even those whose parents are
gone. A watcher is a small process beside the one that started them: when the pipe between the two closes, whatever the
reason, it kills every process that carries the mark.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from uuid import uuid4

import psutil

MARK = "FCIL_TOGETHER"
"""The variable of the environment that holds the marks of a process, of the outermost watcher first."""
PAUSE = 0.2
"""Seconds between two looks for processes that are left."""


class Watcher:
    """A mark for processes, and the process that ends them if this one cannot, because it was killed.

    Args:
        folder: of theirs, which the watcher removes then.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.mark = uuid4().hex
        self.environment = {MARK: ",".join(filter(None, (os.environ.get(MARK), self.mark)))}
        """Environment variables to start the processes with."""
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        # A session of its own: a signal from the terminal is for this process.
        command = [sys.executable, "-m", __name__, self.mark, *([str(self._folder)] if self._folder else [])]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)

    def dismiss(self) -> None:
        """End the watcher: this process has ended the others itself."""
        if self._process is not None:
            with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                self._process.communicate(b"done", timeout=10)


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
    return mark.encode() in raw.read_bytes() if raw.exists() else mark in process.environ().get(MARK, "")


def end(mark: str, seconds: float = 30.0) -> None:
    """End the processes that carry a mark, and those that they start meanwhile."""
    deadline = time.monotonic() + seconds
    while (left := marked(mark)) and time.monotonic() < deadline:
        for process in left:
            with contextlib.suppress(psutil.Error):  # psutil compares start times: a number used again is not the same
                process.kill()
        psutil.wait_procs(left, timeout=PAUSE)


def watch(mark: str, folder: str | None = None) -> None:
    """Wait until the pipe to the process that started the others closes, and end those it did not."""
    if sys.stdin.buffer.read(4) == b"done":
        return
    for _ in range(2):  # again: a process has no environment for a moment while it starts
        end(mark)
        time.sleep(PAUSE)
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    watch(*sys.argv[1:])
