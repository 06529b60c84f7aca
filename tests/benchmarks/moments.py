"""Time mean and variance of channels with their gradient, ours and `torch.var_mean`'s, in turns in one process.

    python tests/benchmarks/moments.py [--turns 9]

One thread, fp32; a figure is the median over the turns of processor milliseconds, forward and backward.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch import Tensor

from fcil.losses import moments

SHAPES = ((64, 64, 385), (64, 128, 131), (64, 64, 32, 32), (64, 256, 8, 8), (64, 512, 4, 4))


def one_pass(x: Tensor) -> tuple[Tensor, Tensor]:
    var, mean = torch.var_mean(x, dim=[0, *range(2, x.dim())], correction=0)
    return mean, var


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=9)
    turns = parser.parse_args().turns
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, {turns} turns\n\n| input | torch.var_mean | ours | ratio |\n|---|--:|--:|--:|")
    for shape in SHAPES:
        x = torch.randn(*shape, requires_grad=True)
        spent: list[list[float]] = [[], []]
        for turn in range(turns + 1):
            for times, of in zip(spent, (one_pass, moments), strict=True):
                x.grad, begun = None, time.process_time()
                mean, var = of(x)
                (var.sqrt().sum() + mean.square().sum()).backward()
                if turn:
                    times.append(1e3 * (time.process_time() - begun))
        theirs, ours = map(statistics.median, spent)
        print(f"| {' x '.join(map(str, shape))} | {theirs:.1f} | {ours:.1f} | {theirs / ours:.1f} |", flush=True)


if __name__ == "__main__":
    main()
