"""`fcil train`: one net on the whole of a data set, with the files, resuming and checks of a run."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from command_line import Command
from rich.console import Console
from small_runs import SETTINGS, Stop, StopAfter, final_weights, same, silently, without_seconds

import fcil
from fcil.config import Where
from fcil.errors import ConfigError
from fcil.federation.context import Datasets
from fcil.federation.observer import Observer
from fcil.optimizer import build_optimizer, learning_rate
from fcil.rng import generator
from fcil.runs.plans import read as experiments
from fcil.runs.preflight import share_out
from fcil.store import Run
from fcil.training import forecast, read, train, training_plans

TRAIN: dict[str, Any] = {
    "name": "whole",
    "data": {"dataset": "digits", "per_class": 12},
    "train": {"epochs": 3, "batch_size": 32},
    "optimizer": {"lr": 0.05},
    "net": {"name": "resnet8", "width": 4},
    "resources": {"device": "cpu"},
}


def played(source: Any, out: Path, *overrides: str, observer: Observer | None = None) -> tuple[list[Run], str]:
    console = Console(file=io.StringIO(), width=200)
    with silently(observer):
        runs = train(source, *overrides, out=out, console=console, jobs=1)
    return runs, console.file.getvalue()  # type: ignore[attr-defined]


def test_it_is_the_plain_loop_over_all_classes(tmp_path: Path) -> None:
    """Momentum is carried from epoch to epoch, the rate falls, batches are those of the one client."""
    (run,), _ = played(TRAIN, tmp_path)
    (training,) = read(TRAIN)
    context = share_out(training.plan(0), Datasets(), Where("x"))
    net = context.first_net()
    assert net.num_classes == 10
    optimizer = build_optimizer(training.optimizer, net.parameters(), 0.05)
    for epoch in (1, 2, 3):
        optimizer.param_groups[0]["lr"] = learning_rate(training.optimizer, epoch, 3)
        net.train()
        for batch in context.scenario.shard(1, 0).batches(32, generator(0, "batches 0", 1, epoch, 0)):
            loss = torch.nn.functional.cross_entropy(net(batch.x).logits, batch.y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    weights = final_weights(run)
    apart = {name: float((weights[name] - tensor).abs().max()) for name, tensor in net.state_dict().items()}
    assert max(apart.values()) == 0, apart
    assert [(row.trained_task, row.tested_task, row.examples) for row in run.rows] == [(1, 1, 359)]


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "radam"])
def test_a_training_that_was_stopped_ends_as_one_that_was_not(tmp_path: Path, name: str) -> None:
    change = f"optimizer.name={name}"
    (whole,), _ = played(TRAIN, tmp_path / "whole", change)
    with pytest.raises(Stop):
        played(TRAIN, tmp_path / "stopped", change, observer=StopAfter(2))
    (again,), _ = played(TRAIN, tmp_path / "stopped", change)
    assert same(final_weights(whole), final_weights(again))
    assert without_seconds(whole) == without_seconds(again)


def test_a_kept_state_is_another_run_than_a_fresh_one(tmp_path: Path) -> None:
    kept, fresh = (played(TRAIN, tmp_path, f"optimizer.state={state}")[0][0] for state in ("kept", "fresh"))
    assert kept.path.parent != fresh.path.parent
    assert kept.rounds[0]["weights"] == fresh.rounds[0]["weights"]  # nothing to carry over yet
    assert kept.rounds[1]["weights"] != fresh.rounds[1]["weights"]
    assert played(TRAIN, tmp_path)[0][0].path == kept.path


def test_an_experiment_of_a_federation_is_taken_over_and_what_is_not_read_is_said(tmp_path: Path) -> None:
    path = tmp_path / "both.yaml"
    path.write_text(yaml.safe_dump({**SETTINGS, "anchors": {"encoder": "embedded"}}, sort_keys=False), encoding="utf-8")
    (run,), said = played(path, tmp_path / "out", "federation.local_epochs=2", "data.per_class=5")
    assert run.path.parts[-3] == "tiny-central"
    assert (
        run.config["federation"] | {"clients": 1, "rounds": 4, "local_epochs": 1, "batch_size": 16}
        == (run.config["federation"])
    )
    assert run.config["data"]["tasks"] == 1
    assert run.config["optimizer"]["state"] == "kept"
    assert (
        "train: resnet8 on all classes of digits at once, 4 epochs, as many passes as federation.rounds x local_epochs,"
        " in batches of 16; the result is the last epoch's; not read: strategy, anchors, data.tasks, "
        "federation.clients, federation.checkpoint_every, federation.stop_after, federation.max_batches"
    ) in said
    again, _ = played(path, tmp_path / "out", "federation.local_epochs=2", "data.per_class=5")
    assert again[0].path == run.path


def test_a_section_train_leaves_a_run_of_the_file_as_it_was() -> None:
    plain = {key: TRAIN[key] for key in ("name", "net")} | {"data": {"dataset": "digits", "tasks": 5}}
    plain["strategy"] = "finetune"
    (before,), (after,) = (experiments(values) for values in (plain, {**plain, "train": {"epochs": 7}}))
    assert before.plans() == after.plans()


def test_a_matrix_of_nets_and_seeds_and_cells_that_are_alike_once() -> None:
    varied = {"net.name": ["resnet8", "cnn"], "strategy": ["finetune", "joint"]}
    trainings = read({**TRAIN, "seeds": [0, 1], "matrix": varied})
    plans = training_plans(trainings)
    assert sorted((plan.net.name, plan.seed) for plan in plans) == [
        ("cnn", 0),
        ("cnn", 1),
        ("resnet8", 0),
        ("resnet8", 1),
    ]
    assert {plan.federation.backend for plan in plans} == {"ray"}
    assert {plan.federation.backend for plan in training_plans(trainings, jobs=1)} == {"inprocess"}
    assert training_plans(read(TRAIN))[0].federation.backend == "inprocess"
    assert [plan.name for plan in training_plans(trainings, smoke=True)] == ["whole-central-smoke"] * 2


@pytest.mark.parametrize(("epochs", "every", "evaluated"), [(3, None, 1), (40, None, 4), (40, 0, 0), (40, 7, 7)])
def test_about_ten_evaluations_unless_told_otherwise(epochs: int, every: int | None, evaluated: int) -> None:
    (training,) = read({**TRAIN, "train": {"epochs": epochs, "evaluate_every": every}})
    assert training.plan(0).federation.evaluate_every == evaluated


def test_what_it_will_take_is_told_beforehand(tmp_path: Path) -> None:
    path = tmp_path / "whole.yaml"
    path.write_text(yaml.safe_dump(TRAIN), encoding="utf-8")
    ahead = forecast(path, out=tmp_path / "out")
    assert [(run.rounds, run.state) for run in ahead.runs] == [(3, "new")]
    assert ahead.notes[0].startswith("train: resnet8 on all classes of digits at once, 3 epochs, in batches of 32;")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"train": {"epoch": 3}},
            "train.epoch: unknown key (allowed: epochs, batch_size, evaluate_every). Did you mean",
        ),
        ({"train": {"epochs": 0}}, "train.epochs: 0"),
        ({"train": {}, "federation": {"local_steps": 3}}, "train: epochs is missing, and federation.local_steps"),
        ({"net": {"name": "fcn1d"}}, "net.name: fcn1d reads series, and the data are images of shape 1 x 8 x 8"),
        ({"train": {"batch_size": 1}, "net": {"name": "resnet18"}}, "train.batch_size: 1 is not allowed"),
        ({"synthesizer": "nayer"}, "is a distillation"),
        ({"optimizer": {"state": "keep"}}, "optimizer.state: 'keep'"),
        ({"optimiser": {}}, "unknown key"),
    ],
)
def test_bad_input_is_one_line(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    values = {**TRAIN, **change}
    if "synthesizer" in change:
        values.pop("train")
    with pytest.raises(ConfigError) as raised:
        played(values, tmp_path)
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)
    assert not list(tmp_path.iterdir())


def test_the_commands_know_a_file_that_is_for_training_alone(tmp_path: Path, command: Command) -> None:
    path, out = tmp_path / "whole.yaml", tmp_path / "out"
    path.write_text(yaml.safe_dump(TRAIN), encoding="utf-8")
    refused = command("run", str(path))
    assert refused.code == 2
    assert 'whole.yaml: has "train" and no strategy; it is for fcil train' in refused.err
    done = command("train", str(path), "--out", str(out))
    assert done.code == 0, done.err
    (folder,) = out.glob("whole-central/finetune-*/seed0")
    assert (folder / "accuracy.csv").is_file()
    assert list((folder / "figures").glob("*"))
    assert "finished" in command("train", str(path), "--out", str(out)).out
    assert command("verify", str(folder), "--rounds", "2").code == 0
    assert "digits, 1 task" in command("compare", str(out)).out
    shown = json.loads(command("show", str(path), "--json").out)
    assert [run["federation"]["rounds"] for run in shown] == [3]
    assert command("doctor", str(path), "--out", str(out)).code == 0
    assert command("show", str(path), "--split", str(tmp_path / "split.json")).code == 2


def test_it_is_part_of_the_package() -> None:
    assert fcil.train is train
