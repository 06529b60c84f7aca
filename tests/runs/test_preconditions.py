"""What is known before a run begins: batches too small for a net, settings that contradict each other, exemplars."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Command, assert_refused
from PIL import Image
from rich.console import Console
from small_runs import NAYER, Stop, StopAfter, final_weights, play, same, silently, write_experiment

import fcil
from fcil.compare import compare
from fcil.compare.terminal import tables
from fcil.errors import ConfigError
from fcil.federation.context import Datasets
from fcil.federation.preconditions import check_foreseen, remarks, replayed_share
from fcil.runs.estimate import estimate
from fcil.runs.plans import read, survey
from fcil.runs.preflight import introduce

FEW: dict[str, Any] = {"data": {"dataset": "digits", "tasks": 5, "per_class": 3}, "federation": {"clients": 5}}
"""Six images in a task: one client holds two, the others one each."""
ONE_BY_ONE = {"name": "resnet8", "width": 4, "stem": "imagenet"}
"""Its last maps are 1 x 1 on digits."""


def printed(source: Path, *overrides: str, out: Path) -> tuple[list[fcil.Run], str]:
    console = Console(file=io.StringIO(), width=200)
    with silently():
        runs = fcil.run(source, *overrides, out=out, console=console)
    return runs, console.file.getvalue()  # type: ignore[attr-defined]


# Batches of one image ------------------------------------------------------------------------------


def test_a_client_of_one_image_takes_part_and_is_told_of(tmp_path: Path) -> None:
    source = write_experiment(tmp_path, net=ONE_BY_ONE, **FEW)
    (run,), said = printed(source, out=tmp_path / "one")
    (plan,) = read(source)[0].plans()
    single = [
        [client for client, held in enumerate(clients) if held.sum() == 1]
        for clients in Datasets().open(plan).scenario.counts
    ]
    assert [record["batches_of_one"] for record in run.rounds] == [single[r["task"] - 1] for r in run.rounds]
    assert len(single[0]) == 4
    assert "clients hold a single image of a task" in said
    assert "running statistics for the one example of clients" in run.folder.log.read_text()
    assert not (run.path / "failure.json").exists()
    with pytest.raises(Stop):
        play(source, out=tmp_path / "two", observer=StopAfter(3))
    (resumed,) = play(source, out=tmp_path / "two")
    assert same(final_weights(run), final_weights(resumed))


@pytest.mark.parametrize("net", [{"stem": "auto"}, {"stem": "imagenet", "norm": "group"}])
def test_where_one_image_has_a_variance_nothing_is_told(tmp_path: Path, net: dict[str, Any]) -> None:
    (run,), said = printed(write_experiment(tmp_path, net={**ONE_BY_ONE, **net}, **FEW), out=tmp_path / "out")
    assert not any("batches_of_one" in record for record in run.rounds)
    assert "single image" not in said


LIVELY = {"rounds": 1, "steps": 2, "batch_size": 8, "samples": 16, "width": 4, "latent": 8}


@pytest.mark.parametrize(
    "strategy",
    [
        {"lander": {"synthetic": 0.01, "synthesizer": {"nayer": {**NAYER, "student_batch": 1}}}},
        {"mfcl": {"synthetic": 8, "synthesizer": {"mfcl": LIVELY}}},
        {"fedcil": {"consolidation": 2, "width": 4, "images": 8}},
        {"fedewc": {"fidelity": "reference"}},
        "icarl",
    ],
    ids=lambda s: s if isinstance(s, str) else next(iter(s)),
)
def test_every_training_loop_takes_one_image(tmp_path: Path, strategy: Any) -> None:
    (run,) = play(write_experiment(tmp_path, net=ONE_BY_ONE, strategy=strategy, **FEW), out=tmp_path / "out")
    assert run.finished


def test_batches_that_are_all_of_one_image_are_refused_where_nothing_has_a_variance(
    tmp_path: Path, command: Command
) -> None:
    source = write_experiment(Path("."), net=ONE_BY_ONE, federation={"batch_size": 1})
    refused = (
        "tiny.yaml: federation.batch_size: 1 is not allowed with resnet8 on images of 8 x 8, whose last maps are 1 x 1",
        "set it to 2 or more, or norm: group for the net",
    )
    assert_refused(command("run", source, "--out", "out"), *refused)
    assert_refused(command("doctor", source), *refused)
    assert_refused(command("run", source, "--dry-run"), *refused)
    for fine in ("net.norm=group", "net.stem=cifar"):
        assert len(play(source, fine, "federation.rounds=1", out=tmp_path / "out")) == 1


def test_the_doctor_tells_of_clients_with_one_image(command: Command) -> None:
    source = write_experiment(Path("."), net=ONE_BY_ONE, **FEW)
    said = command("doctor", source, "--json")
    found = [row for row in json.loads(said.out) if "single image" in row["found"]]
    assert [row["state"] for row in found] == ["warn"]


# Contradictions ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        (
            {"strategy": "icarl", "federation": {"exemplars": 5}},
            'federation.exemplars: 5 are allowed, and strategy "icarl" would keep 144 images of client 0 after task 1',
        ),
        ({"strategy": {"glfc": {"exemplars": 20}}, "federation": {"exemplars": 19}}, "would keep 20 images of client"),
        ({"strategy": "replay", "federation": {"exemplars": 200}}, "would keep 288 images of client 0 after task 2"),
        (
            {"strategy": {"lander": {"select": "lowest-loss"}}, "federation": {"privacy": {}}},
            'federation.privacy: withholds metrics of clients, which strategy "lander" reads',
        ),
        ({"strategy": {"distill": {"teacher": "no.safetensors"}}}, "no.safetensors: no safetensors file can be read"),
    ],
)
def test_a_contradiction_is_said_before_anything_is_written(command: Command, parts: dict[str, Any], said: str) -> None:
    assert_refused(command("run", write_experiment(Path("."), **parts), "--out", "out"), "tiny.yaml: ", said)


@pytest.mark.parametrize("strategy", [{"icarl": {"exemplars": 20}}, {"glfc": {"per_class": 7, "steps": 1}}, "replay"])
def test_what_a_client_keeps_is_known_beforehand_to_the_image(tmp_path: Path, strategy: Any) -> None:
    federation = {"clients": 3, "rounds": 1, "stop_after": 3}
    data = {"dataset": "digits", "tasks": 5, "partition": {"dirichlet": 0.5}}
    source = write_experiment(tmp_path, strategy=strategy, data=data, federation=federation)
    (plan,) = read(source)[0].plans()
    counts = Datasets().open(plan).scenario.counts.cumsum(axis=0)
    kept = [sum(plan.strategy.strategy.keeps(held.tolist()) for held in counts[task]) for task in range(3)]
    (run,) = play(source, out=tmp_path / "out")
    assert run.summary["activity"]["exemplars"] == kept


@pytest.mark.parametrize(
    ("strategy", "empty", "problem"),
    [
        ("finetune", {}, ""),
        ("finetune", {1: [4]}, "of the 5 clients of task 2, round 1, only 4 hold images of it: "),
        ("joint", {1: [4]}, ""),  # of task 1 they have some
        ("joint", {0: [4]}, "of the 5 clients of task 1, round 1, only 4 hold images of it: "),
        ({"icarl": {"exemplars": 2}}, {1: [4]}, ""),  # they have exemplars
        ("finetune", {1: [0, 1, 2, 3, 4]}, ""),  # the net stays as it is
    ],
)
def test_a_robust_rule_has_enough_clients_with_images_in_every_round(
    tmp_path: Path, strategy: Any, empty: dict[int, list[int]], problem: str
) -> None:
    federation = {"clients": 5, "aggregation": {"krum": {"malicious": 1}}}
    source = write_experiment(tmp_path, strategy=strategy, federation=federation)
    (plan,) = read(source)[0].plans()
    context = Datasets().open(plan)
    held = [list(clients) for clients in context.scenario.held]
    for task, clients in empty.items():
        for client in clients:
            held[task][client] = np.array([], dtype=np.int64)
    context = replace(context, scenario=context.scenario.replaced(held=held))
    if not problem:
        check_foreseen(context)
        return
    with pytest.raises(ConfigError, match=f"federation.aggregation: krum: {problem}"):
        check_foreseen(context)


# Exemplars -----------------------------------------------------------------------------------------


def test_a_budget_above_the_data_is_marked(tmp_path: Path) -> None:
    source = write_experiment(
        tmp_path, matrix={"strategy": ["joint", "icarl", {"replay": {"memory": 2000}}, "finetune"]}
    )
    runs, said = printed(source, out=tmp_path / "out")
    shares = {run.strategy: run.summary.get("replayed_share") for run in runs}
    assert shares == {"joint": None, "finetune": None, "icarl": 1, "replay": 1}
    assert 'clients of "icarl" replay every image of earlier tasks, as "joint" does' in said
    assert "the share of iCaRL's paper would be about 12 a client" in said
    comparison = compare(runs)
    (split,) = comparison.splits
    assert {entry.label: entry.keeps for entry in split.entries if entry.keeps} == dict.fromkeys(
        ("joint", "icarl", "replay"), "all data"
    )
    assert not any(entry.rival for entry in split.entries if entry.keeps)
    assert [line for line in comparison.warnings if "icarl replays every example of earlier tasks" in line]
    console = Console(file=io.StringIO(), width=200)
    console.print(tables(comparison))
    told = " ".join(console.file.getvalue().split())  # type: ignore[attr-defined]
    assert "keep all data of earlier tasks: " in told


@pytest.mark.parametrize(
    ("strategy", "share"),
    [({"icarl": {"exemplars": 20}}, 40 / 288), ({"icarl": {"per_class": 10**6}}, 1), ({"replay": {"memory": 72}}, 0.5)],
)
def test_a_budget_below_the_data_is_no_upper_bound(tmp_path: Path, strategy: Any, share: float) -> None:
    (plan,) = read(write_experiment(tmp_path, strategy=strategy))[0].plans()
    context = Datasets().open(plan)
    assert replayed_share(context) == pytest.approx(share, abs=0.01)
    assert bool(remarks(context)) == (share == 1)


# Data that nothing can be learnt from ----------------------------------------------------------------


def remarks_of(source: Path) -> list[str]:
    (plan,) = read(source)[0].plans()
    return remarks(Datasets().open(plan))


def test_tasks_that_do_not_divide_the_classes_are_told(tmp_path: Path) -> None:
    assert remarks_of(write_experiment(tmp_path, data={"tasks": 5})) == []
    (line,) = remarks_of(write_experiment(tmp_path, data={"tasks": 7}))
    assert line == (
        "data.tasks: 7 do not divide 10 classes; the tasks have 1, 1, 1, 1, 1, 1, 4 "
        "(data.remainder: even makes it 2, 2, 2, 1, 1, 1, 1)"
    )
    assert estimate(tmp_path / "tiny.yaml", out=tmp_path / "out").notes == (line,)
    even = write_experiment(tmp_path, data={"tasks": 7, "remainder": "even"})
    assert remarks_of(even) == []
    (context,) = survey(even)
    assert context.scenario.split.sizes == (2, 2, 2, 1, 1, 1, 1)


@pytest.mark.parametrize("levels", [[0], [0, 255]])
def test_a_data_set_of_one_colour_is_told(tmp_path: Path, levels: list[int]) -> None:
    for split in ("train", "test"):
        for number, name in enumerate(("ant", "bee")):
            place = tmp_path / "images" / split / name
            place.mkdir(parents=True)
            for i in range(3):
                Image.new("L", (8, 8), levels[number % len(levels)]).save(place / f"{i}.png")
    source = write_experiment(tmp_path, data={"dataset": "image_folder", "root": str(tmp_path / "images"), "tasks": 2})
    said = "one and the same colour" if len(levels) == 1 else "a single colour each"
    assert [line.partition("images: ")[2] for line in remarks_of(source)] == [
        f"all {part} images have {said}; nothing can be learnt; what is transparent lies on white (data.transparency)"
        for part in ("training", "test")
    ]
    data = {"dataset": "image_folder", "root": str(tmp_path / "images"), "tasks": 2, "transparency": "ignored"}
    source = write_experiment(tmp_path, data=data)
    assert all(line.endswith("; transparency is ignored (data.transparency)") for line in remarks_of(source))


# Anchors -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("radius", "said"), [(0.015, False), (9.0, True)])
def test_anchors_within_a_declared_radius_of_each_other_are_told_of(tmp_path: Path, radius: float, said: bool) -> None:
    source = write_experiment(tmp_path, strategy={"lander": {"radius": radius}})
    (context,) = survey(source)
    console = Console(file=io.StringIO(), width=200)
    introduce(context, console)
    assert ("anchors: " in console.file.getvalue()) is said  # type: ignore[attr-defined]
