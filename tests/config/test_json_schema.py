"""The JSON schema of experiment files allows what `fcil` reads, refuses what it refuses, and is as the code is."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fcil.config import load_yaml, parse_yaml
from fcil.config.matrix import is_distillation
from fcil.distillation import settings as distillation
from fcil.errors import ConfigError
from fcil.runs import plans
from fcil.searching import plans as searching
from fcil.terminal.shipped import SCHEMA, texts

jsonschema = pytest.importorskip("jsonschema", reason="of the extra `dev`")

ROOT = Path(__file__).parents[2]
FILES = [path for path in sorted(ROOT.glob("experiments/**/*.yaml")) if path.parent.name != "methods"]
FEDERATED: dict[str, Any] = {"data": {"dataset": "digits", "tasks": 5}, "strategy": "lander"}
DISTILLED: dict[str, Any] = {"data": {"dataset": "digits"}, "synthesizer": {"nayer": {"rounds": 4}}}


@pytest.fixture(scope="module")
def validator() -> Any:
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    jsonschema.Draft7Validator.check_schema(schema)
    return jsonschema.Draft7Validator(schema)


def is_read(values: dict[str, Any]) -> bool:
    """Whether `fcil run`, or for its files `fcil distill`, takes these values."""
    try:
        (distillation if is_distillation(values) else plans).read(values)
    except ConfigError:
        return False
    return True


def test_what_is_shipped_is_as_the_code_is() -> None:
    for path, text in texts().items():
        assert path.read_text(encoding="utf-8") == text, f"{path} is stale: run python -m fcil.terminal.shipped"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_experiment_keeps_to_the_schema_that_it_names(validator: Any, path: Path) -> None:
    assert [error.message for error in validator.iter_errors(load_yaml(path))] == []
    first = path.read_text(encoding="utf-8").splitlines()[0]
    named = first.removeprefix("# yaml-language-server: $schema=")
    assert named != first
    assert (path.parent / named).resolve() == SCHEMA.resolve()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_misspelt_key_of_any_experiment_is_refused(validator: Any, path: Path) -> None:
    values = load_yaml(path)
    for keys in key_paths({key: value for key, value in values.items() if key != "matrix"}):
        changed = copy.deepcopy(values)
        spot = changed
        for key in keys[:-1]:
            spot = spot[key]
        spot[f"{keys[-1]}x"] = spot.pop(keys[-1])
        assert not validator.is_valid(changed), f"{'.'.join(keys)} with an x"


def key_paths(values: dict[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Where mappings have keys; a misspelt strategy is left out, and an option below it in the space of a search, for
    they may be a user's own."""
    for key, value in values.items():
        if above != ("strategy",) and not (above == ("search", "space") and key.startswith("strategy.")):
            yield (*above, key)
        if isinstance(value, dict):
            yield from key_paths(value, (*above, key))


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"strategy": {"lander": None}},
        {"strategy": {"lander": {"radius": 0, "hinge": "batch", "synthesizer": {"nayer": {"chains": 2}}}}},
        {"data": {"dataset": "digits", "tasks": [[1, 2], [3]], "partition": "iid"}},
        {"data": {"dataset": "cifar100", "base": 50, "increment": 10, "order": 1993, "augment": "none"}},
        {"data": {"dataset": "digits", "tasks": 2, "order": "seed", "augment": {"flip": False}, "validation": 0.1}},
        {"data": {"dataset": "digits", "tasks": 2, "partition": {"dirichlet": 1, "capped": False, "draw": "once"}}},
        {"data": {"dataset": "image_folder", "root": "x", "tasks": 2, "test_share": 0.2, "transparency": 7}},
        {"data": {"dataset": "image_folder", "root": "x", "tasks": 2, "test_share": {"share": 0.2, "seed": 1}}},
        {"federation": {"mods": ["arrays_size", {"local_dp": {"clip": 2}}], "aggregation": {"krum": {"malicious": 2}}}},
        {"federation": {"attack": {"noise": {"std": 2}}, "privacy": {"noise": 2}, "stop_after": None}},
        {"optimizer": {"name": "adamw", "schedule": "step", "milestones": [0.5, 3]}, "logger": "wandb"},
        {"resources": {"device": "cuda:1", "threads": 2, "workers": None}, "seeds": [0, 7], "name": "x"},
        {"matrix": {"strategy": ["finetune", {"lander": {"radius": 0.01}}], "data.tasks": [5, 2]}},
        {"matrix": {"strategy.radius": [0, 1], "federation.privacy.noise": [1], "data.partition.dirichlet": [0.1, 1]}},
        {"matrix": {"data.tasks": [5, 2], "exclude": [{"data.tasks": 5}], "include": [{"data.tasks": 1}]}},
        {"matrix": None},
        {"search": None},
    ],
    ids=str,
)
def test_what_is_read_is_valid(validator: Any, more: dict[str, Any]) -> None:
    values = FEDERATED | more
    assert is_read(values)
    assert [error.message for error in validator.iter_errors(values)] == []


@pytest.mark.parametrize(
    "values",
    [
        {"data": {"tasks": 5}, "strategy": "lander", "matrix": {"data.dataset": ["digits", "mnist"]}},
        {"data": {"dataset": "digits", "tasks": 5}, "matrix": {"strategy": ["lander", "finetune"]}},
        {"data": {"dataset": "digits", "tasks": 5}, "matrix": {"include": [{"strategy": "lander"}]}},
        DISTILLED,
        {"data": {"dataset": "digits"}, "student": {"learns": "after"}, "matrix": {"synthesizer": ["dafl", "dfq"]}},
        {**DISTILLED, "distiller": {"crd": {"kd": 1}}, "quantise": {"bits": 4}, "student": {"learns": "after"}},
        {**DISTILLED, "data": {"dataset": "digits", "tasks": 1}, "matrix": {"student.steps": [1, 2]}},
    ],
    ids=str,
)
def test_what_is_required_may_be_varied(validator: Any, values: dict[str, Any]) -> None:
    assert is_read(values)
    assert [error.message for error in validator.iter_errors(values)] == []


@pytest.mark.parametrize(
    "more",
    [
        {"strategy": 3},
        {"strategy": None},
        {"strategy": {"lander": {"radiuss": 1}}},
        {"strategy": {"lander": {"radius": -1}}},
        {"strategy": {"lander": {"synthesizer": "nayr"}}},
        {"strategy": {"lander": {}, "finetune": {}}},
        {"data": {"tasks": 5}},
        {"data": None},
        {"data": {"dataset": "digit", "tasks": 2}},
        {"data": {"dataset": "digits", "tasks": 0}},
        {"data": {"dataset": "digits", "tasks": 2, "partition": "dirichlet"}},
        {"data": {"dataset": "digits", "tasks": 2, "partition": {"dirichlet": 0}}},
        {"data": {"dataset": "digits", "tasks": 2, "partition": {"classes": 1, "shards": 1}}},
        {"data": {"dataset": "image_folder", "root": "x", "tasks": 2, "test_share": 1}},
        {"data": {"dataset": "digits", "tasks": 2, "augment": "all"}},
        {"federation": {"clients": 0}},
        {"federation": {"rounds": "5"}},
        {"federation": {"fraction": 1.5}},
        {"federation": {"backend": "Ray"}},
        {"federation": {"mods": "arrays_size"}},
        {"federation": {"mods": ["array_size"]}},
        {"federation": {"aggregation": {"krum": {"malicious": 0}}}},
        {"federation": {"attack": "flip"}},
        {"federation": {"privacy": {"delta": 1}}},
        {"optimizer": {"lr": 0}},
        {"net": {"name": "resnet9"}},
        {"net": {"width": 1000}},
        {"resources": {"device": "gpu"}},
        {"logger": "tensorbord"},
        {"seeds": []},
        {"seeds": [1, 1]},
        {"seeds": [-1]},
        {"matrix": {}},
        {"matrix": {"data.tasks": 5}},
        {"matrix": {"data.tasks": []}},
        {"matrix": {"data.taks": [5]}},
        {"matrix": {"data.tasks": [5], "include": {"data.tasks": 2}}},
        {"matrix": {"data.tasks": [5], "exclude": [{"data.taks": 2}]}},
        {"teacher": {"epochs": 1}},
        {"sede": [1]},
    ],
    ids=str,
)
def test_what_is_refused_is_not_valid(validator: Any, more: dict[str, Any]) -> None:
    values = FEDERATED | more
    assert not is_read(values)
    assert not validator.is_valid(values)


@pytest.mark.parametrize(
    "more",
    [
        {"synthesizer": "nayr"},
        {"distiller": "kdd"},
        {"data": {"dataset": "digits", "tasks": 2}},
        {"data": {"dataset": "digits", "order": "seed"}},
        {"student": {"rounds": 0}},
        {"quantise": {"bits": 16}},
        {"backend": "Ray"},
    ],
    ids=str,
)
def test_what_is_refused_of_a_distillation_is_not_valid(validator: Any, more: dict[str, Any]) -> None:
    values = DISTILLED | more
    assert not is_read(values)
    assert not validator.is_valid(values)


@pytest.mark.parametrize(
    "more",
    [
        {
            "data": {
                "dataset": "./my_data.py",
                "each": 3,
                "tasks": 2,
                "partition": {"./my_split.py": None, "draw": "once"},
            }
        },
        {"net": {"name": "./my_net.py", "depth": 3}, "data": {"dataset": "digits", "tasks": 2, "partition": "./s.py"}},
        {"strategy": {"target": {"synthesizer": {"./my_way.py": {"rounds": 3}}}}},
    ],
    ids=str,
)
def test_parts_of_ones_own_are_valid_with_settings_of_their_own(validator: Any, more: dict[str, Any]) -> None:
    assert [error.message for error in validator.iter_errors(FEDERATED | more)] == []


def test_a_strategy_of_ones_own_is_valid_by_name_and_by_file(validator: Any) -> None:
    for strategy in ("mine", "./mine.py", {"mine": {"keep": 2}}, {"./mine.py": None}):
        assert validator.is_valid(FEDERATED | {"strategy": strategy})


def test_merged_mappings_are_those_that_they_make(validator: Any) -> None:
    text = """
    data: {dataset: digits, tasks: 5}
    strategy: lander
    net: &net {name: resnet20}
    optimizer: &slow {lr: 0.01, min_lr: 0.001}
    matrix: {optimizer: [*slow, {<<: *slow, momentum: 0}], net: [*net, {<<: *net, WIDTH: 4}]}
    """
    assert validator.is_valid(parse_yaml(text.replace("WIDTH", "width"), "x"))
    assert not validator.is_valid(parse_yaml(text.replace("WIDTH", "wide"), "x"))


def test_every_key_has_its_sentence() -> None:
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    silent = [
        f"{name}.{key}"
        for name, definition in schema["definitions"].items()
        for key, about in definition.get("properties", {}).items()
        if not about.get("description", "").endswith(".")
    ]
    assert silent == []
    assert {"Experiment", "Distillation", "strategy.lander", "synthesizer.nayer", "distiller.crd"} <= set(
        schema["definitions"]
    )


SEARCH: dict[str, Any] = {"space": {"optimizer.lr": [0.1, 0.2], "strategy.radius": {"uniform": [0, 1]}}, "runs": 4}


@pytest.mark.parametrize(
    ("more", "allowed"),
    [
        ({}, True),
        ({"sampler": "halving", "runs": 20, "halving": {"factor": 2, "rounds": 1}, "metric": "bwt"}, True),
        (
            {"space": {"federation.local_epochs": {"int": [1, 3]}, "net": [{"name": "resnet8"}, {"name": "resnet18"}]}},
            True,
        ),
        ({"space": {"optimizer.lrx": [0.1]}}, False),
        ({"space": {"optimizer.lr": {"lgo": [0.1, 1]}}}, False),
        ({"space": {"optimizer.lr": 0.1}}, False),
        ({"space": {"data.tasks": [2, 5]}}, False),
        ({"space": {"resources.threads": [1, 2]}}, False),
        ({"sampler": "sobol"}, False),
        ({"metric": "accuracy"}, False),
        ({"runs": 0}, False),
        ({"trials": 3}, False),
    ],
    ids=str,
)
def test_the_schema_knows_a_search_as_it_is_read(validator: Any, more: dict[str, Any], allowed: bool) -> None:
    data = {"dataset": "digits", "tasks": 5, "validation": 0.2}
    values = {"data": data, "strategy": "lander", "search": SEARCH | more}
    assert validator.is_valid(values) == allowed
    try:
        searching.read(values)
    except ConfigError:
        assert not allowed
    else:
        assert allowed
