"""Hostile input ends every command with one line and exit code 2."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from hostile import laughs, put, zipped
from run_folders import make_run
from small_runs import write_experiment

from fcil.cli import main


def test_hostile_input_ends_commands_with_one_line_and_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("laughs.yaml").write_text(laughs("[x]", "[{}]"))
    Path("escape.yaml").write_text('name: "\\u202e"\ndata: {dataset: digits, tasks: 5}\nstrategy: finetune\n')
    put(Path("pipe"), "pipe")
    strange = make_run(tmp_path / "runs", tasks=1, rounds=1)
    strange.rounds.write_text('{"task": 1, "round": 1, "terms": "\\u001b[2J"}\n')
    write_experiment(tmp_path, data={"dataset": "image_folder", "root": str(zipped(Path("z.zip"), {"../a": b""}))})
    before = sorted(tmp_path.rglob("*"))
    for command in (
        ["run", "laughs.yaml", "--out", "out"],
        ["run", "escape.yaml", "--out", "out"],
        ["run", "pipe", "--out", "out"],
        ["run", "tiny.yaml", "--out", "out"],
        ["show", "tiny.yaml"],
        ["show", "tiny.yaml", "federation.rounds=" + "9" * 10_000],
        ["embed", "pipe"],
        ["embed", "z.zip"],
        ["resume", str(strange.path)],
        ["resume", "x" * 5000],
        ["plot", "x" * 5000],
    ):
        monkeypatch.setattr(sys, "argv", ["fcil", *command])
        with pytest.raises(SystemExit) as stop:
            main()
        said = capsys.readouterr()
        assert stop.value.code == 2, (command, said.err)
        assert said.out == ""
        assert said.err.count("\n") == 1
        assert said.err.rstrip("\n").isprintable()
    assert sorted(tmp_path.rglob("*")) == before


def test_a_name_that_is_no_text_can_be_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = make_run(Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\x1b")), "finetune", tasks=1, rounds=1)
    monkeypatch.setattr("fcil.plots.draw_run", lambda path, *_: [path / "figures"])
    monkeypatch.setattr(sys, "argv", ["fcil", "plot", str(folder.path)])
    with pytest.raises(SystemExit) as stop:
        main()
    said = capfd.readouterr()
    assert stop.value.code == 0, said.err
    assert "\\udcff\\x1b" in said.out
