"""What TensorBoard and W&B are told is what the run folder holds, once for each round, also over interruptions."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from small_runs import LANDER, Stop, StopAfter, play, write_experiment
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fcil.errors import ConfigError
from fcil.runs.plans import read
from fcil.store import Run

Told = dict[str, list[tuple[int, float]]]


def events(run: Run) -> tuple[Told, dict[str, list[int]]]:
    """Scalars and steps of pictures, as TensorBoard itself reads them."""
    found = EventAccumulator(str(run.path / "tensorboard"), size_guidance={"scalars": 0, "images": 0}).Reload()
    scalars = {tag: [(e.step, e.value) for e in found.Scalars(tag)] for tag in found.Tags()["scalars"]}
    return scalars, {tag: [e.step for e in found.Images(tag)] for tag in found.Tags()["images"]}


def without_clock(told: Told) -> Told:
    return {tag: values for tag, values in told.items() if not tag.startswith("seconds/")}


def test_tensorboard_shows_what_the_folder_holds(tmp_path: Path) -> None:
    (run,) = play(write_experiment(tmp_path, strategy=LANDER, logger="tensorboard"), out=tmp_path / "out")
    scalars, pictures = events(run)
    steps = [(r["task"] - 1) * 2 + r["round"] for r in run.rounds]
    for name in run.rounds[0]["terms"]:
        told = [(s, r["terms"][name]) for s, r in zip(steps, run.rounds, strict=True)]
        assert scalars[f"terms/{name}"] == [(s, pytest.approx(v, rel=1e-6)) for s, v in told]
    assert scalars["bytes/down"] == [(s, r["bytes_down"]) for s, r in zip(steps, run.rounds, strict=True)]
    ends = {r.tested_task: r.accuracy for r in run.rows if r.trained_task == 2}
    assert {t: scalars[f"accuracy/task {t}"][-1] for t in ends} == {t: (4, pytest.approx(a)) for t, a in ends.items()}
    assert scalars["accuracy/seen"][-1] == (4, pytest.approx(run.summary["final_accuracy"]))
    assert [s for s, _ in scalars["accuracy/seen"]] == [1, 2, 3, 4]
    assert pictures == {"synthetic": [2]}


@pytest.mark.parametrize(("event", "count"), [("round_done", 3), ("task_done", 1), ("task_started", 2)])
def test_a_resumed_run_tells_no_step_twice_and_none_is_missing(tmp_path: Path, event: str, count: int) -> None:
    source = write_experiment(tmp_path, strategy=LANDER, logger="tensorboard")
    (whole,) = play(source, out=tmp_path / "whole")
    with pytest.raises(Stop):
        play(source, out=tmp_path / "out", observer=StopAfter(count, event))
    (resumed,) = play(source, out=tmp_path / "out")
    (ours, pictures), (theirs, all_pictures) = events(resumed), events(whole)
    assert without_clock(ours) == without_clock(theirs)
    assert pictures == all_pictures
    assert ours.keys() == theirs.keys()


def test_a_logger_changes_no_result_and_no_name(tmp_path: Path) -> None:
    (with_one,), (without,) = (
        read(write_experiment(tmp_path, **more))[0].plans() for more in ({"logger": "wandb"}, {})
    )
    assert with_one.folder == without.folder
    assert with_one.decisive == without.decisive


def test_a_package_that_is_not_there_is_said_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    source = write_experiment(tmp_path, logger="wandb")
    with pytest.raises(ConfigError, match=r"logger: wandb needs a package more; pip install 'fcil\[wandb\]'"):
        play(source, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(ConfigError, match='Did you mean "tensorboard"'):
        read(write_experiment(tmp_path, logger="tensorbord"))


class FakeRun:
    def __init__(self, given: dict[str, Any]) -> None:
        self.given, self.told, self.finished = given, dict[int, dict[str, Any]](), False

    def log(self, values: dict[str, Any], step: int) -> None:
        assert not self.told or step >= max(self.told)
        self.told.setdefault(step, {}).update(values)

    def finish(self) -> None:
        self.finished = True


def test_wandb_is_told_the_same_under_one_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[FakeRun] = []

    def init(**given: Any) -> FakeRun:
        runs.append(FakeRun(given))
        return runs[-1]

    fake = SimpleNamespace(init=init, Image=lambda picture: picture.shape, Error=RuntimeError)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    source = write_experiment(tmp_path, strategy=LANDER, logger="wandb")
    with pytest.raises(Stop):
        play(source, out=tmp_path / "out", observer=StopAfter(3))
    (run,) = play(source, out=tmp_path / "out")
    first, second = runs
    assert first.finished
    assert second.finished
    assert first.given["id"] == second.given["id"] == (run.path / "wandb/id").read_text()
    assert second.given["config"]["seed"] == 0
    assert list(second.told) == [2, 3, 4]
    assert second.told[2]["terms/ce"] == first.told[2]["terms/ce"] == run.rounds[1]["terms"]["ce"]
    assert second.told[2]["synthetic"] == first.told[2]["synthetic"]
    assert second.told[4]["accuracy/seen"] == run.summary["final_accuracy"]
