"""Compare the processor time of runs of small nets in two checkouts, turn by turn in one session.

    python tests/benchmarks/small_runs.py PATH/TO/OTHER/CHECKOUT [--pairs 5] [--rounds 3] [--tasks 2] [--only replay]

The quick start and each strategy of `experiments/strategies_digits.yaml` in its first form, in process, with few rounds
and tasks; `--rounds 10 --tasks 5` are those of the file. A process for each checkout plays the same runs in
turn, and the order of a pair alternates; figures are not drawn. The clock is that of the process, so that others who
work on the machine count less. Printed for each: the median processor seconds of both, the median of the ratios of
pairs (this checkout divided by the other), and whether `accuracy.csv` and the weights of every round are equal; last
the sums over all runs. Exit code 1 if any are not.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import yaml
from checkouts import Player

HERE = Path(__file__).parents[2]


def experiments(folder: Path, rounds: int, tasks: int) -> dict[str, Path]:
    """Files of the runs by name, written into a folder."""
    paths = {}
    start, digits = (
        yaml.safe_load(Path(HERE, "experiments", f"{name}.yaml").read_text(encoding="utf-8"))
        for name in ("quickstart", "strategies_digits")
    )
    strategies = {
        (s if isinstance(s, str) else next(iter(s))): s for s in reversed(digits.pop("matrix")["strategy"])
    }  # the first form of each
    runs: dict[str, dict[str, Any]] = {"quickstart": start}
    runs |= {name: {**digits, "strategy": settings} for name, settings in strategies.items()}
    for name, settings in runs.items():
        few = {"rounds": rounds, "backend": "inprocess", "stop_after": tasks}
        settings = {**settings, "seeds": [0], "federation": {**settings["federation"], **few}}
        paths[name] = folder / f"{name}.yaml"
        paths[name].write_text(yaml.safe_dump({**settings, "resources": {"device": "cpu"}}), encoding="utf-8")
    return paths


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
    unequal, sums = 0, [0.0, 0.0]
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = Player(HERE), Player(given.other.resolve())
        for name, source in experiments(Path(folder), given.rounds, given.tasks).items():
            if given.only and name not in given.only.split(","):
                continue
            pairs, equal = [], True
            for number in range(given.pairs):
                order = (ours, theirs) if number % 2 else (theirs, ours)
                played = {player: player.play(source) for player in order}
                equal &= all(played[ours][part] == played[theirs][part] for part in ("accuracies", "weights"))
                pairs.append((played[ours]["processor"], played[theirs]["processor"]))
            unequal += not equal
            here, there = (statistics.median(column) for column in zip(*pairs, strict=True))
            ratio = statistics.median(a / b for a, b in pairs)
            sums = [sums[0] + here, sums[1] + there]
            print(f"{name:<12}{here:>10.2f}{there:>10.2f}{ratio:>8.3f}  {'yes' if equal else 'NO'}", flush=True)
    print(f"{'all':<12}{sums[0]:>10.2f}{sums[1]:>10.2f}{sums[0] / max(sums[1], 1e-9):>8.3f}")
    return 1 if unequal else 0


if __name__ == "__main__":
    sys.exit(main())
