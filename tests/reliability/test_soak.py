"""Fifty runs, each killed at a random moment, resumed, and equal to the run that was never killed.

    pytest -m slow tests/reliability/test_soak.py

Four kinds of victim: the driver, the driver while it writes a checkpoint, a Ray worker that trains
a client, a worker that synthesises. `FCIL_SOAK_RUNS` sets how many runs, `FCIL_SOAK_REPORT` names a
file that gets a line of JSON for each.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from small_runs import NAYER, REMEMBERS, checkpoint, write_experiment, write_strategy

from fcil.store import Run, load_run

RUNS = int(os.environ.get("FCIL_SOAK_RUNS", "50"))
VICTIMS = ("driver", "writing", "client worker", "driver", "synthesis worker")
FEDERATION = {"clients": 3, "rounds": 4, "stop_after": 3, "max_batches": 4, "local_epochs": 2}
SYNTHESIS = {"lander": {"synthesizer": {"nayer": {**NAYER, "rounds": 4, "steps": 25, "chains": 2}}}}
ALL_ROUNDS = [(task, round) for task in (1, 2, 3) for round in (1, 2, 3, 4)]
GONE_WITHIN = 15.0
"""Seconds after which nothing of a dead run may be left."""

pytestmark = pytest.mark.slow


def experiment(folder: Path, method: str, backend: str) -> Path:
    own = str(write_strategy(folder, REMEMBERS))
    strategy: Any = SYNTHESIS if method == "lander" else own
    resources = {"synthesis_workers": 2}
    return write_experiment(
        folder, strategy=strategy, federation={**FEDERATION, "backend": backend}, resources=resources
    )


def start(source: Path, out: Path) -> subprocess.Popen[bytes]:
    out.mkdir(exist_ok=True)
    log = (out / "output.txt").open("ab")
    command = [sys.executable, "-m", "fcil", "run", str(source), "--out", str(out)]
    return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)


def finish(source: Path, out: Path) -> Run:
    process = start(source, out)
    assert process.wait(timeout=600) == 0, (out / "output.txt").read_text()[-2000:]
    (folder,) = out.glob("tiny/*/seed0")
    return load_run(folder)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Run, float]]:
    """By method: a run that was never killed, and the seconds it took once it had begun."""
    runs = {}
    for method in ("lander", "remembers"):
        folder = tmp_path_factory.mktemp(method)
        run = finish(experiment(folder, method, "ray"), folder / "out")
        runs[method] = run, float(run.summary["seconds"])
    return runs


def descendants(process: psutil.Process, word: str) -> Iterator[psutil.Process]:
    for child in process.children(recursive=True):
        try:
            if word in " ".join(child.cmdline()):
                yield child
        except psutil.Error:
            continue


def when(true: Callable[[], Any], process: subprocess.Popen[bytes], pause: float = 0.01) -> bool:
    """Wait until something is true; False if the process ended first."""
    while not true():
        if process.poll() is not None:
            return False
        time.sleep(pause)
    return True


def strike(victim: str, process: subprocess.Popen[bytes], out: Path, seconds: float, dice: random.Random) -> bool:
    """Kill somebody at a random moment of a run that takes about so many seconds. False: it was over before."""
    driver = psutil.Process(process.pid)
    if not when(lambda: [*out.glob("tiny/*/seed0/log.txt")], process):
        return False
    (folder,) = out.glob("tiny/*/seed0")
    if victim == "synthesis worker":
        if not when(lambda: [*descendants(driver, "Worker.step")], process):
            return False
        time.sleep(dice.uniform(0.0, 1.5))
        targets = [*descendants(driver, "Worker.step")] or [*descendants(driver, "ray::Worker")]
    elif victim == "client worker":
        time.sleep(dice.uniform(0.0, seconds * 0.5))
        targets = [*descendants(driver, "ray::Worker")]
    else:
        time.sleep(dice.uniform(0.0, seconds * 0.6))
        if victim == "writing" and not when(lambda: partial(folder), process, 0.0):
            return False
        targets = [driver]
    if not targets or process.poll() is not None:
        return False
    dice.choice(targets).send_signal(signal.SIGKILL)
    return True


def partial(folder: Path) -> list[Path]:
    """Checkpoint files that are being written."""
    places = folder / "checkpoints", folder / "checkpoints" / "parts"
    return [Path(f.path) for p in places if p.is_dir() for f in os.scandir(p) if f.name.endswith(".partial")]


def orphans(family: list[psutil.Process], report: dict[str, Any]) -> list[str]:
    """What is left of a family some seconds after its head was killed."""
    began = time.monotonic()
    while time.monotonic() < began + GONE_WITHIN:
        left = [p for p in family if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
        if not left:
            break
        time.sleep(0.2)
    report["seconds_until_gone"] = round(time.monotonic() - began, 1)
    return [" ".join(p.cmdline())[:80] for p in left]


@pytest.mark.parametrize("number", range(RUNS))
def test_a_killed_run_goes_on_as_if_nothing_had_happened(
    tmp_path: Path, whole: dict[str, tuple[Run, float]], number: int
) -> None:
    dice = random.Random(number)
    victim = VICTIMS[number % len(VICTIMS)]
    method = "lander" if victim == "synthesis worker" or number % 2 else "remembers"
    backend = "inprocess" if victim in ("driver", "writing") and number % 4 else "ray"
    source, out = experiment(tmp_path, method, backend), tmp_path / "out"
    expected, seconds = whole[method]
    report: dict[str, Any] = {"run": number, "victim": victim, "method": method, "backend": backend}

    process = start(source, out)
    report["struck"] = strike(victim, process, out, seconds, dice)
    family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    if victim in ("driver", "writing"):
        process.wait(timeout=60)
    else:
        assert process.wait(timeout=600) == 0, (out / "output.txt").read_text()[-2000:]
    report["orphans"] = orphans(family, report)

    (folder,) = out.glob("tiny/*/seed0")
    lines = (folder / "rounds.jsonl").read_text().splitlines() if (folder / "rounds.jsonl").is_file() else []
    report["rounds_when_killed"] = len(lines)
    report["finished_before"] = (folder / "summary.json").is_file()
    resumed = finish(source, out)
    text = (folder / "log.txt").read_text()
    report["rounds_done_before"] = int(text.rpartition(" rounds done before")[0].rpartition(" ")[2])
    report["failures"] = resumed.summary["failures"]
    report["rounds_lost"] = len(set(ALL_ROUNDS) - {(r["task"], r["round"]) for r in resumed.rounds})
    report["equal"] = (
        resumed.folder.accuracy.read_bytes() == expected.folder.accuracy.read_bytes()
        and [(r["task"], r["round"], r["terms"]) for r in resumed.rounds]
        == [(r["task"], r["round"], r["terms"]) for r in expected.rounds]
        and checkpoint(resumed)[1] == checkpoint(expected)[1]
    )
    if "FCIL_SOAK_REPORT" in os.environ:
        with Path(os.environ["FCIL_SOAK_REPORT"]).open("a", encoding="utf-8") as file:
            file.write(json.dumps(report) + "\n")

    assert report["equal"], report
    assert report["rounds_lost"] == 0
    assert report["orphans"] == []
    assert [(r["task"], r["round"]) for r in resumed.rounds] == ALL_ROUNDS
    if not report["finished_before"]:
        # A checkpoint after every round: at most the one that was being saved is played again.
        assert report["rounds_when_killed"] - report["rounds_done_before"] <= 1
