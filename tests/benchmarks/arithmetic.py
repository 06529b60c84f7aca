"""Say how much of a run in one process is matrix products and convolutions, at the rate of a matrix product here.

    python tests/benchmarks/arithmetic.py experiments/quickstart.yaml federation.rounds=3

The experiment is played twice in this process, without figures: once timed, once with every product and convolution
counted (`torch.utils.flop_counter`). Printed: processor seconds of the run, floating-point operations, the rate
of a product of 1,024 x 1,024 matrices of fp32 on one thread, and the seconds that the operations would take at it:
the floor of any program that does the same arithmetic.
"""

from __future__ import annotations

import io
import sys
import tempfile
import time

import torch
from checkouts import without_figures
from idle_round import processor
from rich.console import Console
from torch.utils.flop_counter import FlopCounterMode

import fcil

SIDE = 1024


def rate() -> float:
    """Floating-point operations a second of a matrix product: the median of eleven."""
    a, b, seconds = torch.randn(SIDE, SIDE), torch.randn(SIDE, SIDE), []
    for _ in range(11):
        began = time.process_time()
        a @ b
        seconds.append(time.process_time() - began)
    return 2 * SIDE**3 / sorted(seconds)[5]


def play(*settings: str) -> float:
    """Processor seconds of the run."""
    with tempfile.TemporaryDirectory() as out:
        began = time.process_time()
        fcil.run(*settings, "federation.backend=inprocess", "resources.device=cpu", out=out, console=quiet())
        return time.process_time() - began


def quiet() -> Console:
    return Console(file=io.StringIO())


def main() -> None:
    torch.set_num_threads(1)
    without_figures()
    before, seconds = rate(), play(*sys.argv[1:])
    with FlopCounterMode(display=False) as counted:
        play(*sys.argv[1:])
    fast, operations = max(before, rate()), counted.get_total_flops()
    print(f"command: python {' '.join(sys.argv)}")
    print(f"machine: {processor()}, one thread, torch {torch.__version__}")
    print(f"run: {seconds:.1f} processor seconds; {operations / 1e9:.0f} GFLOP in products and convolutions")
    print(f"a product of {SIDE} x {SIDE} matrices: {fast / 1e9:.0f} GFLOP/s")
    print(f"floor: {operations / fast:.1f} s, {operations / fast / seconds:.2f} of the run")


if __name__ == "__main__":
    main()
