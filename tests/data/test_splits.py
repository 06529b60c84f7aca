"""A split as a file: written, read again, used by another run, and refused where it does not fit."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_runs import final_weights, play, same, without_seconds, write_experiment

from fcil.cli import main
from fcil.config import Where, dump, parse
from fcil.data import DataSettings, Scenario, load_dataset
from fcil.data.splits import fingerprint
from fcil.errors import ConfigError
from fcil.runs.plans import read, survey
from fcil.store.groups import split_label

SKEWED = {"tasks": 5, "order": 1993, "partition": {"dirichlet": 0.3}}


def settings(**values: Any) -> DataSettings:
    return parse(DataSettings, {"dataset": "digits", **values}, Where("x.yaml", "data"))


@pytest.fixture
def split(tmp_path: Path) -> dict[str, Any]:
    """What a run with seed 7 writes."""
    chosen = settings(**SKEWED)
    return Scenario(load_dataset(chosen), chosen, clients=2, seed=7).partition_record()


@pytest.fixture
def saved(tmp_path: Path, split: dict[str, Any]) -> Callable[..., Path]:
    def save(**changes: Any) -> Path:
        path = tmp_path / "split.json"
        path.write_text(json.dumps({k: v for k, v in {**split, **changes}.items() if v is not None}))
        return path

    return save


def alone(folder: Path, path: Path, **parts: Any) -> Path:
    """An experiment that says of its data nothing but the set and the split."""
    source = write_experiment(folder, **parts)
    text = source.read_text().replace("  tasks: 5\n", f"  split: {path}\n")
    source.write_text(text)
    return source


def test_a_run_on_the_split_of_another_is_the_same_to_the_bit(tmp_path: Path) -> None:
    (first,) = play(write_experiment(tmp_path, data=SKEWED), out=tmp_path / "a")
    (second,) = play(alone(tmp_path, first.path / "partition.json"), out=tmp_path / "b")
    assert same(final_weights(first), final_weights(second))
    assert first.rows == second.rows
    assert without_seconds(first) == without_seconds(second)
    assert (first.path / "partition.json").read_bytes() == (second.path / "partition.json").read_bytes()
    assert set(second.config["data"]) & {"tasks", "order", "partition", "base", "increment"} == set()
    assert split_label(second.config) == f"digits, split {second.config['data']['split']['digest']}"


def test_the_split_does_not_depend_on_the_seed_of_the_run(saved: Callable[..., Path], split: dict[str, Any]) -> None:
    chosen = settings(split=str(saved()))
    for seed in (0, 1):
        again = Scenario(load_dataset(chosen), chosen, clients=2, seed=seed).partition_record()
        assert {**again, "seed": 7} == split


def test_the_hash_covers_the_content_and_not_the_path(tmp_path: Path, saved: Callable[..., Path]) -> None:
    path = saved()
    (plan,) = read(alone(tmp_path, path))[0].plans()
    moved = path.rename(tmp_path / "moved.json")
    (same_plan,) = read(alone(tmp_path, moved))[0].plans()
    assert same_plan.variant == plan.variant
    held = json.loads(moved.read_text())["indices"]
    held[0][0], held[0][1] = held[0][1], held[0][0]
    (other,) = read(alone(tmp_path, saved(indices=held)))[0].plans()
    assert other.variant != plan.variant


def test_without_a_split_nothing_is_said_of_it() -> None:
    assert "split" not in dump(settings(tasks=5))


def test_show_writes_the_split_of_an_experiment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = write_experiment(tmp_path, data=SKEWED), tmp_path / "it.json"
    monkeypatch.setattr(sys, "argv", ["fcil", "show", str(source), "--split", str(target), "--json"])
    with pytest.raises(SystemExit) as stop:
        main()
    printed = capsys.readouterr()
    assert stop.value.code == 0
    assert "1,438 images of digits, 5 tasks, 2 clients" in printed.err
    assert json.loads(printed.out)[0]["name"] == "tiny"
    (context,) = survey(source)
    (again,) = survey(alone(tmp_path, target))
    assert again.scenario.partition_record() == context.scenario.partition_record()

    monkeypatch.setattr(sys, "argv", ["fcil", "show", str(source), "seeds=[0, 1]", "--split", str(tmp_path / "no")])
    source.write_text(write_experiment(tmp_path, data=SKEWED).read_text())
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert "has another split" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tasks": None}, "not a split; tasks missing"),
        ({"fingerprint": None}, "an earlier fcil wrote it"),
        ({"fingerprint": 3}, "dataset and fingerprint are text"),
        ({"tasks": [[0, 1], []]}, "tasks: expected a list of class numbers"),
        ({"tasks": [[0, 1.5]]}, "tasks: expected a list of class numbers"),
        ({"tasks": [[0, 1]]}, "indices: expected a list of image numbers for each of 1 tasks"),
        ({"tasks": [[0], [0]], "indices": [[[], []], [[], []]]}, "class 0 is given twice"),
        ({"clients": 3}, "clients is 3, and indices are those of 2"),
        ({"tasks": [[0]], "indices": [[[4, 5], [5]]]}, "image 5 is given twice"),
        ({"tasks": [[0]], "indices": [[[True], [5]]]}, "indices: expected a list of image numbers"),
    ],
)
def test_a_file_that_is_no_split_is_refused(saved: Callable[..., Path], changes: dict[str, Any], said: str) -> None:
    path = saved(**changes)
    with pytest.raises(ConfigError) as refused:
        settings(split=str(path))
    assert said in str(refused.value)
    assert str(refused.value).startswith(f"x.yaml: data.split: {path}: ")


@pytest.mark.parametrize(
    ("changes", "clients", "said"),
    [
        ({}, 3, "split has 2 clients, and federation.clients is 3"),
        ({"dataset": "mnist"}, 2, "split is one of mnist, and data.dataset is digits"),
        ({"fingerprint": "0" * 32}, 2, "split was made of other images"),
        ({"tasks": [[10]], "indices": [[[0], [1]]]}, 2, "split has class 10"),
        ({"tasks": [[0]], "indices": [[[5000], []]]}, 2, "split has image 5000 in task 1; there are 1,438 images"),
        ({"tasks": [[9]], "indices": [[[0], []]]}, 2, "split has image 0 in task 1, which is of class"),
    ],
)
def test_a_split_of_something_else_is_refused(
    saved: Callable[..., Path], changes: dict[str, Any], clients: int, said: str
) -> None:
    chosen = settings(split=str(saved(**changes)))
    with pytest.raises(ConfigError) as refused:
        Scenario(load_dataset(chosen), chosen, clients=clients, seed=0)
    assert said in str(refused.value)


@pytest.mark.parametrize(
    "other",
    [{"tasks": 5}, {"order": "seed"}, {"partition": {"shards": 2}}, {"base": 2}, {"remainder": "even"}],
)
def test_what_the_file_says_is_not_said_again(saved: Callable[..., Path], other: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"data.split: excludes {next(iter(other))}, which the file says"):
        settings(split=str(saved()), **other)


def test_a_file_that_was_changed_is_refused(saved: Callable[..., Path], split: dict[str, Any], tmp_path: Path) -> None:
    chosen = settings(split=str(saved()))
    before = dump(chosen)
    held = [clients[::-1] for clients in split["indices"]]
    saved(indices=held)
    with pytest.raises(ConfigError, match="is another split now"):
        parse(DataSettings, before, Where("config.yaml", "data"))
    with pytest.raises(ConfigError, match="was changed meanwhile"):
        Scenario(load_dataset(chosen), chosen, clients=2, seed=0)
    with pytest.raises(ConfigError, match=r"no such file"):
        settings(split=str(tmp_path / "none.json"))


def test_the_fingerprint_tells_data_sets_apart() -> None:
    whole, few, half = (
        fingerprint(load_dataset(settings(tasks=5, **more))) for more in ({}, {"per_class": 20}, {"validation": 0.5})
    )
    assert len({whole, few, half}) == 3
    assert fingerprint(load_dataset(settings(tasks=2))) == whole
