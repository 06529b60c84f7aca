"""Compare what a round costs in two checkouts, turn by turn in one session.

    python tests/benchmarks/round_cost.py PATH/TO/OTHER/CHECKOUT [--repeats 15] [--net resnet18]

Ten clients take one batch of two images each, so that nearly all of a round is the engine: sending,
checking, averaging, recording and saving. A process for each checkout plays the same runs in turn,
and the order of a pair alternates. Printed: the median seconds of a round in each, and the median
and the quartiles of the ratios of pairs (this checkout divided by the other).
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

from checkouts import Player

HERE = Path(__file__).parents[2]
ROUNDS = 12


def experiment(folder: Path, net: str, backend: str) -> Path:
    path = folder / "round.yaml"
    federation = {"clients": 10, "rounds": ROUNDS, "local_epochs": 1, "batch_size": 2, "max_batches": 1}
    federation |= {"backend": backend, "stop_after": 1, "evaluate_every": 0}
    settings = {"name": "round", "data": {"dataset": "digits", "tasks": 5}, "federation": federation}
    settings |= {"net": {"name": net}, "strategy": "finetune", "resources": {"device": "cpu"}}
    path.write_text(json.dumps(settings), encoding="utf-8")
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("other", type=Path)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--net", default="resnet18")
    parser.add_argument("--backend", default="inprocess")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source = experiment(Path(folder), given.net, given.backend)
        ours, theirs = Player(HERE), Player(given.other.resolve())
        pairs = []
        for number in range(given.repeats + 1):
            order = (ours, theirs) if number % 2 else (theirs, ours)
            played = {player: player.play(source) for player in order}
            if played[ours]["weights"] != played[theirs]["weights"]:
                print("the two end with different weights", file=sys.stderr)
            if number:  # the first pair warms up
                pairs.append(tuple(statistics.median(played[player]["rounds"][1:]) for player in (ours, theirs)))
    ratios = sorted(a / b for a, b in pairs)
    low, middle, high = statistics.quantiles(ratios, n=4)
    a, b = (statistics.median(column) for column in zip(*pairs, strict=True))
    print(f"{given.net}, {given.backend}, 10 clients, {len(pairs)} pairs of {ROUNDS - 1} rounds")
    print(f"this checkout {a * 1000:.1f} ms a round, the other {b * 1000:.1f} ms")
    print(f"ratio {middle:.3f}, quartiles {low:.3f} and {high:.3f}")


if __name__ == "__main__":
    main()
