"""Domains in place of classes: in folders, or made of one set of images; what is refused, and whole runs."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import Command, assert_refused
from PIL import Image
from small_runs import Stop, StopAfter, checkpoint, play, same, write_experiment

from fcil.config import Where, dump, parse
from fcil.data import DataSettings, Scenario, load_dataset
from fcil.data.domains.folders import natural_key
from fcil.data.domains.made import permuted, rotated
from fcil.errors import ConfigError, DataError
from fcil.evaluation import evaluate
from fcil.runs.plans import read
from fcil.store import Run

ROTATED: dict[str, Any] = {
    "dataset": "digits",
    "scenario": "domains",
    "domains": {"rotated": [0, 30, 90]},
    "tasks": None,
    "validation": 0.8,
    "augment": False,
}
DOMAINS = {"s1": {"cat": 6, "dog": 4}, "s2": {"cat": 5, "dog": 9}, "s10": {"cat": 4, "dog": 4}}
HERE = Where("exp.yaml", "data")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FCIL_CACHE", str(tmp_path / "cache"))


def spread(root: Path, domains: dict[str, dict[str, int]], top: str = "") -> Path:
    for d, (domain, classes) in enumerate(domains.items()):
        for c, (name, count) in enumerate(classes.items()):
            folder = root / top / domain / name
            folder.mkdir(parents=True)
            for i in range(count):
                stream = io.BytesIO()
                Image.new("L", (8, 8), 1 + 80 * d + 30 * c + i).save(stream, "png")
                (folder / f"{i}.png").write_bytes(stream.getvalue())
    return root


def settings(**values: Any) -> DataSettings:
    return parse(DataSettings, {"scenario": "domains", **values}, HERE)


def opened(root: Path, clients: int = 2, **values: Any) -> Scenario:
    data = settings(dataset="image_folder", root=str(root), **{"test_share": 0.25, **values})
    return Scenario(load_dataset(data), data, clients, 0)


# Folders ------------------------------------------------------------------------------------------


def test_folders_are_domains_in_natural_order_and_all_classes_are_known_at_once(tmp_path: Path) -> None:
    scenario = opened(spread(tmp_path / "set", DOMAINS))
    assert [task.domain for task in scenario.tasks] == ["s1", "s2", "s10"]
    assert [(t.num_old, t.num_new, t.num_seen, t.classes) for t in scenario.tasks] == [
        (0, 2, 2, range(2)), (2, 0, 2, range(2)), (2, 0, 2, range(2))]  # fmt: skip
    assert scenario.counts.sum(axis=1).tolist() == [[4, 3], [4, 7], [3, 3]]  # unequal classes, a quarter tests
    assert [torch.bincount(scenario.test(t).labels).tolist() for t in (1, 2, 3)] == [[2, 1], [1, 2], [1, 1]]
    levels = scenario.dataset.test.take(scenario.test(3).indices)[:, 0, 0, 0]
    assert (levels > 160).all()  # of the third domain alone
    assert scenario.test_seen(2).tasks.unique().tolist() == [1, 2]
    assert scenario.partition_record()["domains"] == ["s1", "s2", "s10"]


def test_domains_come_in_the_order_given_or_drawn_and_the_same_images_test(tmp_path: Path) -> None:
    root = spread(tmp_path / "set", DOMAINS)
    chosen = opened(root, domains=["s10", "s1"])
    assert [task.domain for task in chosen.tasks] == ["s10", "s1"]
    drawn = opened(root, order=3)
    assert sorted(task.domain for task in drawn.tasks) == ["s1", "s10", "s2"]
    assert [drawn.dataset.domains.names[d] for d in drawn.domains] == [task.domain for task in drawn.tasks]

    def tested(scenario: Scenario, domain: str) -> list[int]:
        number = next(task.number for task in scenario.tasks if task.domain == domain)
        return sorted(scenario.dataset.test.take(scenario.test(number).indices)[:, 0, 0, 0].tolist())

    assert tested(chosen, "s1") == tested(drawn, "s1")


def test_splits_hold_domains_and_held_out_images_are_of_each(tmp_path: Path) -> None:
    spread(tmp_path / "set", DOMAINS, "train")
    root = spread(tmp_path / "set", DOMAINS, "test")
    whole = opened(root, test_share=None)
    assert whole.counts.sum(axis=(1, 2)).tolist() == [10, 14, 8]
    assert [len(whole.test(t)) for t in (1, 2, 3)] == [10, 14, 8]
    held = opened(root, test_share=None, validation=0.25, per_class=2)
    assert held.counts.sum(axis=1).tolist() == [[2, 2]] * 3
    assert [torch.bincount(held.test(t).labels).tolist() for t in (1, 2, 3)] == [[2, 1], [1, 2], [1, 1]]


def test_clients_may_be_named_by_a_folder_below_the_class(tmp_path: Path) -> None:
    for number, domain in enumerate(DOMAINS):
        for client in ("ann", "bob"):
            spread(tmp_path / "set" / domain, {"cat": {client: 3 + number}, "dog": {client: 3}} if client == "ann" else
                   {"cat": {client: 4}, "dog": {client: 5}})  # fmt: skip
    scenario = opened(tmp_path / "set", partition={"natural": 1})
    assert (scenario.counts.sum(axis=2) > 0).all()


def test_all_domains_at_once_are_one_task(tmp_path: Path) -> None:
    scenario = opened(spread(tmp_path / "set", DOMAINS), tasks=1)
    assert [(t.num_new, t.domain) for t in scenario.tasks] == [(2, "")]
    assert scenario.counts.sum() == 24


@pytest.mark.parametrize(
    ("domains", "values", "said"),
    [
        ({**DOMAINS, "s2": {"cat": 5}}, {}, 'domain "s2" has no training images of class "dog", which domain "s1" has'),
        ({**DOMAINS, "s2": {"cat": 5, "dog": 1}}, {}, 'class "dog" of domain "s2" has a single image'),
        (DOMAINS, {"domains": ["s1", "s20"]}, 'no domain "s20" (there are s1, s2, s10). Did you mean "s2"?'),
        ({**DOMAINS, "s3": {"cat": 0}}, {"domains": ["s1", "s3"]}, 'domain "s3" has no images in class folders'),
        ({"s1": {"cat": 6, "dog": 4}}, {}, "and more than one domain"),
        ({}, {}, "no images under <domain>/<class>/"),
        (DOMAINS, {"test_share": None}, "no images under train/<domain>/<class>/"),
    ],
)
def test_folders_that_are_no_domains_are_told_apart(
    tmp_path: Path, domains: dict[str, dict[str, int]], values: dict[str, Any], said: str
) -> None:
    (tmp_path / "set").mkdir()
    with pytest.raises((ConfigError, DataError)) as caught:
        opened(spread(tmp_path / "set", domains), **values)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_class_that_a_domain_lacks_can_be_left_out_and_an_empty_folder_is_no_domain(tmp_path: Path) -> None:
    root = spread(tmp_path / "set", {**DOMAINS, "s2": {"cat": 5}, "s3": {"cat": 0}})
    scenario = opened(root, classes=["cat"])
    assert [task.domain for task in scenario.tasks] == ["s1", "s2", "s10"]
    assert scenario.tasks[-1].names == ("cat",)


def test_names_with_numbers_are_in_their_order() -> None:
    assert sorted(["s10", "b", "s2", "10", "9"], key=natural_key) == ["9", "10", "b", "s2", "s10"]


# Made of one set ----------------------------------------------------------------------------------


def test_a_turn_goes_on_where_a_quarter_is_exact() -> None:
    x = torch.zeros(1, 1, 9, 9, dtype=torch.uint8)
    x[0, 0, 0, 4] = 200  # above the middle
    assert rotated(x, 0).equal(x)
    assert rotated(x, 90)[0, 0, 4, 0] == 200  # anticlockwise: on the left
    assert rotated(x, 450).equal(rotated(x, 90))
    near = (rotated(x, 89.999).int() - rotated(x, 90).int()).abs()
    assert near.max() <= 1
    wide = torch.zeros(1, 1, 4, 8, dtype=torch.uint8)
    wide[0, 0, 1:3, 6] = 100
    turned = rotated(wide, 90)
    assert turned.shape == wide.shape
    assert (turned.int().sum(), rotated(wide, 180)[0, 0, 1, 1]) == (0, 100)  # beyond the upper edge


def test_a_permutation_moves_pixels_alike_in_every_image_and_channel() -> None:
    x = torch.arange(48, dtype=torch.uint8).reshape(1, 1, 6, 8).repeat(2, 3, 1, 1)
    first, again, other = permuted(x, 1), permuted(x, 1), permuted(x, 2)
    assert permuted(x, 0).equal(x)
    assert first.equal(again)
    assert not first.equal(other)
    assert (first == first[:1, :1]).all()
    assert first[0, 0].flatten().sort().values.equal(x[0, 0].flatten())


def test_every_image_is_in_every_domain_and_none_trains_and_tests() -> None:
    data = settings(dataset="digits", domains={"rotated": [0, 180]})
    scenario = Scenario(load_dataset(data), data, 2, 0)
    assert scenario.counts.sum(axis=(1, 2)).tolist() == [1438, 1438]
    first, second = (scenario.dataset.test.take(scenario.test(task).indices) for task in (1, 2))
    assert first.flip(2, 3).equal(second)


@pytest.mark.parametrize("domains", [["a", "b"], {"rotated": [0, 30.5]}, {"permuted": 3}])
def test_domains_read_back_what_they_write(domains: Any) -> None:
    values = {"root": "x", "dataset": "image_folder"} if isinstance(domains, list) else {"dataset": "digits"}
    data = settings(domains=domains, **values)
    assert data.to_yaml()["domains"] == domains
    assert parse(DataSettings, dump(data), HERE) == data


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, "domains: digits has no folders of domains"),
        ({"domains": ["a"]}, "domains: digits has no folders of domains"),
        ({"domains": {"rotated": [0, 360]}}, "domain 0 is given twice"),
        ({"domains": {"rotate": [0, 30]}}, "data.domains.rotate: unknown key (allowed: names, rotated, permuted)"),
        ({"domains": {"rotated": [0], "permuted": 2}}, "rotated and permuted is not allowed"),
        ({"domains": {"permuted": 0}}, "greater than or equal to 1"),
        ({"domains": 3}, "3 is not allowed; expected names of folders"),
        ({"domains": []}, "0 domains are not allowed"),
        ({"domains": {"permuted": 2}, "tasks": 5}, "tasks: 5 is not allowed with scenario: domains"),
        ({"domains": {"permuted": 2}, "base": 5, "increment": 1}, "base: applies to scenario: classes"),
        ({"domains": {"permuted": 2}, "order": [1, 0]}, "list the domains themselves in domains"),
        ({"domains": {"permuted": 2}, "scenario": "classes", "tasks": 2}, "applies to scenario: domains"),
        ({"domains": {"permuted": 2}, "scenario": "domain"}, 'Did you mean "domains"?'),
        ({"domains": {"permuted": 2}, "dataset": "mnist1d"}, "applies to images; mnist1d has time series"),
        ({"domains": {"permuted": 2}, "dataset": "imagenet100"}, "made of images of a fixed size"),
    ],
)
def test_settings_that_do_not_go_together_are_named(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        settings(**{"dataset": "digits", **values})
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


# Runs ---------------------------------------------------------------------------------------------


def experiment(folder: Path, strategy: Any, **data: Any) -> Path:
    folder.mkdir(exist_ok=True)
    return write_experiment(folder, data={**ROTATED, **data}, strategy=strategy, federation={"stop_after": None})


@pytest.fixture(scope="module")
def ewc(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("ewc")
    return play(experiment(folder, "fedewc"), out=folder / "out")[0]


@pytest.mark.parametrize("strategy", ["finetune", "fedprox", "fedlwf", "replay", "joint", "fot", "analytic",
                                      "patchwork", {"fedewc": {"fidelity": "reference"}}])  # fmt: skip
def test_methods_that_fit_learn_domain_after_domain(tmp_path: Path, strategy: Any) -> None:
    (run,) = play(experiment(tmp_path, strategy), out=tmp_path / "out")
    assert [(row.trained_task, row.tested_task) for row in run.rows] == [
        (t, j) for t in range(1, 4) for j in range(1, t + 1)]  # fmt: skip
    assert len({row.examples for row in run.rows}) == 1  # all classes of a domain, and as many in each
    numbers = [number for record in run.rounds for number in record["terms"].values()]
    assert np.isfinite(numbers).all()


def test_the_penalty_is_on_all_rows_and_the_cross_entropy_over_all_classes(ewc: Run) -> None:
    later = [record["terms"] for record in ewc.rounds if record["task"] > 1]
    assert all(terms["ce"] > 0.01 for terms in later)  # over no logits it would be 0, or no number
    assert later[-1]["ewc"] > 0
    tensors, _ = checkpoint(ewc)
    assert next(t for name, t in tensors.items() if name.endswith("fisher/classifier.weight")).shape[0] == 10


def test_what_does_not_apply_to_domains_is_left_out(ewc: Run) -> None:
    assert ewc.measures[["old", "new"]].isna().all().all()
    assert ewc.task_aware.empty
    assert "task_aware_final_accuracy" not in ewc.summary
    assert ewc.domains == ("rotated 0", "rotated 30", "rotated 90")
    last = [row for row in ewc.rows if row.trained_task == 3]
    found = {group.name: group for group in evaluate(ewc.path).groups if group.group == "domain"}
    assert [found[name][2:] for name in ewc.domains] == [(row.examples, row.correct) for row in last]


def test_a_run_goes_on_to_the_same_bits(tmp_path: Path, ewc: Run) -> None:
    source = experiment(tmp_path, "fedewc")
    with pytest.raises(Stop):
        play(source, out=tmp_path / "out", observer=StopAfter(4))  # in the second domain
    (resumed,) = play(source, out=tmp_path / "out")
    assert same(checkpoint(ewc)[0], checkpoint(resumed)[0])
    assert ewc.rows == resumed.rows
    assert ewc.variant == resumed.variant


def test_methods_that_rely_on_new_classes_are_refused_with_those_that_fit(tmp_path: Path, command: Command) -> None:
    source = experiment(tmp_path, "icarl")
    said = command("run", str(source), "--out", "out")
    assert_refused(said, "data.scenario", '"icarl"', "those that fit are analytic, fedewc, fedlwf, fedprox, finetune")


def test_a_split_file_is_of_classes(tmp_path: Path, command: Command, ewc: Run) -> None:
    said = command("show", str(experiment(tmp_path, "finetune")), "--split", str(tmp_path / "split.json"))
    assert (said.code, (tmp_path / "split.json").exists()) == (2, False)
    assert "data.scenario is domains" in said.err
    with pytest.raises(ConfigError, match="its tasks are domains"):
        parse(DataSettings, {"dataset": "digits", "split": str(ewc.folder.partition)}, HERE)


def test_the_default_is_not_written_so_that_hashes_stay_and_domains_are_in_them(tmp_path: Path) -> None:
    plain = parse(DataSettings, {"dataset": "digits", "tasks": 5}, HERE)
    assert plain == parse(DataSettings, {"dataset": "digits", "tasks": 5, "scenario": "classes", "domains": None}, HERE)
    assert not {"scenario", "domains"} & plain.to_yaml().keys()
    kinds: list[dict[str, Any]] = [{"rotated": [0, 30]}, {"rotated": [30, 0]}, {"permuted": 2}, {"permuted": 3}]
    changed = [experiment(tmp_path / str(n), "finetune", domains=kind) for n, kind in enumerate(kinds)]
    found = [plan.variant for path in changed for one in read(path) for plan in one.plans()]
    assert len(set(found)) == len(found) == 4
