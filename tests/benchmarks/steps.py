"""Time the steps of a LANDER run beside the same work in loops written the usual way, turn by turn in one process.

    python tests/benchmarks/steps.py [--repeats 7] [--batch 16] [--net resnet18]

Printed: median processor seconds of a step (one thread), and the median of the ratios of pairs. The loops, and what
"the usual way" means, are in tests/support/step_workloads.py; both are in fp32 and NCHW, the ratios of bf16 too.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from step_workloads import (
    STEPS,
    Place,
    Steps,
    bare_client_loop,
    client_step,
    of_form,
    synthesis_step,
    usual_synthesis_loop,
)

from fcil.federation.settings import settled
from fcil.nets import NetSettings


def pairs(ours: list[Steps], usual: Steps, repeats: int) -> tuple[list[float], float, list[float]]:
    """Median seconds of a step of each of ours and of the usual loop, and the median ratios, over interleaved turns."""
    for take in (*ours, usual):
        take()
    rows = []
    for _ in range(repeats):
        row = []
        for take in (*ours, usual):
            began = time.process_time()
            take()
            row.append((time.process_time() - began) / STEPS)
        rows.append(row)
    medians = [statistics.median(column) for column in zip(*rows, strict=True)]
    ratios = [statistics.median(row[i] / row[-1] for row in rows) for i in range(len(ours))]
    return medians[:-1], medians[-1], ratios


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--net", default="resnet18")
    asked = parser.parse_args()
    print(f"# torch {torch.__version__}, Python {platform.python_version()}, {platform.machine()}, one thread,")
    print(f"# {asked.net}, batches of {asked.batch}, {asked.repeats} interleaved turns of {STEPS} steps, CPU time")
    full = Place(batch=asked.batch, net=NetSettings(name=asked.net))
    forms = {
        "fp32": full,
        "fp32, channels last": of_form(full, "fp32", "channels_last"),
        "bf16": of_form(full, "bf16", "contiguous"),
        "bf16, channels last": of_form(full, "bf16", "channels_last"),
    }
    print("| work | form | ms a step | the usual loop, fp32 | ratio |\n|---|---|--:|--:|--:|")
    with settled(1), tempfile.TemporaryDirectory() as folder:
        for work, make, usual in (
            ("LANDER's client, task 2", client_step, bare_client_loop(full)),
            ("NAYER, one step each of generator and student", synthesis_step, usual_synthesis_loop(full, Path(folder))),
        ):
            ours, theirs, ratios = pairs([make(place) for place in forms.values()], usual, asked.repeats)
            for form, seconds, ratio in zip(forms, ours, ratios, strict=True):
                print(f"| {work} | {form} | {1000 * seconds:.0f} | {1000 * theirs:.0f} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
