"""A run that dies says in its folder why, how far it came and how it goes on; once it is finished it says nothing."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console
from small_runs import Stop, StopAfter, play, silently, write_experiment, write_strategy

import fcil
from fcil.errors import TrainingError
from fcil.federation.runtime.interrupts import Interrupted
from fcil.runs.failure_report import changed, failure_card
from fcil.runs.plans import read

BROKEN = '''"""Breaks when a file says so."""

from dataclasses import dataclass
from pathlib import Path

import torch.nn.functional as F

from fcil import Strategy


@dataclass(frozen=True, kw_only=True)
class Broken(Strategy):
    keep: float = 1.0
    """Nothing."""
    other: float = 2.0
    """Nothing."""

    def local_loss(self, client, batch):
        return {"ce": F.cross_entropy(client.net(batch.x).logits, batch.y)}

    def aggregate(self, server, updates):
        if server.task.number == 2 and Path("broken").exists():
            raise OSError("cannot read /home/somebody/secret/table.bin today")
        return super().aggregate(server, updates)
'''


def only_folder(out: Path) -> Path:
    (config,) = out.rglob("config.yaml")
    return config.parent


def test_a_card_is_left_printed_and_taken_away_when_the_run_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    source = write_experiment(tmp_path, strategy={str(write_strategy(Path("."), BROKEN, "broken_one")): {"keep": 3.0}})
    Path("broken").touch()
    printed = io.StringIO()
    with silently(), pytest.raises(TrainingError, match="secret"):
        fcil.run(source, out="out", console=Console(file=printed, width=200))

    folder = only_folder(Path("out"))
    card, text = json.loads((folder / "failure.json").read_text()), (folder / "failure.md").read_text()
    assert card["error"] == "task 2, round 1: OSError: cannot read …/table.bin today (in aggregate)"
    assert card["raised_in"] == "broken_one.py, line 23, aggregate"
    assert card["last_round"].items() >= {"task": 1, "round": 2}.items()
    assert card["checkpoint"] == "task002-round00000.json"
    assert card["changed"].items() >= {"strategy.keep": 3.0, "data.tasks": 5, "federation.clients": 2}.items()
    assert not {"strategy.other", "federation.fraction", "optimizer.lr"} & set(card["changed"])
    assert card["resume"] == f"fcil resume {folder}"
    assert any("[TASK 1/2] done" in line for line in card["log"])
    assert text in printed.getvalue()
    assert "last good round: task 1, round 2" in text
    assert "somebody" not in text + json.dumps(card)

    Path("broken").unlink()
    play(source, out=Path("out"))
    assert not (folder / "failure.json").exists()
    assert not (folder / "failure.md").exists()


def test_a_run_that_was_stopped_leaves_none(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        play(write_experiment(tmp_path), out=tmp_path / "out", observer=StopAfter(1, reason=Interrupted))
    assert list((tmp_path / "out").rglob("failure.*")) == []


def test_a_card_that_cannot_be_written_hides_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (plan,) = read(write_experiment(tmp_path))[0].plans()
    path = tmp_path / "run"
    path.mkdir()
    (path / "config.yaml").touch()
    (path / "failure.json").mkdir()
    with pytest.raises(Stop, match="mine"), failure_card(path, plan):
        raise Stop("mine")
    with pytest.raises(TrainingError), failure_card(tmp_path / "nowhere", plan):
        raise TrainingError("before anything was written")
    assert not (tmp_path / "nowhere").exists()


def test_only_what_is_not_the_default_is_told(tmp_path: Path) -> None:
    parts = {"strategy": {"lander": {"radius": 0.5, "synthesizer": {"nayer": {"rounds": 7}}}}, "seeds": [3]}
    (plan,) = read(write_experiment(tmp_path, data={"partition": {"dirichlet": 0.5}}, **parts))[0].plans()
    found = changed(plan)
    assert found.items() >= {"seed": 3, "strategy": "lander", "strategy.radius": 0.5}.items()
    assert found["data.partition"] == {"dirichlet": 0.5}
    assert found["data.dataset"] == "digits"
    assert [key for key in found if key.startswith("strategy.synthesizer")] == ["strategy.synthesizer.rounds"]
