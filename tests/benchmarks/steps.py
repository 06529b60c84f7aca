"""Time the steps of a LANDER run beside the same work in loops written the usual way, turn by turn in one process.

    python tests/benchmarks/steps.py [--repeats 7] [--batch 16] [--net resnet18] [--precision fp32] [--work client]

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
    WholeLANDER,
    bare_client_loop,
    client_step,
    of_form,
    synthesis_step,
    usual_synthesis_loop,
)

from fcil.federation.settings import settled
from fcil.nets import NetSettings


def pairs(ours: list[Steps], usual: Steps, repeats: int) -> tuple[list[float], list[float], list[list[float]]]:
    """Median seconds of a step of each of ours and of the usual loop, and the ratios of all interleaved turns.

    The turns go forth and back, since what runs before tells on a step.
    """
    every = [*ours, usual]
    for take in every:
        take()
    rows = []
    for turn in range(repeats):
        row = [0.0] * len(every)
        for i in range(len(every)) if turn % 2 else reversed(range(len(every))):
            began = time.process_time()
            every[i]()
            row[i] = (time.process_time() - began) / STEPS
        rows.append(row)
    medians = [statistics.median(column) for column in zip(*rows, strict=True)]
    ratios = [[row[i] / row[-1] for row in rows] for i in range(len(ours))]
    return medians[:-1], [medians[-1]] * len(ours), ratios


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--net", default="resnet18")
    parser.add_argument("--precision", choices=["fp32", "bf16"], help="forms in this arithmetic alone")
    parser.add_argument("--work", choices=["client", "synthesis"], help="this one alone")
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
    forms = {form: place for form, place in forms.items() if form.startswith(asked.precision or "")}
    print("| work | form | ms a step | the usual loop, fp32 | ratio | least to most |\n|---|---|--:|--:|--:|--:|")
    with settled(1), tempfile.TemporaryDirectory() as folder:
        if asked.work != "synthesis":
            ours = {form: client_step(place) for form, place in forms.items()}
            if "fp32" in forms:
                ours["fp32, one backward pass"] = client_step(full, WholeLANDER())
            show("LANDER's client, task 2", ours, bare_client_loop(full), asked.repeats)
        if asked.work != "client":
            ours = {form: synthesis_step(place) for form, place in forms.items()}
            usual = usual_synthesis_loop(full, Path(folder))
            show("NAYER, one step each of generator and student", ours, usual, asked.repeats)


def show(work: str, ours: dict[str, Steps], usual: Steps, repeats: int) -> None:
    for form, seconds, theirs, ratios in zip(ours, *pairs(list(ours.values()), usual, repeats), strict=True):
        middle, spread = statistics.median(ratios), f"{min(ratios):.2f} to {max(ratios):.2f}"
        print(f"| {work} | {form} | {1000 * seconds:.0f} | {1000 * theirs:.0f} | {middle:.2f} | {spread} |", flush=True)


if __name__ == "__main__":
    main()
