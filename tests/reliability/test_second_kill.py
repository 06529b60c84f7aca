"""Fifty runs, each killed twice within seconds, most damaged or changed in between: equal, or refused in a line.

    FCIL_SOAK_REPORT=report.jsonl pytest -m slow tests/reliability/test_second_kill.py

Between the first kill and the second start something may happen to the run: nothing, a flipped bit in
the last checkpoint's list or in one of its parts, a lost or torn line of `rounds.jsonl`, a lost row of
`accuracy.csv`, an edited `config.yaml` or `partition.json`, another image, another number of threads.
What can be made good is made good. What cannot is refused in one line with exit code 2, and once it is
undone the run goes on. Nothing passes without a word. `FCIL_SOAK_RUNS` sets how many runs.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from small_runs import REMEMBERS, checkpoint, write_experiment, write_strategy

from fcil.store import Run, load_run

RUNS = int(os.environ.get("FCIL_SOAK_RUNS", "50"))
FEDERATION = {"clients": 3, "rounds": 5, "stop_after": 2, "max_batches": 8, "local_epochs": 3, "checkpoint_every": 1}
ROUNDS = [(task, round) for task in (1, 2) for round in (1, 2, 3, 4, 5)]
SECOND = 10.0
"""Seconds within which the second kill comes."""
Undo = Callable[[], None]

pytestmark = pytest.mark.slow


def images(folder: Path) -> Path:
    """Four classes of small images that are the same each time."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("test", 3)):
        for name in ("ant", "bee", "cat", "dog"):
            place = folder / split / name
            place.mkdir(parents=True)
            for number in range(count):
                Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(place / f"{number}.png")
    return folder


def experiment(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    data = {"dataset": "image_folder", "root": str(images(folder / "images")), "tasks": 2}
    strategy = str(write_strategy(folder, REMEMBERS))
    return write_experiment(folder, data=data, strategy=strategy, federation=FEDERATION)


def start(source: Path, out: Path, *overrides: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "fcil", "run", str(source), *overrides, "--out", str(out)]
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True, cwd=source.parent
    )


def run_to_end(source: Path, out: Path, *overrides: str) -> tuple[int, str]:
    process = start(source, out, *overrides)
    _, said = process.communicate(timeout=600)
    return process.returncode, said


def kill(process: subprocess.Popen[str], folder: Callable[[], Path | None], dice: random.Random) -> tuple[bool, str]:
    """Kill a run some rounds further on, ten seconds after its start at the latest; False if it ended first."""
    began, wait = time.monotonic(), dice.uniform(0.0, 0.2)
    enough = rounds_done(folder()) + dice.randint(1, 4)
    while process.poll() is None and time.monotonic() < began + SECOND:
        if rounds_done(folder()) >= enough:
            time.sleep(wait)
            break
        time.sleep(0.01)
    alive = process.poll() is None
    if alive:
        os.killpg(process.pid, signal.SIGKILL)
    _, said = process.communicate(timeout=60)
    return alive, said


def rounds_done(folder: Path | None) -> int:
    path = folder / "rounds.jsonl" if folder else None
    return len(path.read_text(encoding="utf-8").splitlines()) if path and path.is_file() else 0


def run_folder(out: Path) -> Path | None:
    return next(iter(out.glob("tiny/*/seed0")), None)


# What happens in between ------------------------------------------------------------------------------


def rewritten(path: Path, change: Callable[[bytes], bytes]) -> Undo | None:
    """Change a file; what undoes it, or None if there is nothing to change."""
    before = path.read_bytes() if path.is_file() else b""
    after = change(before)
    if after == before:
        return None
    path.write_bytes(after)
    return lambda: path.write_bytes(before) and None


def flip(data: bytes, dice: random.Random) -> bytes:
    spot = dice.randrange(len(data)) if data else 0
    return data[:spot] + bytes([data[spot] ^ 1 << dice.randrange(8)]) + data[spot + 1 :] if data else data


def without_line(data: bytes, dice: random.Random, first: int = 0) -> bytes:
    lines = data.splitlines(keepends=True)
    if len(lines) > first:
        del lines[dice.randrange(first, len(lines))]
    return b"".join(lines)


def last_list(folder: Path) -> Path:
    found = [*(folder / "checkpoints").glob("task*.json")]
    return max(found, default=folder / "none", key=lambda path: [int(n) for n in re.findall("[0-9]+", path.stem)])


def a_part(folder: Path, dice: random.Random) -> Path:
    path = last_list(folder)
    parts = sorted(set(json.loads(path.read_text())["parts"].values())) if path.is_file() else []
    return folder / "checkpoints" / "parts" / f"{dice.choice(parts)}.safetensors" if parts else folder / "none"


def repainted(source: Path, dice: random.Random) -> Undo | None:
    path = dice.choice(sorted((source.parent / "images" / "train").rglob("*.png")))
    before = path.read_bytes()
    Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    return lambda: path.write_bytes(before) and None


def replaced(path: Path, old: bytes, new: bytes) -> Undo | None:
    return rewritten(path, lambda data: data.replace(old, new, 1))


MUST_REFUSE = ("config", "image", "threads")
MADE_GOOD = ("nothing", "list", "part")
EITHER = ("lost round", "torn round", "lost row", "partition")
EVENTS = (*MADE_GOOD, *MUST_REFUSE, *EITHER)


def happen(event: str, source: Path, folder: Path, dice: random.Random) -> Undo | None:
    """Let something happen to a run that lies there half done; what undoes it, or None if it could not happen."""
    if event == "list":
        return rewritten(last_list(folder), lambda data: flip(data, dice))
    if event == "part":
        return rewritten(a_part(folder, dice), lambda data: flip(data, dice))
    if event == "lost round":
        return rewritten(folder / "rounds.jsonl", lambda data: without_line(data, dice))
    if event == "torn round":
        return rewritten(folder / "rounds.jsonl", lambda data: data[:-10])
    if event == "lost row":
        return rewritten(folder / "accuracy.csv", lambda data: without_line(data, dice, first=1))
    if event == "config":
        return replaced(folder / "config.yaml", b"batch_size: 16", b"batch_size: 8")
    if event == "partition":
        return rewritten(folder / "partition.json", lambda data: re.sub(rb"([1-9])", b"7", data, count=1))
    if event == "image":
        return repainted(source, dice)
    return (lambda: None) if event in ("nothing", "threads") else None


# Runs -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The run that was never killed."""
    folder = tmp_path_factory.mktemp("whole")
    code, said = run_to_end(experiment(folder), folder / "out")
    assert code == 0, said
    found = run_folder(folder / "out")
    assert found is not None
    return load_run(found)


def equal(run: Run, expected: Run) -> bool:
    return (
        run.folder.accuracy.read_bytes() == expected.folder.accuracy.read_bytes()
        and [(r["task"], r["round"], r["terms"], r["weights"]) for r in run.rounds]
        == [(r["task"], r["round"], r["terms"], r["weights"]) for r in expected.rounds]
        and checkpoint(run)[1] == checkpoint(expected)[1]
        and {k: run.summary[k] for k in ("rounds", "bytes_up", "bytes_down")}
        == {k: expected.summary[k] for k in ("rounds", "bytes_up", "bytes_down")}
    )


def is_one_line(said: str) -> bool:
    return len(said.strip().splitlines()) == 1 and "Traceback" not in said


@pytest.mark.parametrize("number", range(RUNS))
def test_a_run_killed_twice_is_equal_to_the_bit_or_refused_in_a_line(tmp_path: Path, whole: Run, number: int) -> None:
    dice = random.Random(1000 + number)
    event = EVENTS[number % len(EVENTS)]
    source, out = experiment(tmp_path), tmp_path / "out"
    report: dict[str, Any] = {"run": number, "event": event}
    report["first"], _ = kill(start(source, out), lambda: run_folder(out), dice)
    folder = run_folder(out)
    undo = happen(event, source, folder, dice) if folder is not None else None
    report |= {"rounds": rounds_done(folder), "happened": undo is not None}
    overrides = ["resources.threads=2"] if event == "threads" else []
    finished = folder is not None and (folder / "summary.json").is_file()

    second = start(source, out, *overrides)
    report["second"], said = kill(second, lambda: run_folder(out), dice)
    code = second.returncode
    if report["second"]:
        code, said = run_to_end(source, out, *overrides)
    report |= {"code": code, "said": said.strip()[-300:]}
    if code == 2:
        assert is_one_line(said), report
        assert undo is not None, report
        undo()
        code, said = run_to_end(source, out)
        report["after undoing"] = code
    assert code == 0, (report, said)
    assert folder is not None
    report["equal"] = equal(load_run(folder), whole)
    if "FCIL_SOAK_REPORT" in os.environ:
        with Path(os.environ["FCIL_SOAK_REPORT"]).open("a", encoding="utf-8") as file:
            file.write(json.dumps(report) + "\n")
    assert report["equal"], report
    if report["happened"] and not finished:
        assert event not in MUST_REFUSE or report["code"] == 2, report
        assert event not in MADE_GOOD or report["code"] == 0, report
