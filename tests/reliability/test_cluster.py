"""Three nodes of Ray on one machine: the result is that of one process, and one node may die.

pytest -m slow tests/reliability/test_cluster.py
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from small_runs import NAYER, write_experiment

from fcil.store import Run, find_runs

pytestmark = pytest.mark.slow
NODES = 3
FEDERATION = {"clients": 3, "rounds": 6, "local_epochs": 2, "stop_after": 2}
STRATEGY = {"lander": {"synthesizer": {"nayer": NAYER}}}


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A head and two more nodes, one core each."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    for _ in range(NODES - 1):
        cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    yield cluster
    cluster.shutdown()


def experiment(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    return write_experiment(folder, federation=FEDERATION, strategy=STRATEGY)


def start(source: Path, out: Path, *overrides: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "fcil", "run", str(source), *overrides, "--out", str(out)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def end(process: subprocess.Popen[str], out: Path) -> Run:
    _, said = process.communicate(timeout=900)
    assert process.returncode == 0, said
    (run,) = find_runs([out])
    return run


def rounds(out: Path) -> int:
    files = list(out.rglob("rounds.jsonl"))
    return len(files[0].read_text().splitlines()) if files else 0


def busy(node: Any) -> bool:
    """Whether a worker on this node is in the middle of a call; Ray writes the call into the name of the process."""
    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    names = [" ".join(child.cmdline()) for child in raylet.children() if child.is_running()]
    return any(name.startswith("ray::") and "." in name for name in names)


def same(one: Run, other: Run) -> bool:
    tables = [(run.path / "accuracy.csv").read_bytes() for run in (one, other)]
    return tables[0] == tables[1] and one.rounds[-1]["weights"] == other.rounds[-1]["weights"]


def test_three_nodes_give_the_result_of_one_process_and_one_may_die(tmp_path: Path, cluster: Any) -> None:
    source = experiment(tmp_path / "x")
    alone = end(start(source, tmp_path / "alone", "federation.backend=inprocess"), tmp_path / "alone")
    there = f"resources.ray_address={cluster.address}"
    spread = end(start(source, tmp_path / "spread", there), tmp_path / "spread")
    assert same(alone, spread)

    out = tmp_path / "bereaved"
    process = start(source, out, there)
    dead: list[Any] = []
    while process.poll() is None and not dead:
        time.sleep(0.02)
        dead = [node for node in cluster.worker_nodes if rounds(out) >= 2 and busy(node)][:1]
    cluster.remove_node(dead[0], allow_graceful=False)
    bereaved = end(process, out)
    assert {f["kind"] for record in bereaved.rounds for f in record["failures"]} == {"died"}
    assert same(alone, bereaved)
