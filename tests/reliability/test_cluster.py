"""Three nodes of Ray on one machine: the result is that of one process, also if a node dies.

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
INPROCESS = "federation.backend=inprocess"
FEDERATION = {"clients": 3, "rounds": 6, "local_epochs": 2, "stop_after": 2}
LANDER = {"lander": {"synthesizer": {"nayer": NAYER}}}


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


def experiment(folder: Path, strategy: Any) -> Path:
    return write_experiment(folder, federation=FEDERATION, strategy=strategy)


def start(source: Path, out: Path, *overrides: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "fcil", "run", str(source), *overrides, "--out", str(out)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def end(process: subprocess.Popen[str], out: Path) -> Run:
    _, said = process.communicate(timeout=900)
    assert process.returncode == 0, said
    (run,) = find_runs([out])
    return run


def same(one: Run, other: Run) -> bool:
    tables = [(run.path / "accuracy.csv").read_bytes() for run in (one, other)]
    return tables[0] == tables[1] and one.rounds[-1]["weights"] == other.rounds[-1]["weights"]


def test_three_nodes_give_the_result_of_one_process(tmp_path: Path, cluster: Any) -> None:
    source, address = experiment(tmp_path, LANDER), f"resources.ray_address={cluster.address}"
    alone, spread = tmp_path / "alone", tmp_path / "spread"
    assert same(end(start(source, alone, INPROCESS), alone), end(start(source, spread, address), spread))


def test_a_node_that_dies_in_the_midst_changes_nothing(tmp_path: Path, cluster: Any) -> None:
    source, address = experiment(tmp_path, "finetune"), f"resources.ray_address={cluster.address}"
    alone, spread = tmp_path / "alone", tmp_path / "spread"
    expected = end(start(source, alone, INPROCESS), alone)
    process = start(source, spread, address)
    victim = min(cluster.worker_nodes, key=lambda node: node.node_id)
    while not (recorded := rounds_of(spread)):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    assert recorded < FEDERATION["rounds"] * FEDERATION["stop_after"]
    hosted = workers_of(victim)
    assert hosted, "the node that is to die trains nothing"
    cluster.remove_node(victim, allow_graceful=False)
    run = end(process, spread)
    assert not any(worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE for worker in hosted)
    assert same(expected, run)


def rounds_of(out: Path) -> int:
    """Rounds that a run has recorded."""
    return sum(len(path.read_text().splitlines()) for path in out.rglob("rounds.jsonl"))


def workers_of(node: Any) -> list[psutil.Process]:
    """Processes of a node that are actors of a run."""
    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    return [child for child in raylet.children(recursive=True) if child.name().startswith("ray::")]
