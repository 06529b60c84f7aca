"""Nets that begin from a file of weights: what is read, what is refused, what is trained, and what a run says of it."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
import torchvision
from command_line import Command, assert_refused
from safetensors.torch import save_file
from small_plays import small
from small_runs import Stop, StopAfter, final_weights, play, same, write_experiment

import fcil
from fcil import evaluation
from fcil.check.trials import Trials, plan_of
from fcil.compare import compare
from fcil.compare.write import markdown, rows
from fcil.config import Where, dump, parse
from fcil.config.content import HashedFile
from fcil.config.effect import effective, track_of
from fcil.errors import ConfigError
from fcil.federation.checkpoint import SavedChains
from fcil.methods.files import built_in_files
from fcil.methods.loading import StrategySpec
from fcil.nets import Net, NetSettings, begun_net, build_net
from fcil.nets.pretrained.weights import taken
from fcil.runs.plans import read
from fcil.store import Run
from fcil.store.frame import frame_of
from fcil.types import Tensors
from strategies.analytic import Analytic

SMALL = {"name": "resnet8", "width": 4}
SHAPE = (1, 8, 8)
needs_timm = pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="of the extra `timm`")


def written(path: Path, net: dict[str, Any] = SMALL, shape: tuple[int, ...] = SHAPE, classes: int = 7) -> Tensors:
    """Weights of a net of other classes, with statistics that moved, in a file."""
    made = build_net(NetSettings(**net), shape=shape, num_classes=classes, text_width=None, key=(path.name,))
    with torch.no_grad():
        made.train()(torch.rand(16, *shape, generator=torch.Generator().manual_seed(1)))
    save_file(made.weights(), path)
    return made.weights()


def begun(file: Path, shape: tuple[int, ...] = SHAPE, **net: Any) -> Net:
    settings = NetSettings(pretrained=HashedFile(str(file)), **{**SMALL, **net})
    return begun_net(settings, shape=shape, num_classes=2, text_width=None, key=("begun",))


def refusal(file: Path, shape: tuple[int, ...] = SHAPE, **net: Any) -> str:
    with pytest.raises(ConfigError) as error:
        begun(file, shape, **net)
    assert "\n" not in str(error.value)
    return str(error.value)


def trunk(weights: Tensors) -> Tensors:
    return {name: tensor for name, tensor in weights.items() if name.startswith("backbone.")}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    written(path)
    return path


@pytest.fixture(scope="module")
def frozen_run(file: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("frozen")
    (run,) = play(write_experiment(folder, net={"pretrained": str(file), "frozen": True}), out=folder / "out")
    return run


# The file -----------------------------------------------------------------------------------------


def test_the_backbone_is_that_of_the_file_and_the_classifier_is_not(tmp_path: Path) -> None:
    theirs = written(tmp_path / "w.safetensors")
    net = begun(tmp_path / "w.safetensors")
    assert same(trunk(net.weights()), trunk(theirs))
    plain = build_net(NetSettings(**SMALL), shape=SHAPE, num_classes=2, text_width=None, key=("begun",))
    assert torch.equal(net.classifier.weight, plain.classifier.weight)
    settings = NetSettings(pretrained=HashedFile(str(tmp_path / "w.safetensors")), **SMALL)
    found = taken(settings, plain, SHAPE)
    assert found.left == ("classifier.bias", "classifier.weight")
    assert found.sentence("F").startswith(f"net.pretrained: {len(found.weights)} tensors of the backbone")


@pytest.mark.parametrize("name", ["resnet18", "resnet34"])
def test_a_file_of_torchvision_gives_its_features(tmp_path: Path, name: str) -> None:
    theirs = torchvision.models.get_model(name, weights=None).eval()
    save_file(theirs.state_dict(), tmp_path / "tv.safetensors")
    net = begun(tmp_path / "tv.safetensors", (3, 64, 64), name=name, width=None).eval()
    theirs.fc = torch.nn.Identity()
    x = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(net(x).features, theirs(x), rtol=1e-4, atol=1e-4)
    said = refusal(tmp_path / "tv.safetensors", (3, 32, 32), name=name, width=None)
    assert "backbone.stem.conv.weight is [64, 3, 7, 7], expected [64, 3, 3, 3]" in said
    assert "net.stem: imagenet" in said


def test_what_does_not_fit_is_one_line_that_names_the_tensors(tmp_path: Path) -> None:
    written(tmp_path / "rgb.safetensors", shape=(3, 8, 8))
    assert "images of 3 channels, and the data have 1" in refusal(tmp_path / "rgb.safetensors")
    written(tmp_path / "w.safetensors")
    assert "missing backbone.stages.0" in refusal(tmp_path / "w.safetensors", name="resnet20")
    assert "no such file" in refusal(tmp_path / "x.safetensors")
    torch.save({"a": torch.ones(1)}, tmp_path / "w.pth")
    assert "this makes a safetensors file of it: python -c" in refusal(tmp_path / "w.pth")
    broken = written(tmp_path / "nan.safetensors")
    broken["backbone.stem.conv.weight"][0] = torch.nan
    save_file(broken, tmp_path / "nan.safetensors")
    assert 'tensor "backbone.stem.conv.weight" holds NaN' in refusal(tmp_path / "nan.safetensors")


def test_settings_that_contradict_each_other_are_refused() -> None:
    for net, said in (
        ({"frozen": True}, "frozen: true is not allowed without pretrained"),
        ({"name": "shapeformer", "pretrained": "x"}, "pretrained: not allowed with shapeformer"),
        ({"name": "timm/resnet18", "width": 8}, "width: 8 is not allowed with timm/resnet18"),
    ):
        with pytest.raises(ConfigError, match=said):
            parse(NetSettings, net, Where("x.yaml", "net"))


def test_the_content_counts_and_the_path_does_not(tmp_path: Path) -> None:
    for name in ("a", "b"):
        written(tmp_path / f"{name}.safetensors")
    (tmp_path / "copy.safetensors").write_bytes((tmp_path / "a.safetensors").read_bytes())
    variants = [
        read(write_experiment(tmp_path, net={"pretrained": str(tmp_path / f"{n}.safetensors")}))[0].plans()[0].variant
        for n in ("a", "copy", "b")
    ]
    assert variants[0] == variants[1] != variants[2]
    settings = parse(NetSettings, {"pretrained": str(tmp_path / "a.safetensors")}, Where("x"))
    assert parse(NetSettings, dump(settings), Where("x")) == settings
    (tmp_path / "a.safetensors").write_bytes((tmp_path / "b.safetensors").read_bytes())
    assert "its content is not what it was" in refusal_of(settings)


def refusal_of(settings: NetSettings) -> str:
    with pytest.raises(ConfigError) as error:
        begun_net(settings, shape=SHAPE, num_classes=2, text_width=None, key=("x",))
    return str(error.value)


def test_a_run_does_not_go_on_with_other_weights(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    written(path)
    content = path.read_bytes()
    source = write_experiment(tmp_path, net={"pretrained": str(path), "frozen": True})
    (whole,) = play(source, out=tmp_path / "whole")
    with pytest.raises(Stop):
        play(source, out=tmp_path / "out", observer=StopAfter(3))
    (folder,) = (tmp_path / "out").glob("*/*/seed0")
    save_file({name: t + 1 for name, t in written(path).items()}, path)
    with pytest.raises(ConfigError, match="its content is not what it was"):
        fcil.resume(folder)
    path.write_bytes(content)
    (resumed,) = play(source, out=tmp_path / "out")
    assert same(final_weights(whole), final_weights(resumed))


# Runs ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", sorted(built_in_files().keys() - {"patchwork"}))
def test_every_strategy_leaves_a_frozen_backbone_as_it_is(strategy: str, tmp_path: Path) -> None:
    options = {"analytic": {"features": "pretrained"}} if strategy == "analytic" else strategy
    spec = StrategySpec.from_yaml(options, Where("strategy"))
    plan = plan_of(spec, clients=2, rounds=1, batch_size=8, max_batches=2)
    theirs = written(tmp_path / "w.safetensors", {"name": "resnet8", "width": 2})
    net = NetSettings(name="resnet8", width=2, pretrained=HashedFile(str(tmp_path / "w.safetensors")), frozen=True)
    method = dataclasses.replace(plan.strategy, strategy=small(plan.strategy.strategy))
    with mock.patch.object(SavedChains, "due", False), Trials(tmp_path) as trials:
        played = trials.play("run", dataclasses.replace(plan, strategy=method, net=net))
        assert played.problem is None
        after = played.server().net
    assert same(trunk(after.weights()), trunk(theirs))
    first = build_net(net, shape=SHAPE, num_classes=2, text_width=None, key=(0, "net"))
    assert strategy == "analytic" or not torch.equal(after.classifier.weight[:2], first.classifier.weight)


def test_only_the_head_is_sent(frozen_run: Run) -> None:
    head = 4 * (16 * 2 + 2)  # of the first task, in bytes
    assert frozen_run.rounds[0]["bytes_up"] == 2 * head == frozen_run.rounds[0]["bytes_down"]
    assert frozen_run.summary["track"] == "pretrained"


def test_what_is_taken_is_said_and_who_reads_nothing_is_refused(file: Path, tmp_path: Path, command: Command) -> None:
    net = {"pretrained": str(file), "frozen": True}
    source = write_experiment(tmp_path, net=net, federation={"stop_after": 1, "rounds": 1})
    said = command("run", source, "--out", tmp_path / "played", "--smoke")
    assert said.code == 0
    assert "left: classifier.bias, classifier.weight; the backbone is frozen" in " ".join(said.out.split())
    for strategy, line in (
        ("patchwork", 'net.pretrained: strategy "patchwork" reads no features of the net'),
        ("analytic", 'net.pretrained: strategy "analytic" reads no features of the net'),
        ({"analytic": {"features": "task1"}}, "task1 trains the net, which net.frozen keeps"),
    ):
        found = command("run", write_experiment(tmp_path, net=net, strategy=strategy), "--out", tmp_path / "no")
        assert_refused(found, line)
    assert not (tmp_path / "no").exists()


def test_vectorised_clients_leave_a_frozen_backbone(file: Path, tmp_path: Path) -> None:
    settings = {"net": {"pretrained": str(file), "frozen": True}, "federation": {"stop_after": 1}}
    together = {**settings, "federation": {"stop_after": 1, "clients_per_call": 2}}
    (one,), (two,) = (
        play(write_experiment(tmp_path, **each), out=tmp_path / name)
        for name, each in (("one", settings), ("two", together))
    )
    assert same(trunk(final_weights(one)), trunk(final_weights(two)))
    key = "classifier.weight"
    assert torch.allclose(final_weights(one)[key], final_weights(two)[key], atol=1e-5)


@pytest.mark.parametrize("server", ["fedadam", "scaffold"])
def test_server_optimisers_leave_a_frozen_backbone(file: Path, tmp_path: Path, server: str) -> None:
    source = write_experiment(tmp_path, net={"pretrained": str(file), "frozen": True}, federation={"server": server})
    (run,) = play(source, out=tmp_path / "out")
    assert same(trunk(final_weights(run)), trunk(begun(file).weights()))


def test_a_backbone_that_is_not_frozen_is_trained(file: Path, tmp_path: Path) -> None:
    (run,) = play(write_experiment(tmp_path, net={"pretrained": str(file)}), out=tmp_path / "out")
    assert not same(trunk(final_weights(run)), trunk(begun(file).weights()))


def test_the_kept_net_is_read_without_the_file(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    written(path)
    source = write_experiment(tmp_path, net={"pretrained": str(path), "frozen": True})
    (run,) = play(source, out=tmp_path / "out")
    path.unlink()
    expected = sum(row.correct for row in run.rows if row.trained_task == 2)
    assert evaluation.evaluate(run.path).groups[0].correct == expected


@pytest.mark.ray
def test_workers_find_the_same_weights(file: Path, frozen_run: Run, tmp_path: Path) -> None:
    net = {"pretrained": str(file), "frozen": True}
    (run,) = play(write_experiment(tmp_path, net=net, federation={"backend": "ray"}), out=tmp_path / "out")
    assert same(final_weights(run), final_weights(frozen_run))


# Track --------------------------------------------------------------------------------------------


def test_no_table_has_both_tracks(frozen_run: Run, tmp_path: Path) -> None:
    (scratch,) = play(write_experiment(tmp_path), out=tmp_path / "out")
    assert scratch.summary["track"] == "scratch"
    both, alone = compare([scratch, frozen_run]), compare([scratch])
    assert [len(split.entries) for split in both.splits] == [1, 1]
    assert [split.label.endswith(", pretrained") for split in both.splits] == [False, True]
    assert both.ranks is None
    assert {row["track"] for row in rows(both)} == {"scratch", "pretrained"}
    assert "| strategy | track | keeps |" in markdown(both)
    assert "track" not in markdown(alone)
    assert "track" not in rows(alone)[0]
    assert set(frame_of([scratch, frozen_run]).track) == {"scratch", "pretrained"}
    assert "track" not in frame_of([scratch])


def test_the_track_follows_from_the_settings() -> None:
    assert track_of({"net": {"name": "resnet8"}, "strategy": {"finetune": {}}}) == "scratch"  # as earlier runs wrote it
    file = {"file": "a", "sha256": "0"}
    assert track_of({"net": {"pretrained": file}, "strategy": {"finetune": {}}}) == "pretrained"
    assert track_of({"net": {}, "strategy": {"analytic": {"train_features": file}}}) == "pretrained"
    assert effective({"net": {"pretrained": file}})["net"] == {"pretrained": {"sha256": "0"}}


# Analytic -----------------------------------------------------------------------------------------


def features_of(file: Path, folder: Path) -> dict[str, Any]:
    """Settings of `analytic` with the features of a net of all digits, which are computed here."""
    (plan,) = read(write_experiment(folder))[0].plans()
    dataset = fcil.federation.context.Datasets().open(plan).scenario.dataset
    net = begun(file).eval()
    for split, images in (("train", dataset.train), ("test", dataset.test)):
        x = fcil.data.normalise(images.take(torch.arange(len(images))), dataset.mean, dataset.std)
        with torch.no_grad():
            np.save(folder / f"{split}.npy", net(x).features.numpy())
    return {
        "features": "file",
        "train_features": str(folder / "train.npy"),
        "test_features": str(folder / "test.npy"),
    }


def analytic_run(folder: Path, options: dict[str, Any], net: dict[str, Any], clients: int = 2, **data: Any) -> Run:
    folder.mkdir(exist_ok=True)
    federation = {"rounds": 1, "stop_after": 5, "clients": clients}
    strategy = {"analytic": {"width": 60, "ridge": 0.01, **options}}
    source = write_experiment(folder, strategy=strategy, net=net, federation=federation, data={"tasks": 5, **data})
    (run,) = play(source, out=folder / "out")
    return run


def head_of(run: Run) -> torch.Tensor:
    from fcil.store.nets import kept_net

    found = kept_net(run.path).shared["head"]
    assert isinstance(found, torch.Tensor)
    return found


@pytest.mark.parametrize("width", [60, None])
def test_features_of_files_give_the_head_that_live_ones_give(file: Path, tmp_path: Path, width: int | None) -> None:
    options = features_of(file, tmp_path)
    live = {"pretrained": str(file), "frozen": True}
    one = analytic_run(tmp_path / "live", {"features": "pretrained", "width": width}, live)
    two = analytic_run(tmp_path / "file", {**options, "width": width}, {"name": "mlp", "width": 1})
    a, b = head_of(one), head_of(two)
    assert torch.allclose(a, b, rtol=1e-3, atol=1e-4 * float(a.abs().max()))
    assert [row.correct for row in one.rows] == pytest.approx([row.correct for row in two.rows], abs=1)
    assert two.summary["track"] == "pretrained"
    assert two.config["strategy"]["analytic"]["train_features"]["sha256"]


@pytest.mark.parametrize("features", ["pretrained", "file"])
def test_partition_and_order_do_not_matter(file: Path, tmp_path: Path, features: str) -> None:
    options = {"features": features} if features == "pretrained" else features_of(file, tmp_path)
    net: dict[str, Any] = {"pretrained": str(file), "frozen": True} if features == "pretrained" else {}
    cases: list[dict[str, Any]] = [
        {"clients": 1},
        {"clients": 4, "partition": {"dirichlet": 0.1}},
        {"clients": 3, "order": 1993},
    ]
    runs = [analytic_run(tmp_path / str(n), options, net, **case) for n, case in enumerate(cases)]
    central = head_of(runs[0])
    assert torch.allclose(head_of(runs[1]), central, rtol=1e-6, atol=1e-9)
    order = [int(n) for n in json.loads(runs[2].folder.partition.read_text())["order"]]
    assert torch.allclose(head_of(runs[2]), central[:, order], rtol=1e-6, atol=1e-9)


def test_files_of_features_that_do_not_fit_are_one_line(tmp_path: Path, command: Command) -> None:
    good = np.zeros((10, 3), dtype=np.float32)
    np.save(tmp_path / "short.npy", good)
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.save(tmp_path / "flat.npy", good[0])
    for name, said in (
        ("short", "has 10 rows, and there are"),
        ("objects", "no .npy file of numbers can be read there"),
        ("flat", "expected one array of floats, [samples, features]"),
        ("absent", "there is no such file"),
    ):
        given = {key: str(tmp_path / f"{name}.npy") for key in ("train_features", "test_features")}
        source = write_experiment(tmp_path, strategy={"analytic": {"features": "file", **given}})
        found = command("run", source, "--out", tmp_path / "no")
        assert_refused(found, "strategy.analytic: train_features: ", said)
    assert not (tmp_path / "no").exists()


def test_settings_of_features_that_are_not_read_are_refused() -> None:
    for options, said in (
        ({"features": "file", "train_features": "a.npy"}, "test_features: missing"),
        ({"train_features": "a.npy"}, "train_features: not read where features is random"),
        ({"width": None, "bias": 0.2}, "bias: 0.2 is not read where width is null"),
    ):
        with pytest.raises(ConfigError, match=said):
            Analytic.parse(options, Where("x.yaml", "strategy.analytic"))


# timm ---------------------------------------------------------------------------------------------


def test_without_timm_one_line_says_how_to_get_it(tmp_path: Path) -> None:
    settings = NetSettings(name="timm/resnet18")
    with mock.patch.dict("sys.modules", {"timm": None}), pytest.raises(ConfigError) as error:
        build_net(settings, shape=(3, 32, 32), num_classes=2, text_width=None, key=("x",))
    assert str(error.value) == "net.name: timm/resnet18 is a net of timm; pip install 'fcil[timm]'"


@needs_timm
def test_a_net_of_timm_is_trained_and_frozen(tmp_path: Path) -> None:
    import timm

    theirs = timm.create_model("test_resnet", num_classes=5, in_chans=1)
    save_file(theirs.state_dict(), tmp_path / "t.safetensors")
    settings = {"name": "timm/test_resnet", "width": None, "pretrained": str(tmp_path / "t.safetensors")}
    frozen, trained = (
        play(write_experiment(tmp_path, net={**settings, "frozen": still}), out=tmp_path / str(still))[0]
        for still in (True, False)
    )
    names = [name for name in theirs.state_dict() if not name.startswith("fc.")]
    assert all(
        torch.equal(final_weights(frozen)[f"backbone.model.{name}"], theirs.state_dict()[name]) for name in names
    )
    assert not torch.equal(
        final_weights(trained)["backbone.model.conv1.0.weight"], theirs.state_dict()["conv1.0.weight"]
    )
    assert evaluation.evaluate(frozen.path).accuracy == pytest.approx(
        sum(r.correct for r in frozen.rows if r.trained_task == 2)
        / sum(r.examples for r in frozen.rows if r.trained_task == 2)
    )


@needs_timm
def test_a_name_that_timm_has_not_is_one_line() -> None:
    with pytest.raises(ConfigError, match=r'net.name: timm .* has no net "resnet19". Did you mean "timm/resnet1'):
        build_net(NetSettings(name="timm/resnet19"), shape=(3, 32, 32), num_classes=2, text_width=None, key=("x",))
