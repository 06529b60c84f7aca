"""What did how much in a run, what did nothing, the paper's protocol, and the missing floor and ceiling."""

from __future__ import annotations

import io
import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from rich.console import Console
from safetensors.torch import save_file
from small_runs import LANDER, play, silently, write_experiment, write_strategy

import fcil
from fcil.compare import compare
from fcil.compare.bounds import Command, offer
from fcil.compare.protocols import PROTOCOLS, differences
from fcil.compare.write import markdown
from fcil.config import Where
from fcil.errors import SHORTER_STEPS
from fcil.methods.files import built_in_files
from fcil.methods.introspection import declared
from fcil.methods.loading import StrategySpec
from fcil.store import load_run
from fcil.store.activity import activity, collapsed, explain, unused_components, unused_components_of
from fcil.store.declared import parse_declared
from fcil.store.folder import RunFolder
from fcil.strategy import Strategy


def line(task: int, round: int, terms: dict[str, float], **more: Any) -> dict[str, Any]:
    return {"task": task, "round": round, "terms": terms, "clients": [0, 1], "failures": [], **more}


def told(records: list[dict[str, Any]], strategy: str = "finetune", **options: Any) -> list[str]:
    return unused_components(records, activity(records), options, parse_declared(declared(built_in(strategy))))


def built_in(name: str) -> type[Strategy]:
    return type(StrategySpec.from_yaml(name, Where("test")).strategy)


END = {"touched": {"0": [0]}, "allowed": {"0": [0]}, "failures": []}


# Activity -----------------------------------------------------------------------------------------


def test_shares_are_means_over_rounds_of_absolute_terms():
    records = [line(1, 1, {"ce": 2.0}), line(2, 1, {"ce": 1.0, "kd": -3.0}), line(2, 2, {"ce": 1.0, "kd": 1.0})]
    assert activity(records)["terms"] == {"ce": [1.0, 0.375], "kd": [None, 0.625]}


def test_what_was_made_drawn_kept_and_lost_is_counted_by_task():
    failed = [{"client": 1, "outcome": "skipped"}, {"client": 0, "outcome": "retried"}]
    made = {"synthesis": [{"samples": 40, "classes": 2, "episodes": 3}], "exemplars": 7}
    records = [
        line(1, 1, {"ce": 1.0}, after_task={**END, **made}),
        line(2, 1, {"ce": 1.0}, drawn={"pool": 30}, failures=failed),
        line(2, 2, {"ce": 1.0}, drawn={"pool": 12}, exemplars=9, after_task=END),
    ]
    counts = np.array([[[3, 0], [2, 0]], [[0, 0], [0, 4]]])
    found = activity(records, counts)
    assert found["drawn"] == {"pool": [None, 42]}
    assert (found["samples"], found["episodes"], found["exemplars"]) == ([40, 0], [3, 0], [7, 9])
    assert (found["skipped"], found["retried"], found["empty"]) == ([0, 1], [0, 1], [0, 1])


def test_a_record_without_an_audit_leaves_out_what_it_does_not_tell():
    found = activity([line(1, 1, {"ce": 1.0})], samples={1: 5})
    assert found.keys() == {"terms", "samples", "skipped", "retried"}
    assert found["samples"] == [5]


def test_classes_that_a_synthesizer_made_no_sample_of_are_counted_and_said():
    def records(classes: int) -> list[dict[str, Any]]:
        made = {"synthesis": [{"samples": 40, "classes": classes, "asked": 4, "episodes": 3}]}
        first = {"synthesis": [{"samples": 40, "classes": 2, "asked": 2, "episodes": 3}]}
        ends = ({**END, **first}, {**END, **made}, END)
        return [line(k, 1, {"ce": 1.0}, drawn={"pool": 8}, after_task=end) for k, end in enumerate(ends, start=1)]

    declares = parse_declared(declared(built_in("lander")))
    said = "the synthesizer made no sample of 2 of the classes that it was asked for, at the end of task 2"
    for classes, absent in ((2, [0, 2, 0]), (4, [0, 0, 0])):
        found = activity(records(classes))
        assert found["absent"] == absent
        told = unused_components(records(classes), found, {"synthesizer": "nayer"}, declares)
        assert (said in told) == any(absent)


# What did nothing ---------------------------------------------------------------------------------

FIRST = line(1, 1, {"ce": 1.0})


@pytest.mark.parametrize(
    ("strategy", "later", "options", "said"),
    [
        ("fedlwf", {"ce": 1.0, "kd": 0.0}, {"keep": 0.0},
         'the loss term "kd" was 0 in every round after task 1 (strategy.keep is 0)'),
        ("fedlwf", {"ce": 1.0, "kd": 5e-4}, {"keep": 3.0}, 'the loss term "kd" was 0.05 % of the loss after task 1'),
        ("fedewc", {"ce": 1.0}, {"strength": None}, 'the loss term "ewc" never appeared after task 1'),
        ("lander", {"ce": 1.0, "bound": 0.0, "kd": 1.0, "embedding": 1.0}, {"radius": 9.0, "lam": 5.0, "head": 0.0},
         'the loss term "bound" was 0 in every round after task 1; all samples lay within strategy.radius (9)'),
        ("fedcil", {"ce": 1.0}, {"consistency": 0, "replay": 0.5}, "strategy.consistency is 0"),
        ("finetune", {"ce": 0.0}, {}, 'the loss term "ce" was 0 in every round after task 1'),
        ("glfc", {"ce": 1.0, "relation": 1.0, "noticed": 0.0}, {"detect": "entropy"},
         'the loss term "noticed" was 0 in every round after task 1'),
    ],
)  # fmt: skip
def test_an_ingredient_of_the_loss_that_did_nothing_is_named(strategy, later, options, said):
    assert said in told([FIRST, line(2, 1, later), line(2, 2, later)], strategy, **options)


@pytest.mark.parametrize(
    ("strategy", "later", "options"),
    [
        ("finetune", {"ce": 1e-6}, {}),
        ("joint", {"ce": 0.2}, {}),
        ("target", {"ce": 1e-4, "kd": 1.0}, {"keep": 25.0}),  # what is learnt well costs little
        ("lander", {"ce": 1.0, "bound": 0.1, "kd": 1.0, "embedding": 0.1}, {"head": 0.0}),  # off by default
        ("fedgen", {"ce": 1.0, "generated": 1.0, "latent": 1.0}, {"student": 0.0, "diversity": 1.0}),
        ("fedcil", {"ce": 1.0}, {"consistency": None, "fidelity": "reference"}),
        ("icarl", {"ce": 1.0, "kd": 1.0}, {}),
        ("mfcl", {"ce": 1.0, "kd": 1.0, "head": 1.0}, {"head": 1.0, "distil": 0.1}),
        ("fedprox", {"ce": 1.0, "prox": 0.01}, {"mu": 0.01}),
    ],
)
def test_there_is_no_false_alarm(strategy, later, options):
    assert told([FIRST, line(2, 1, later)], strategy, **options) == []


def test_a_single_task_is_judged_by_what_is_zero_alone():
    rounds = [line(1, n, {"ce": 1.0, "bn": 900.0, "adv": -0.1, "cr": 0.0, "student_kl": 0.5}) for n in (1, 2)]
    assert told(rounds, "distill") == ['the loss term "cr" was 0 in every round']


def test_what_is_neither_kept_drawn_nor_made_is_named():
    empty = {**END, "shared": {"bases": 0, "teacher": 8}}
    rounds = [{**FIRST, "after_task": empty}, line(2, 1, {"ce": 1.0, "kd": 1.0}, after_task=empty)]
    assert "clients kept no exemplar of earlier tasks" in told(rounds, "replay")
    assert "clients drew nothing from what the server shares" in told(rounds, "target", synthesizer={"fast": {}})
    assert "the synthesizer made no sample" in told(rounds, "target", synthesizer={"fast": {}})
    assert told(rounds, "fot") == ['what is shared as "bases" was empty after task 1']
    used = {**empty, "exemplars": 3, "synthesis": [{"samples": 4, "episodes": 1}], "shared": {}}
    drawn = [{**FIRST, "after_task": used}, line(2, 1, {"ce": 1.0, "kd": 1.0}, drawn={"generator": 0}, after_task=END)]
    assert told(drawn, "replay") == told(drawn, "target", synthesizer={"fast": {}}) == []


def test_a_task_in_which_nobody_trained_is_named():
    assert told([FIRST, line(2, 1, {})]) == ["no client trained in task 2"]


def test_strategies_of_the_house_declare_their_terms_and_weights():
    found = {name: declared(built_in(name)) for name in built_in_files()}
    terms = {name: set(one["loss_terms"]) for name, one in found.items()}
    assert terms["lander"] == {"ce", "bound", "kd", "embedding", "head"}
    assert terms["fedgen"] == {"ce", "generated", "latent"}
    assert terms["glfc"] == {"ce", "relation"}
    assert (terms["finetune"], terms["joint"]) == ({"ce"}, set())
    assert found["lander"]["weights"] == {"lam": 5.0, "head": 0.0}
    assert found["lander"]["radii"] == {"bound": "radius"}
    assert found["fedewc"]["weights"] == {"strength": None}  # a union, and settled by `fidelity`
    assert {name for name, one in found.items() if "exemplars" in one["uses"]} == {"replay", "icarl", "glfc"}
    assert {name for name, one in found.items() if one["data"] == "seen"} == {"joint"}


# Runs ---------------------------------------------------------------------------------------------


def test_a_run_tells_its_activity_and_an_old_folder_is_read_too(tmp_path):
    out = io.StringIO()
    with silently():
        (run,) = fcil.run(write_experiment(tmp_path, strategy=LANDER), out=tmp_path, console=Console(file=out))
    found = run.summary["activity"]
    assert found["samples"] == [20, 0]
    assert found["episodes"] == [3, 0]
    assert found["drawn"]["synthetic"][0] is None
    assert found["drawn"]["synthetic"][1] == 2 * 2 * 2 * 16  # rounds, clients, batches, images
    assert sum(found["terms"][name][1] for name in ("ce", "bound", "kd", "embedding")) == pytest.approx(1, abs=1e-3)
    assert run.summary["inert"] == []
    old = {k: v for k, v in run.summary.items() if k not in ("activity", "inert")}
    run.folder.summary.write_text(json.dumps(old))
    assert explain(load_run(run.path)) == {"activity": found, "inert": []}
    assert "no finetune (the floor) and no joint (the ceiling)" in out.getvalue()


def test_an_inert_ingredient_is_printed_and_marked_in_a_comparison(tmp_path):
    out = io.StringIO()
    source = write_experiment(tmp_path, strategy={"fedlwf": {"keep": 0.0}})
    with silently():
        (run,) = fcil.run(source, out=tmp_path, console=Console(file=out, width=200))
    said = 'the loss term "kd" was 0 in every round after task 1 (strategy.keep is 0)'
    assert f"inert: {said}" in out.getvalue()
    assert unused_components_of(run) == [said]
    (entry,) = compare([run]).splits[0].entries
    assert entry.idle == (said,)
    assert f"{compare([run]).splits[0].label}: fedlwf: {said}" in compare([run]).hints
    assert "| fedlwf ‡ |" in markdown(compare([run]))


def test_a_damaged_folder_tells_less_and_raises_nothing(tmp_path):
    (run,) = play(write_experiment(tmp_path), out=tmp_path)
    run.folder.partition.write_text("{}")
    run.folder.env.write_text(json.dumps({"method": {"uses": 3, "weights": [], "radii": {"ce": 1}, "loss_terms": {}}}))
    run.folder.synthetic.mkdir()
    (run.folder.synthetic / "task1.safetensors").write_bytes(b"no")
    save_file({"x": torch.zeros(3, 1)}, run.folder.synthetic / "task2.safetensors")
    run.folder.summary.write_text(json.dumps({k: v for k, v in run.summary.items() if k != "activity"}))
    assert explain(load_run(run.path))["activity"].keys() >= {"terms", "skipped"}
    assert "empty" not in explain(load_run(run.path))["activity"]


# Protocols ----------------------------------------------------------------------------------------


def plan_of(path: Path) -> dict[str, Any]:
    from fcil.runs.plans import read

    return read(path)[0].plans()[0].to_yaml()


def test_the_papers_own_experiments_differ_in_nothing():
    for path in sorted(Path("experiments/paper").glob("*.yaml")):
        assert differences(plan_of(path)) == [], path


def test_differences_are_named_with_what_the_paper_has(tmp_path):
    config = plan_of(Path("experiments/paper/lander_cifar100_t5_b05.yaml"))
    config["federation"] |= {"rounds": 10, "stop_after": 2}
    config["data"] |= {"tasks": 2, "partition": {"classes": 4}}
    assert differences(config) == [
        "tasks 2 (paper: 5 or 10)",
        "partition classes 4 (paper: iid, dirichlet 1, dirichlet 0.5 or dirichlet 0.1)",
        "rounds 10 (paper: 100)",
        "stop_after 2 (paper: none)",
    ]
    config["data"] |= {"tasks": None, "base": 50, "increment": 10}
    assert differences(config)[0] == "tasks 50 + 10 classes (paper: 5 or 10)"
    config["strategy"] = {"mine.py": {}}
    assert differences(config) == []


def test_every_protocol_names_a_strategy_of_the_house_and_a_source():
    assert {name for p in PROTOCOLS for name in p.methods} <= built_in_files().keys()
    assert all("arXiv:" in p.source for p in PROTOCOLS)


def test_a_configuration_of_a_stranger_makes_no_error():
    for config in ({}, {"strategy": 3}, {"strategy": "lander", "data": [], "net": None, "federation": {"rounds": []}}):
        assert isinstance(differences(config), list)


# Floor and ceiling --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "overrides", "missing", "line"),
    [
        ({"strategy": {"lander": {}}}, (), ["finetune", "joint"], "'matrix.strategy=[finetune,joint]'"),
        ({"strategy": "lander"}, ("strategy.radius=1", "seeds=[3]"), ["joint"], "'seeds=[3]' strategy=joint"),
        ({"matrix": {"strategy": ["lander", "target"], "data.tasks": [2, 5]}}, (), ["finetune", "joint"],
         "'matrix.strategy=[finetune,joint]'"),
        ({"strategy": "lander", "matrix": {"strategy.radius": [1, 2]}}, (), ["finetune"], "strategy=finetune"),
        ({"matrix": {"strategy": ["lander"], "strategy.radius": [1, 2]}}, (), ["finetune"], "strategy=finetune"),
    ],
)  # fmt: skip
def test_the_command_adds_exactly_what_is_missing(tmp_path, values, overrides, missing, line):
    from fcil.runs.plans import read

    source = tmp_path / "x.yaml"
    source.write_text(yaml.safe_dump({"data": {"dataset": "digits", "tasks": 2}, **values}))
    command = Command(source, overrides).adding(missing)
    assert command == f"fcil run {shlex.quote(str(source))} {line}"
    changes = [word for word in shlex.split(command)[3:] if word != "--out"]
    assert {e.strategy.name for e in read(source, changes)} == set(missing)


def test_where_one_command_does_not_do_two_are_given(tmp_path):
    source = tmp_path / "x.yaml"
    matrix = {"strategy": ["lander"], "strategy.radius": [1]}
    source.write_text(yaml.safe_dump({"matrix": matrix, "data": {"dataset": "digits", "tasks": 2}}))
    command = Command(source, (), "there").adding(["finetune", "joint"])
    end = "--out there"
    first, second = (f"fcil run {shlex.quote(str(source))} strategy={name} {end}" for name in ("finetune", "joint"))
    assert command == f"{first} && {second}"


def test_floor_and_ceiling_are_not_offered_where_they_are(tmp_path):
    source = write_experiment(tmp_path)
    (run,) = play(source, out=tmp_path)
    command = Command(source)
    assert "no joint (the ceiling)" in offer(run, command)
    assert "finetune" not in offer(run, command).split(";")[0]
    (joint,) = play(source, "strategy=joint", out=tmp_path)
    assert offer(run, command) == offer(joint, command) == ""
    assert not [hint for hint in compare([run, joint]).hints if "(the " in hint]
    assert "no finetune (the floor)" in compare([joint]).hints[0]


def test_a_command_is_read_from_a_folder_only_if_its_file_is_there(tmp_path):
    source = write_experiment(tmp_path)
    (run,) = play(source, out=tmp_path)
    about = json.loads(run.folder.env.read_text())
    for words, found in (
        (["fcil", "run", str(source), "seeds=[1]", "--out", "here"], Command(source, ("seeds=[1]",), "here")),
        (["fcil", "run", "gone.yaml"], None),
        (["pytest"], None),
        ("fcil run", None),
    ):
        run.folder.env.write_text(json.dumps({**about, "command": words}))
        assert Command.of(run.folder) == found
    assert Command(source, ("seeds=[1]",)).with_seeds([2, 0]).overrides == ("seeds=[0,2]",)


# Nets that collapsed ------------------------------------------------------------------------------


def answered(folder: Path, *tasks: dict[tuple[int, int], int]) -> str | None:
    """What is said of a run whose net took samples of a class for others, by task: (true, predicted) -> how many."""
    folder.mkdir(exist_ok=True)
    rows = [f"{t},{a},{b},{n}" for t, cells in enumerate(tasks, start=1) for (a, b), n in sorted(cells.items())]
    (folder / "confusion.csv").write_text("\n".join(["task,true,predicted,n", *rows, ""]))
    return collapsed(RunFolder(folder))


def test_a_net_that_takes_all_for_one_class_is_told_from_the_task_on_where_it_began(tmp_path):
    fine, later = {(0, 0): 5, (1, 1): 5}, {(n, 3): 5 for n in range(4)}
    last = {(n, 3): 5 for n in range(6)}
    assert answered(tmp_path, fine, later, last) == (
        f"the net took all test samples for one class from the end of task 2 on; {SHORTER_STEPS}"
    )
    assert "at the end of task 2;" in str(answered(tmp_path, fine, later))
    assert answered(tmp_path, {(0, 1): 5, (1, 1): 5}, {(0, 0): 5, (3, 3): 5}) is None  # it recovered
    assert answered(tmp_path, fine) is None


def test_a_net_that_knows_the_newest_class_alone_has_forgotten_and_not_collapsed(tmp_path):
    assert answered(tmp_path, {(0, 0): 5}, {(0, 1): 5, (1, 1): 5}, {(n, 2): 5 for n in range(3)}) is None
    assert collapsed(RunFolder(tmp_path / "empty")) is None


ONE_ANSWER = """
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from fcil import Strategy


@dataclass(frozen=True, kw_only=True)
class Constant(Strategy):
    def local_loss(self, client, batch):
        return {"ce": F.cross_entropy(client.net(batch.x).logits, torch.zeros_like(batch.y))}
"""


def test_a_collapsed_net_is_printed_kept_and_told_of_in_a_comparison(tmp_path):
    """Of a method that teaches one answer."""
    own = write_strategy(tmp_path, ONE_ANSWER, "constant")
    out = io.StringIO()
    with silently():
        (run,) = fcil.run(
            write_experiment(tmp_path, strategy=str(own)), out=tmp_path, console=Console(file=out, width=200)
        )
    said = f"the net took all test samples for one class from the end of task 1 on; {SHORTER_STEPS}"
    assert run.summary["collapsed"] == said
    assert said in out.getvalue()
    assert f"{compare([run]).splits[0].label}: constant: {said}" in compare([run]).hints
