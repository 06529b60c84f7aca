"""Patchwork: who holds which image does not matter, no unseen class is predicted, and what is sent is what it says."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from scripted_roles import client_of, server_of, shard_of
from small_runs import play, write_experiment
from tiny_net import normal, tiny_net

from fcil import Update
from fcil.errors import ConfigError, TrainingError
from fcil.nets import NetSettings
from fcil.nets.ridge import unpacked
from fcil.roles import Server
from fcil.store import Run
from strategies.patchwork import Patchwork

LABELS = [0, 1, 1] * 8
ALL = list(range(len(LABELS)))
PARTS = [ALL[:1], [], ALL[9:], ALL[1:9]]
SMALL = Patchwork(filters=4, grid=2)
ROUNDS = 4


def learnt(strategy: Patchwork, parts: list[list[int]]) -> tuple[Server, list[Update]]:
    """The server after one task whose samples are dealt to clients, and what they sent at its end."""
    server, whole = server_of(tiny_net(2)), shard_of(LABELS)
    shards = [whole.select(torch.tensor(rows, dtype=torch.int64)) for rows in parts]
    for number in range(1, ROUNDS + 1):
        server.round = number
        clients = [client_of(tiny_net(2), shard, shared=server.shared) for shard in shards]
        for client in clients:
            client.round = number
        strategy.aggregate(server, [strategy.local_train(client) for client in clients])
    updates = [strategy.after_local_task(client_of(tiny_net(2), shard, shared=server.shared)) for shard in shards]
    sent = [update for update in updates if update is not None]
    strategy.after_task(server, sent)
    return server, sent


def test_filters_and_head_are_those_of_all_images_however_they_are_shared_out():
    apart, together = learnt(SMALL, PARTS)[0].shared, learnt(SMALL, [ALL])[0].shared
    for name in ("whitening", "filters", "head", "offset"):
        assert torch.allclose(apart[name], together[name], rtol=1e-6, atol=1e-9), name


def test_filters_are_clustered_once_in_each_round_after_the_first():
    still, once = (learnt(Patchwork(filters=4, grid=2, clusterings=n), [ALL])[0].shared["filters"] for n in (0, 1))
    more = learnt(Patchwork(filters=4, grid=2, clusterings=99), [ALL])[0].shared["filters"]
    assert not torch.allclose(still, once)
    assert not torch.allclose(once, more)
    assert torch.allclose(
        more, learnt(Patchwork(filters=4, grid=2, clusterings=ROUNDS - 1), [ALL])[0].shared["filters"]
    )


def test_the_head_is_ridge_regression_on_standardised_features():
    server, _ = learnt(SMALL, PARTS)
    shard = shard_of(LABELS)
    f = SMALL.features(shard.x(torch.arange(len(shard))), server.shared).double()
    mean, deviation = f.mean(0), f.var(0, unbiased=False)
    deviation = (deviation + 1e-6 * deviation.max()).sqrt()
    h, y = (f - mean) / deviation, torch.eye(2, dtype=torch.float64)[shard.labels]
    weight = torch.linalg.solve(h.T @ h + SMALL.ridge * len(h) * torch.eye(h.shape[1]), h.T @ (y - y.mean(0)))
    expected = h @ weight + y.mean(0)
    found = SMALL.predict(tiny_net(2), shard.x(torch.arange(len(shard))), server.shared)
    assert torch.allclose(found, expected, rtol=1e-6, atol=1e-8)


def test_a_client_sends_sums_and_nothing_else():
    _, sent = learnt(SMALL, PARTS)
    features = 2 * 4 * 2**2 + 1
    assert [update.num_examples for update in sent] == [1, 15, 8]
    for update in sent:
        assert {name: tuple(t.shape) for name, t in update.weights.items()} == {
            "gram": (features * (features + 1) // 2,),
            "cross": (features, 2),
        }
        gram = unpacked(update.weights["gram"])
        assert torch.equal(gram, gram.T)
        assert gram[-1, -1] == update.num_examples


def test_later_tasks_train_nothing_and_keep_the_filters():
    server, _ = learnt(SMALL, [ALL])
    client = client_of(tiny_net(4), shard_of(LABELS), old=2, shared=server.shared)
    assert not SMALL.local_train(client).weights


def test_a_class_that_was_not_seen_is_never_predicted():
    server, _ = learnt(SMALL, [ALL])
    scores = SMALL.predict(tiny_net(4), normal(5, 3, 6, 6), server.shared)
    assert scores.shape == (5, 4)
    assert scores[:, 2:].isneginf().all()
    assert scores[:, :2].isfinite().all()


def test_images_without_contrast_end_the_run_in_a_line():
    server = server_of(tiny_net(2))
    features = 2 * 4 * 2**2 + 1
    gram = torch.zeros(features * (features + 1) // 2, dtype=torch.float64)
    gram[-1] = 3
    with pytest.raises(TrainingError, match="no feature varies"):
        SMALL.after_task(server, [Update({"gram": gram, "cross": torch.zeros(features, 2, dtype=torch.float64)}, 3)])


@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        (Patchwork(side=9), "side: 9 is not allowed; images are 8 x 8"),
        (Patchwork(side=7), "grid: 3 is not allowed; images have 2 patches a side"),
    ],
)
def test_patches_that_images_have_not_are_refused(strategy, message):
    with pytest.raises(ConfigError, match=message):
        strategy.check_files(NetSettings(), (1, 8, 8), [2, 4])


def played(folder: Path, clients: int, **data: object) -> Run:
    folder.mkdir(exist_ok=True)
    federation = {"rounds": 3, "stop_after": 5, "clients": clients}
    source = write_experiment(
        folder, strategy={"patchwork": {"filters": 20}}, federation=federation, data={"tasks": 5, **data}
    )
    (run,) = play(source, out=folder / "out")
    return run


def test_accuracy_depends_neither_on_the_partition_nor_on_the_number_of_clients(tmp_path):
    runs = [
        played(tmp_path / str(clients), clients, partition=partition)
        for clients, partition in ((2, "iid"), (4, {"dirichlet": 0.1}))
    ]
    assert len({(run.path / "accuracy.csv").read_bytes() for run in runs}) == 1
    assert runs[0].summary["final_accuracy"] > 0.9
    assert not runs[0].summary["inert"]
