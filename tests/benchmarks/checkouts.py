"""A process that plays runs with the code of another checkout, told line by line which."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

FIGURES = ("draw_run", "draw_comparison", "draw_missing", "draw_missing_comparison")
PLAYER = """
import io, json, sys, tempfile, time
from pathlib import Path
from rich.console import Console
import fcil
from checkouts import without_figures
without_figures()
for line in sys.stdin:
    with tempfile.TemporaryDirectory() as out:
        begin = time.process_time()
        runs = fcil.run(line.strip(), out=out, console=Console(file=io.StringIO()))
        played = {
            "processor": time.process_time() - begin,
            "rounds": [sum(r["seconds"].values()) for r in runs[0].rounds],
            "weights": [r["weights"] for r in runs[0].rounds],
            "accuracies": [path.read_text() for path in sorted(Path(out).rglob("accuracy.csv"))],
        }
        assert played["rounds"] and played["accuracies"]
        print(json.dumps(played), flush=True)
"""


def without_figures() -> None:
    """Draw no figures in this process: they cost the same whatever a step does."""
    for home in ("fcil.experiment", "fcil.runs.completion"):
        with suppress(ImportError):
            module = import_module(home)
            for name in FIGURES:
                if hasattr(module, name):
                    setattr(module, name, lambda *_, **__: [])


class Player:
    """A process that plays runs with the code of one checkout, without figures."""

    def __init__(self, checkout: Path) -> None:
        environment = {**os.environ, "PYTHONPATH": f"{checkout}:{Path(__file__).parent}", "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", PLAYER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=checkout,  # which comes before the path
        )

    def play(self, source: Path) -> dict[str, Any]:
        """Play an experiment: processor seconds, seconds and weights of each round, and the text of `accuracy.csv`."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{source}\n")
        self.process.stdin.flush()
        played: dict[str, Any] = json.loads(self.process.stdout.readline())
        return played
