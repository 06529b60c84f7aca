"""Compare a round of FedAvg with the same round in pfl's simulation, turn by turn in one session.

    python -m venv PFL && PFL/bin/pip install "pfl[pytorch]==0.6.0" psutil
    python tests/benchmarks/beside_pfl.py PFL/bin/python [--clients 50] [--rounds 4] [--repeats 7] [--other CHECKOUT]
                                          [--together 10 50]

Fifty clients take five steps of SGD on ten images each, in one process and one thread, with a net of 1.7 million and
one of 27 thousand weights. pfl's images are normalised beforehand and taken in the same order in every round; ours
are bytes, shuffled and normalised for each batch. Printed: the median processor seconds and seconds of a round, and the
median ratio of processor time of a turn to pfl's next to it. `--together` adds rounds of ours with so many clients to a
vectorised call (`federation.clients_per_call`).
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
from importlib.metadata import version
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

from idle_round import HERE, Player, Turn, processor
from idx_files import idx, laid

WIDTHS = {48: "1.7 M", 6: "27 k"}
PFL = "import sys, pfl_rounds; pfl_rounds.play(*map(int, sys.argv[1:]))"
OURS = """
import io, sys
from rich.console import Console
import fcil
from turns import round_begins
sample = fcil.Strategy.sample
def waiting(self, server, count):
    round_begins()
    return sample(self, server, count)
fcil.Strategy.sample = waiting
try:
    fcil.run(sys.argv[1], out=sys.argv[2], console=Console(file=io.StringIO()))
except EOFError:
    pass
"""


def images(folder: Path, clients: int) -> None:
    """Write fifty images for each client as MNIST's files."""
    rng = np.random.default_rng(0)
    files = {}
    for part, count in (("train", 50 * clients), ("t10k", 100)):
        files[f"{part}-images-idx3-ubyte"] = idx(rng.integers(0, 256, (count, 28, 28), dtype=np.uint8))
        files[f"{part}-labels-idx1-ubyte"] = idx((np.arange(count) % 10).astype(np.uint8))
    laid(folder, files)


def experiment(folder: Path, width: int, clients: int, rounds: int, together: int = 1) -> Path:
    """Write the experiment that plays the rounds of pfl, with so many clients to a call."""
    federation = {"clients": clients, "rounds": rounds, "local_epochs": 1, "batch_size": 10, "backend": "inprocess"}
    if together > 1:
        federation["clients_per_call"] = together
    settings = {
        "name": "beside-pfl",
        "data": {"dataset": "mnist", "root": str(folder), "tasks": 1, "partition": "iid", "augment": False},
        "federation": federation | {"evaluate_every": 0, "checkpoint_every": 0},
        "optimizer": {"lr": 0.01, "momentum": 0, "weight_decay": 0, "schedule": "constant"},
        "net": {"name": "cnn", "width": width, "norm": "none"},
        "strategy": "finetune",
        "resources": {"device": "cpu"},
    }
    path = folder / f"{width}-{together}.yaml"
    path.write_text(json.dumps(settings), encoding="utf-8")
    return path


def turns(given: argparse.Namespace, width: int) -> dict[str, list[Turn]]:
    """Turns of each player, taken one after the other."""
    rounds = given.rounds * (given.repeats + 1) + 1
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images(folder, given.clients)
        source = experiment(folder, width, given.clients, rounds)
        checkouts = {"ours": HERE.parents[1]} | ({"other": given.other.resolve()} if given.other else {})
        players = [Player(who, checkout, OURS, source, folder / who) for who, checkout in checkouts.items()]
        for count in given.together:
            together = experiment(folder, width, given.clients, rounds, count)
            players.append(Player(f"ours, {count}", HERE.parents[1], OURS, together, folder / f"ours-{count}"))
        # Round 0 of pfl has no turn: it evaluates once, before and after training.
        players.append(Player("pfl", folder, PFL, width, given.clients, rounds + 1, python=given.python))
        try:
            taken: dict[str, list[Turn]] = {player.name: [] for player in players}
            for repeat in range(given.repeats + 1):
                for player in players if repeat % 2 else reversed(players):
                    turn = player.play(given.rounds)
                    if repeat:  # the first turn warms up
                        taken[player.name].append(turn)
        finally:
            for player in players:
                player.end()
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("python", help="a Python that has pfl, torch and psutil")
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=4, help="rounds of a turn")
    parser.add_argument("--repeats", type=int, default=7, help="turns of each")
    parser.add_argument("--other", type=Path, help="another checkout, to play the same rounds")
    parser.add_argument("--together", type=int, nargs="*", default=[], help="clients to a vectorised call")
    given = parser.parse_args()
    asked = "from importlib.metadata import version as v; print(v('pfl'), 'and torch', v('torch'))"
    pfl = subprocess.run([given.python, "-c", asked], capture_output=True, text=True, check=True).stdout.strip()
    print(f"command: python {' '.join(sys.argv)}")
    print(f"machine: {os.cpu_count()} cores, {processor()}; load {os.getloadavg()[0]:.1f}")
    print(f"versions: Python {platform.python_version()}, torch {version('torch')}; pfl {pfl}")
    print(f"{given.clients} clients of 50 images, batch 10; {given.repeats} turns of {given.rounds} rounds")
    print(f"{'weights':<10}{'':<10}{'cpu s':>10}{'wall s':>10}{'cpu/pfl':>10}", flush=True)
    for width, weights in WIDTHS.items():
        taken = turns(given, width)
        for name, mine in taken.items():
            walls, cpus = (statistics.median(column) for column in zip(*mine, strict=True))
            pairs = zip(mine, taken["pfl"], strict=True)
            ratio = statistics.median(turn.processor / theirs.processor for turn, theirs in pairs)
            print(f"{weights:<10}{name:<10}{cpus:>10.3f}{walls:>10.3f}{ratio:>10.3f}", flush=True)


if __name__ == "__main__":
    main()
