"""What a step of synthesis costs for an image of 224 pixels: MUSE at 112 beside NAYER at 224.

    python tests/benchmarks/muse_cost.py [--batch 4] [--steps 2] [--repeats 5] [--device cpu]

A resnet18 with random weights is the teacher, another the student. Both methods run an inner loop of the same
length with all of their terms, in turns, each in a process of its own, so that each has its own peak of memory.
Reported are the medians over the repeats and the ratio; the aim is a ratio of at most 0.35. On a CPU the clock is
that of the process, so that others who work on the machine do not count.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import sys
import time
from multiprocessing.connection import Connection
from statistics import median
from typing import Any

import torch

from fcil.data import Augment
from fcil.nets import NetSettings, build_net, frozen
from fcil.rng import generator
from fcil.synthesis import SynthesisProblem, create
from fcil.synthesis.nayer import ALONE

CLASSES, WIDTH, SIDE = 10, 512, 224
METHODS = {"nayer at 224": "nayer", "muse at 112": "muse"}
AIM = 0.35


def problem_on(device: torch.device) -> SynthesisProblem:
    settings = NetSettings(name="resnet18")
    teacher, student = (
        build_net(settings, shape=(3, SIDE, SIDE), num_classes=CLASSES, text_width=None, key=(name,)).to(device)
        for name in ("teacher", "student")
    )
    return SynthesisProblem(
        teacher=frozen(teacher),
        labels=tuple(range(CLASSES)),
        shape=(3, SIDE, SIDE),
        anchors=torch.randn(CLASSES, WIDTH, generator=generator("anchors")).to(device),
        bound=None,
        mean=torch.full((3,), 0.5, device=device),
        std=torch.full((3,), 0.25, device=device),
        augment=Augment(padding=4, flip=True),
        key=("cost",),
        student=frozen(student),
    )


def worker(pipe: Connection, name: str, batch: int, steps: int, device: str, threads: int) -> None:
    """Runs an inner loop whenever it is asked to; answers with seconds for an image and step, and bytes at most."""
    torch.set_num_threads(threads)
    where = torch.device(device)
    constants: dict[str, Any] = {k: v for k, v in ALONE.items() if k not in ("batch_size", "steps", "samples")}
    own = {"sizes": [112]} if name == "muse" else {}
    method: Any = create(name, **constants, **own, batch_size=batch, steps=steps)
    problem = method.checked(problem_on(where))
    chain, rng = method.start(problem, 0), generator("cost", device=where)
    if name == "muse":
        chain.beyond.told = torch.zeros((), device=where)  # as if P had learnt, so that its term is there
    clock = time.perf_counter if where.type == "cuda" else time.process_time
    while pipe.recv():
        labels = method.requested(problem, rng)
        chain.generator.redraw(rng)
        wait(where)
        begin = clock()
        method.optimise(problem, chain, labels, adversarial=True, rng=rng)
        wait(where)
        pipe.send(((clock() - begin) / steps / batch, peak(where)))


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak(device: torch.device) -> int:
    """Bytes at most: of the GPU's memory, or of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def measure(batch: int, steps: int, repeats: int, device: str, threads: int) -> dict[str, tuple[float, int]]:
    """Median seconds for an image and step, and bytes at most, of each method; the first turn of each warms up."""
    context = multiprocessing.get_context("spawn")
    pipes: dict[str, Connection] = {}
    processes = []
    for label, name in METHODS.items():
        pipes[label], theirs = context.Pipe()
        processes.append(context.Process(target=worker, args=(theirs, name, batch, steps, device, threads)))
        processes[-1].start()
        theirs.close()
    seconds: dict[str, list[float]] = {label: [] for label in METHODS}
    memory = dict.fromkeys(METHODS, 0)
    for turn in range(repeats + 1):
        for label, pipe in pipes.items():
            pipe.send(True)
            taken, memory[label] = pipe.recv()
            if turn:
                seconds[label].append(taken)
    for pipe, process in zip(pipes.values(), processes, strict=True):
        pipe.send(False)
        process.join()
    return {label: (median(seconds[label]), memory[label]) for label in METHODS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    found = measure(options.batch, options.steps, options.repeats, options.device, options.threads)
    print(f"{options.batch} images, {options.steps} steps, median of {options.repeats} turns, {options.device}")
    print(f"{'method':<14}{'ms per image and step':>24}{'peak MiB':>12}")
    for label, (seconds, memory) in found.items():
        print(f"{label:<14}{1000 * seconds:>24.2f}{memory / 2**20:>12.0f}")
    whole, ours = (found[label] for label in METHODS)
    print(f"ratio of cost {ours[0] / whole[0]:.3f} (aim: at most {AIM}), of peak memory {ours[1] / whole[1]:.3f}")


if __name__ == "__main__":
    main()
