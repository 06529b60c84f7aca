"""The `data:` section: what it accepts, what it refuses, and in which words."""

from __future__ import annotations

from typing import Any

import pytest

from fcil.config import Where, dump, parse
from fcil.data import DATASETS, DataSettings, PartitionSettings
from fcil.data.published import PUBLISHED
from fcil.errors import ConfigError

HERE = Where("exp.yaml", "data")


@pytest.mark.parametrize(
    "raw",
    [
        "iid",
        {"dirichlet": 0.5},
        {"dirichlet": 0.1, "capped": False},
        {"classes": 2, "draw": "once"},
        {"shards": 2},
        {"iid": None, "draw": "reference"},
    ],
)
def test_partition_reads_back_what_it_writes(raw: Any) -> None:
    settings = PartitionSettings.from_yaml(raw, HERE)
    assert settings.to_yaml() == raw
    assert PartitionSettings.from_yaml(settings.to_yaml(), HERE) == settings


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ("dirichlet", "must be a number above 0"),
        ("dirichlt", 'Did you mean "dirichlet"?'),
        ({"dirichlet": 0}, "for even shares say iid"),
        ({"dirichlet": "half"}, "data.partition.dirichlet"),
        ({"dirichlet": True}, "must be a number"),
        ({"classes": 0}, "at least 1"),
        ({"classes": 1.5}, "whole number"),
        ({"dirichlet": 1, "shards": 2}, "expected iid"),
        ({"dirichlet": 1, "cap": True}, 'Did you mean "capped"?'),
        ({"dirichlet": 1, "draw": "onse"}, 'Did you mean "once"?'),
        ({"shards": 2, "capped": False}, "capped applies to dirichlet"),
        (0.5, "expected iid"),
        ({"iid": 3}, "iid takes no value"),
    ],
)
def test_partition_names_what_is_wrong(raw: Any, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        PartitionSettings.from_yaml(raw, HERE.at("partition"))
    assert said in str(caught.value)
    assert str(caught.value).startswith("exp.yaml: data.partition")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "raw",
    [
        {"dataset": "cifar100", "tasks": 5, "order": 1993, "partition": {"dirichlet": 0.5}},
        {"dataset": "cifar100", "base": 50, "increment": 10, "order": "seed"},
        {"dataset": "digits", "tasks": [[3, 1], [4, 5, 9]], "validation": 0.1, "augment": False},
        {"dataset": "digits", "tasks": 2, "order": list(range(9, -1, -1))},
        {"dataset": "image_folder", "root": "x.zip", "tasks": 2, "resize": 32},
        {"dataset": "digits", "tasks": 7, "remainder": "even"},
        {"dataset": "digits", "tasks": 2, "classes": ["six", "one", 3]},
        {"dataset": "image_folder", "root": "x.zip", "tasks": 2, "augment": {"flip": False, "crop": 2}},
        {"dataset": "image_folder", "root": "x.zip", "tasks": 2, "test_share": 0.2, "transparency": "black"},
        {"dataset": "image_folder", "root": "x.zip", "tasks": 2, "test_share": {"share": 0.2, "seed": 4}},
        {"dataset": "imagenet_r", "tasks": 10, "test_share": 0.2},
    ],
)
def test_settings_survive_the_way_through_yaml(raw: dict[str, Any]) -> None:
    settings = parse(DataSettings, raw, HERE)
    written = dump(settings)
    assert {key: written[key] for key in raw} == raw
    assert parse(DataSettings, written, HERE) == settings


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ({"dataset": "cifar1000", "tasks": 5}, 'Did you mean "cifar100"?'),
        ({"dataset": "digits"}, "give tasks, or base and increment"),
        ({"dataset": "digits", "base": 5}, "base alone is not enough"),
        ({"dataset": "digits", "increment": 5}, "increment alone is not enough"),
        ({"dataset": "digits", "tasks": 5, "base": 5, "increment": 1}, "data.tasks: excludes base and increment"),
        ({"dataset": "digits", "tasks": 11}, "tasks is 11, but there are only 10 classes"),
        ({"dataset": "digits", "tasks": 0}, "data.tasks"),
        ({"dataset": "digits", "tasks": 4, "classes": ["one", "two", "six"]}, "there are only 3 classes"),
        ({"dataset": "image_folder", "root": "x", "tasks": 4, "classes": ["one"]}, "there is only one class"),
        ({"dataset": "digits", "tasks": 1, "classes": []}, "data.classes: an empty list"),
        ({"dataset": "digits", "tasks": 1, "classes": [True]}, "data.classes"),
        ({"dataset": "digits", "tasks": 1, "classes": [-1]}, "data.classes"),
        ({"dataset": "digits", "tasks": 1, "classes": "one"}, "data.classes"),
        ({"dataset": "digits", "tasks": [[0]], "classes": ["one"]}, "data.classes: has no effect beside a list"),
        ({"dataset": "digits", "tasks": 1, "order": [2], "classes": ["one"]}, "order has class 2, but the classes are"),
        ({"dataset": "digits", "base": 11, "increment": 1}, "base is 11"),
        ({"dataset": "digits", "tasks": [[0], [0]]}, "class 0 is given twice"),
        ({"dataset": "tiny_imagenet", "tasks": [[7], [7]]}, "class 7 is given twice"),
        ({"dataset": "digits", "tasks": [[0], [10]]}, "class 10, but the classes are 0 to 9"),
        ({"dataset": "digits", "tasks": [[0], []]}, "empty task"),
        ({"dataset": "digits", "tasks": [[0], [1]], "order": 1}, "data.order: has no effect"),
        ({"dataset": "digits", "tasks": 2, "order": [0, 1, 2]}, "order leaves out 7 of 10 classes"),
        ({"dataset": "digits", "tasks": 2, "order": "sead"}, 'Did you mean "seed"?'),
        ({"dataset": "digits", "tasks": 2, "order": 2**32}, "cannot number a permutation"),
        ({"dataset": "image_folder", "tasks": 2}, "data.root: missing"),
        ({"dataset": "imagenet_r", "tasks": 10}, "data.test_share: missing; imagenet_r has no test split"),
        ({"dataset": "chestmnist", "tasks": 2}, "has several labels for each image"),
        ({"dataset": "emnist_leters", "tasks": 2}, 'Did you mean "emnist_letters"?'),
        ({"dataset": "cifar10", "tasks": 2, "resize": 64}, "data.resize: applies to"),
        ({"dataset": "digits", "tasks": 2, "validation": 1.0}, "data.validation"),
        ({"dataset": "digits", "tasks": 2, "taks": 2}, 'Did you mean "tasks"?'),
        ({"dataset": "digits", "base": 2, "increment": 2, "remainder": "even"}, "remainder: applies to a number of"),
        ({"dataset": "digits", "tasks": [[0], [1]], "remainder": "even"}, "remainder: applies to a number of tasks"),
        ({"dataset": "digits", "tasks": 2, "augment": "some"}, "data.augment: 'some' is not allowed; expected true"),
        ({"dataset": "digits", "tasks": 2, "augment": {"flop": True}}, 'Did you mean "flip"?'),
        ({"dataset": "digits", "tasks": 2, "augment": {"crop": -1}}, "data.augment.crop: -1 is not allowed"),
        ({"dataset": "digits", "tasks": 2, "augment": {"brightness": True}}, "data.augment.brightness"),
    ],
)
def test_settings_name_what_is_wrong(raw: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(DataSettings, raw, HERE)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_short_forms_of_augment_are_what_they_stand_for() -> None:
    base = {"dataset": "digits", "tasks": 2}
    written = {}
    for raw in (True, {}, {"flip": None}, False, "none", {"flip": False}, {"crop": 0}):
        settings = parse(DataSettings, {**base, "augment": raw}, HERE)
        written[str(raw)] = dump(settings)["augment"]
        assert parse(DataSettings, {**base, "augment": written[str(raw)]}, HERE) == settings
    assert written["True"] is written["{}"] is written["{'flip': None}"] is True
    assert written["False"] is False
    assert written["none"] == {"crop": 0, "flip": False, "brightness": 0.0}
    assert written["{'flip': False}"] == {"flip": False}


def test_the_hash_of_what_could_be_said_before_is_as_it_was() -> None:
    keys = "dataset root tasks base increment order partition resize validation per_class augment"
    written = dump(DataSettings(dataset="digits", tasks=7, augment=False))
    assert list(written) == keys.split()


def test_catalog_knows_every_name() -> None:
    images = "digits mnist fashion_mnist cifar10 cifar100 tiny_imagenet image_folder imagenet imagenet100"
    series = "mnist1d ts_folder"
    folders, arrays = ["imagenet_r", "cub200"], list(PUBLISHED)
    assert list(DATASETS) == [*images.split(), *series.split(), *folders, *arrays]
    for name, info in DATASETS.items():
        assert info.name == name
        assert info.description
        assert "\n" not in info.description
        assert (info.kind == "series") == (name in series.split())
        assert (info.mean is None) == (name in {"digits", "image_folder", *series.split(), *arrays})
    assert DATASETS["cifar100"].num_classes == 100
    assert DATASETS["cifar100"].downloads
    assert not DATASETS["tiny_imagenet"].downloads
