"""`fcil distill`: teachers trained or given, students taught without data, and what is refused beforehand."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from rich.console import Console
from safetensors.torch import load_file, save_file
from small_runs import Stop, StopAfter, checkpoint, final_weights, same, silently, without_seconds

from fcil.config import Where, parse
from fcil.distillation import distill, read
from fcil.errors import ConfigError
from fcil.federation.observer import Observer
from fcil.groups import group_runs
from fcil.nets import NetSettings, build_net
from fcil.store import Run, find_runs
from strategies.distill import Distill

FAST = {"rounds": 2, "steps": 2, "batch_size": 10, "samples": 20, "width": 4, "latent": 8}
NAYER = {"rounds": 2, "warmup": 1, "steps": 2, "batch_size": 10, "samples": 20, "width": 4, "latent": 8}
SETTINGS: dict[str, Any] = {
    "name": "tiny",
    "data": {"dataset": "digits", "per_class": 8},
    "teacher": {"net": {"name": "resnet8", "width": 4}, "epochs": 2, "batch_size": 16},
    "student": {"net": {"name": "resnet8", "width": 2}, "rounds": 4, "steps": 2, "batch_size": 8, "evaluate_every": 2},
    "synthesizer": {"fast": FAST},
    "resources": {"device": "cpu"},
}


def write(folder: Path, **parts: Any) -> Path:
    folder.mkdir(exist_ok=True)
    settings = {**SETTINGS}
    for key, value in parts.items():
        merged = isinstance(value, dict) and key in ("data", "teacher", "student")
        settings[key] = {**settings[key], **value} if merged else value
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    return path


def taught(source: Path, *overrides: str, out: Path, observer: Observer | None = None) -> tuple[list[Run], str]:
    console = Console(file=io.StringIO(), width=200)
    with silently(observer):
        runs = distill(source, *overrides, out=out, console=console)
    return runs, console.file.getvalue()  # type: ignore[attr-defined]


def test_a_teacher_is_trained_and_a_student_learns_from_what_it_dreams(tmp_path: Path) -> None:
    (run,), printed = taught(write(tmp_path), out=tmp_path / "out")
    (teacher,) = find_runs([tmp_path / "out" / "tiny-teacher"])
    assert run.strategy == "distill"
    assert len(run.rows) == 1
    assert [sorted(r["terms"]) for r in run.rounds] == [["adv", "bn", "ce", "student_kl"]] * 2 + [["student_kl"]] * 2
    assert f"teacher: {100 * teacher.summary['final_accuracy']:.1f} %" in printed
    pool = load_file(run.path / "synthetic" / "task1.safetensors")
    assert pool["x"].shape == (20, 1, 8, 8)
    assert pool["x"].dtype == torch.uint8
    about = json.loads((run.path / "quality.json").read_text())
    assert about["samples"] == sum(about["counts"]) == 20
    assert 0 <= about["agreement"] <= 1
    assert "agreement" in printed
    exported = load_file(teacher.path / "net.safetensors")
    assert same(exported, final_weights(teacher))
    student = final_weights(run)
    assert student["classifier.weight"].shape == (10, 8)  # its own net, and not the teacher's
    again, printed = taught(write(tmp_path), out=tmp_path / "out")
    assert [r.path for r in again] == [run.path]
    assert printed.count("is finished; nothing to do") == 2


def test_a_distillation_that_was_stopped_goes_on_equal_to_the_bit(tmp_path: Path) -> None:
    source = write(tmp_path, student={"rounds": 8}, synthesizer={"fast": {**FAST, "rounds": 7}})
    (whole,), _ = taught(source, out=tmp_path / "one")
    with pytest.raises(Stop):
        taught(source, out=tmp_path / "two", observer=StopAfter(2 + 6))  # epochs of the teacher, rounds of the student
    (resumed,), _ = taught(source, out=tmp_path / "two")
    assert resumed.variant == whole.variant or resumed.strategy == whole.strategy
    assert same(final_weights(whole), final_weights(resumed))
    assert without_seconds(whole) == without_seconds(resumed)
    ours, theirs = (load_file(run.path / "synthetic/task1.safetensors") for run in (whole, resumed))
    assert same(ours, theirs)
    mine, yours = (checkpoint(run)[0] for run in (whole, resumed))
    assert same({k: v for k, v in mine.items() if "lesson" in k}, {k: v for k, v in yours.items() if "lesson" in k})


def test_methods_of_a_matrix_share_a_teacher_and_are_told_apart_by_name(tmp_path: Path) -> None:
    runs, _ = taught(write(tmp_path, matrix={"synthesizer": [{"fast": FAST}, {"nayer": NAYER}]}), out=tmp_path / "out")
    assert [group.label for group in group_runs(runs)] == ["distill (fast)", "distill (nayer)"]
    assert len(find_runs([tmp_path / "out" / "tiny-teacher"])) == 1


def test_a_teacher_from_a_file_needs_no_training(tmp_path: Path) -> None:
    (run,), _ = taught(write(tmp_path), out=tmp_path / "out")
    (teacher,) = find_runs([tmp_path / "out" / "tiny-teacher"])
    source = write(tmp_path, name="given", teacher={"file": str(teacher.path / "net.safetensors")})
    (given,), _ = taught(source, out=tmp_path / "other")
    assert not (tmp_path / "other" / "given-teacher").exists()
    assert same(final_weights(run), final_weights(given))


def test_the_student_waits_for_the_warmup(tmp_path: Path) -> None:
    (run,), _ = taught(write(tmp_path, student={"wait": 3}), out=tmp_path / "out")
    assert ["student_kl" in record["terms"] for record in run.rounds] == [False, False, False, True]


def test_torchvisions_weights_serve_where_they_can_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FCIL_DATA", str(tmp_path / "data"))
    parts = {"teacher": {"net": {"name": "resnet18", "stem": "imagenet", "width": 4}, "file": "torchvision"}}
    asked = []

    def weights(name: str) -> dict[str, torch.Tensor]:
        asked.append(name)
        net = parse(NetSettings, parts["teacher"]["net"], Where("test"))
        return build_net(net, shape=(1, 8, 8), num_classes=10, text_width=None, key=("theirs",)).weights()

    monkeypatch.setattr("fcil.distillation.torchvision_weights", weights)
    (run,), _ = taught(write(tmp_path, student={"rounds": 2}, **parts), out=tmp_path / "out")
    assert asked == ["resnet18"]
    assert run.finished
    assert not (tmp_path / "out" / "tiny-teacher").exists()


def broken(tmp_path: Path, change: Any) -> Path:
    """The file of a teacher after a change to its weights."""
    taught(write(tmp_path), out=tmp_path / "first")
    (teacher,) = find_runs([tmp_path / "first" / "tiny-teacher"])
    weights = load_file(teacher.path / "net.safetensors")
    change(weights)
    save_file(weights, tmp_path / "broken.safetensors")
    return tmp_path / "broken.safetensors"


def poison(weights: dict[str, torch.Tensor]) -> None:
    weights["classifier.weight"][0, 0] = float("nan")


def shrink(weights: dict[str, torch.Tensor]) -> None:
    weights |= {name: weights[name][:7].clone() for name in ("classifier.weight", "classifier.bias")}


def strip(weights: dict[str, torch.Tensor]) -> None:
    del weights["backbone.stem.bn.running_mean"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (poison, 'tensor "classifier.weight" holds NaN or infinity'),
        (shrink, "has 7 classes; digits has 10"),
        (strip, "not the weights of a resnet8 as in teacher.net .*missing backbone.stem.bn.running_mean"),
    ],
)
def test_a_teacher_that_cannot_serve_is_refused(tmp_path: Path, change: Any, said: str) -> None:
    source = write(tmp_path / "in", teacher={"file": str(broken(tmp_path, change))})
    with pytest.raises(ConfigError, match=f"tiny.yaml: teacher.file: .*{said}"):
        taught(source, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_is_no_safetensors_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "no.safetensors").write_text("hello")
    for name in ("no.safetensors", "nowhere.safetensors"):
        source = write(tmp_path, teacher={"file": str(tmp_path / name)})
        with pytest.raises(ConfigError, match=r"tiny.yaml: teacher.file: .*no safetensors file can be read there"):
            taught(source, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"teacher": {"net": {"name": "resnet8", "norm": "group"}}}, "synthesizer fast: needs batch-norm layers"),
        ({"data": {"tasks": 2}}, "data.tasks: 2 is not allowed; a distillation has one task"),
        ({"data": {"partition": "iid"}}, "data.partition: a distillation has one task and one holder"),
        ({"student": {"rounds": 1}}, "student: rounds is 1, fewer than the 2 episodes of fast"),
        ({"synthesizer": {"fast": {**FAST, "chains": 2}}}, "synthesizer: chains is above 1"),
        ({"synthesizer": "fats"}, 'synthesizer: unknown synthesizer "fats"'),
        ({"distiller": "kt"}, 'distiller: unknown distiller "kt"'),
        ({"studnet": {}}, 'studnet: unknown key.*Did you mean "student"'),
    ],
)
def test_what_cannot_be_is_said_before_a_teacher_is_trained(tmp_path: Path, parts: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=f"tiny.yaml: .*{said}"):
        taught(write(tmp_path, **parts), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_every_default_is_written_out(tmp_path: Path) -> None:
    (one,) = read(write(tmp_path))
    plan = one.student_plan(0)
    assert isinstance(plan.strategy.strategy, Distill)
    assert plan.federation.clients == 1
    assert plan.data.tasks == 1
    assert plan.strategy.strategy.synthesizer == one.synthesizer
