"""Time InceptionTime's step with and without the faster gradients of its long kernels, in turns in one process.

    python tests/benchmarks/long_kernels.py [--turns 9]

One thread, fp32; a figure is the median over the turns of the processor seconds of forward and backward, in ms.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict

import torch

from fcil.nets.series import long_kernels
from fcil.nets.series.inception import InceptionTime

FROM = {"PyTorch's gradients": 10**9, "from 16 steps on": 16, "from 10 steps on": 10}
SHAPES = ((16, 131), (16, 427), (16, 1460))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=9)
    turns = parser.parse_args().turns
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, {turns} turns\n\n| series | " + " | ".join(FROM) + " |")
    print("|---|" + "--:|" * len(FROM))
    for shape in SHAPES:
        net, x = InceptionTime(1, 32, "batch"), torch.randn(shape[0], 1, shape[1])
        spent: dict[str, list[float]] = defaultdict(list)
        for turn in range(turns + 1):
            for name, steps in FROM.items():
                long_kernels.LONG, begun = steps, time.process_time()
                net(x).square().sum().backward()
                if turn:
                    spent[name].append(time.process_time() - begun)
        cells = (f"{1e3 * statistics.median(spent[name]):.0f}" for name in FROM)
        print(f"| {shape[0]} x {shape[1]} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
