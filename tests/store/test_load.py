"""The table that a notebook reads: labels, settings that differ, and the example of its docstring."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from run_folders import make_results, make_run

import fcil
from fcil.metrics import accuracy_after_each_task, accuracy_matrix
from fcil.store import find_runs


def test_settings_that_differ_have_a_column_of_their_own(tmp_path: Path) -> None:
    for number, radius in enumerate((0.01, 0.02)):
        make_run(tmp_path, "lander", variant=f"{number:08x}", radius=radius, keep=1, sizes=[1, number])
    make_run(tmp_path, "finetune", seed=3, variant="f" * 8, keep=5)
    frame = fcil.load(tmp_path)
    assert list(frame.columns[:9]) == [
        *("experiment", "label", "strategy", "variant", "seed", "split", "smoke"),
        *("strategy.radius", "strategy.sizes"),
    ]
    assert frame.groupby("label")["strategy.radius"].first().dropna().to_dict() == {
        "lander (radius 0.01, sizes [1, 0])": 0.01,
        "lander (radius 0.02, sizes [1, 1])": 0.02,
    }
    assert set(frame[frame.strategy == "finetune"].label) == {"finetune"}
    assert frame[frame.strategy == "finetune"]["strategy.radius"].isna().all()
    assert set(frame.split) == {"blobs, 3 tasks, dirichlet 0.5"}


def test_what_was_left_out_is_said(tmp_path: Path) -> None:
    make_results(tmp_path, seeds=(0,))
    make_run(tmp_path, "lander", seed=5, stop_after=1)
    frame = fcil.load(tmp_path)
    (line,) = frame.attrs["left_out"]
    assert "seed5: not finished" in line
    assert set(frame.seed) == {0}
    assert set(fcil.load(tmp_path, unfinished=True).seed) == {0, 5}


def test_the_example_draws_the_curves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    doc = textwrap.dedent((fcil.load.__doc__ or "").partition("\n")[2])
    code = "\n".join(line for line in doc.splitlines() if line.startswith("    "))
    code = textwrap.dedent(code[: code.index("StoreError")].rpartition("\n")[0])
    make_results(tmp_path / "results" / "strategies-digits")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    names: dict[str, Any] = {"fcil": fcil}
    exec(code, names)
    curves = names["curves"]
    assert list(curves.columns) == ["finetune", "lander"]
    runs = [r for r in find_runs([tmp_path]) if r.strategy == "lander"]
    expected = sum(accuracy_after_each_task(*accuracy_matrix(run.rows)) for run in runs) / len(runs)
    assert curves["lander"].tolist() == pytest.approx(list(expected))


def test_what_there_is_can_be_completed_and_is_loaded_when_it_is_asked_for() -> None:
    said = python("import sys, fcil; print(*dir(fcil)); print('torch' in sys.modules)").splitlines()
    assert {"run", "load", "Strategy", "Client", "check", "synthesis"} <= set(said[0].split())
    assert said[1] == "False"
    assert python("import fcil; print(fcil.check.check.__name__, fcil.verify.__name__)").split() == [
        "check",
        "fcil.runs.verify",
    ]


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
