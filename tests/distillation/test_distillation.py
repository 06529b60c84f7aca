"""`fcil distill`: teachers trained or given, students taught without data, and what is refused beforehand."""

from __future__ import annotations

import io
import itertools
import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import Command, assert_refused
from PIL import Image
from rich.console import Console
from safetensors.torch import load_file, save_file
from small_distillations import AFTER, FAST, NAYER, taught, write
from small_runs import Stop, StopAfter, checkpoint, final_weights, same, silently, without_seconds, write_experiment

from fcil.compare import compare
from fcil.compare import write as write_tables
from fcil.compare.terminal import tables
from fcil.config import Where, parse
from fcil.distillation import Distillation, distill, play, read
from fcil.distillation.teachers import doubt
from fcil.errors import ConfigError
from fcil.experiment import resume
from fcil.federation.context import Datasets
from fcil.federation.observer import Observer
from fcil.federation.persistence.smoke import MEANING, is_smoke
from fcil.nets import NetSettings, build_net
from fcil.store import Run, find_runs
from fcil.store.groups import group_runs
from fcil.synthesis import synthesizer_class, synthesizer_names
from strategies.distill import Distill


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The results of a distillation in which nothing is changed, and what was printed; not to be written to."""
    folder = tmp_path_factory.mktemp("plain")
    _, printed = taught(write(folder), out=folder / "out")
    return folder / "out", printed


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


def test_a_teacher_is_trained_and_a_student_learns_from_what_it_dreams(tmp_path: Path, plain: tuple[Path, str]) -> None:
    out, printed = plain
    (run,), (teacher,) = find_runs([out / "tiny"]), find_runs([out / "tiny-teacher"])
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
    again, printed = taught(write(tmp_path), out=out)
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


def test_a_student_that_learns_after_the_synthesis_has_the_pool_of_all_chains(tmp_path: Path) -> None:
    (run,), _ = taught(write(tmp_path, **AFTER), out=tmp_path / "out")
    assert [sorted(record["terms"]) for record in run.rounds] == [["student_kl"]] * 3
    assert not list((run.path / "synthetic").glob("*round*"))  # nothing changes while the student learns
    pool = load_file(run.path / "synthetic" / "task1.safetensors")
    one = read(write(tmp_path, **AFTER))[0]
    (teacher,) = find_runs([tmp_path / "out" / "tiny-teacher"])
    context = Datasets().open(one.teacher_plan(0))
    dataset = context.scenario.dataset
    alone = one.synthesizer.run(
        teacher=context.trained_net(load_file(teacher.path / "net.safetensors")),
        labels=range(10),
        shape=dataset.shape,
        mean=torch.tensor(dataset.mean),
        std=torch.tensor(dataset.std),
        augment=dataset.augment.synthetic,
        key=(0, "synthesis", 1, "before", 0),
    )
    assert same(pool, alone)
    assert not torch.equal(pool["x"][:10], pool["x"][10:])


LONGER = {**AFTER, "student": {**AFTER["student"], "rounds": 7}}


@pytest.fixture(scope="module")
def longer(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A student that learns after the synthesis, never stopped."""
    folder = tmp_path_factory.mktemp("longer")
    return taught(write(folder, **LONGER), out=folder / "out")[0][0]


@pytest.mark.parametrize(("event", "count"), [("synthesis_progress", 3), ("synthesis_done", 1), ("round_done", 2 + 6)])
def test_a_synthesis_before_the_student_goes_on_where_it_was_stopped(
    tmp_path: Path, longer: Run, event: str, count: int
) -> None:
    source, whole = write(tmp_path, **LONGER), longer
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


def test_a_teacher_from_a_file_needs_no_training(tmp_path: Path, plain: tuple[Path, str]) -> None:
    (run,), (teacher,) = find_runs([plain[0] / "tiny"]), find_runs([plain[0] / "tiny-teacher"])
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
        *(
            (
                {"synthesizer": {name: {"rounds": 2, "steps": 2}}, "distiller": "crd"},
                f"distiller: crd goes by the number of a sample in a pool, and {name} gives a student fresh samples",
            )
            for name in synthesizer_names()
            if not synthesizer_class(name).numbered
        ),
        (
            {"teacher": {"batch_size": 1, "net": {"name": "resnet18", "width": 4}}},
            "teacher.batch_size: 1 is not allowed with resnet18 on images of 8 x 8, whose last maps are 1 x 1",
        ),
        (
            {"student": {"batch_size": 1, "net": {"name": "resnet8", "width": 4, "stem": "imagenet"}}},
            "student.batch_size: 1 is not allowed with resnet8",
        ),
        (
            {
                "student": {"net": {"name": "resnet18", "width": 4}},
                "synthesizer": {"knowledge_within": {"samples": 1, "rounds": 2, "steps": 1}},
            },
            "synthesizer.samples: 1 is not allowed with resnet18",
        ),
        ({"synthesizer": {"nayer": {**NAYER, "batch_size": 1}}}, "batch_size: 1 is not allowed"),
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


@pytest.mark.parametrize(
    "parts",
    [
        {"distiller": "crd", "student": {"learns": "after"}, "synthesizer": {"dafl": FAST}},
        {"distiller": {"crd": {"contrast": 0}}, "synthesizer": {"dafl": FAST}},
        {"student": {"net": {"name": "resnet8", "width": 2, "norm": "group"}}},  # the teacher alone needs batch norm
        {"student": {"net": {"name": "resnet18", "width": 2}, "batch_size": 2}, "synthesizer": {"fast": FAST}},
        {"student": {"net": {"name": "resnet18", "width": 2}}, "synthesizer": {"dafl": {**FAST, "samples": 1}}},
        {"student": {"batch_size": 1}, "teacher": {"net": {"name": "resnet18", "width": 2}, "batch_size": 16}},
        {
            "student": {"learns": "after", "net": {"name": "resnet18", "width": 2}},
            "teacher": {"net": {"name": "resnet18", "width": 2}, "batch_size": 16},
            "synthesizer": {"fast": {**FAST, "student_batch": 1, "student_steps": 2}},
        },
    ],
    ids=[
        "crd after",
        "crd without contrast",
        "group",
        "two",
        "fresh",
        "one and a teacher of 1 x 1",
        "one in synthesis",
    ],
)
def test_what_can_be_is_not_refused(tmp_path: Path, parts: dict[str, Any]) -> None:
    (run,), _ = taught(write(tmp_path, **parts), out=tmp_path / "out")
    assert run.finished


def test_every_default_is_written_out(tmp_path: Path) -> None:
    (one,) = read(write(tmp_path))
    plan = one.student_plan(0)
    assert isinstance(plan.strategy.strategy, Distill)
    assert plan.federation.clients == 1
    assert plan.data.tasks == 1
    assert plan.strategy.strategy.synthesizer == one.synthesizer


def test_a_student_that_has_begun_needs_the_file_of_its_teacher_no_more(tmp_path: Path) -> None:
    source = write(tmp_path, teacher={"file": str(teacher_file(tmp_path, leave))})
    with pytest.raises(Stop):
        taught(source, "student.rounds=8", out=tmp_path / "two", observer=StopAfter(6))
    (folder,) = (tmp_path / "two").glob("*/distill-*/seed0")
    (tmp_path / "given.safetensors").unlink()
    with silently():
        assert resume(folder, Console(file=io.StringIO())).finished


# Files for the other command --------------------------------------------------------------------------


def test_a_file_for_the_other_command_is_said_to_be_one(command: Command, tmp_path: Path) -> None:
    source = write(tmp_path / "in", matrix={"distiller": ["kd", "l1"]})
    assert_refused(
        command("run", source, "--out", "out"),
        'tiny.yaml: is a distillation, as it has "teacher" and "student" and "synthesizer" and "distiller" and no '
        "strategy; it is for fcil distill",
    )
    assert_refused(command("run", source, "--dry-run"), "it is for fcil distill")
    write_experiment(Path("."), matrix={"strategy": ["finetune"]})
    assert_refused(
        command("distill", "tiny.yaml", "--out", "out"),
        'tiny.yaml: is an experiment, as it has "federation" and "strategy" and no synthesizer; it is for fcil run',
    )


def test_keys_of_both_are_told_as_unknown(command: Command, tmp_path: Path) -> None:
    source = write(tmp_path / "in", strategy="finetune")
    assert_refused(command("distill", source, "--out", "out"), "tiny.yaml: strategy: unknown key")


@pytest.mark.parametrize("name", ["given.pth", "given.bin", "odd 'one'.pt", "nameless"])
def test_a_pickled_teacher_is_refused_with_the_line_that_converts_it(
    tmp_path: Path, command: Command, name: str
) -> None:
    file = tmp_path / name
    weights = load_file(teacher_file(tmp_path, leave))
    weights["classifier.weight"] = weights["classifier.weight"].T.contiguous().T
    torch.save({"state_dict": weights, "epoch": 3}, file)
    source = write(tmp_path / "in", teacher={"file": str(file)})
    said = command("distill", source, "--out", "out")
    assert_refused(said, "tiny.yaml: teacher.file: ", "no pickle is read here")
    _, _, code = shlex.split(said.err[said.err.index("python -c") :])
    exec(code, {})
    converted = load_file(file.with_suffix(".safetensors"))
    assert same(converted, weights)
    source = write(tmp_path / "in", teacher={"file": str(file.with_suffix(".safetensors"))})
    assert len(taught(source, out=tmp_path / "out")[0]) == 1


# Before it is played --------------------------------------------------------------------------------


def test_a_distillation_is_shown_with_every_default(command: Command, tmp_path: Path) -> None:
    source = write(tmp_path / "in", matrix={"synthesizer": [{"fast": FAST}, {"dafl": FAST}]})
    table = command("show", source)
    assert (table.code, table.err) == (0, "")
    for part in (
        "synthesizer fast",
        "synthesizer dafl",
        "distiller kd",
        "temperature 20",
        "learns between",
        "epochs 2",
    ):
        assert part in " ".join(table.out.split())
    first, second = json.loads(command("show", source, "student.steps=7", "--json").out)
    assert (first["student"]["steps"], list(second["synthesizer"])) == (7, ["dafl"])
    settings = {key: value for key, value in first.items() if key not in ("counts", "remarks")}
    assert parse(Distillation, settings, Where("shown")).student.steps == 7
    assert [len(first["counts"]), len(first["counts"][0])] == [1, 1]
    assert_refused(command("show", source, "--split", "split.json"), "a distillation has one holder of its data")
    assert_refused(command("show", source, "student.stesp=7"), "student.stesp: unknown key", 'Did you mean "steps"?')


def test_a_dry_run_of_a_distillation_lists_teachers_and_students(command: Command, tmp_path: Path) -> None:
    source = write(tmp_path / "in", seeds=[0, 1], matrix={"synthesizer": [{"fast": FAST}, {"dafl": FAST}]})
    found = json.loads(command("distill", source, "--dry-run", "--json", "--out", "out").out)
    assert not Path("out").exists()
    labels = [run["label"] for run in found["runs"]]
    assert labels == [
        *("teacher · seed 0", "distill (fast) · seed 0", "teacher · seed 1", "distill (fast) · seed 1"),
        *("distill (dafl) · seed 0", "distill (dafl) · seed 1"),
    ]
    assert {run["state"] for run in found["runs"]} == {"new"}
    assert_refused(command("distill", source, "--json"), "--json is for --dry-run")
    bad = write(tmp_path / "bad", distiller="crd", synthesizer={"dafl": FAST})
    assert_refused(command("distill", bad, "--dry-run"), "crd goes by the number of a sample")
    taught(source, "seeds=[0]", "matrix.synthesizer=[{fast: {rounds: 2, steps: 2, samples: 20}}]", out=Path("out"))
    found = json.loads(command("distill", source, "--dry-run", "--json", "--out", "out").out)
    assert found["runs"][0]["state"] == "finished"  # the teacher
    assert "6 runs" in command("distill", source, "--dry-run", "--out", "out").out


def test_a_dry_run_knows_students_of_a_given_teacher(command: Command, tmp_path: Path) -> None:
    source = write(tmp_path / "in", teacher={"file": str(teacher_file(tmp_path, leave))})
    (run,), _ = taught(source, out=Path("out"))
    (found,) = json.loads(command("distill", source, "--dry-run", "--json", "--out", "out").out)["runs"]
    assert (found["state"], Path(found["folder"]).absolute()) == ("finished", run.path)


def test_a_smoke_run_of_a_distillation_takes_two_steps_of_everything(tmp_path: Path) -> None:
    parts: dict[str, Any] = {
        "seeds": [3, 4],
        "teacher": {"epochs": 50},
        "student": {"rounds": 90, "steps": 100, "wait": 9},
        "matrix": {"synthesizer": [{"nayer": {"width": 4}}, {"dafl": {"width": 4, "rounds": 80}}]},
    }
    source = write(tmp_path, **parts)
    for _ in range(2):  # to try again is the point of it
        with silently():
            console = Console(file=io.StringIO(), width=200)
            runs = distill(source, out=tmp_path / "out", smoke=True, console=console)
        assert "nothing to do" not in console.file.getvalue()  # type: ignore[attr-defined]
    assert [(run.name, run.seed, run.finished) for run in runs] == [("tiny-smoke", 3, True)] * 2
    (teacher,) = find_runs([tmp_path / "out" / "tiny-smoke-teacher"])
    assert teacher.config["federation"]["max_batches"] == 2
    assert max(len(run.rounds) for run in [teacher, *runs]) <= 3
    assert all(is_smoke(run.config) for run in [teacher, *runs])
    assert [Distillation.smoke(one).name for one in read(source)] == ["tiny-smoke"] * 2
    assert not any(is_smoke(one.student_plan(3).to_yaml() | {"name": "tiny-smoke"}) for one in read(source))
    found = compare(runs)
    assert [split.label for split in found.splits] == ["digits, 1 task, iid, smoke run, students"]
    assert f"{found.splits[0].label}: {MEANING}" in found.warnings
    assert MEANING in doubt(teacher.path / "net.safetensors")


def test_the_doctor_reads_distillations(command: Command, tmp_path: Path) -> None:
    source = write(tmp_path / "in")
    found = {row["what"]: row for row in json.loads(command("doctor", source, "--json", "--out", "out").out)}
    assert found["runs"]["found"] == "2 to play, 0 finished already"
    assert {"data: digits", "disk", "memory of a run", "time in all"} <= set(found)
    bad = write(tmp_path / "bad", teacher={"file": "no.safetensors"})
    assert_refused(command("doctor", bad), "teacher.file: no.safetensors: no safetensors file can be read there")
    taught(source, out=Path("out"))
    found = {row["what"]: row for row in json.loads(command("doctor", source, "--json", "--out", "out").out)}
    assert found["runs"]["found"] == "0 to play, 2 finished already"


def test_students_are_compared_with_their_teacher_in_a_column(tmp_path: Path) -> None:
    source = write(tmp_path, seeds=[0, 1], matrix={"synthesizer": [{"fast": FAST}, {"dafl": FAST}]})
    runs, _ = taught(source, out=tmp_path / "out")
    every = find_runs([tmp_path / "out"])
    assert {run.strategy for run in every} == {"finetune", "distill"}
    (split,) = compare(every).splits
    assert split.label == "digits, 1 task, iid, students"
    assert sorted(entry.label for entry in split.entries) == ["distill (dafl)", "distill (fast)"]
    about = [json.loads((run.path / "quality.json").read_text()) for run in runs if "dafl" in str(run.config)]
    dafl = next(entry for entry in split.entries if entry.label == "distill (dafl)")
    for name in ("teacher_accuracy", "agreement"):
        assert dafl.spreads[name].mean == pytest.approx(50 * sum(one[name] for one in about))
    assert dafl.spreads["samples"].mean == 20
    paths = {path.name: path.read_text() for path in write_tables(compare(every), tmp_path / "tables")}
    assert (
        "| strategy | keeps | n | student | teacher | agreement | bns | diversity | samples |" in paths["comparison.md"]
    )
    assert "strategy & student & teacher & agreement" in paths["comparison.tex"]
    assert "teacher_accuracy,percent" in paths["comparison.csv"]
    console = Console(file=io.StringIO(), width=80)
    console.print(tables(compare(every)))
    assert "student     teacher" in console.file.getvalue()  # type: ignore[attr-defined]
    assert {split.students for split in compare(every, teachers=True).splits} == {False, True}  # as a report has it
    alone = compare(find_runs([tmp_path / "out" / "tiny-teacher"]))  # without students it is a run as any
    assert [entry.label for entry in alone.splits[0].entries] == ["finetune"]
