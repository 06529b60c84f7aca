"""A thousand clients, ten of them in a round: every strategy plays it, in memory that does not grow with the thousand.

    pytest -m slow tests/reliability/test_scale.py

Each strategy runs twice in a process of its own, with 20 and with 1,000 clients, on 12,000 images of noise in MNIST's
files. `FCIL_SCALE_REPORT` names a file to which the peak memory of every pair is added as a line of JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from idx_files import idx, laid
from small_runs import NAYER, write_experiment

from fcil.methods.files import built_in_files
from fcil.store import Run, find_runs

pytestmark = pytest.mark.slow
IN_A_ROUND = 10
ALLOWED = 200 * 10**6
"""Bytes that the peak may differ by, which it does by itself; a net for each of 980 more clients would be 6.7 GB."""
CLIENTS = 1000
IMAGES = 12_000
FAST = {"rounds": 2, "steps": 2, "batch_size": 10, "samples": 20, "width": 4, "latent": 8, "student_steps": 2}
MFCL = {"rounds": 2, "steps": 2, "batch_size": 10, "samples": 20, "width": 8, "latent": 8}
SMALL: dict[str, Any] = {
    "fedcil": {"width": 4, "consolidation": 2, "images": 8},
    "glfc": {"steps": 5},
    "lander": {"synthesizer": {"nayer": NAYER}},
    "mfcl": {"synthetic": 8, "synthesizer": {"mfcl": MFCL}},
    "target": {"synthesizer": {"fast": FAST}},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MNIST's files with noise for images."""
    rng, files = np.random.default_rng(0), {}
    for part, count in (("train", IMAGES), ("t10k", 100)):
        files[f"{part}-images-idx3-ubyte"] = idx(rng.integers(0, 256, (count, 28, 28), dtype=np.uint8))
        files[f"{part}-labels-idx1-ubyte"] = idx((np.arange(count) % 10).astype(np.uint8))
    return laid(tmp_path_factory.mktemp("noise"), files)


def played(folder: Path, data: Path, strategy: str, clients: int) -> tuple[Run, int]:
    """A run of two tasks and three rounds, and the most memory it ever held, in bytes."""
    folder.mkdir()
    source = write_experiment(
        folder,
        data={"dataset": "mnist", "root": str(data), "tasks": 5, "partition": {"dirichlet": 0.5}},
        federation={"clients": clients, "fraction": IN_A_ROUND / clients, "rounds": 3, "max_batches": 2},
        net={"name": "cnn", "width": 48},  # 6.8 MB
        strategy={strategy: SMALL.get(strategy, {})},
    )
    out = folder / "out"
    done = subprocess.Popen([sys.executable, "-m", "fcil", "run", str(source), "--out", str(out)])
    peak = 0
    while done.poll() is None:
        peak = max(peak, peak_memory(done.pid))
        try:
            done.wait(0.05)
        except subprocess.TimeoutExpired:
            continue
    assert done.returncode == 0
    (run,) = find_runs([out])
    return run, peak


def peak_memory(pid: int) -> int:
    """The most that a process has held so far, as the kernel counts it."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    lines = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    return 1024 * int(lines.get("VmHWM", "0 kB").split()[0])


# Without `distill`: each of its clients keeps a synthesizer of its own, and it is meant for one.
@pytest.mark.parametrize("strategy", sorted(built_in_files().keys() - {"distill"}))
def test_memory_does_not_grow_with_the_number_of_clients(tmp_path: Path, data: Path, strategy: str) -> None:
    (_, few), (run, many) = (played(tmp_path / f"{n}", data, strategy, n) for n in (20, CLIENTS))
    assert all(len(record["clients"]) == IN_A_ROUND for record in run.rounds)
    assert len({client for record in run.rounds for client in record["clients"]}) > 2 * IN_A_ROUND
    assert not any(record["failures"] for record in run.rounds)
    if report := os.environ.get("FCIL_SCALE_REPORT"):
        line = {"strategy": strategy, "clients_20": few, f"clients_{CLIENTS}": many, "load": psutil.getloadavg()[0]}
        with open(report, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
    assert many < few + ALLOWED
