"""Compare a round of `beside_pfl.py` with its steps alone in a bare loop, turn by turn: the floor under a round.

    python tests/benchmarks/bare_rounds.py [--clients 50] [--rounds 4] [--repeats 5]

The bare loop takes as many steps on one batch: zero_grad, forward, cross-entropy, backward, fused SGD. Nothing is
loaded, sent, averaged or checked. Printed: median processor seconds of a round of both, and the median of the ratios.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import torch
import torch.nn.functional as F
from beside_pfl import OURS, WIDTHS, experiment, images
from idle_round import HERE, Player, processor

from fcil.nets import NetSettings, build_net

STEPS = 5  # of a client


class Bare:
    """The steps of a round, and nothing else."""

    def __init__(self, width: int, clients: int) -> None:
        settings = NetSettings(name="cnn", width=width, norm="none")
        self.net = build_net(settings, shape=(1, 28, 28), num_classes=10, text_width=None, key=("net",))
        self.optimizer = torch.optim.SGD(self.net.parameters(), 0.01, fused=True)
        self.x, self.y, self.steps = torch.randn(10, 1, 28, 28), torch.arange(10), STEPS * clients

    def play(self, rounds: int) -> float:
        """Return processor seconds of a round."""
        began = time.process_time()
        for _ in range(rounds * self.steps):
            self.optimizer.zero_grad()
            F.cross_entropy(self.net(self.x).logits, self.y).backward()
            self.optimizer.step()
        return (time.process_time() - began) / rounds


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=4, help="rounds of a turn")
    parser.add_argument("--repeats", type=int, default=5, help="turns of each")
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(f"command: python {' '.join(sys.argv)}")
    print(
        f"machine: {processor()}, one thread, torch {version('torch')}; {given.repeats} turns of {given.rounds} rounds"
    )
    for width, weights in WIDTHS.items():
        with tempfile.TemporaryDirectory() as name:
            folder, rounds = Path(name), given.rounds * (given.repeats + 1) + 1
            images(folder, given.clients)
            source = experiment(folder, width, given.clients, rounds)
            player, bare = Player("ours", HERE.parents[1], OURS, source, folder / "ours"), Bare(width, given.clients)
            pairs = []
            try:
                for repeat in range(given.repeats + 1):
                    pair = bare.play(given.rounds), player.play(given.rounds).processor
                    if repeat:  # the first turn warms up
                        pairs.append(pair)
            finally:
                player.end()
        steps, whole = (statistics.median(column) for column in zip(*pairs, strict=True))
        ratios = sorted(a / b for a, b in pairs)
        spread = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        print(
            f"{weights} weights: steps alone {steps:.2f} s, a round {whole:.2f} s, steps / round {spread}", flush=True
        )


if __name__ == "__main__":
    main()
