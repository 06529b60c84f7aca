"""Nets that runs keep: whole, equal to what was trained, built again from their file, measured and exported."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from command_line import Command, assert_refused
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from series_files import waves, write_ts
from small_runs import Stop, StopAfter, final_weights, play, same, write_experiment

from fcil import nets
from fcil.data import DataSettings, load_dataset
from fcil.errors import ConfigError, StoreError
from fcil.evaluation import FORMATS, evaluate, export
from fcil.federation.plan import Plan
from fcil.runs.plans import read
from fcil.store import Run, load_run
from fcil.store.nets import kept_net

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two tasks of digits, the net of each kept."""
    folder = tmp_path_factory.mktemp("kept")
    return play(write_experiment(folder, resources={"keep": "tasks"}), out=folder)[0]


@pytest.fixture
def copy(run: Run, tmp_path: Path) -> Path:
    """A copy of the run's folder, to be changed."""
    return Path(shutil.copytree(run.path, tmp_path / Path(*run.path.parts[-3:])))


def write_images(folder: Path, invert: bool = False, size: int = 8) -> Path:
    """The test images of digits as files, in a folder for each class."""
    test = load_dataset(DataSettings(dataset="digits", tasks=1)).test
    for row, label in enumerate(test.y.tolist()):
        levels = test.take(torch.tensor([row]))[0, 0].numpy()
        path = folder / NAMES[label] / f"{row}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(255 - levels if invert else levels)
        (image if size == 8 else image.resize((size, size))).save(path)
    return folder


def accuracies(run: Run, trained: int) -> list[tuple[int, int]]:
    return [(row.correct, row.examples) for row in run.rows if row.trained_task == trained]


# Kept -----------------------------------------------------------------------------------------------


def test_the_net_of_the_end_is_that_of_the_last_checkpoint_and_names_its_classes(run: Run) -> None:
    net = run.net()

    assert same(net.state_dict(), final_weights(run))
    assert net.class_names == NAMES[:4]
    assert not net.training
    assert run.net(task=2).class_names == NAMES[:4]
    assert same(run.net(task=2).state_dict(), net.state_dict())
    assert run.net(task=1).class_names == NAMES[:2]
    assert run.net(task=1).num_classes == 2


def test_without_a_word_the_last_net_alone_is_kept_and_on_request_none(tmp_path: Path) -> None:
    source = write_experiment(tmp_path)
    (last,) = play(source, out=tmp_path / "last")
    (none,) = play(source, "resources.keep=none", out=tmp_path / "none")

    assert last.folder.net.is_file()
    assert not last.folder.nets.exists()
    with pytest.raises(StoreError, match=r"no net of the end of task 1 was kept; set resources\.keep: tasks for it"):
        last.net(task=1)
    assert not none.folder.net.exists()
    with pytest.raises(StoreError, match=r"no net was kept; the run had resources\.keep: none, or was played before"):
        none.net()


def test_what_is_kept_changes_neither_hash_nor_accuracy(run: Run, tmp_path: Path) -> None:
    (other,) = play(write_experiment(tmp_path), "resources.keep=none", out=tmp_path)

    assert other.variant == run.variant
    for name in ("accuracy.csv", "partition.json"):
        assert (other.path / name).read_bytes() == (run.path / name).read_bytes()
    assert same(final_weights(other), final_weights(run))


def test_a_configuration_of_before_reads_as_the_default(tmp_path: Path) -> None:
    (experiment,) = read(write_experiment(tmp_path))
    plan: Plan = experiment.plans()[0]

    assert plan.resources.keep == "last"
    assert "resources" not in plan.decisive


@pytest.mark.parametrize(("event", "count"), [("task_trained", 1), ("task_trained", 2), ("run_trained", 1)])
def test_a_run_that_dies_as_nets_are_written_ends_with_the_same_nets(
    run: Run, tmp_path: Path, event: str, count: int
) -> None:
    source = write_experiment(tmp_path, resources={"keep": "tasks"})
    with pytest.raises(Stop):
        play(source, out=tmp_path, observer=StopAfter(count, event))
    (resumed,) = play(source, out=tmp_path)

    for name in ("net.safetensors", "net/task1.safetensors", "net/task2.safetensors"):
        assert (resumed.path / name).read_bytes() == (run.path / name).read_bytes()


def test_a_disk_that_is_full_leaves_no_half_of_a_net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(tensors: Any, path: Path, metadata: dict[str, str]) -> None:
        path.write_bytes(b"half")
        if "fcil" in metadata:
            raise OSError(28, "No space left on device")
        save_file(tensors, path, metadata=metadata)

    monkeypatch.setattr("fcil.io.blobs.save_file", fill)
    with pytest.raises(Exception, match=r"net\.safetensors: cannot be written \(No space left on device\)"):
        play(write_experiment(tmp_path), out=tmp_path)
    monkeypatch.undo()

    assert not list(tmp_path.rglob("*net.safetensors*"))
    (resumed,) = play(write_experiment(tmp_path), out=tmp_path)
    assert same(resumed.net().state_dict(), final_weights(resumed))


def test_a_net_says_what_it_needs(run: Run) -> None:
    kept = kept_net(run.path)
    data = load_dataset(DataSettings(dataset="digits", tasks=1))

    assert (kept.facts.shape, kept.facts.sizes, kept.facts.order) == ((1, 8, 8), (2, 2), (0, 1, 2, 3))
    assert (kept.facts.mean, kept.facts.std) == (data.mean, data.std)
    with safe_open(run.folder.net, framework="pt") as file:
        assert json.loads(file.metadata()["fcil"])["net"]["name"] == "resnet8"


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda about: about.pop("shape"), "holds no net that can be built"),
        (lambda about: about.update(format=9), "metadata of another version"),
        (lambda about: about.update(classes=["a", "b"]), "metadata that is not that of a net"),
        (lambda about: about.update(mean=["x"]), "metadata that is not that of a net"),
        (lambda about: about.update(sizes=5), "holds no net that can be built|metadata that is not that of a net"),
        (lambda about: about["net"].update(name="nosuch"), "nosuch"),
        (lambda about: about["net"].update(width=8), "do not fit the net"),
    ],
)
def test_a_damaged_net_is_one_line(copy: Path, change: Any, complaint: str) -> None:
    path = copy / "net.safetensors"
    with safe_open(path, framework="pt") as file:
        about = json.loads(file.metadata()["fcil"])
    change(about)
    save_file(load_file(path), path, metadata={"fcil": json.dumps(about)})

    with pytest.raises(StoreError, match=complaint) as error:
        load_run(copy).net()
    assert "\n" not in str(error.value)


def test_weights_alone_and_no_safetensors_at_all_are_one_line(copy: Path) -> None:
    path = copy / "net.safetensors"
    save_file(load_file(path), path)
    with pytest.raises(StoreError, match="weights alone, without the settings of their net"):
        load_run(copy).net()
    path.write_bytes(b"\xff" * 40)
    with pytest.raises(StoreError, match="damaged"):
        load_run(copy).net()


def test_an_unfinished_run_has_no_net_yet(copy: Path) -> None:
    (copy / "summary.json").unlink()
    (copy / "net.safetensors").unlink()
    with pytest.raises(StoreError, match="not finished, so there is no net yet"):
        load_run(copy).net()


# Evaluated ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", [None, 1, 2])
def test_the_kept_net_has_the_accuracy_of_the_record(run: Run, task: int | None) -> None:
    found = evaluate(run.path, task=task)
    trained = task or 2

    by_task = [(g.correct, g.examples) for g in found.groups if g.group == "task"]
    assert by_task == accuracies(run, trained)
    by_class = [g for g in found.groups if g.group == "class"]
    assert [g.name for g in by_class] == list(NAMES[: 2 * trained])
    assert sum(g.correct for g in by_class) == sum(correct for correct, _ in by_task) == found.groups[0].correct
    assert found.accuracy == found.groups[0].accuracy
    assert len(found.labels) + found.left_out == 359


def test_images_of_a_folder_are_matched_by_the_names_of_their_classes(run: Run, tmp_path: Path) -> None:
    same_images = evaluate(run.path, data=write_images(tmp_path / "same"))
    inverted = evaluate(run.path, data=write_images(tmp_path / "inverted", invert=True))

    assert [g[:4] for g in same_images.groups] == [g[:4] for g in evaluate(run.path).groups]
    x = load_dataset(DataSettings(dataset="digits", tasks=1))
    levels = 1 - x.test.take(torch.arange(359)).float() / 255
    logits = run.net()((levels - x.mean[0]) / x.std[0]).logits
    known = x.test.y < 4
    assert inverted.groups[0].correct == int((logits.argmax(1)[known] == x.test.y[known]).sum())


def test_a_folder_with_both_splits_and_one_that_is_named_by_overrides(run: Run, tmp_path: Path) -> None:
    write_images(tmp_path / "both" / "test")
    write_images(tmp_path / "both" / "train", invert=True)
    found = evaluate(run.path, "data.dataset=image_folder", f"data.root={tmp_path / 'both'}")

    assert [g[:4] for g in found.groups] == [g[:4] for g in evaluate(run.path).groups]


def test_a_strategy_with_a_rule_of_its_own_predicts_by_it(tmp_path: Path) -> None:
    (run,) = play(write_experiment(tmp_path), "strategy=icarl", "resources.keep=tasks", out=tmp_path)

    for task in (1, 2):
        found = evaluate(run.path, task=task)
        assert [(g.correct, g.examples) for g in found.groups if g.group == "task"] == accuracies(run, task)
    assert run.net().num_classes == 4
    (run.path / "net_shared.safetensors").unlink()
    with pytest.raises(StoreError, match=r"net_shared\.safetensors: cannot be read"):
        evaluate(run.path)


OWN = """from dataclasses import dataclass

from fcil import Strategy


@dataclass(frozen=True, kw_only=True)
class Own(Strategy):
    def predict(self, net, x, shared):
        return -net(x).logits
"""


def test_a_rule_of_a_file_that_is_gone_is_not_run_unasked(tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text(OWN)
    (run,) = play(write_experiment(tmp_path), f"strategy={file}", out=tmp_path)
    file.unlink()

    with pytest.raises(StoreError, match="say --trust"):
        evaluate(run.path)
    assert evaluate(run.path, trust=True).groups[0].correct == sum(correct for correct, _ in accuracies(run, 2))


def test_series_are_standardised_by_what_the_net_was_trained_on(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for folder, seed, stretch in ((here, 0, 1.0), (there, 7, 50.0)):
        folder.mkdir()
        train = [([[v * stretch for v in c] for c in x], y) for x, y in waves(8, "abcd", seed=seed)]
        write_ts(folder, train, waves(4, "abcd", seed=1))
    data = {"dataset": "ts_folder", "root": str(here), "tasks": 2, "normalise": "training"}
    learns = {"rounds": 6, "local_epochs": 4, "max_batches": None}
    source = write_experiment(
        tmp_path, data=data, net={"name": "fcn1d", "width": 8}, strategy="joint", federation=learns
    )
    (run,) = play(source, out=tmp_path)

    found, other = evaluate(run.path), evaluate(run.path, f"data.root={there}")
    assert [(g.correct, g.examples) for g in found.groups if g.group == "task"] == accuracies(run, 2)
    assert (found.predicted == other.predicted).all()
    assert len(set(found.predicted)) > 1, "one class for everything would be right whatever the scale"


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["data.dataset=nosuch"], ["data.dataset", "nosuch"]),
        (["--data", "nowhere"], ["nowhere", "no such folder"]),
        (["--data", "large"], ["samples are 1 x 16 x 16, the net was trained on 1 x 8 x 8", "data.resize=8"]),
        (
            ["--data", "fewer"],
            ["classes of /", "/fewer are not those of the net", "the net knows and the data lack", '"nine"'],
        ),
        (["--data", "more"], ["the data have and the net does not know", '"ten"']),
        (["federation.rounds=2"], ['override "federation.rounds": not read by an evaluation']),
        (["--task", "3"], ["no net of the end of task 3 was kept; there are those of tasks 1, 2"]),
        (["--out", "../x"], ["out", "../x"]),
    ],
)
def test_other_shapes_classes_and_settings_are_one_line(
    command: Command, copy: Path, arguments: list[str], parts: list[str]
) -> None:
    write_images(Path("large"), size=16)
    write_images(Path("fewer"))
    shutil.rmtree("fewer/nine")
    shutil.copytree(write_images(Path("more")) / "nine", "more/ten")

    assert_refused(command("evaluate", str(copy), *arguments), *parts)
    assert not (copy / "evaluations").exists()


def test_the_command_prints_a_table_and_writes_it_if_asked(command: Command, copy: Path) -> None:
    said = command("evaluate", str(copy), "--out", "clean")
    written = (copy / "evaluations" / "clean.csv").read_text().splitlines()
    row = load_run(copy).rows[-1]

    assert said.code == 0
    assert "class three" in said.out
    assert f"task,2,{row.examples},{row.correct},{row.accuracy:.6f}" in written
    assert len(written) == 1 + 1 + 2 + 4
    found = json.loads(command("evaluate", str(copy), "--json").out)
    assert found[2] == {
        "group": "task", "name": "2", "examples": row.examples, "correct": row.correct, "accuracy": row.accuracy
    }  # fmt: skip


# Exported -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", [None, 1])
def test_a_state_dict_fits_the_net_and_gives_its_logits(run: Run, tmp_path: Path, task: int | None) -> None:
    net, x = run.net(task), torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    weights = load_file(export(run.path, "state_dict", task=task, out=tmp_path / "net.safetensors"))
    built = nets.net_of(nets.NetSettings(name="resnet8", width=4), weights, (1, 8, 8)).eval()

    assert torch.allclose(built(x).logits, net(x).logits, atol=1e-5)


def inputs(shape: tuple[int, ...]) -> torch.Tensor:
    return torch.randn(5, *shape, generator=torch.Generator().manual_seed(0))


IMAGE_NETS = [("resnet8", 4), ("lenet5", None), ("mlp", 8)]
SERIES_NETS = ["fcn1d", "resnet1d", "inceptiontime"]


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(("name", "width"), IMAGE_NETS)
def test_torchscript_gives_the_same_logits_for_batches_of_any_size(tmp_path: Path, name: str, width: int) -> None:
    source = write_experiment(tmp_path, net={"name": name, "width": width})
    (run,) = play(source, "federation.rounds=1", out=tmp_path)
    facts = {"fcil.json": ""}
    loaded = torch.jit.load(str(export(run.path, "torchscript")), _extra_files=facts)

    assert torch.allclose(loaded(inputs((1, 8, 8))), run.net()(inputs((1, 8, 8))).logits, atol=1e-5)
    assert json.loads(facts["fcil.json"])["classes"] == list(NAMES[:4])


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("name", SERIES_NETS)
def test_torchscript_of_nets_of_series_reads_their_padding(tmp_path: Path, name: str) -> None:
    write_ts(tmp_path, waves(8, "abcd"), waves(4, "abcd", seed=1))
    data = {"dataset": "ts_folder", "root": str(tmp_path), "tasks": 2}
    (run,) = play(write_experiment(tmp_path, data=data, net={"name": name, "width": 4}), out=tmp_path)
    loaded = torch.jit.load(str(export(run.path, "torchscript")))
    x = inputs((2, 12))
    x[0, :, 7:] = torch.nan

    assert torch.allclose(loaded(x), run.net()(x).logits, atol=1e-5)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_net_that_a_trace_does_not_follow_is_one_line(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = nets.Net.forward

    def counting(net: nets.Net, x: torch.Tensor) -> Any:
        return forward(net, x * float(len(x)))  # a constant of the trace

    monkeypatch.setattr(nets.Net, "forward", counting)
    with pytest.raises(ConfigError, match="torchscript cannot hold resnet8, which a trace does not follow"):
        export(copy, "torchscript")
    assert not (copy / "exports").exists()


@pytest.mark.parametrize("name", ["fcn1d", "shapeformer"])
def test_onnx_of_series_is_refused_in_one_line(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fcil.evaluation.formats.find_spec", lambda package: package)
    kept = SimpleNamespace(facts=SimpleNamespace(shape=(2, 12), net={"name": name}))

    with pytest.raises(ConfigError, match=f"onnx cannot hold {name}, which looks for padding as it runs"):
        FORMATS["onnx"][1](kept, Path("never"))


def test_onnx_without_its_packages_names_the_extra(
    command: Command, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fcil.evaluation.formats.find_spec", lambda name: None)

    assert_refused(command("export", str(copy), "--to", "onnx"), "onnx and onnxscript", "pip install 'fcil[onnx]'")
    assert not (copy / "exports").exists()


@pytest.mark.parametrize("name", ["resnet8", "lenet5"])
def test_onnx_gives_the_same_logits(tmp_path: Path, name: str) -> None:
    for package in ("onnx", "onnxscript"):
        pytest.importorskip(package)
    runtime = pytest.importorskip("onnxruntime")
    source = write_experiment(tmp_path, net={"name": name, "width": 4 if name == "resnet8" else None})
    (run,) = play(source, "federation.rounds=1", out=tmp_path)
    session = runtime.InferenceSession(str(export(run.path, "onnx")))
    x = inputs((1, 8, 8))

    (logits,) = session.run(None, {"x": x.numpy()})
    assert np.abs(logits - run.net()(x).logits.detach().numpy()).max() < 1e-5


def test_an_export_is_a_verb_with_one_line(command: Command, copy: Path) -> None:
    said = command("export", str(copy), "--to", "state_dict")
    assert (said.code, said.out.strip()) == (0, str(copy / "exports" / "net.safetensors"))
    assert_refused(command("export", str(copy), "--to", "onx"), 'unknown format "onx"', "onnx")
    with pytest.raises(ConfigError, match="unknown format"):
        export(copy, "pickle")
