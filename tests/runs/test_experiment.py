"""From a YAML file to run folders: what is run, what is skipped, what is resumed, and what is written."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from rich.console import Console
from small_runs import (
    LANDER,
    NAYER,
    SETTINGS,
    Stop,
    StopAfter,
    final_weights,
    play,
    same,
    silently,
    without_seconds,
    write_experiment,
    write_strategy,
)

import fcil
from fcil.config import Where
from fcil.config.matrix import expand, place
from fcil.errors import ConfigError, DataError, FCILError, StoreError
from fcil.experiment import resume
from fcil.federation.plan import Plan, from_json
from fcil.federation.settings import FederationSettings, Resources
from fcil.optimizer import OptimizerSettings
from fcil.runs.plans import read, survey
from fcil.store import Run

ROOT = Path(__file__).parents[2]
FEDLWF = '''"""FedLwF: distil the last task's global net on the new task's images (Li and Hoiem, ECCV 2016)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from fcil import Batch, Client, NonNegative, Server, Strategy, Terms
from fcil.losses import soft_cross_entropy


@dataclass(frozen=True, kw_only=True)
class FedLwF(Strategy):
    keep: NonNegative = 3.0
    """Weight of the distillation."""

    def local_loss(self, client: Client, batch: Batch) -> Terms:
        logits, old = client.net(batch.x).logits, client.task.num_old
        terms = {"ce": F.cross_entropy(logits[:, old:], batch.y - old)}
        if old:
            with torch.no_grad():
                teacher = client.frozen("teacher")(batch.x).logits
            terms["kd"] = self.keep * soft_cross_entropy(logits[:, :old], teacher, 2.0)
        return terms

    def after_task(self, server: Server, updates: list) -> None:
        server.shared["teacher"] = server.net.weights()
'''


def plans(source: Path, *overrides: str) -> list[Plan]:
    return [plan for experiment in read(source, overrides) for plan in experiment.plans()]


def names(plans: Sequence[Plan]) -> list[str]:
    return [plan.strategy.name for plan in plans]


# What is run -----------------------------------------------------------------------------------


def test_a_file_without_a_name_is_named_after_itself(tmp_path: Path) -> None:
    source = tmp_path / "mine.yaml"
    source.write_text("data: {dataset: digits, tasks: 2}\nstrategy: finetune\n")
    (plan,) = plans(source)
    assert (plan.name, plan.seed) == ("mine", 0)
    assert plan.folder == Path("mine") / f"finetune-{plan.variant}" / "seed0"


def test_overrides_are_read_as_yaml_and_may_add_what_is_not_there(tmp_path: Path) -> None:
    source = write_experiment(tmp_path)
    (plan,) = plans(source, "federation.rounds=7", "optimizer.lr=1e-2", "data.partition={dirichlet: 0.1}", "seeds=[4]")
    assert (plan.federation.rounds, plan.optimizer.lr, plan.data.partition.value, plan.seed) == (7, 0.01, 0.1, 4)
    assert plan.federation.clients == SETTINGS["federation"]["clients"]
    (plan,) = plans(source, "data.tasks=null", "data.base=4", "data.increment=2", "name=a=b")
    assert (plan.data.tasks, plan.data.base, plan.name) == (None, 4, "a=b")


@pytest.mark.parametrize(
    ("start", "key", "value", "end"),
    [
        ({}, "a", 1, {"a": 1}),
        ({}, "a.b", 1, {"a": {"b": 1}}),
        ({"strategy": "lander"}, "strategy.radius", 1, {"strategy": {"lander": {"radius": 1}}}),
        ({"strategy": {"lander": None}}, "strategy.radius", 1, {"strategy": {"lander": {"radius": 1}}}),
        ({"strategy": {"lander": {"a": 2}}}, "strategy.radius", 1, {"strategy": {"lander": {"a": 2, "radius": 1}}}),
        ({"strategy": {"lander": {}}}, "strategy.lander.radius", 1, {"strategy": {"lander": {"radius": 1}}}),
        ({"strategy": "lander"}, "strategy", "joint", {"strategy": "joint"}),
        (
            {"strategy": {"lander": {"synthesizer": "nayer"}}},
            "strategy.synthesizer.rounds",
            1,
            {"strategy": {"lander": {"synthesizer": {"nayer": {"rounds": 1}}}}},
        ),
        (
            {"strategy": {"lander": {"synthesizer": {"nayer": {"bn": 2}}}}},
            "strategy.synthesizer.nayer.rounds",
            1,
            {"strategy": {"lander": {"synthesizer": {"nayer": {"bn": 2, "rounds": 1}}}}},
        ),
    ],
)
def test_a_key_path_reaches_into_the_named_strategy(start: Any, key: str, value: Any, end: Any) -> None:
    place(start, key, value, Where("here"))
    assert start == end


def test_the_matrix_is_the_product_of_its_lists(tmp_path: Path) -> None:
    matrix = {"strategy": ["finetune", {"finetune": {"classes": "new"}}, "joint"], "data.tasks": [2, 5]}
    found = plans(write_experiment(tmp_path, matrix=matrix, seeds=[0, 1]))
    assert [(p.strategy.name, p.data.tasks, p.seed) for p in found] == [
        (name, tasks, seed) for name in ("finetune", "finetune", "joint") for tasks in (2, 5) for seed in (0, 1)
    ]
    assert len({p.folder for p in found}) == 12
    assert found[4].strategy.strategy.options()["classes"] == "new"


def test_the_matrix_reaches_into_each_of_its_strategies(tmp_path: Path) -> None:
    matrix = {"strategy": ["lander", {"lander": {"lam": 1}}], "strategy.radius": [0, 1]}
    found = plans(write_experiment(tmp_path, matrix=matrix))
    got = [(p.strategy.strategy.options()["lam"], p.strategy.strategy.options()["radius"]) for p in found]
    assert got == [(5, 0), (5, 1), (1, 0), (1, 1)]


def test_cells_of_the_matrix_do_not_share_what_they_change() -> None:
    values = {"a": {"b": 1}, "matrix": {"a.c": [1, 2], "a.d": [{"x": 1}]}}
    first, second = expand(values, Where("x"))
    first["a"]["d"]["x"] = 9
    assert second == {"a": {"b": 1, "c": 2, "d": {"x": 1}}}


def test_an_override_may_change_the_matrix(tmp_path: Path) -> None:
    source = write_experiment(tmp_path, matrix={"strategy": ["finetune", "joint"]})
    assert names(plans(source)) == ["finetune", "joint"]
    assert names(plans(source, "matrix.strategy=[joint]")) == ["joint"]
    assert names(plans(source, "matrix=null", "strategy=lander")) == ["lander"]


def test_a_cell_that_does_not_hold_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r'tiny.yaml: strategy: unknown strategy "fintune"'):
        read(write_experiment(tmp_path, matrix={"strategy": ["finetune", "fintune"]}))


def test_an_experiment_can_be_surveyed_without_being_run(tmp_path: Path) -> None:
    found = list(survey(write_experiment(tmp_path), ["seeds=[0, 1]", "federation.clients=3"]))
    assert [context.plan.seed for context in found] == [0, 1]
    assert all(context.scenario.counts.shape == (5, 3, 10) for context in found)
    assert found[0].loaded is found[1].loaded  # decoded once


# The hash --------------------------------------------------------------------------------------


SAME = {
    "federation": {
        "backend": "ray",
        "timeout": 5,
        "checkpoint_every": 3,
        "on_failure": "skip",
        "retries": 4,
        "min_success": 0.1,
    },
    "resources": {
        "device": "auto",
        "threads": 2,
        "workers": 3,
        "client_gpus": 0.5,
        "synthesis_workers": 2,
        "synthesis_gpus": 1,
        "ray_address": "auto",
        "compile": "graphs",
        "keep": "tasks",
    },
    "seeds": [1],
    "name": "other",
}
DIFFERENT: dict[str, dict[str, Any]] = {
    "federation": {
        "clients": 3,
        "fraction": 0.5,
        "rounds": 3,
        "local_epochs": 2,
        "batch_size": 8,
        "evaluate_every": 2,
        "stop_after": 3,
        "max_batches": 3,
        "local_steps": 3,
        "clients_per_call": 2,
        "exemplars": 5,
        "mods": ["fixed_clipping"],
        "aggregation": "median",
        "server": "fedavgm",
        "privacy": {"noise": 0.5},
        "attack": {"label_flip": {"share": 0.5}},
    },
    "optimizer": {
        "name": "adam",
        "lr": 0.02,
        "momentum": 0.5,
        "weight_decay": 0,
        "schedule": "step",
        "min_lr": 0.002,
        "milestones": [0.4],
        "gamma": 0.5,
        "state": "kept",
        "max_norm": 1.0,
        "precision": "bf16",
    },
    "data": {
        "dataset": "mnist",
        "tasks": 2,
        "order": 3,
        "partition": {"shards": 2},
        "validation": 0.1,
        "test_copies": "drop",
        "augment": False,
    },
    "net": {"name": "resnet20", "stem": "imagenet", "width": 8, "pretrained": "w.safetensors", "frozen": True},
    "anchors": {"encoder": "a/b", "scale": "raw", "file": "x"},
    "strategy": {"finetune": {"classes": "new"}},
}


def test_every_key_of_these_sections_is_known_to_matter_or_not() -> None:
    for name, cls in {"federation": FederationSettings, "optimizer": OptimizerSettings, "resources": Resources}.items():
        listed = {*SAME.get(name, ()), *DIFFERENT.get(name, ())}
        assert listed == {f.name for f in fields(cls)}, name


def test_what_cannot_change_the_result_does_not_change_the_variant(tmp_path: Path) -> None:
    expected = plans(write_experiment(tmp_path))[0].variant
    for section, change in SAME.items():
        each = [{k: v} for k, v in change.items()] if isinstance(change, dict) else [change]
        for one in each:
            assert plans(write_experiment(tmp_path, **{section: one}))[0].variant == expected, one


def test_what_can_change_the_result_changes_the_variant(tmp_path: Path) -> None:
    found = [plans(write_experiment(tmp_path))[0].variant]
    for section, changes in DIFFERENT.items():
        for key, value in changes.items():
            default: dict[str, Any] = (
                {"local_epochs": FederationSettings().local_epochs} if key == "local_steps" else {}
            )
            default |= {"pretrained": "w.safetensors"} if key == "frozen" else {}
            found.append(plans(write_experiment(tmp_path, **{section: {key: value, **default}}))[0].variant)
    assert len(set(found)) == len(found)


def test_the_text_of_ones_own_strategy_counts_and_its_place_does_not(tmp_path: Path) -> None:
    paths = [write_strategy(tmp_path, FEDLWF, "fedlwf")]
    for name, source in {"copy": FEDLWF, "changed": f"{FEDLWF}# a comment\n"}.items():
        (tmp_path / name).mkdir()
        paths.append(write_strategy(tmp_path / name, source, "fedlwf"))
    own, copy, changed = (plans(write_experiment(tmp_path, strategy=str(path)))[0] for path in paths)
    assert own.variant == copy.variant != changed.variant


def test_a_plan_travels_as_text(tmp_path: Path) -> None:
    own = write_strategy(tmp_path, FEDLWF, "fedlwf")
    (plan,) = plans(write_experiment(tmp_path, strategy={str(own): {"keep": 2}}))
    text = plan.to_json()
    own.unlink()
    assert from_json(text) == plan
    assert from_json(text).variant == plan.variant


# What is written -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lander(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A whole run as users see it, with figures; what it printed is beside it."""
    folder = tmp_path_factory.mktemp("whole")
    console = Console(file=io.StringIO(), width=100)
    (run,) = fcil.run(write_experiment(folder, strategy=LANDER), out=folder / "out", console=console)
    (folder / "printed.txt").write_text(console.file.getvalue())  # type: ignore[attr-defined]
    return run


def top(run: Run) -> Path:
    """The folder that all of a test module's run lies in."""
    return run.path.parents[3]


def test_a_run_folder_holds_what_is_pinned(lander: Run) -> None:
    path = lander.path
    assert path == top(lander) / "out" / "tiny" / f"lander-{lander.variant}" / "seed0"
    files = {"config.yaml", "accuracy.csv", "rounds.jsonl", "summary.json", "partition.json", "env.json", "strategy.py"}
    files |= {"classes.csv", "confusion.csv", "quality.csv", "clients.csv", "task_aware.csv", "net.safetensors"}
    assert {p.name for p in path.iterdir()} == files | {"log.txt", "checkpoints", "synthetic", "figures", "drawn.json"}
    assert {p.name for p in (path / "synthetic").iterdir()} >= {"task1.safetensors"}
    assert len(list((path / "checkpoints").glob("task*.json"))) == 2
    for name in ("accuracy", "forgetting", "matrix", "rounds", "partition"):
        assert {p.suffix for p in (path / "figures").glob(f"{name}.*")} == {".png", ".pdf"}
    assert (path / "strategy.py").read_text() == (ROOT / "strategies" / "lander.py").read_text()


def test_accuracy_has_the_pinned_columns(lander: Run) -> None:
    text = (lander.path / "accuracy.csv").read_text()
    assert text.splitlines()[0] == "trained_task,tested_task,correct,examples,accuracy"
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [(r["trained_task"], r["tested_task"]) for r in rows] == [("1", "1"), ("2", "1"), ("2", "2")]
    assert all(float(r["accuracy"]) == pytest.approx(int(r["correct"]) / int(r["examples"]), abs=1e-6) for r in rows)


def test_rounds_have_the_pinned_keys(lander: Run) -> None:
    lines = [json.loads(line) for line in (lander.path / "rounds.jsonl").read_text().splitlines()]
    assert [(r["task"], r["round"]) for r in lines] == [(1, 1), (1, 2), (2, 1), (2, 2)]
    keys = {"task", "round", "terms", "accuracy", "bytes_up", "bytes_down", "seconds", "clients", "failures"}
    assert all(keys <= r.keys() for r in lines)
    assert [set(r["terms"]) for r in lines] == [{"ce", "bound"}] * 2 + [{"ce", "bound", "kd", "embedding"}] * 2
    assert all(r["clients"] == [0, 1] and r["failures"] == [] for r in lines)
    assert all({"send", "clients", "aggregate", "evaluate"} <= r["seconds"].keys() for r in lines)


def test_the_summary_has_the_pinned_keys(lander: Run) -> None:
    summary = json.loads((lander.path / "summary.json").read_text())
    assert {
        "final_accuracy",
        "average_incremental_accuracy",
        "forgetting",
        "bwt",
        "seconds",
        "bytes_up",
    } <= summary.keys()
    assert {"chaudhry", "lander"} <= summary["forgetting"].keys()
    assert summary["rounds"] == 4
    frame = lander.accuracy
    last = frame[frame.trained_task == 2]
    assert summary["final_accuracy"] == pytest.approx(last.correct.sum() / last.examples.sum())


def test_the_settings_that_were_run_are_written_out(lander: Run) -> None:
    config = yaml.safe_load((lander.path / "config.yaml").read_text())
    sections = {"data", "federation", "optimizer", "net", "anchors", "strategy", "resources"}
    assert set(config) == {"name", "seed", "logger", *sections}
    assert config["optimizer"]["momentum"] == 0.9  # a default
    assert config["strategy"]["lander"]["synthesizer"]["nayer"]["steps"] == NAYER["steps"]
    counts = json.loads((lander.path / "partition.json").read_text())["counts"]
    assert [len(counts), len(counts[0]), len(counts[0][0])] == [5, 2, 10]
    env = json.loads((lander.path / "env.json").read_text())
    assert env["versions"]["torch"]
    assert env["devices"] == ["cpu"]


def test_what_is_printed_says_what_is_run_and_what_came_out(lander: Run) -> None:
    printed = (top(lander) / "printed.txt").read_text()
    for part in ("tiny  seed 0", "Training examples", "[TASK 2/2]", "Accuracy (%)", "accuracy.csv"):
        assert part in printed


def test_a_run_is_read_back_from_python(lander: Run) -> None:
    written = pd.read_csv(lander.path / "accuracy.csv")
    pd.testing.assert_frame_equal(lander.accuracy, written, atol=1e-6)
    frame = fcil.load(top(lander))
    keys = ["experiment", "label", "strategy", "variant", "seed", "split", "smoke"]
    assert list(frame.columns) == [*keys, "trained_task", "tested_task", "correct", "examples", "accuracy"]
    about = ["tiny", "lander", "lander", lander.variant, 0, "digits, 5 tasks, iid", False]
    assert frame[keys].drop_duplicates().values.tolist() == [about]
    assert len(frame) == 3


def test_a_finished_run_is_left_alone_and_said_to_be_finished(lander: Run) -> None:
    before = {p: p.stat().st_mtime_ns for p in lander.path.rglob("*")}
    console = Console(file=io.StringIO(), width=500)
    (again,) = fcil.run(top(lander) / "tiny.yaml", "federation.backend=ray", out=top(lander) / "out", console=console)
    assert console.file.getvalue() == f"{lander.path} is finished; nothing to do\n"  # type: ignore[attr-defined]
    assert {p: p.stat().st_mtime_ns for p in lander.path.rglob("*")} == before
    assert again.summary == lander.summary


# Several runs ----------------------------------------------------------------------------------


def test_a_matrix_is_run_cell_by_cell_and_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[Any] = []
    matrix = {"strategy": ["finetune", "joint", "finetune"]}  # the third is the first again
    source = write_experiment(tmp_path, matrix=matrix, seeds=[0, 1], federation={"rounds": 1, "max_batches": 1})
    with silently():
        monkeypatch.setattr("fcil.runs.completion.draw_comparison", lambda *args: compared.append(args[:2]) or [])
        console = Console(file=io.StringIO(), width=100)
        runs = fcil.run(source, out=tmp_path / "out", console=console)
        fcil.run(source, out=tmp_path / "out", console=console)

    assert [(r.strategy, r.seed) for r in runs] == [("finetune", 0), ("finetune", 1), ("joint", 0), ("joint", 1)]
    assert all(run.finished for run in runs)
    assert [(len(runs), folder) for runs, folder in compared] == [(4, tmp_path / "out" / "tiny" / "figures")]
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert printed.count("is finished") == 4
    assert set(fcil.load(tmp_path / "out").strategy) == {"finetune", "joint"}


def test_nothing_is_written_before_every_run_is_known_to_start(tmp_path: Path) -> None:
    folder = {"dataset": "image_folder", "root": str(tmp_path / "nowhere"), "tasks": 2}
    source = write_experiment(tmp_path, matrix={"data": [SETTINGS["data"], folder]})
    with pytest.raises(DataError, match=r"tiny.yaml: data: .*nowhere: no such folder or zip"):
        play(source, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_a_synthesizer_lacks_is_said_before_the_first_round(tmp_path: Path) -> None:
    own = write_strategy(
        tmp_path,
        "from dataclasses import dataclass\n"
        "from fcil import Strategy, Synthesizer\n"
        "from fcil.synthesis.nayer import NAYER\n"
        "@dataclass(frozen=True, kw_only=True)\n"
        "class Lacks(Strategy):\n"
        "    synthesizer: Synthesizer = NAYER()\n",
        "lacks",
    )
    source = write_experiment(tmp_path, strategy=str(own), net={"norm": "group"})
    with pytest.raises(ConfigError, match=r"tiny.yaml: strategy.lacks: synthesizer nayer: needs batch-norm layers"):
        play(source, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_smoke_run_is_short_and_kept_apart(tmp_path: Path) -> None:
    (run,) = play(ROOT / "experiments/quickstart.yaml", "federation.backend=inprocess", out=tmp_path, smoke=True)
    assert run.path.parents[1].name == "quickstart-smoke"
    assert [(r["task"], r["round"]) for r in run.rounds] == [(1, 1), (2, 1)]
    assert set(run.accuracy.trained_task) == {1, 2}
    assert run.summary["seconds"] < 60


# Resuming --------------------------------------------------------------------------------------


def interrupted(folder: Path, **parts: Any) -> Path:
    """The folder of a run that died in its third round."""
    with pytest.raises(Stop):
        play(write_experiment(folder, **parts), out=folder / "out", observer=StopAfter(3))
    return next((folder / "out").glob("tiny/*/seed0"))


def quietly_resume(path: Path, *, trust: bool = False) -> Run:
    with silently():
        return resume(path, Console(file=io.StringIO()), trust=trust)


def test_a_run_is_resumed_from_its_folder_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = write_strategy(tmp_path, FEDLWF, "fedlwf")
    (whole,) = play(write_experiment(tmp_path, strategy=str(own)), out=tmp_path / "whole")
    folder = interrupted(tmp_path, strategy=str(own))
    own.unlink()
    (tmp_path / "tiny.yaml").unlink()
    monkeypatch.chdir(folder)

    with pytest.raises(StoreError, match=r"strategy.py: not what is in .*fedlwf.py now; read it, and say --trust"):
        quietly_resume(Path("."))
    run = quietly_resume(Path("."), trust=True)

    assert run.path == folder
    assert run.finished
    assert without_seconds(run) == without_seconds(whole)
    assert same(final_weights(run), final_weights(whole))
    assert len(json.loads((folder / "env.json").read_text())["resumed"]) == 1
    before = (folder / "summary.json").stat().st_mtime_ns
    assert quietly_resume(folder, trust=True).summary == run.summary
    assert (folder / "summary.json").stat().st_mtime_ns == before


def test_code_that_came_with_a_folder_is_not_run_unasked(tmp_path: Path) -> None:
    own = write_strategy(tmp_path, FEDLWF, "fedlwf")
    folder = interrupted(tmp_path, strategy=str(own))
    mark = tmp_path / "executed"
    (folder / "strategy.py").write_text(f"from pathlib import Path\nPath({str(mark)!r}).touch()\n{FEDLWF}")
    with pytest.raises(StoreError, match="say --trust if its code may be run"):
        quietly_resume(folder)
    assert not mark.exists()
    (folder / "strategy.py").write_text(FEDLWF)
    assert quietly_resume(folder).finished


def test_a_folder_that_was_changed_is_not_resumed(tmp_path: Path) -> None:
    folder = interrupted(tmp_path)
    config = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(config.replace("lr: 0.04", "lr: 0.05"))
    with pytest.raises(StoreError, match=r"config.yaml, strategy.py or parts/ was changed; they make tiny/finetune-"):
        quietly_resume(folder)
    moved = folder.with_name("seed7")
    (folder / "config.yaml").write_text(config)
    shutil.copytree(folder, moved)
    with pytest.raises(StoreError, match="they make tiny/finetune-"):
        quietly_resume(moved)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (None, "not a run folder (it has no config.yaml)"),
        ("", "config.yaml: not the settings of a run"),
        ("[]", "config.yaml: not the settings of a run"),
        ("name: x\nseed: 0\n", "config.yaml: not the settings of a run; data, federation"),
        ("a: [", "config.yaml: not valid YAML"),
    ],
)
def test_what_is_no_run_folder_is_not_resumed(tmp_path: Path, config: str | None, said: str) -> None:
    if config is not None:
        (tmp_path / "config.yaml").write_text(config)
        (tmp_path / "strategy.py").write_text("")
    with pytest.raises((StoreError, ConfigError)) as caught:
        resume(tmp_path)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_run_folder_without_its_strategy_is_not_resumed(tmp_path: Path) -> None:
    folder = interrupted(tmp_path)
    (folder / "strategy.py").unlink()
    with pytest.raises(ConfigError, match=r'strategy file ".*strategy.py" cannot be read \(No such file'):
        quietly_resume(folder)


# A method of one's own -------------------------------------------------------------------------


def test_a_strategy_of_ones_own_needs_no_edit_elsewhere(tmp_path: Path) -> None:
    own = write_strategy(tmp_path, FEDLWF, "fedlwf")
    (run,) = play(write_experiment(tmp_path, strategy={str(own): {"keep": 10}}), out=tmp_path)
    assert run.strategy == "fedlwf"
    assert [set(r["terms"]) for r in run.rounds] == [{"ce"}] * 2 + [{"ce", "kd"}] * 2
    assert (run.path / "strategy.py").read_text() == FEDLWF
    assert run.config["strategy"] == {str(own): {"weighting": "examples", "keep": 10}}


def test_a_folder_of_strategies_beside_one_is_searched_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "strategies").mkdir()
    write_strategy(tmp_path / "strategies", FEDLWF, "fedlwf")
    write_strategy(tmp_path / "strategies", FEDLWF, "finetune")  # hides the built-in one
    monkeypatch.chdir(tmp_path)
    source = write_experiment(tmp_path, matrix={"strategy": ["fedlwf", "finetune"]})
    first, second = plans(source)
    assert first.strategy.path == str(Path("strategies/fedlwf.py"))
    assert type(second.strategy.strategy).__name__ == "FedLwF"
    (run,) = play(source, "matrix.strategy=[fedlwf]", "federation.rounds=1", out=tmp_path)
    assert (run.path / "strategy.py").read_text() == FEDLWF
    assert run.strategy == "fedlwf"


def test_two_versions_of_a_file_are_two_strategies(tmp_path: Path) -> None:
    """A file changed in a notebook's session is loaded anew, and a plan keeps the text it was made with."""
    own = write_strategy(tmp_path, FEDLWF, "fedlwf")
    (old,) = plans(write_experiment(tmp_path, strategy=str(own)))
    write_strategy(tmp_path, FEDLWF.replace("= 3.0", "= 4.0"), "fedlwf")
    (new,) = plans(tmp_path / "tiny.yaml")
    assert (old.strategy.strategy.options()["keep"], new.strategy.strategy.options()["keep"]) == (3, 4)
    assert from_json(replace(old, seed=1).to_json()).strategy == old.strategy


# In Python -------------------------------------------------------------------------------------


def test_an_experiment_may_be_a_mapping(tmp_path: Path) -> None:
    """The same runs as from a file, whatever kinds of numbers and lists Python has."""
    source = write_experiment(tmp_path, seeds=[0, 1], matrix={"optimizer.lr": [0.1, 0.2]})
    values = {**yaml.safe_load(source.read_text()), "seeds": (0, np.int64(1)), "matrix": {"optimizer.lr": [0.1, 0.2]}}
    before = repr(values)
    assert [p.folder for e in read(values) for p in e.plans()] == [p.folder for p in plans(source)]
    assert repr(values) == before
    (override,) = read({**values, "seeds": range(1), "matrix": None}, ["optimizer.lr=0.3"])
    assert (override.seeds, override.optimizer.lr) == ((0,), 0.3)


def test_a_mapping_is_run_and_shown_as_a_file_is(tmp_path: Path) -> None:
    source = write_experiment(tmp_path, federation={"rounds": 1})
    values = yaml.safe_load(source.read_text())
    with silently():
        (run,) = fcil.run(values, out=tmp_path / "a", console=Console(file=io.StringIO()))
    (from_file,) = play(source, out=tmp_path / "b")
    assert same(final_weights(run), final_weights(from_file))
    (shown,) = fcil.show(values, "seeds=[3]")
    assert shown == fcil.show(source, "seeds=[3]")[0]
    assert shown["seed"] == 3
    assert np.shape(shown["counts"]) == (5, 2, 10)
    del values["name"]
    assert [e.name for e in read(values)] == ["experiment"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"sedes": [1]}, "experiment: sedes: unknown key"),
        ({"federation": {"rounds": 0}}, "experiment: federation.rounds: 0 is not allowed"),
        (
            {"data": {"dataset": "digits", "tasks": object()}},
            "experiment: data.tasks: a object is not allowed; expected",
        ),
        ({"optimizer": {"lr": np.ones(2)}}, "experiment: optimizer.lr: a ndarray is not allowed"),
        ({"seeds": {0, 1}}, "experiment: seeds: a set is not allowed"),
        ({3: 1}, "experiment: key 3 is not text"),
        ({"optimizer": {"lr": float("nan")}}, "experiment: optimizer.lr: nan is not allowed"),
        ({"federation": {"clients": 900}}, "experiment: data: task 1"),
    ],
)
def test_what_is_wrong_with_a_mapping_is_an_exception_of_one_line(change: dict[Any, Any], said: str) -> None:
    for verb in (fcil.run, fcil.show):
        with pytest.raises(ConfigError) as caught:
            verb({**SETTINGS, **change})
        assert str(caught.value).startswith(said)
        assert str(caught.value).isprintable()


def test_a_mapping_within_itself_is_refused() -> None:
    values: dict[str, Any] = {**SETTINGS}
    values["optimizer"] = values
    with pytest.raises(ConfigError, match="nested too deeply"):
        fcil.run(values)


def test_no_error_ends_the_process_that_asked(tmp_path: Path) -> None:
    for call in (fcil.run, fcil.show, fcil.distill, fcil.load, fcil.resume):
        with pytest.raises(FCILError):
            call(tmp_path / "nothing.yaml")
