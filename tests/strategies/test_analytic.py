"""Analytic: the partition does not matter, no unseen class is predicted, and what is sent stands for what it says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from scripted_roles import check_runs, client_of, server_of, shard_of
from small_runs import play, write_experiment
from tiny_net import normal, tiny_net

from fcil import Update
from fcil.config import Where
from fcil.errors import ConfigError, TrainingError
from fcil.roles import Server
from fcil.store import Run
from fcil.store.nets import kept_net
from fcil.types import Task
from strategies.analytic import Analytic, random_layer

LABELS = [0, 1, 1] * 8


def told(strategy: Analytic, parts: list[list[int]]) -> list[Update]:
    """What clients with these samples of the first task send when it ends."""
    whole = shard_of(LABELS)
    updates = []
    for rows in parts:
        client = client_of(tiny_net(2), whole.select(torch.tensor(rows, dtype=torch.int64)), shared={"draw": 3})
        update = strategy.after_local_task(client)
        updates += [] if update is None else [update]
    return updates


def head(strategy: Analytic, parts: list[list[int]]) -> torch.Tensor:
    server = server_of(tiny_net(2))
    strategy.after_task(server, told(strategy, parts))
    return server.shared["head"]


ALL = list(range(len(LABELS)))
PARTS = [ALL[:1], [], ALL[9:], ALL[1:9]]


def test_the_head_is_that_of_all_samples_however_they_are_shared_out():
    strategy = Analytic(width=20)
    assert torch.allclose(head(strategy, PARTS), head(strategy, [ALL]), rtol=1e-9, atol=1e-12)


def test_the_head_is_ridge_regression_on_random_features_of_the_pixels():
    strategy, shard = Analytic(width=20, ridge=0.01), shard_of(LABELS)
    weight, bias = random_layer(108, 20, 3)
    h = torch.relu(shard.x(torch.arange(len(shard))).flatten(1).double() @ weight + 0.3 * bias)
    gram, targets = h.T @ h, torch.eye(2, dtype=torch.float64)[shard.labels]
    penalty = 0.01 * gram.diagonal().mean() * torch.eye(20, dtype=torch.float64)
    expected = torch.linalg.solve(gram + penalty, h.T @ targets)
    assert torch.allclose(head(strategy, [ALL]), expected, rtol=1e-9)


CLASSES = 6


def dealt_out(seed: int) -> tuple[list[list[int]], list[int]]:
    """Six classes in random tasks, and the client of each of 48 samples: from one to eight, some without any."""
    rng = torch.Generator().manual_seed(seed)
    order = torch.randperm(CLASSES, generator=rng)
    cuts = (1 + torch.randperm(CLASSES - 1, generator=rng)[: seed % CLASSES]).sort().values
    tasks = [part.tolist() for part in order.tensor_split(cuts)]
    return tasks, torch.randint(1 + seed % 8, (8 * CLASSES,), generator=rng).tolist()


def learnt(strategy: Analytic, tasks: list[list[int]], owners: list[int], seed: int) -> tuple[Server, list[int]]:
    """The server after all tasks, whose clients answer in a random order, and the classes in order of appearance."""
    rng, order = torch.Generator().manual_seed(seed), [label for task in tasks for label in task]
    place = torch.tensor([order.index(label % CLASSES) for label in range(len(owners))])
    whole = replace(shard_of([n % CLASSES for n in range(len(owners))]), labels=place)
    server, old = server_of(tiny_net(len(tasks[0]))), 0
    for number, task in enumerate(tasks, start=1):
        seen = old + len(task)
        server.task = Task(number, len(tasks), old, len(task), tuple(map(str, range(seen))))
        strategy.before_task(server)
        sent = []
        for client in torch.randperm(max(owners) + 1, generator=rng).tolist():
            rows = [n for n, owner in enumerate(owners) if owner == client and old <= place[n] < seen]
            shard = whole.select(torch.tensor(rows, dtype=torch.int64))
            update = strategy.after_local_task(client_of(tiny_net(seen), shard, old=old, shared=server.shared))
            sent += [] if update is None else [update]
        strategy.after_task(server, sent)
        assert_no_unseen_class(strategy, server, seen)
        old = seen
    return server, order


def assert_no_unseen_class(strategy: Analytic, server: Server, seen: int) -> None:
    scores = strategy.predict(tiny_net(CLASSES + 1), 3 * normal(50, 3, 6, 6, key=seen), server.shared)
    assert scores.shape == (50, CLASSES + 1)
    assert scores[:, seen:].isneginf().all()
    assert scores[:, :seen].isfinite().all()


def central(ridge: float, width: int) -> torch.Tensor:
    """Ridge regression on all samples at once, on features by hand: (M, C), the classes as they are numbered."""
    shard = shard_of([n % CLASSES for n in range(8 * CLASSES)])
    weight, bias = random_layer(108, width, 0)
    h = torch.relu(shard.x(torch.arange(len(shard))).flatten(1).double() @ weight + 0.3 * bias)
    gram = h.T @ h
    gram += ridge * gram.diagonal().mean() * torch.eye(width, dtype=torch.float64)
    return torch.linalg.solve(gram, h.T @ torch.eye(CLASSES, dtype=torch.float64)[shard.labels])


@pytest.mark.parametrize("seed", range(12))
def test_any_partition_tasks_and_order_of_clients_give_the_central_solution_and_no_unseen_class(seed):
    tasks, owners = dealt_out(seed)
    server, order = learnt(Analytic(width=30, ridge=1e-2), tasks, owners, seed)
    expected = central(1e-2, 30)[:, order]
    assert torch.linalg.norm(server.shared["head"] - expected) <= 1e-9 * torch.linalg.norm(expected)


@pytest.mark.parametrize("send", ["groups", "sketch"])
@pytest.mark.parametrize("seed", range(3))
def test_what_stands_for_second_moments_lets_no_unseen_class_through_either(send, seed):
    tasks, owners = dealt_out(seed)
    learnt(Analytic(width=30, send=send), tasks, owners, seed)


def test_a_class_of_which_nobody_has_a_sample_is_not_predicted():
    strategy, server = Analytic(width=20), server_of(tiny_net(3))
    client = client_of(tiny_net(3), shard_of(LABELS), shared={"draw": 3})
    strategy.after_task(server, [strategy.after_local_task(client)])
    scores = strategy.predict(tiny_net(3), normal(50, 3, 6, 6), server.shared | {"draw": 3})
    assert scores[:, 2].isneginf().all()
    assert scores[:, :2].isfinite().all()


def test_a_sketch_of_every_direction_and_groups_of_one_sample_give_the_same_head():
    whole = head(Analytic(width=20), [ALL])
    assert torch.allclose(head(Analytic(width=20, send="sketch", rank=20), [ALL]), whole, rtol=1e-6, atol=1e-8)
    assert torch.allclose(head(Analytic(width=20, send="groups", groups=len(ALL)), [ALL]), whole, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    ("strategy", "shapes"),
    [
        (Analytic(width=20), {"gram": (20, 20), "cross": (20, 2)}),
        (Analytic(width=20, send="sketch", rank=3), {"root": (20, 3), "rest": (), "cross": (20, 2)}),
        (Analytic(width=20, send="groups", groups=4), {"sums": (4, 2, 20), "counts": (4, 2)}),
    ],
)
def test_what_is_sent(strategy, shapes):
    (update,) = told(strategy, [ALL])
    assert {name: tuple(tensor.shape) for name, tensor in update.weights.items()} == shapes
    assert update.num_examples == len(ALL)


def test_a_class_that_was_not_seen_is_never_predicted():
    strategy, server = Analytic(width=20), server_of(tiny_net(2))
    strategy.after_task(server, told(strategy, [ALL]))
    scores = strategy.predict(tiny_net(4), normal(5, 3, 6, 6), server.shared | {"draw": 3})
    assert scores.shape == (5, 4)
    assert scores[:, 2:].isneginf().all()
    assert scores[:, :2].isfinite().all()


def test_random_features_train_no_net_and_those_of_the_first_task_train_it_once():
    shard = shard_of(LABELS)
    for features, old, trained in (("random", 0, False), ("task1", 0, True), ("task1", 2, False)):
        strategy = Analytic(features=features)
        client = client_of(tiny_net(2 + old), shard, old=old)
        assert bool(strategy.local_train(client).weights) == trained


def played(folder: Path, clients: int = 2, width: int = 100, **data: object) -> Run:
    """A run of all five tasks, one round each."""
    folder.mkdir(exist_ok=True)
    federation = {"rounds": 1, "stop_after": 5, "clients": clients}
    source = write_experiment(
        folder, strategy={"analytic": {"width": width}}, federation=federation, data={"tasks": 5, **data}
    )
    (run,) = play(source, out=folder / "out")
    return run


def test_moments_are_kept_from_task_to_task(tmp_path):
    first = [row.accuracy for row in played(tmp_path, width=200).rows if row.tested_task == 1]
    assert len(first) == 5
    assert min(first) > 0.75  # what the first task had taught is there to the end


def test_accuracy_depends_neither_on_the_partition_nor_on_the_number_of_clients(tmp_path):
    runs = [
        played(tmp_path / str(clients), clients, partition=partition)
        for clients, partition in ((2, "iid"), (4, {"dirichlet": 0.1}))
    ]
    assert len({(run.path / "accuracy.csv").read_bytes() for run in runs}) == 1


def test_the_number_of_rounds_does_not_matter_to_the_bit(tmp_path):
    heads = []
    for rounds in (1, 3):
        settings = {"federation": {"rounds": rounds, "stop_after": 2}, "strategy": {"analytic": {"width": 30}}}
        (tmp_path / str(rounds)).mkdir()
        (run,) = play(write_experiment(tmp_path / str(rounds), **settings), out=tmp_path / str(rounds))
        heads.append(kept_net(run.path).shared["head"])
    assert torch.equal(*heads)


def test_in_the_end_the_order_of_the_classes_does_not_matter(tmp_path):
    ends = [
        sum(row.correct for row in played(tmp_path / str(order), order=order).rows if row.trained_task == 5)
        for order in ("natural", 1993)
    ]
    assert ends[0] == ends[1]


def test_a_run_goes_on_with_the_moments_it_had(tmp_path):
    check_runs(tmp_path, {"analytic": {"width": 30, "features": "task1"}})


def test_features_that_are_all_zero_are_refused():
    strategy, server = Analytic(width=4, bias=0), server_of(tiny_net(2))
    zero = {"gram": torch.zeros(4, 4).double(), "cross": torch.zeros(4, 2).double()}
    with pytest.raises(TrainingError, match="all features are zero"):
        strategy.after_task(server, [Update(zero, 1)])


def test_settings_that_are_not_read_are_refused():
    for options in ({"send": "gram", "rank": 3}, {"send": "sketch", "groups": 3}):
        with pytest.raises(ConfigError, match="not read"):
            Analytic.parse(options, Where("x.yaml", "strategy.analytic"))
