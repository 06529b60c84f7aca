"""Time a doubling and the convolution after it with their gradients, one after the other and in one, in turns.

    python tests/benchmarks/doubling.py [--turns 9]

One thread, fp32; a figure is the median over the turns of processor milliseconds, forward and backward.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fcil.nets.doubling import DoublingConv2d
from fcil.nets.series.generators import DoublingConv1d

# Inputs and channels of the outputs: of NAYER's generator at 32 and at 28 pixels, of FedCIL's at 28, of ours of series.
MAPS = (
    ((64, 128, 8, 8), 128, "NAYER, 32 pixels"),
    ((64, 128, 16, 16), 64, "NAYER, 32 pixels"),
    ((64, 64, 7, 7), 64, "NAYER, 28 pixels"),
    ((64, 64, 14, 14), 32, "NAYER, 28 pixels"),
    ((32, 128, 7, 7), 64, "FedCIL, 28 pixels"),
    ((32, 64, 14, 14), 32, "FedCIL, 28 pixels"),
)
SERIES = (((64, 64, 49), 64, 5), ((64, 64, 98), 32, 7), ((64, 32, 196), 32, 9))


def repeated(conv: nn.Conv1d | nn.Conv2d, x: Tensor) -> Tensor:
    twice = F.interpolate(x, scale_factor=2.0)
    return (F.conv1d if x.dim() == 3 else F.conv2d)(twice, conv.weight, conv.bias, padding=conv.kernel_size[0] // 2)


def row(turns: int, name: str, conv: nn.Conv1d | nn.Conv2d, shape: tuple[int, ...]) -> str:
    x = torch.randn(*shape, requires_grad=True)
    spent: list[list[float]] = [[], []]
    for turn in range(turns + 1):
        for times, of in zip(spent, (repeated, type(conv).__call__), strict=True):
            x.grad, conv.weight.grad, begun = None, None, time.process_time()
            of(conv, x).square().sum().backward()
            if turn:
                times.append(1e3 * (time.process_time() - begun))
    apart, one = map(statistics.median, spent)
    size = " x ".join(map(str, shape))
    return f"| {name} | {size} to {conv.out_channels} | {apart:.1f} | {one:.1f} | {apart / one:.1f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=9)
    turns = parser.parse_args().turns
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, {turns} turns\n")
    print("| generator | input, channels | repeated, then convolved | in one | ratio |\n|---|---|--:|--:|--:|")
    for shape, outputs, name in MAPS:
        print(row(turns, name, DoublingConv2d(shape[1], outputs, bias=False), shape), flush=True)
    for shape, outputs, kernel in SERIES:
        print(row(turns, f"series, kernel {kernel}", DoublingConv1d(shape[1], outputs, kernel), shape), flush=True)


if __name__ == "__main__":
    main()
