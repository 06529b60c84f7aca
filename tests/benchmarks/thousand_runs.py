"""How long tables and figures of a thousand finished runs take, and how much memory.

    python tests/benchmarks/thousand_runs.py [--runs 1000] [--rounds 100] [--verbs compare,plot] [--keep DIR]

Makes the folders without training: 20 settings (10 strategies, two settings each) on 10 splits with 5 seeds, 10 tasks
of 100 rounds with five loss terms and 5 clients. Then `fcil compare` and `fcil plot` run as whole processes; a line
tells the seconds on the wall, those of the processors and the most memory ever held.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import yaml

TASKS, CLIENTS, CLASSES, EXAMPLES = 10, 5, 100, 1000
STRATEGIES = ("finetune", "fedprox", "fedewc", "fedlwf", "replay", "icarl", "glfc", "target", "mfcl", "lander")
LAMS = (1.0, 5.0)
SPLITS = tuple(itertools.product(("cifar100", "tinyimagenet"), (0.05, 0.1, 0.3, 0.5, 1.0)))
SEEDS = 5
TERMS = ("ce", "bound", "kd", "synthetic", "anchor")


def settings(strategy: str, lam: float, dataset: str, beta: float, seed: int, rounds: int) -> dict[str, Any]:
    """About as many lines as a real `config.yaml` has."""
    options = {f"option_{i}": 0.1 * i for i in range(20)}
    return {
        "name": f"{dataset}-b{beta}",
        "seed": seed,
        "data": {"dataset": dataset, "root": None, "tasks": TASKS, "base": None, "increment": None, "order": 1993,
                 "partition": {"dirichlet": beta}, "resize": None, "validation": 0.0, "augment": True},
        "federation": {"clients": CLIENTS, "fraction": 1.0, "rounds": rounds, "local_epochs": 2, "batch_size": 128,
                       "backend": "ray", "evaluate_every": 10, "checkpoint_every": 1, "timeout": 3600.0,
                       "on_failure": "stop", "retries": 2, "min_success": 0.5, "aggregation": "mean"},
        "optimizer": {"name": "sgd", "lr": 0.04, "momentum": 0.9, "weight_decay": 5e-4, "schedule": "cosine"},
        "net": {"name": "resnet18", "stem": "auto", "width": None, "norm": "batch"},
        "anchors": {"encoder": "openai/clip-vit-base-patch32", "template": "a photo of a {}"},
        "strategy": {strategy: {"lam": lam, "synthesizer": {"nayer": options}}},
        "resources": {"device": "auto", "threads": 1, "workers": None, "client_gpus": 0.2},
    }  # fmt: skip


def accuracies(quality: float, random: np.random.Generator) -> list[tuple[int, int, int, int]]:
    """Rows of `accuracy.csv`: tasks learnt to about 0.8 and lost at a pace."""
    rows = []
    for t in range(1, TASKS + 1):
        for j in range(1, t + 1):
            share = 0.8 * quality ** (t - j) + random.uniform(-0.02, 0.02)
            rows.append((t, j, int(EXAMPLES * min(max(share, 0.0), 1.0)), EXAMPLES))
    return rows


def round_lines(rounds: int) -> str:
    """`rounds.jsonl` of a whole run, about 400 bytes a line."""
    lines = []
    for task, number in itertools.product(range(1, TASKS + 1), range(1, rounds + 1)):
        terms = {name: 0.1 * (i + 1) / number + 1 / (7 + task) for i, name in enumerate(TERMS)}
        record = {"task": task, "round": number, "lr": 0.04 / number, "clients": list(range(CLIENTS)),
                  "bytes_down": 224_600_320, "bytes_up": 224_600_320, "terms": terms, "empty": [], "failures": [],
                  "seconds": {"send": 0.0017, "clients": 3.3387, "aggregate": 0.0051, "checkpoint": 0.01}}  # fmt: skip
        if number % 10 == 0:
            record["accuracy"] = round(0.6 / task + 0.001 * number / rounds, 4)
        lines.append(json.dumps(record) + "\n")
    return "".join(lines)


def partition(random: np.random.Generator) -> str:
    counts = random.integers(0, 200, size=(TASKS, CLIENTS, CLASSES))
    return json.dumps({"class_names": [f"class {c}" for c in range(CLASSES)], "counts": counts.tolist()})


def make(top: Path, runs: int, rounds: int) -> int:
    """Write the folders and return how many there are."""
    from fcil import metrics

    lines, random = round_lines(rounds), np.random.default_rng(0)
    shares = partition(random)
    cells = itertools.product(range(SEEDS), enumerate(SPLITS), enumerate(STRATEGIES), enumerate(LAMS))
    for seed, (s, (dataset, beta)), (i, strategy), (k, lam) in itertools.islice(cells, runs):
        config = settings(strategy, lam, dataset, beta, seed, rounds)
        folder = top / config["name"] / f"{strategy}-{s:02x}{i:02x}{k:04x}" / f"seed{seed}"
        folder.mkdir(parents=True)
        rows = accuracies(0.6 + 0.03 * i + 0.01 * k, random)
        cost = {"seconds": 3600.0 + seed, "rounds": TASKS * rounds, "bytes": 4 * 10**11, "bytes_up": 2 * 10**11,
                "bytes_down": 2 * 10**11, "failures": 0}  # fmt: skip
        table = [
            "trained_task,tested_task,correct,examples,accuracy",
            *(f"{t},{j},{c},{n},{c / n:.6f}" for t, j, c, n in rows),
        ]
        texts = {
            "config.yaml": yaml.safe_dump(config, sort_keys=False),
            "accuracy.csv": "\n".join(table) + "\n",
            "rounds.jsonl": lines,
            "partition.json": shares,
            "strategy.py": f'"""{strategy}."""\n' + "def f(x):\n    return x\n" * 60,
            "summary.json": json.dumps({**metrics.summary(rows), **cost}, indent=2),
        }
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")
    return len(list(top.glob("*/*/seed*")))


def measured(*arguments: str) -> dict[str, float]:
    """Seconds and peak memory of a command, workers included, which must end well."""
    code = (
        "import subprocess, sys, resource, json, time; s = time.perf_counter();"
        "done = subprocess.run([sys.executable, '-m', 'fcil', *sys.argv[1:]], stdout=subprocess.DEVNULL);"
        "u = resource.getrusage(resource.RUSAGE_CHILDREN);"
        "print(json.dumps({'code': done.returncode, 'wall': time.perf_counter() - s, 'cpu': u.ru_utime + u.ru_stime,"
        " 'bytes': 1024 * u.ru_maxrss}))"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, check=True, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    if found["code"]:
        raise SystemExit(f"fcil {arguments[0]} ended with {found['code']}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--verbs", default="compare,plot")
    parser.add_argument("--keep", type=Path, default=None)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        top = (chosen.keep or Path(scratch)) / "runs"
        count = len(list(top.glob("*/*/seed*"))) if top.is_dir() else make(top, chosen.runs, chosen.rounds)
        for verb in chosen.verbs.split(","):
            found = measured(verb, str(top), "--out", str(Path(scratch) / verb))
            sys.stdout.write(
                f"{verb} of {count} runs: {found['wall']:.1f} s ({found['cpu']:.1f} s of processors), "
                f"{found['bytes'] / 1e6:.0f} MB at most\n"
            )


if __name__ == "__main__":
    main()
