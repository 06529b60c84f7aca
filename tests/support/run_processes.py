"""Processes that run experiments, and a strategy that counts how often it is begun."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from fcil.__main__ import main
from fcil.runs import completion, play

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


class Forked:
    """`fcil ...` in a process of its own, forked from one that has imported everything, which takes five seconds.

    It draws no figures, which take longer than all the rest of a tiny run. What it says goes to two files.
    """

    def __init__(self, folder: Path, *arguments: object, env: dict[str, str] | None = None) -> None:
        self.said = Path(mkdtemp(dir=folder))
        words = ["fcil", *map(str, arguments)]
        self._process = FORKS.Process(target=_command, args=(words, {**os.environ, **(env or {})}, self.said))
        self._process.start()
        self.pid = self._process.pid

    def __enter__(self) -> Forked:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self.wait()

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> None:
        self._process.join(timeout)
        assert self.returncode is not None, f"still there after {timeout} seconds"

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """What it said to either stream, once it has ended."""
        self.wait(timeout)
        return (self.said / "out").read_text(), (self.said / "err").read_text()

    def send_signal(self, number: int) -> None:
        assert self.pid is not None
        os.kill(self.pid, number)

    def kill(self) -> None:
        self._process.kill()


FORKS = get_context("forkserver")
FORKS.set_forkserver_preload(
    ["fcil.cli", "fcil.runs.play", "fcil.federation.server", "sklearn.datasets", "torch._dynamo"]
)


def _command(words: list[str], env: dict[str, str], folder: Path) -> None:
    for stream, name in ((sys.stdout, "out"), (sys.stderr, "err")):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT), stream.fileno())
    sys.argv = words
    os.environ.clear()
    os.environ.update(env)
    play.draw_run = lambda path: []
    completion.draw_comparison = completion.draw_missing = completion.draw_missing_comparison = lambda *_: []
    main()


def start(source: Path, out: Path, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "fcil", "run", str(source), "--out", str(out), *more]
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def until(true: Callable[[], Any], *processes: subprocess.Popen[str] | Forked) -> None:
    deadline = time.monotonic() + 200
    while not true():
        assert all(p.poll() is None for p in processes), [p.communicate()[0] for p in processes]
        assert time.monotonic() < deadline
        time.sleep(0.02)
