"""Tables and figures of a thousand finished runs, some of them damaged: in little time, in little memory.

    pytest -m slow tests/reliability/test_thousand_runs.py

What is asserted are seconds of the processors, which other work on the machine does not lengthen as it does those on
the wall. `tests/benchmarks/thousand_runs.py` tells both.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from thousand_runs import SPLITS, make, measured

pytestmark = pytest.mark.slow
RUNS, ROUNDS = 1000, 10
ALLOWED = {"compare": 20.0, "plot": 60.0}
"""Seconds of the processors: about three times what an idle machine needs."""


@pytest.fixture(scope="module")
def thousand(tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("thousand") / "runs"
    assert make(top, RUNS, ROUNDS) == RUNS
    return top


@pytest.mark.parametrize("verb", ["compare", "plot"])
def test_a_thousand_runs_take_seconds_and_less_than_a_gigabyte(thousand: Path, tmp_path: Path, verb: str) -> None:
    found = measured(verb, str(thousand), "--out", str(tmp_path / "out"))
    assert found["cpu"] < ALLOWED[verb]
    assert found["bytes"] < 10**9
    written = {path.suffix for path in (tmp_path / "out").iterdir()}
    assert written == ({".md", ".tex", ".csv"} if verb == "compare" else {".png", ".pdf"})
    if verb == "plot":
        assert len(list((tmp_path / "out").glob("accuracy-*.pdf"))) == len(SPLITS)


def test_every_tenth_being_damaged_the_others_are_counted(thousand: Path, tmp_path: Path) -> None:
    broken = sorted(thousand.glob("*/*/seed4"))[:100]
    whole = {folder: (folder / "accuracy.csv").read_bytes() for folder in broken}
    try:
        for number, folder in enumerate(broken):
            (folder / "accuracy.csv").write_bytes(whole[folder][: 10 + 9 * number])
        command = [sys.executable, "-m", "fcil", "compare", str(thousand), "--out", str(tmp_path / "out")]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    finally:
        for folder, content in whole.items():
            (folder / "accuracy.csv").write_bytes(content)
    left_out = [line for line in done.stderr.splitlines() if line.startswith("left out: ")]
    assert len(left_out) == len(broken)
    assert all(any(str(folder) in line for line in left_out) for folder in broken)
    assert "Traceback" not in done.stderr
