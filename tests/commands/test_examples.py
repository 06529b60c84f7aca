"""The programs of `docs/examples` print what they say they print."""

from __future__ import annotations

import ast
import json
import re
import runpy
import sys
import textwrap
from pathlib import Path
from typing import Any

import matplotlib
import pytest
import torch

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "docs" / "examples"
SLOW = {"deployment": pytest.mark.slow}  # starts a process for each message
PROGRAMS = ["own_strategy", "own_synthesizer", "own_dataset", "analysis", "deployment"]


def promised(path: Path) -> str:
    """The indented block of a docstring that ends its sentence on what is printed."""
    doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    block = re.search(r"another machine:\n\n((?: {4}.*\n?)+)", doc)
    assert block is not None, path
    return textwrap.dedent(block[1])


def masked(text: str) -> list[str]:
    """The lines without their numbers and without how they are padded."""
    return [" ".join(re.sub(r"\d+(\.\d+)?", "#", line).split()) for line in text.splitlines() if line.strip()]


def test_every_example_is_run_here() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {*PROGRAMS, "fedlwf"}


@pytest.mark.parametrize("name", [pytest.param(name, marks=SLOW.get(name, ())) for name in PROGRAMS])
def test_an_example_prints_what_it_says(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [name])
    if name != "analysis":  # which is about figures
        monkeypatch.setattr("fcil.runs.play.draw_run", lambda path: [])
        monkeypatch.setattr("fcil.runs.completion.draw_comparison", lambda *_: [])
    threads = torch.get_num_threads()
    try:
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    finally:
        torch.set_num_threads(threads)
    assert masked(capsys.readouterr().out) == masked(promised(EXAMPLES / f"{name}.py"))


def test_the_notebook_runs_from_top_to_bottom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = json.loads((EXAMPLES / "analysis.ipynb").read_text(encoding="utf-8"))
    assert (notebook["nbformat"], len({cell["id"] for cell in notebook["cells"]})) == (4, len(notebook["cells"]))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fcil.runs.play.draw_run", lambda path: [])
    monkeypatch.setattr("fcil.runs.completion.draw_comparison", lambda *_: [])
    matplotlib.use("Agg")
    names: dict[str, Any] = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []  # numbers of one machine stay out of the repository
            exec("".join(cell["source"]), names)
    assert list(names["curves"].columns) == ["finetune", "joint"]
    assert names["curves"].loc[2, "joint"] > names["curves"].loc[2, "finetune"]
    assert len(names["net"].class_names) == 10
    assert len(names["axes"].lines) == 2


def test_the_strategy_of_the_readme_is_that_of_the_examples() -> None:
    assert (EXAMPLES / "fedlwf.py").read_text(encoding="utf-8") in (ROOT / "README.md").read_text(encoding="utf-8")
