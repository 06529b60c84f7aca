"""Makes small finished run folders, as a run would leave them, without training anything."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fcil.io.atomic import write_bytes
from fcil.metrics import AccuracyRow
from fcil.plots.grid import synthetic_grid
from fcil.plots.look.style import png
from fcil.store import RunFolder, RunRecorder
from fcil.store.environment import environment
from fcil.store.files import write_accuracy, write_details
from fcil.types import Task, Tensors

CLASSES = 2
"""New classes per task."""
EXAMPLES = 100
"""Test examples per task."""
LOSS = {"finetune": 0.30, "lander": 0.08}
"""What an old task loses with every further one."""


def make_config(strategy: str, seed: int, tasks: int = 3, clients: int = 4, **options: Any) -> dict[str, Any]:
    return {
        "name": "toy",
        "seed": seed,
        "data": {"dataset": "blobs", "tasks": tasks, "order": "natural", "partition": {"dirichlet": 0.5}},
        "federation": {"clients": clients, "fraction": 1.0, "rounds": 4, "backend": "inprocess"},
        "net": {"name": "convnet"},
        "strategy": {strategy: options},
        "resources": {"device": "cpu", "threads": 1},
    }


def make_tasks(tasks: int) -> list[Task]:
    names = tuple(f"class {c}" for c in range(tasks * CLASSES))
    return [Task(t, tasks, (t - 1) * CLASSES, CLASSES, names[: t * CLASSES]) for t in range(1, tasks + 1)]


def make_rows(strategy: str, seed: int, task: int) -> list[AccuracyRow]:
    """Tasks are learnt to about 0.9 and then lost at the strategy's pace."""
    rng = np.random.Generator(np.random.Philox((seed << 8) + task))
    lost = LOSS.get(strategy, 0.2)
    share = [0.9 - lost * (task - j) + rng.uniform(-0.04, 0.04) for j in range(1, task + 1)]
    return [AccuracyRow(task, j, int(EXAMPLES * min(max(a, 0), 1)), EXAMPLES) for j, a in enumerate(share, start=1)]


def make_record(task: int, round: int, clients: int = 4) -> dict[str, Any]:
    decay = 0.8**round
    terms = {"ce": 1.4 * decay + 0.1} | ({"kd": 0.5 * decay + 0.05, "bounding": 0.2 * decay} if task > 1 else {})
    return {
        "task": task,
        "round": round,
        "lr": 0.04,
        "clients": list(range(clients)),
        "failures": [],
        "terms": terms,
        "bytes_up": 1000 * clients,
        "bytes_down": 1200 * clients,
        "accuracy": (0.9 - 0.5 * decay) / task**0.3,
        "seconds": {"clients": 2.0, "aggregate": 0.5},
    }


def make_partition(tasks: int, clients: int, seed: int) -> dict[str, Any]:
    rng = np.random.Generator(np.random.Philox(seed))
    counts = np.zeros((tasks, clients, tasks * CLASSES), dtype=int)
    for t in range(tasks):
        for c in range(t * CLASSES, (t + 1) * CLASSES):
            counts[t, :, c] = rng.multinomial(50, rng.dirichlet([0.5] * clients))
    names = list(make_tasks(tasks)[-1].names)
    return {"dataset": "blobs", "seed": seed, "clients": clients, "class_names": names, "counts": counts.tolist()}


def make_pool(task: Task) -> Tensors:
    """Eight synthetic images of one colour, labelled by the classes seen."""
    x = torch.full((8, 3, 8, 8), 10 * task.number, dtype=torch.uint8)
    return {"x": x, "y": torch.arange(8) % task.num_seen}


@cache
def _picture(task: Task, names: tuple[str, ...]) -> bytes:
    """What a run draws of that pool; of all that a folder holds it takes longest, and it is the same in each."""
    pool = make_pool(task)
    return png(synthetic_grid(pool["x"].numpy(), pool["y"].numpy(), names))


@cache
def _environment() -> dict[str, Any]:
    """That of this process, once: git is asked seven times for it."""
    return environment(["cpu"], 1)


def make_run(
    out: Path, strategy: str = "lander", seed: int = 0, *, tasks: int = 3, variant: str = "0123abcd",
    rounds: int = 4, clients: int = 4, stop_after: int | None = None, smoke: bool = False, **options: Any,
) -> RunFolder:  # fmt: skip
    """A run folder below `out`; with `stop_after` it died after so many tasks, with `smoke` it is a smoke run."""
    config = make_config(strategy, seed, tasks, clients, **options)
    if smoke:
        tasks, rounds = min(tasks, 2), 1
        config["federation"] |= {"rounds": 1, "local_epochs": 1, "max_batches": 2, "stop_after": 2}
        config["name"] += "-smoke"
    folder = RunFolder(out / config["name"] / f"{strategy}-{variant}" / f"seed{seed}")
    folder.write_config(config)
    folder.write_strategy("# the strategy's file\n")
    folder.write_partition(make_partition(tasks, clients, seed))
    folder.add_env(_environment() | {"started": time.strftime("%Y-%m-%dT%H:%M:%S%z")})
    play(folder, strategy, seed, tasks, rounds, clients, stop_after)
    return folder


def play(
    folder: RunFolder, strategy: str, seed: int, tasks: int, rounds: int, clients: int, stop_after: int | None = None,
    finished_rounds: int = 0,
) -> None:  # fmt: skip
    """Tell a recorder what a run would tell it."""
    recorder = RunRecorder(folder)
    recorder.run_started(tasks=tasks, rounds=rounds, clients=clients, finished_rounds=finished_rounds)
    for task in make_tasks(tasks)[: stop_after or tasks]:
        left = [r for r in range(1, rounds + 1) if (task.number - 1) * rounds + r > finished_rounds]
        if not left:
            continue
        recorder.task_started(task)
        for round in left:
            recorder.round_done(make_record(task.number, round, clients))
        if strategy == "lander":
            recorder.synthesis_done(task.number, make_pool(task))
            write_bytes(folder.synthetic / f"task{task.number}.png", _picture(task, make_tasks(tasks)[-1].names))
        recorder.task_done(task, make_rows(strategy, seed, task.number))
    if not stop_after:
        recorder.run_done(60.0 + seed, {"clients": 40.0, "synthesis": 15.0})


def make_results(
    out: Path, strategies: Sequence[str] = ("finetune", "lander"), seeds: Sequence[int] = (0, 1), **parts: Any
) -> Path:
    """Three tasks, two strategies, two seeds."""
    for number, strategy in enumerate(strategies):
        for seed in seeds:
            make_run(out, strategy, seed, variant=f"{number:08x}", **parts)
    return out


def confusion_of(seed: int, classes: int, every: int = 3 * CLASSES) -> Any:
    """Samples by true and predicted class; the last of every class has none."""
    found = np.random.Generator(np.random.Philox(seed)).integers(0, 9, (classes, classes))
    found[every - 1 :] = 0
    return found


def tell_below(folder: RunFolder, seed: int, tasks: int = 3, per_task: int = CLASSES) -> RunFolder:
    """Write the tables that a run has below the task."""
    rows: dict[str, list[Any]] = {"classes": [], "confusion": [], "quality": [], "clients": []}
    for task in range(1, tasks + 1):
        matrix = confusion_of(seed + task, task * per_task, tasks * per_task)
        rows["classes"] += [(task, c, int(matrix[c].sum()), int(matrix[c, c])) for c in range(len(matrix))]
        rows["confusion"] += [(task, int(a), int(b), int(matrix[a, b])) for a, b in np.argwhere(matrix)]
        old = None if task == 1 else 0.25
        rows["quality"].append((task, 0.5 + task / 100 + seed / 10, 0.9, 0.125, old, 0.75))
        rows["clients"] += [(task, k, 10 * k, None if k == 0 else 0.2 * k) for k in range(4)]
    for name, lines in rows.items():
        write_details(folder.details[name], name, lines)
    write_accuracy(folder.task_aware, [row for t in range(1, tasks + 1) for row in make_rows("joint", seed, t)])
    return folder
