"""Steps and images a second of a LANDER run on a device, and its share of the rate of a plain matrix product there.

    python tests/gpu/bench.py [--device cuda:0] [--batch 128] [--net resnet18] [--seconds 5]

Client step (task 2: real and synthetic images and the old net's pass), synthesis step (NAYER: one of the generator, one
of the student) and evaluation, in fp32 and bf16, contiguous and channels last. The share is arithmetic done (as torch's
flop counter has it) by the rate of a square matrix product in the same precision, measured here.
`--device cpu` tries the program where there is no GPU.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from pathlib import Path
from typing import Literal

import torch
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from step_workloads import STEPS, Place, Steps, client_step, evaluation, of_form, synthesis_step

from fcil.federation.settings import settled
from fcil.nets import NetSettings
from fcil.nets.net import MemoryFormat

PRECISIONS: tuple[Literal["fp32", "bf16"], ...] = ("fp32", "bf16")
LAYOUTS: tuple[MemoryFormat, ...] = ("contiguous", "channels_last")


def waited(device: torch.device) -> float:
    """The time, once the device has nothing left to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def rate(take: Steps, device: torch.device, seconds: float) -> float:
    """Calls a second, over at least so many seconds, after two that are not counted."""
    take(), take()
    calls, began = 0, waited(device)
    while (now := waited(device)) < began + seconds or not calls:
        take()
        calls += 1
    return calls / (now - began)


def product_rate(device: torch.device, precision: str, seconds: float) -> float:
    """Floating-point operations a second of a square matrix product."""
    side = 8192 if device.type == "cuda" else 1024
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    one, other = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    return rate(lambda: one @ other, device, seconds) * 2 * side**3


def operations(take: Steps) -> float:
    with FlopCounterMode(display=False) as counter:
        take()
    return float(counter.get_total_flops())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--net", default="resnet18")
    parser.add_argument("--seconds", type=float, default=5.0)
    asked = parser.parse_args()
    device = torch.device(asked.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        sys.exit("bench.py: PyTorch sees no GPU here; --device cpu tries the program")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    print(f"# {name}, torch {torch.__version__}, {asked.net}, batches of {asked.batch}")
    print("| work | precision | memory format | steps/s | images/s | TFLOP/s | share of a matrix product |")
    print("|---|---|---|--:|--:|--:|--:|")
    place = Place(device=device, batch=asked.batch, net=NetSettings(name=asked.net))
    works = {name: (make, asked.batch) for name, make in {"client": client_step, "synthesis": synthesis_step}.items()}
    works["evaluation"] = (evaluation, 256)
    with settled(1):
        for precision in PRECISIONS:
            most = product_rate(device, precision, asked.seconds)
            for layout in LAYOUTS:
                here = of_form(place, precision, layout)
                for work, (make, images) in works.items():
                    take = make(here)
                    steps, done = rate(take, device, asked.seconds) * STEPS, operations(take) / STEPS
                    row = f"{steps:.2f} | {steps * images:.0f} | {steps * done / 1e12:.3f} | {steps * done / most:.0%}"
                    print(f"| {work} | {precision} | {layout} | {row} |", flush=True)


if __name__ == "__main__":
    main()
