"""Sees to it that a process which dies takes the processes it started along, however it dies.

Ray's daemons outlive a driver that is killed. A reaper is a small process beside the driver: it
notes the driver's descendants, and when the pipe between the two closes, because the driver ended
and whatever the reason, it kills those that are left, and removes the folder they had.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil

PATIENCE = 1.0
"""Seconds between two looks at which processes there are."""
LOOKS = 5
"""How often it looks for processes that are left when the driver has ended."""


class Reaper:
    """The driver's end of the pipe.

    Args:
        folder: of Ray, which is nobody's when the driver is dead.
    """

    def __init__(self, folder: Path | None = None) -> None:
        # A session of its own: a signal from the terminal is for the driver.
        command = [sys.executable, "-m", __name__, str(os.getpid()), *([str(folder)] if folder else [])]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)

    def dismiss(self) -> None:
        """The driver has seen to everything itself."""
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            self._process.communicate(b"done", timeout=10)


def watch(driver: int, closed: int, folder: Path | None = None) -> None:
    """Note Ray's processes among the descendants of a process until a pipe closes; then end those that are left."""
    known: dict[int, psutil.Process] = {}
    sessions: set[str] = set()
    while True:
        with contextlib.suppress(psutil.Error):
            for process in psutil.Process(driver).children(recursive=True):
                if process.pid not in known and _is_of_ray(process):
                    known[process.pid] = process
                    sessions |= _sessions(process)
        if select.select([closed], [], [], PATIENCE if known else 0.2)[0]:
            break
    if os.read(closed, 4) == b"done":
        return
    # Ray may be starting workers at this moment, which carry the name of their session.
    for _ in range(LOOKS):
        known |= {process.pid: process for process in psutil.process_iter() if sessions & _sessions(process)}
        for process in known.values():
            with contextlib.suppress(psutil.Error):  # compares start times: a number used again is not the same
                process.kill()
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        time.sleep(PATIENCE)


def _sessions(process: psutil.Process) -> set[str]:
    """Names of Ray sessions on the command line of a process."""
    with contextlib.suppress(psutil.Error):
        return set(re.findall(r"session_[\d_-]{20,}", " ".join(process.cmdline())))
    return set()


def _is_of_ray(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return process.pid != os.getpid() and any("ray" in word for word in process.cmdline()[:3])
    return False


if __name__ == "__main__":
    watch(int(sys.argv[1]), sys.stdin.fileno(), *map(Path, sys.argv[2:]))
