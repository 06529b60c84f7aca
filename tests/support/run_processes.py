"""Processes that run experiments, and a strategy that counts how often it is begun."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

COUNTS = '''"""Counts how often a run is begun, and waits where it is told to."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

from fcil import Strategy


@dataclass(frozen=True, kw_only=True)
class Counts(Strategy):
    place: str = ""
    waits: bool = False
    fails: str = ""

    def before_task(self, server):
        if server.task.number == 1:
            with open(f"{self.place}/begun", "a") as file:
                file.write(f"{self.fails} {server.seed} {os.getpid()}\\n")
            if self.fails == "raises":
                raise ValueError("no good")
            if self.fails == "dies":
                os._exit(1)
        while self.waits and not os.path.exists(f"{self.place}/go-on") and server.task.number == 2:
            Path(f"{self.place}/waits-{os.getpid()}").touch()
            time.sleep(0.02)
'''


def start(source: Path, out: Path, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "fcil", "run", str(source), "--out", str(out), *more]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=env)


def until(true: Callable[[], Any], *processes: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 200
    while not true():
        assert all(p.poll() is None for p in processes), [p.communicate()[0] for p in processes]
        assert time.monotonic() < deadline
        time.sleep(0.02)
