"""Scenarios: tasks, shards and batches."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from fcil.data import (
    Augment,
    Dataset,
    DataSettings,
    MemoryImages,
    PartitionSettings,
    Scenario,
    load_dataset,
    normalise,
    partition,
)
from fcil.data.tasks import class_numbers
from fcil.errors import ConfigError

DIGITS = load_dataset(DataSettings(dataset="digits", tasks=5))


def scenario(clients: int = 3, seed: int = 0, **options: object) -> Scenario:
    settings = DataSettings(**{"dataset": "digits", "tasks": 5, "order": 1993, **options})  # type: ignore[arg-type]
    return Scenario(DIGITS, settings, clients, seed)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_tasks_name_classes_in_order_of_appearance() -> None:
    found = scenario()
    order = np.random.RandomState(1993).permutation(10)
    assert found.order == tuple(order.tolist())
    assert [t.number for t in found.tasks] == [1, 2, 3, 4, 5]
    assert [(t.num_old, t.num_new, t.total) for t in found.tasks] == [(2 * i, 2, 5) for i in range(5)]
    assert found.tasks[2].names == tuple(DIGITS.class_names[c] for c in order[:6])


def test_labels_count_classes_in_order_of_appearance() -> None:
    found = scenario()
    for task in found.tasks:
        for client in range(3):
            shard = found.shard(task.number, client)
            assert set(shard.labels.tolist()) <= set(range(task.num_old, task.num_seen))
            assert set(shard.tasks.tolist()) == {task.number}
            original = DIGITS.train.y[shard.indices]
            assert torch.equal(torch.tensor(found.order)[shard.labels], original)


@pytest.mark.parametrize("kind", [{"kind": "iid"}, {"kind": "dirichlet", "value": 0.3}, {"kind": "shards", "value": 2}])
@pytest.mark.parametrize("draw", ["task", "once", "reference"])
def test_shards_are_disjoint_and_cover_the_training_set(kind: dict[str, object], draw: str) -> None:
    found = scenario(partition=PartitionSettings(**kind, draw=draw))  # type: ignore[arg-type]
    held = torch.cat([found.shard(t, c).indices for t in range(1, 6) for c in range(3)])
    assert torch.equal(held.sort().values, torch.arange(len(DIGITS.train)))


def test_a_partition_depends_on_seed_and_task_alone() -> None:
    dirichlet = PartitionSettings(kind="dirichlet", value=0.5)
    five = scenario(partition=dirichlet)
    assert torch.equal(five.shard(2, 1).indices, scenario(partition=dirichlet).shard(2, 1).indices)
    assert not torch.equal(five.shard(2, 1).indices, scenario(partition=dirichlet, seed=1).shard(2, 1).indices)
    order = five.order
    other = scenario(partition=dirichlet, tasks=((order[0],), order[2:4], order[4:]), order="natural")
    assert torch.equal(five.shard(2, 1).indices, other.shard(2, 1).indices)


def test_draw_says_whether_proportions_change_from_task_to_task() -> None:
    def shares(draw: str) -> np.ndarray:
        settings = PartitionSettings(kind="dirichlet", value=0.5, capped=False, draw=draw)  # type: ignore[arg-type]
        counts = scenario(partition=settings).counts
        sizes = counts.sum(2)
        return np.asarray(sizes / sizes.sum(1, keepdims=True))

    assert np.abs(np.diff(shares("once"), axis=0)).max() < 0.05
    assert np.abs(np.diff(shares("task"), axis=0)).max() > 0.1


@pytest.mark.parametrize("kind", [{"kind": "iid"}, {"kind": "dirichlet", "value": 0.5}])
def test_reference_draw_is_re_seeded_for_every_task(kind: dict[str, object]) -> None:
    settings = PartitionSettings(**kind, draw="reference")  # type: ignore[arg-type]
    found = scenario(partition=settings, seed=2023, order="seed")
    assert any(first > second for first, second in found.split.classes)  # the order within a task matters
    for task in range(1, 6):
        classes = found.split.classes[task - 1]
        members = np.concatenate([np.flatnonzero(DIGITS.train.y.numpy() == c) for c in classes])
        labels = np.repeat([0, 1], [int((DIGITS.train.y == c).sum()) for c in classes])
        expected = partition(labels, 3, settings, np.random.RandomState(2023))
        for client in range(3):
            assert np.array_equal(found.shard(task, client).indices.numpy(), members[expected[client]])


def test_seen_shard_is_the_union_of_all_tasks_so_far() -> None:
    found = scenario()
    seen = found.shard(3, 1, seen=True)
    parts = [found.shard(t, 1) for t in (1, 2, 3)]
    assert torch.equal(seen.indices, torch.cat([p.indices for p in parts]))
    assert torch.equal(seen.labels, torch.cat([p.labels for p in parts]))
    assert seen.tasks.unique().tolist() == [1, 2, 3]


def test_test_shards_tell_tasks_apart() -> None:
    found = scenario()
    seen = found.test_seen(3)
    assert seen.augment is None
    for task in (1, 2, 3):
        mask = seen.tasks == task
        alone = found.test(task)
        assert torch.equal(seen.indices[mask], alone.indices)
        assert torch.equal(seen.labels[mask], alone.labels)
    assert len(found.test_seen(5)) == len(DIGITS.test)
    batches = list(seen.batches(50, augment=False, shuffle=False))
    assert torch.equal(torch.cat([b.y for b in batches]), seen.labels)


def test_counts_agree_with_the_shards() -> None:
    found = scenario(partition=PartitionSettings(kind="dirichlet", value=0.5))
    assert found.counts.shape == (5, 3, 10)
    assert found.counts.sum() == len(DIGITS.train)
    for task, clients in enumerate(found.counts, start=1):
        for client, counts in enumerate(clients):
            held = torch.bincount(found.shard(task, client).labels, minlength=10)
            assert counts.tolist() == held.tolist()


def test_record_is_plain_and_complete() -> None:
    found = scenario()
    record = json.loads(json.dumps(found.partition_record()))
    assert record["order"] == list(found.order)
    assert record["tasks"] == [list(c) for c in found.split.classes]
    assert record["indices"][1][2] == found.shard(2, 2).indices.tolist()
    assert np.array_equal(np.array(record["counts"]), found.counts)


def test_an_epoch_visits_every_sample_once_in_a_drawn_order() -> None:
    shard = scenario().shard(1, 0)
    batches = list(shard.batches(32, generator()))
    assert [len(b.y) for b in batches[:-1]] == [32] * (len(batches) - 1)
    assert sum(len(b.y) for b in batches) == len(shard)
    assert torch.equal(torch.cat([b.y for b in batches]).sort().values, shard.labels.sort().values)
    again = list(shard.batches(32, generator()))
    other = list(shard.batches(32, generator(1)))
    assert all(torch.equal(a.x, b.x) and torch.equal(a.y, b.y) for a, b in zip(batches, again, strict=True))
    assert not torch.equal(batches[0].y, other[0].y)


def test_batches_without_change_are_the_normalised_images() -> None:
    shard = scenario().shard(1, 0)
    (batch,) = shard.batches(len(shard), augment=False, shuffle=False)
    expected = normalise(DIGITS.train.take(shard.indices), DIGITS.mean, DIGITS.std)
    assert torch.equal(batch.x, expected)
    assert torch.equal(batch.y, shard.labels)
    assert torch.equal(shard.x(torch.tensor([4, 1])), expected[[4, 1]])


def test_augmentation_can_be_switched_off() -> None:
    def first(found: Scenario, augment: bool) -> torch.Tensor:
        return next(found.shard(1, 0).batches(32, generator(), augment=augment)).x

    assert torch.equal(first(scenario(augment=False), True), first(scenario(), False))
    assert not torch.equal(first(scenario(), True), first(scenario(), False))


def test_a_missing_generator_is_said() -> None:
    shard = scenario().shard(1, 0)
    with pytest.raises(ValueError, match="need a generator"):
        next(shard.batches(32))
    with pytest.raises(ValueError, match="need a generator"):
        next(shard.batches(32, shuffle=False))


def small_scenario(samples: int) -> Scenario:
    """Series of length 12 in two channels: nothing in this layer may want images."""
    x, y = torch.randn(samples, 2, 12), torch.arange(samples) % 2
    data = Dataset(
        "toy", MemoryImages(x, y), MemoryImages(x, y), ("up", "down"), (0.0, 0.5), (1.0, 2.0), Augment(padding=2)
    )
    return Scenario(data, DataSettings(dataset="digits", tasks=1), clients=1, seed=0)


@pytest.mark.parametrize(
    ("samples", "batch_size", "sizes"),
    [(9, 4, [4, 5]), (8, 4, [4, 4]), (10, 4, [4, 4, 2]), (3, 1, [1, 1, 1]), (2, 4, [2])],
)
def test_a_last_batch_of_one_joins_the_batch_before(samples: int, batch_size: int, sizes: list[int]) -> None:
    shard = small_scenario(samples).shard(1, 0)
    assert [len(b.y) for b in shard.batches(batch_size, generator())] == sizes
    kept = [len(b.y) for b in shard.batches(batch_size, generator(), drop_single=False)]
    assert kept == [batch_size] * (samples // batch_size) + [samples % batch_size] * (samples % batch_size > 0)


def test_series_go_all_the_way_through() -> None:
    found = small_scenario(20)
    batch = next(found.shard(1, 0).batches(8, generator()))
    assert batch.x.shape == (8, 2, 12)
    (plain,) = found.test(1).batches(20, shuffle=False)
    assert torch.allclose(plain.x[:, 1], (found.dataset.test.take(found.test(1).indices)[:, 1] - 0.5) / 2)


def test_what_does_not_fit_the_data_names_the_task() -> None:
    with pytest.raises(ConfigError, match="task 1: more clients than samples"):
        scenario(clients=2000)
    with pytest.raises(ConfigError, match="task 1: partition gives every client 3 classes"):
        scenario(partition=PartitionSettings(kind="classes", value=3))


def test_listed_tasks_leave_the_other_classes_out() -> None:
    found = scenario(tasks=((7, 2), (5,)), order="natural")
    assert found.order == (7, 2, 5)
    assert found.counts.shape == (2, 3, 3)
    assert found.counts.sum() == sum(int((DIGITS.train.y == c).sum()) for c in (7, 2, 5))
    assert len(found.test_seen(2)) == sum(int((DIGITS.test.y == c).sum()) for c in (7, 2, 5))


def test_classes_are_chosen_by_name_in_the_order_given() -> None:
    found = scenario(classes=("six", "one", 3, "nine"), order="natural", tasks=2)
    assert found.order == (6, 1, 3, 9)
    assert found.tasks[-1].names == ("six", "one", "three", "nine")
    assert [t.num_new for t in found.tasks] == [2, 2]
    held = torch.cat([found.shard(t, c).indices for t in (1, 2) for c in range(3)])
    assert set(DIGITS.train.y[held].tolist()) == {1, 3, 6, 9}
    assert len(held) == sum(int((DIGITS.train.y == c).sum()) for c in (1, 3, 6, 9))
    assert set(found.test(2).labels.tolist()) == {2, 3}
    order = np.random.RandomState(1993).permutation(4)
    assert scenario(classes=("six", "one", 3, "nine"), tasks=2).order == tuple((6, 1, 3, 9)[k] for k in order)
    assert scenario(classes=("six", "one", "three"), tasks=3, order=(2, 0, 1)).order == (3, 6, 1)


def test_classes_that_are_all_in_order_are_no_choice() -> None:
    every = scenario(classes=DIGITS.class_names)
    assert (every.order, every.counts.tolist()) == (scenario().order, scenario().counts.tolist())


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        (("six", "sevn"), 'no class "sevn" among the 10 there are. Did you mean "seven"?'),
        (("six", 6), 'class "six" twice'),
        (("six", 10), "has class 10, but the classes are 0 to 9"),
    ],
)
def test_a_class_that_cannot_be_chosen_is_one_line(classes: tuple[int | str, ...], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        scenario(classes=classes, tasks=2, order="natural")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_name_that_is_a_number_comes_before_class_numbers() -> None:
    assert class_numbers((10, "2"), ("1", "2", "10")) == (2, 1)
    assert class_numbers((0, "n02", "n03"), ("crane", "owl", "crane"), ("n01", "n02", "n03")) == (0, 1, 2)
    with pytest.raises(ConfigError, match="the name of classes 0 and 2; give the number"):
        class_numbers(("crane",), ("crane", "owl", "crane"))
    with pytest.raises(ConfigError, match='no class "0" among'):
        class_numbers((0,), ("1", "2", "10"))


def test_global_random_streams_are_left_alone() -> None:
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index, union-attr]
    list(scenario(partition=PartitionSettings(kind="dirichlet", value=0.5)).shard(1, 0).batches(32, generator()))
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # type: ignore[index]


def test_shards_can_be_cut_and_joined() -> None:
    found = scenario()
    one, two = found.shard(1, 0), found.shard(2, 0)
    some = one.select(torch.tensor([3, 0]))
    assert some.indices.tolist() == [one.indices[3], one.indices[0]]
    both = two.joined(some)
    assert len(both) == len(two) + 2
    assert both.labels.tolist() == [*two.labels.tolist(), *some.labels.tolist()]
    assert both.tasks.tolist() == [*two.tasks.tolist(), 1, 1]
    assert torch.equal(both.x(torch.tensor([len(two)])), one.x(torch.tensor([3])))


@pytest.mark.parametrize("batch_size", [1, 7, 16, 10**6])
@pytest.mark.parametrize("ahead", [2, 3, 8])
def test_batches_prepared_several_at_once_are_those_of_one_at_a_time(batch_size: int, ahead: int) -> None:
    shard = replace(scenario().shard(1, 0), augment=Augment(padding=1, flip=True, brightness=0.2))
    for rows in (len(shard), 15, 2, 1, 0):
        part = shard.select(torch.arange(rows))
        plain = list(part.batches(batch_size, generator()))
        batches = list(part.batches(batch_size, generator(), ahead=ahead))
        assert [len(batch.y) for batch in plain] == [len(batch.y) for batch in batches]
        for batch, alone in zip(batches, plain, strict=True):
            assert torch.equal(batch.x, alone.x)
            assert torch.equal(batch.y, alone.y)
