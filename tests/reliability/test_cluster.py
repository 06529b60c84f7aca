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
from small_runs import NAYER, REMEMBERS, write_experiment, write_strategy

from fcil.store import Run, find_runs

pytestmark = pytest.mark.slow
NODES = 3
INPROCESS = "federation.backend=inprocess"
FEDERATION = {"clients": 3, "rounds": 6, "local_epochs": 2, "stop_after": 2}
LANDER = {"lander": {"synthesizer": {"nayer": NAYER}}}
SLOW = REMEMBERS.replace("update = super()", "__import__('time').sleep(0.5)\n        update = super()")
"""Its clients take half a second more, so that a run outlasts the start of workers on all nodes."""


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


def experiment(folder: Path, strategy: Any, **federation: Any) -> Path:
    return write_experiment(folder, federation=FEDERATION | federation, strategy=strategy)


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


def plays(node: Any) -> bool:
    """Whether a worker of clients lives on this node; Ray writes its class into the name of the process."""
    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    names = [" ".join(child.cmdline()) for child in raylet.children() if child.is_running()]
    return any(name.startswith("ray::Worker") for name in names)


def same(one: Run, other: Run) -> bool:
    tables = [(run.path / "accuracy.csv").read_bytes() for run in (one, other)]
    return tables[0] == tables[1] and one.rounds[-1]["weights"] == other.rounds[-1]["weights"]


def test_three_nodes_give_the_result_of_one_process(tmp_path: Path, cluster: Any) -> None:
    source, address = experiment(tmp_path, LANDER), f"resources.ray_address={cluster.address}"
    alone, spread = tmp_path / "alone", tmp_path / "spread"
    assert same(end(start(source, alone, INPROCESS), alone), end(start(source, spread, address), spread))


def test_a_node_may_die(tmp_path: Path, cluster: Any) -> None:
    source = experiment(tmp_path, str(write_strategy(tmp_path, SLOW)), rounds=40, stop_after=1)
    alone, bereaved = tmp_path / "alone", tmp_path / "bereaved"
    expected = end(start(source, alone, INPROCESS), alone)
    process = start(source, bereaved, f"resources.ray_address={cluster.address}")
    dead: list[Any] = []
    while process.poll() is None and not dead:
        time.sleep(0.02)
        dead = [node for node in cluster.worker_nodes if rounds(bereaved) >= 2 and plays(node)][:1]
    cluster.remove_node(dead[0], allow_graceful=False)
    run = end(process, bereaved)
    assert {failure["kind"] for record in run.rounds for failure in record["failures"]} == {"died"}
    assert same(expected, run)
