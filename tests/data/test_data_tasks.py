"""Class orders and task splits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from golden_vectors import assert_matches, load_case

from fcil.data import TaskSplit, class_order, task_sizes
from fcil.errors import ConfigError

GOLDEN = load_case("12_class_order")


@pytest.mark.parametrize("config", GOLDEN.parameters["configs"], ids=lambda c: c["key"])
def test_order_sizes_and_labels_equal_the_reference(config: dict[str, int]) -> None:
    expected = GOLDEN.under(f"expected.{config['key']}")
    split = TaskSplit.make(
        config["classes"], base=config["init"], increment=config["increment"], order="seed", seed=config["seed"]
    )
    assert_matches(torch.tensor(split.order), expected["order"], GOLDEN.tolerance)
    assert_matches(torch.tensor(split.sizes), expected["task_sizes"], GOLDEN.tolerance)
    new_label = torch.empty(config["classes"], dtype=torch.int64)
    new_label[list(split.order)] = torch.arange(config["classes"])
    assert_matches(new_label, expected["new_label_of_original"], GOLDEN.tolerance)


def test_order_by_number_is_the_order_by_that_seed() -> None:
    assert np.array_equal(class_order(100, 1993, seed=0), class_order(100, "seed", seed=1993))
    assert not np.array_equal(class_order(100, 1993, seed=0), class_order(100, "seed", seed=0))
    assert class_order(4, "natural", seed=7).tolist() == [0, 1, 2, 3]
    assert class_order(4, (2, 0, 3, 1), seed=7).tolist() == [2, 0, 3, 1]


@pytest.mark.parametrize(
    ("classes", "wish", "sizes"),
    [
        (100, {"tasks": 5}, (20,) * 5),
        (10, {"tasks": 4}, (2, 2, 2, 4)),
        (10, {"tasks": 7}, (1, 1, 1, 1, 1, 1, 4)),
        (10, {"tasks": 7, "even": True}, (2, 2, 2, 1, 1, 1, 1)),
        (10, {"tasks": 5, "even": True}, (2,) * 5),
        (10, {"tasks": 10}, (1,) * 10),
        (10, {"tasks": 1}, (10,)),
        (100, {"base": 50, "increment": 10}, (50, 10, 10, 10, 10, 10)),
        (10, {"base": 4, "increment": 4}, (4, 4, 2)),
        (10, {"base": 10, "increment": 3}, (10,)),
    ],
)
def test_sizes_follow_the_rule(classes: int, wish: dict[str, int], sizes: tuple[int, ...]) -> None:
    assert task_sizes(classes, **wish) == sizes


def test_listed_tasks_may_leave_classes_out() -> None:
    split = TaskSplit.make(10, tasks=[[7, 2], [5]])
    assert split.classes == ((7, 2), (5,))
    assert split.order == (7, 2, 5)
    assert split.sizes == (2, 1)


@pytest.mark.parametrize(
    ("wish", "said"),
    [
        ({"tasks": 11}, "only 10 classes"),
        ({"base": 12, "increment": 1}, "only 10 classes"),
        ({"tasks": [[1], [1]]}, "twice"),
        ({"tasks": [[10]]}, "0 to 9"),
        ({"tasks": 2, "order": (0, 0)}, "twice"),
        ({"tasks": 2, "order": "seed", "seed": -1}, "cannot number a permutation"),
        ({"base": 2}, "base and increment"),
    ],
)
def test_what_does_not_fit_the_classes_is_refused(wish: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        TaskSplit.make(10, **wish)  # type: ignore[arg-type]
