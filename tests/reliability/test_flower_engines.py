"""Experiments under Flower's own engines: weights equal to the bit, true exit codes, nothing left behind.

    pytest -m slow tests/reliability/test_flower_engines.py

Each test starts a SuperLink of its own, on free ports; a round takes seconds in the simulation and
about twenty in a deployment, which starts a process for each message.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

import pytest
from grid_cases import FAULTY
from small_runs import LANDER, REMEMBERS, checkpoint, play, write_experiment, write_strategy

from fcil.errors import TrainingError
from fcil.federation.deploy.credentials import make_credentials
from fcil.federation.deploy.processes import Processes
from fcil.federation.deploy.superlink import SuperLink, environment, free_ports
from fcil.federation.runtime.watcher import marked
from fcil.store import Run, load_run

pytestmark = [pytest.mark.slow, pytest.mark.ray]

LOOPBACK = """
import fcntl, os, socket, struct, sys
UP, RUNNING, SET_FLAGS = 0x1, 0x40, 0x8914
fcntl.ioctl(socket.socket(socket.AF_INET, socket.SOCK_DGRAM), SET_FLAGS, struct.pack("16sh", b"lo", UP | RUNNING))
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


class Launcher:
    """Runs `python -m fcil.flower` in an empty folder and knows its descendants."""

    def __init__(self, folder: Path, temporary: Path) -> None:
        self.folder, self.mark, self._temporary = folder, uuid4().hex, temporary

    def start(self, *arguments: object, offline: bool = False) -> subprocess.Popen[str]:
        own = {"OF_A_TEST": self.mark, "COLUMNS": "200", "TMPDIR": str(self._temporary)}
        command = [sys.executable, "-m", "fcil.flower", *map(str, arguments)]
        if offline:
            command = ["unshare", "--net", sys.executable, "-c", LOOPBACK, *command[1:]]
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env={**os.environ, **own},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, *arguments: object, offline: bool = False) -> tuple[int, str, str]:
        process = self.start(*arguments, offline=offline)
        out, err = process.communicate(timeout=1200)
        return process.returncode, out, err

    def assert_nothing_is_left(self) -> None:
        deadline = time.monotonic() + 15
        while (marked(self.mark) or self.temporary()) and time.monotonic() < deadline:
            time.sleep(0.2)
        assert marked(self.mark) == []
        assert self.temporary() == []

    def temporary(self) -> list[Path]:
        return list(self._temporary.glob("fcil-*"))


@pytest.fixture
def launcher(tmp_path: Path) -> Iterator[Launcher]:
    with TemporaryDirectory(ignore_cleanup_errors=True) as short:  # Ray's sockets bear no long paths
        made = Launcher(tmp_path, Path(short))
        yield made
        made.assert_nothing_is_left()


def can_be_offline() -> bool:
    """Whether this user may make a network of its own, with nobody in it."""
    unshare = shutil.which("unshare")
    return unshare is not None and subprocess.run([unshare, "--net", "true"], capture_output=True).returncode == 0


def experiment(folder: Path, **parts: Any) -> Path:
    """Two clients, two tasks of one round."""
    return write_experiment(folder, **{"federation": {"rounds": 1}, **parts})


def assert_equal(got: Path, expected: list[Run]) -> None:
    """To the bit, but for what clients remember, which stays at the nodes."""
    assert expected
    for run in expected:
        there = load_run(got / run.path.relative_to(run.path.parents[2]))
        assert (there.path / "accuracy.csv").read_bytes() == (run.path / "accuracy.csv").read_bytes()
        assert parts(there) == parts(run)
        assert (there.path / "config.yaml").read_bytes() == (run.path / "config.yaml").read_bytes()


def parts(run: Run) -> dict[str, str]:
    found = checkpoint(run)[1]["parts"]
    return {name: part for name, part in found.items() if not name.startswith("clients/")}


def test_the_simulation_equals_one_process(tmp_path: Path, launcher: Launcher) -> None:
    """A matrix of two strategies: one that clients remember things for, one that synthesises; without a network."""
    own = str(write_strategy(tmp_path, REMEMBERS))
    source = experiment(tmp_path, matrix={"strategy": [own, LANDER]}, federation={"rounds": 2})
    code, out, err = launcher.run("simulate", source, "--out", "there", offline=can_be_offline())
    assert (code, err) == (0, "")
    assert "[TASK 2/2] done" in out
    assert_equal(tmp_path / "there", play(source, out=tmp_path / "here"))
    code, out, _ = launcher.run("simulate", source, "--out", "there")
    assert code == 0
    assert out.count("is finished; nothing to do") == 2


def test_a_deployment_equals_one_process(tmp_path: Path, launcher: Launcher) -> None:
    """Nodes are told who they are, and keep what clients remember from process to process."""
    source = experiment(tmp_path, strategy=str(write_strategy(tmp_path, REMEMBERS)))
    code, _, err = launcher.run("deploy", source, "--out", "there")
    assert (code, err) == (0, "")
    assert_equal(tmp_path / "there", play(source, out=tmp_path / "here"))


def test_a_deployment_with_tls_and_known_keys_equals_one_process(tmp_path: Path, launcher: Launcher) -> None:
    """And needs no network."""
    source = experiment(tmp_path, strategy=LANDER)
    code, out, err = launcher.run("deploy", source, "--out", "there", "--tls", offline=can_be_offline())
    assert (code, err) == (0, "")
    assert "TLS and known keys" in out
    assert_equal(tmp_path / "there", play(source, out=tmp_path / "here"))


def test_a_run_goes_on_in_one_process_where_the_simulation_was_killed(tmp_path: Path, launcher: Launcher) -> None:
    source = experiment(tmp_path, federation={"rounds": 30})
    process = launcher.start("simulate", source, "--out", "there")
    deadline = time.monotonic() + 300
    while not [*tmp_path.glob("there/*/*/seed0/checkpoints/task*")] and time.monotonic() < deadline:
        time.sleep(0.1)
    assert process.poll() is None
    process.kill()
    process.communicate()
    launcher.assert_nothing_is_left()
    (begun,) = tmp_path.glob("there/*/*/seed0")
    assert [*begun.glob("checkpoints/task*")]
    assert not (begun / "summary.json").exists()
    play(source, out=tmp_path / "there")
    assert_equal(tmp_path / "there", play(source, out=tmp_path / "here"))


@pytest.mark.parametrize("verb", ["simulate", "deploy"])
def test_a_strategy_that_raises_fails_the_run_with_one_line(tmp_path: Path, launcher: Launcher, verb: str) -> None:
    own = write_strategy(tmp_path, FAULTY.replace("client.round == 2 and ", ""), "faulty")
    source = experiment(tmp_path, strategy={str(own): {"fault": "raise"}})
    code, _, err = launcher.run(verb, source, "--out", "there")
    assert code == 1
    assert err == "client 1, task 1, round 1: ValueError: on purpose (in local_train)\n"


@pytest.mark.parametrize(("verb", "number"), [("simulate", signal.SIGINT), ("deploy", signal.SIGTERM)])
def test_an_interrupted_launcher_takes_all_along(
    tmp_path: Path, launcher: Launcher, verb: str, number: signal.Signals
) -> None:
    source = experiment(tmp_path, federation={"rounds": 30})
    process = launcher.start(verb, source, "--out", "there")
    assert process.stdout is not None
    assert "SuperLink at 127.0.0.1:" in process.stdout.readline()
    time.sleep(15)
    assert len(marked(launcher.mark)) > 3
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err == "interrupted; the same command goes on from the last checkpoint\n"


def test_a_node_whose_key_is_not_known_is_refused(tmp_path: Path) -> None:
    with Processes(tmp_path, environment()) as processes:
        port, stranger, known = free_ports(3)
        link = SuperLink(processes, port, make_credentials(tmp_path))
        link.start()
        link.start_node(0, 2, stranger, registered=False)
        with pytest.raises(TrainingError, match=r"supernode 0 ended with exit code 1: .*Failed to activate SuperNode"):
            wait_for_the_end(processes, 60)
        del processes._running["supernode 0"]
        link.start_node(1, 2, known)
        wait_for_the_end(processes, 15)  # it stays


def wait_for_the_end(processes: Processes, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        processes.check()
        time.sleep(0.2)
