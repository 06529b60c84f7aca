"""Whole runs beside each other on Ray: the same numbers to the bit, one that dies takes no other along, none is left.

    pytest -m slow tests/reliability/test_parallel_ray.py

`tests/federation/test_parallel.py` has what does not need Ray.
"""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from rich.console import Console
from run_processes import COUNTS, start, until
from small_runs import LANDER, checkpoint, play, without_seconds, write_experiment, write_strategy

import fcil
from fcil.errors import TrainingError
from fcil.store import Run, load_run

pytestmark = pytest.mark.ray
SHORT = {"rounds": 2, "max_batches": 2}


def of(folder: Path) -> dict[tuple[str, int], Run]:
    """Finished runs of an output, by strategy and seed."""
    found = [load_run(path.parent) for path in folder.glob("tiny/*/seed*/summary.json")]
    return {(run.strategy, run.seed): run for run in found}


def assert_equal(one: dict[Any, Run], other: dict[Any, Run]) -> None:
    assert one.keys() == other.keys()
    for key, run in one.items():
        assert run.folder.accuracy.read_bytes() == other[key].folder.accuracy.read_bytes()
        assert without_seconds(run) == without_seconds(other[key])
        assert checkpoint(run)[1] == checkpoint(other[key])[1]


def test_runs_at_once_are_the_runs_one_after_the_other_and_one_that_dies_is_reported(tmp_path: Path) -> None:
    """The one test of this file that is not slow: forty seconds of a feature that all else here rests on."""
    own = str(write_strategy(tmp_path, COUNTS, "counts"))
    dies = {own: {"place": str(tmp_path), "fails": "dies"}}
    source = write_experiment(tmp_path, matrix={"strategy": [LANDER, dies, "finetune"]}, federation=SHORT)
    console = Console(file=io.StringIO(), width=300)
    with pytest.raises(TrainingError, match="1 of 3 runs failed; the others are finished"):
        fcil.run(source, out=tmp_path / "at-once", console=console, jobs=2)
    play(source, f"matrix.strategy=[{{lander: {LANDER['lander']}}}, finetune]", out=tmp_path / "in-turn")
    assert_equal(of(tmp_path / "at-once"), of(tmp_path / "in-turn"))
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert re.search(r"failed: counts · seed 0: its process died.*fcil resume \S+/seed0\)", printed)
    assert (tmp_path / "at-once/tiny/figures/accuracy.png").is_file()


@pytest.mark.slow
def test_runs_at_once_are_the_runs_whose_clients_are_spread(tmp_path: Path) -> None:
    source = write_experiment(
        tmp_path, matrix={"strategy": [LANDER, "fedlwf"]}, seeds=[0, 1], federation={**SHORT, "backend": "ray"}
    )
    for jobs in ("1", "2"):
        command = [sys.executable, "-m", "fcil", "run", str(source), "--out", str(tmp_path / jobs), "--jobs", jobs]
        assert subprocess.run(command, check=False).returncode == 0
    assert_equal(of(tmp_path / "1"), of(tmp_path / "2"))


def left_of(family: list[psutil.Process]) -> list[str]:
    """What still runs ten seconds after the driver has ended."""
    _, alive = psutil.wait_procs(family, timeout=10)
    return [" ".join(p.cmdline()[:3]) for p in alive if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.slow
@pytest.mark.parametrize("presses", [(signal.SIGINT,), (signal.SIGINT, signal.SIGINT), (signal.SIGKILL,)])
def test_what_is_interrupted_leaves_nothing_behind_and_goes_on(
    tmp_path: Path, presses: tuple[signal.Signals, ...]
) -> None:
    federation = {"rounds": 8, "max_batches": 10, "checkpoint_every": 0}
    source = write_experiment(tmp_path, strategy="fedlwf", seeds=[0, 1, 2], federation=federation)
    process = start(source, tmp_path / "cut", "--jobs", "2")
    rounds = (tmp_path / "cut").glob
    until(lambda: sum(p.stat().st_size > 0 for p in rounds("tiny/*/seed*/rounds.jsonl")) == 2, process)
    family = psutil.Process(process.pid).children(recursive=True)
    for number in presses:
        process.send_signal(number)
        time.sleep(0.3)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == (-signal.SIGKILL if signal.SIGKILL in presses else 130), said
    assert left_of(family) == []
    if presses == (signal.SIGINT,):
        assert "stopping as soon as each run is saved" in said
        assert len([*(tmp_path / "cut").glob("tiny/*/seed*/checkpoints/task*.json")]) == 2
    again = start(source, tmp_path / "cut", "--jobs", "2")
    said, _ = again.communicate(timeout=500)
    assert again.returncode == 0, said
    play(source, out=tmp_path / "whole")
    assert_equal(of(tmp_path / "cut"), of(tmp_path / "whole"))


@pytest.mark.slow
def test_a_process_that_is_killed_is_one_run_that_failed(tmp_path: Path) -> None:
    own = str(write_strategy(tmp_path, COUNTS, "counts"))
    waits = {own: {"place": str(tmp_path), "waits": True}}
    source = write_experiment(tmp_path, matrix={"strategy": [waits, "finetune"]}, federation=SHORT)
    process = start(source, tmp_path / "out", "--jobs", "2")
    until(lambda: [*tmp_path.glob("waits-*")], process)
    (mark,) = tmp_path.glob("waits-*")
    os.kill(int(mark.name.removeprefix("waits-")), signal.SIGKILL)
    said, _ = process.communicate(timeout=250)
    assert process.returncode == 1, said
    assert "its process died" in said
    assert list(of(tmp_path / "out")) == [("finetune", 0)]
