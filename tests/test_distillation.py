"""`fcil distill`: teachers trained or given, students taught without data, and what is refused beforehand."""

from __future__ import annotations

import io
import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from rich.console import Console
from safetensors.torch import load_file, save_file
from small_runs import Stop, StopAfter, checkpoint, final_weights, same, silently, without_seconds
from test_cli import Command, assert_refused
from test_cli import command as command

from fcil.config import Where, parse
from fcil.distillation import distill, play, read
from fcil.errors import ConfigError
from fcil.federation.observer import Observer
from fcil.federation.plan import scenario_of, trained_net
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
    "student": {
        "net": {"name": "resnet8", "width": 2},
        "rounds": 4,
        "steps": 2,
        "batch_size": 8,
        "evaluate_every": 2,
        "snapshots": 0,
    },
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


def test_what_is_known_of_samples_is_found_again_for_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file stands for a number only as long as it is about what lies there."""
    measured: list[Path] = []
    measure = play.measure
    monkeypatch.setattr(play, "measure", lambda run, *rest: (measured.append(run.path), measure(run, *rest)))
    source, out = write(tmp_path), tmp_path / "out"
    (run,), _ = taught(source, out=out)
    (teacher,) = find_runs([out / "tiny-teacher"])
    net = teacher.path / "net.safetensors"
    whole = net.read_bytes()
    taught(source, out=out)
    assert measured == [run.path]
    pool = load_file(run.folder.synthetic / "task1.safetensors")
    save_file(pool | {"x": 255 - pool["x"]}, run.folder.synthetic / "task1.safetensors")
    taught(source, out=out)
    assert measured == [run.path] * 2
    save_file({name: 0 * tensor for name, tensor in load_file(net).items()}, net)  # of the run before this one, say
    taught(source, out=out)
    assert net.read_bytes() == whole
    net.write_bytes(whole[:100])
    taught(source, out=out)
    assert net.read_bytes() == whole
    shutil.rmtree(teacher.folder.checkpoints)
    taught(source, out=out)
    assert net.read_bytes() == whole
    assert measured == [run.path] * 2


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


def test_quality_is_measured_with_the_threads_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not with as many as the machine has."""
    from fcil.distillation import quality as module

    threads, whole = list[int](), module.quality
    monkeypatch.setattr(module, "quality", lambda *given: threads.append(torch.get_num_threads()) or whole(*given))
    torch.set_num_threads(2)
    try:
        taught(write(tmp_path), out=tmp_path / "out")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert threads == [1]


AFTER: dict[str, Any] = {
    "student": {"learns": "after", "rounds": 3, "snapshots": 2},
    "synthesizer": {"fast": {**FAST, "rounds": 4, "chains": 2, "student_steps": 2, "student_batch": 10}},
}


def test_a_student_that_learns_after_the_synthesis_has_the_pool_of_all_chains(tmp_path: Path) -> None:
    (run,), _ = taught(write(tmp_path, **AFTER), out=tmp_path / "out")
    assert [sorted(record["terms"]) for record in run.rounds] == [["student_kl"]] * 3
    assert not list((run.path / "synthetic").glob("*round*"))  # nothing changes while the student learns
    pool = load_file(run.path / "synthetic" / "task1.safetensors")
    one = read(write(tmp_path, **AFTER))[0]
    (teacher,) = find_runs([tmp_path / "out" / "tiny-teacher"])
    dataset = scenario_of(one.teacher_plan(0)).dataset
    alone = one.synthesizer.run(
        teacher=trained_net(one.teacher_plan(0), load_file(teacher.path / "net.safetensors")),
        labels=range(10),
        shape=dataset.shape,
        mean=torch.tensor(dataset.mean),
        std=torch.tensor(dataset.std),
        augment=dataset.augment.synthetic,
        key=(0, "synthesis", 1, "before", 0),
    )
    assert same(pool, alone)
    assert not torch.equal(pool["x"][:10], pool["x"][10:])


@pytest.mark.parametrize(("event", "count"), [("synthesis_progress", 3), ("synthesis_done", 1), ("round_done", 2 + 6)])
def test_a_synthesis_before_the_student_goes_on_where_it_was_stopped(tmp_path: Path, event: str, count: int) -> None:
    source = write(tmp_path, **{**AFTER, "student": {**AFTER["student"], "rounds": 7}})
    (whole,), _ = taught(source, out=tmp_path / "one")
    with pytest.raises(Stop):
        taught(source, out=tmp_path / "two", observer=StopAfter(count, event))
    watched = Episodes()
    (resumed,), _ = taught(source, out=tmp_path / "two", observer=watched)
    assert len(watched.heard) < 4  # of four episodes some were done
    assert same(final_weights(whole), final_weights(resumed))
    assert without_seconds(whole) == without_seconds(resumed)
    ours, theirs = (load_file(run.path / "synthetic/task1.safetensors") for run in (whole, resumed))
    assert same(ours, theirs)


class Episodes(Observer):
    """Counts the episodes of syntheses on the server."""

    def __init__(self) -> None:
        self.heard: list[int] = []

    def synthesis_progress(self, task: int, done: int, total: int, terms: dict[str, float]) -> None:
        self.heard.append(done)


@pytest.mark.parametrize("method", ["dafl", "cmi", "knowledge_within"])
def test_any_method_can_make_the_pool_first(tmp_path: Path, method: str) -> None:
    small = {"rounds": 2, "steps": 2, "batch_size": 10, "samples": 20, "chains": 2}
    small |= {"dafl": {"width": 4, "latent": 8}, "cmi": {"width": 4, "latent": 8, "student_steps": 1}}.get(method, {})
    (run,), _ = taught(write(tmp_path, **AFTER | {"synthesizer": {method: small}}), out=tmp_path / "out")
    assert run.finished
    assert len(load_file(run.path / "synthetic" / "task1.safetensors")["x"]) == 20


def test_samples_are_kept_while_they_change(tmp_path: Path) -> None:
    parts = {"student": {"rounds": 6, "snapshots": 3}, "synthesizer": {"fast": {**FAST, "rounds": 6, "samples": 60}}}
    source = write(tmp_path, **parts)
    (whole,), _ = taught(source, out=tmp_path / "one")
    names = {path.name for path in (whole.path / "synthetic").iterdir()}
    kept = [f"task1-round{n}" for n in (1, 4, 6)]
    assert names == {f"{stem}.{kind}" for stem in ("task1", *kept) for kind in ("safetensors", "png")}
    first, _, last = (load_file(whole.path / "synthetic" / f"{stem}.safetensors") for stem in kept)
    assert first["x"].dtype == torch.uint8
    assert not torch.equal(first["x"][:1], last["x"][:1])
    pool = load_file(whole.path / "synthetic" / "task1.safetensors")
    assert torch.equal(last["x"][last["y"] == 3][-1], pool["x"][pool["y"] == 3][-1])
    with pytest.raises(Stop):  # after the checkpoint of round 5, and the samples of round 6
        taught(source, out=tmp_path / "two", observer=StopAfter(2 + 6))
    (resumed,), _ = taught(source, out=tmp_path / "two")
    assert {path.name for path in (resumed.path / "synthetic").iterdir()} == names
    assert same(final_weights(whole), final_weights(resumed))
    assert same(last, load_file(resumed.path / "synthetic" / "task1-round6.safetensors"))


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

    monkeypatch.setattr("fcil.distillation.teachers.torchvision_weights", weights)
    (run,), _ = taught(write(tmp_path, student={"rounds": 2}, **parts), out=tmp_path / "out")
    assert asked == ["resnet18"]
    assert run.finished
    assert not (tmp_path / "out" / "tiny-teacher").exists()


# Teachers that cannot serve -------------------------------------------------------------------------


def teacher_file(folder: Path, change: Callable[[dict[str, torch.Tensor]], None], **net: Any) -> Path:
    """The file of an untrained net after a change to its weights."""
    settings = parse(NetSettings, {"name": "resnet8", "width": 4, **net}, Where("test"))
    weights = build_net(settings, shape=(1, 8, 8), num_classes=10, text_width=None, key=("given",)).weights()
    change(weights)
    save_file(weights, folder / "given.safetensors")
    return folder / "given.safetensors"


def poison(weights: dict[str, torch.Tensor]) -> None:
    weights["classifier.weight"][0, 0] = float("nan")


def shrink(weights: dict[str, torch.Tensor]) -> None:
    weights |= {name: weights[name][:7].clone() for name in ("classifier.weight", "classifier.bias")}


def strip(weights: dict[str, torch.Tensor]) -> None:
    del weights["backbone.stem.bn.running_mean"]


def flatten(weights: dict[str, torch.Tensor]) -> None:
    weights["classifier.bias"] = torch.tensor(0.0)


def leave(weights: dict[str, torch.Tensor]) -> None:
    """As it was made."""


@pytest.mark.parametrize(
    ("change", "net", "said"),
    [
        (poison, {}, 'given.safetensors: tensor "classifier.weight" holds NaN or infinity'),
        (shrink, {}, "given.safetensors: has 7 classes; digits has 10"),
        (strip, {}, "not the weights of a resnet8 as in teacher.net (the weights do not fit the net: missing "),
        (flatten, {}, "not the weights of a resnet8 as in teacher.net (the weights do not fit the net: "),
        (leave, {"width": 8}, "not the weights of a resnet8 as in teacher.net (the weights do not fit the net: "),
        (
            leave,
            {"name": "resnet20"},
            "not the weights of a resnet8 as in teacher.net (the weights do not fit the net: ",
        ),
        (leave, {"norm": "group"}, "not the weights of a resnet8 as in teacher.net (the weights do not fit the net: "),
    ],
)
def test_a_teacher_that_cannot_serve_is_refused(
    tmp_path: Path, command: Command, change: Any, net: dict[str, Any], said: str
) -> None:
    source = write(tmp_path / "in", teacher={"file": str(teacher_file(tmp_path, change, **net))})
    assert_refused(command("distill", source, "--out", "out"), "tiny.yaml: teacher.file: ", said)


def test_a_given_teacher_without_batch_norm_is_refused_where_a_method_needs_it(
    tmp_path: Path, command: Command
) -> None:
    group = {"name": "resnet8", "width": 4, "norm": "group"}
    source = write(tmp_path / "in", teacher={"net": group, "file": str(teacher_file(tmp_path, leave, norm="group"))})
    said = command("distill", source, "--out", "out")
    assert_refused(said, "tiny.yaml: ", "synthesizer fast: needs batch-norm layers in the net (net.norm: batch)")


def test_what_is_no_safetensors_file_is_refused(tmp_path: Path, command: Command) -> None:
    (tmp_path / "no.safetensors").write_text("hello")
    for name in ("no.safetensors", "nowhere.safetensors", "."):
        source = write(tmp_path / "in", teacher={"file": str(tmp_path / name)})
        said = command("distill", source, "--out", "out")
        assert_refused(said, "tiny.yaml: teacher.file: ", "no safetensors file can be read there")


def test_a_given_teacher_is_held_against_the_data_of_every_cell(tmp_path: Path, command: Command) -> None:
    images = tmp_path / "images"
    for split, name in itertools.product(("train", "test"), "ab"):
        (images / split / name).mkdir(parents=True)
        Image.new("L", (8, 8)).save(images / split / name / "1.png")
    matrix = {"data": [{"dataset": "digits", "per_class": 8}, {"dataset": "image_folder", "root": str(images)}]}
    source = write(tmp_path / "in", teacher={"file": str(teacher_file(tmp_path, leave))}, matrix=matrix)
    said = command("distill", source, "--out", "out")
    assert_refused(said, "tiny.yaml: teacher.file: ", "has 10 classes; image_folder has 2")


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"teacher": {"net": {"name": "resnet8", "norm": "group"}}}, "synthesizer fast: needs batch-norm layers"),
        ({"data": {"tasks": 2}}, "data.tasks: 2 is not allowed; a distillation has one task"),
        ({"data": {"partition": "iid"}}, "data.partition: a distillation has one task and one holder"),
        ({"student": {"rounds": 1}}, "student: rounds is 1, fewer than the 2 episodes of fast"),
        (
            {"synthesizer": {"fast": {**FAST, "chains": 2}}},
            "synthesizer: chains is 2, and a student that learns between episodes listens to one chain; set "
            "student.learns to after, or chains to 1",
        ),
        ({"student": {"learns": "after", "wait": 1}}, "student.wait: 1 is not allowed with learns: after"),
        ({"student": {"learns": "first"}}, "student.learns: 'first' is not allowed"),
        (
            {"synthesizer": {"mfcl": {"chains": 2}}, "student": {"learns": "after"}},
            "chains: 2 chains would make as many",
        ),
        ({"seeds": []}, r"seeds: \[\] is not allowed; expected at least one"),
        ({"name": "../up"}, 'name: "../up" is not allowed; it names a folder'),
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
