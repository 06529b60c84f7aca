"""Compare the processor time of runs of small nets in two checkouts, turn by turn in one session.

    python tests/benchmarks/small_runs.py PATH/TO/OTHER/CHECKOUT [--pairs 5] [--rounds 3] [--tasks 2] [--only replay]

The quick start and strategies of `experiments/strategies_digits.yaml`, in process, with few rounds and tasks. A process
for each checkout plays the same runs in turn, and the order of a pair alternates; figures are not drawn. The
clock is that of the process, so that others who work on the machine count less. Printed for each: the median processor
seconds of both, the median of the ratios of pairs (this checkout divided by the other), and whether `accuracy.csv` and
the weights of every round are equal. Exit code 1 if any are not.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import yaml

HERE = Path(__file__).parents[2]
STRATEGIES = ("lander", "target", "mfcl", "replay", "glfc", "fedgen")
PLAYER = """
import importlib, io, json, sys, tempfile, time
from pathlib import Path
from rich.console import Console
import fcil
for home in ("fcil.experiment", "fcil.runs.completion"):  # figures cost the same whatever a step does
    try:
        module = importlib.import_module(home)
    except ImportError:
        continue
    for name in ("draw_run", "draw_comparison", "draw_missing", "draw_missing_comparison"):
        if hasattr(module, name):
            setattr(module, name, lambda *a, **k: [])
for line in sys.stdin:
    with tempfile.TemporaryDirectory() as out:
        begin = time.process_time()
        runs = fcil.run(line.strip(), out=out, console=Console(file=io.StringIO()))
        seconds = time.process_time() - begin
        accuracies = [path.read_text() for path in sorted(Path(out).rglob("accuracy.csv"))]
        assert accuracies and runs[0].rounds
        print(json.dumps([seconds, accuracies, [r["weights"] for r in runs[0].rounds]]), flush=True)
"""


def experiments(folder: Path, rounds: int, tasks: int) -> dict[str, Path]:
    """Files of the runs by name, written into a folder."""
    paths = {}
    start, digits = (
        yaml.safe_load(Path(HERE, "experiments", f"{name}.yaml").read_text(encoding="utf-8"))
        for name in ("quickstart", "strategies_digits")
    )
    strategies = {(s if isinstance(s, str) else next(iter(s))): s for s in digits.pop("matrix")["strategy"]}
    runs: dict[str, dict[str, Any]] = {"quickstart": start}
    runs |= {name: {**digits, "strategy": strategies[name]} for name in STRATEGIES}
    for name, settings in runs.items():
        few = {"rounds": rounds, "backend": "inprocess", "stop_after": tasks}
        settings = {**settings, "seeds": [0], "federation": {**settings["federation"], **few}}
        paths[name] = folder / f"{name}.yaml"
        paths[name].write_text(yaml.safe_dump({**settings, "resources": {"device": "cpu"}}), encoding="utf-8")
    return paths


class Player:
    """A process that plays runs with the code of one checkout."""

    def __init__(self, checkout: Path) -> None:
        environment = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", PLAYER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=checkout,
        )

    def play(self, source: Path) -> tuple[float, list[str], list[str]]:
        """Processor seconds of a run, its `accuracy.csv`, and a digest of the weights after every round."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{source}\n")
        self.process.stdin.flush()
        seconds, accuracies, weights = json.loads(self.process.stdout.readline())
        return seconds, accuracies, weights


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("other", type=Path)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tasks", type=int, default=2)
    parser.add_argument("--only", default="", help="names of runs, with commas between; all if empty")
    given = parser.parse_args()
    print(
        f"torch {torch.__version__}, Python {platform.python_version()}, {platform.machine()}, {os.cpu_count()} cores"
    )
    print(f"{given.pairs} pairs, {given.tasks} tasks of {given.rounds} rounds, medians")
    print(f"{'run':<12}{'this, s':>10}{'other, s':>10}{'ratio':>8}  equal", flush=True)
    unequal = 0
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = Player(HERE), Player(given.other.resolve())
        for name, source in experiments(Path(folder), given.rounds, given.tasks).items():
            if given.only and name not in given.only.split(","):
                continue
            pairs, equal = [], True
            for number in range(given.pairs):
                order = (ours, theirs) if number % 2 else (theirs, ours)
                played = {player: player.play(source) for player in order}
                equal &= played[ours][1:] == played[theirs][1:]
                pairs.append((played[ours][0], played[theirs][0]))
            unequal += not equal
            here, there = (statistics.median(column) for column in zip(*pairs, strict=True))
            ratio = statistics.median(a / b for a, b in pairs)
            print(f"{name:<12}{here:>10.2f}{there:>10.2f}{ratio:>8.3f}  {'yes' if equal else 'NO'}", flush=True)
    return 1 if unequal else 0


if __name__ == "__main__":
    sys.exit(main())
