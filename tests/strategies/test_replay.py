"""Replay: every old sample is kept, some are drawn anew each round, and nothing else is touched."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from scripted_roles import check_runs, client_of, memories, server_of, shard_of, tiny
from small_runs import play
from tiny_net import normal, tiny_net

from fcil import Batch
from fcil.config import Where
from fcil.errors import ConfigError
from fcil.losses import soft_cross_entropy
from strategies.replay import Replay

LABELS = [0, 1] * 10 + [2, 3] * 3  # twenty old samples and six new ones


def later(memory: int = 5, **settings):
    """A client of a second task with its strategy; it has met two classes."""
    whole = shard_of(LABELS, first_of=[1, 1, 2, 2])
    teacher = tiny_net(2, key=1)
    client = client_of(tiny_net(4), whole.select(torch.arange(20, 26)), old=2, teacher=teacher, **settings)
    client.keep("past", whole.select(torch.arange(20)))
    return client, Replay(memory=memory)


def replayed(**settings) -> list[int]:
    client, strategy = later(**settings)
    strategy.local_train(client)
    return client.shard.indices[6:].tolist()


def test_a_round_adds_so_many_old_samples_to_the_new_ones():
    client, strategy = later()
    update = strategy.local_train(client)
    assert client.shard.indices[:6].tolist() == list(range(20, 26))
    old = client.shard.indices[6:].tolist()
    assert len(set(old)) == 5
    assert set(old) <= set(range(20))
    assert client.shard.labels[6:].tolist() == [LABELS[i] for i in old]
    assert update.num_examples == 11
    assert all(w.isfinite().all() for w in update.weights.values())


def test_a_client_with_less_replays_all_it_has():
    assert sorted(replayed(memory=99)) == list(range(20))


def test_the_draw_is_the_same_when_repeated_and_another_for_every_round_client_and_seed():
    first = replayed()
    assert first == replayed()

    def changed(**what) -> list[int]:
        client, strategy = later()
        for name, value in what.items():
            setattr(client, name, value)
        strategy.local_train(client)
        return client.shard.indices[6:].tolist()

    others = [changed(round=2), changed(index=1), changed(seed=1)]
    assert first not in others
    assert len({tuple(o) for o in others}) == 3


def test_what_is_kept_grows_by_the_whole_task():
    client, strategy = later()
    assert strategy.after_local_task(client) is None
    assert client.kept("past").indices.tolist() == list(range(26))
    assert client.kept("past").tasks.tolist() == [1] * 20 + [2] * 6


def test_the_loss_is_over_all_logits_with_a_distillation_of_the_old_ones():
    client, strategy = later()
    client.net.eval()
    batch = Batch(normal(4, 3, 6, 6), torch.tensor([0, 1, 2, 3]))
    logits, teacher = client.net(batch.x).logits, client.frozen("teacher")(batch.x).logits
    terms = strategy.local_loss(client, batch)
    assert torch.allclose(terms["ce"], F.cross_entropy(logits, batch.y))
    assert torch.allclose(terms["kd"], soft_cross_entropy(logits[:, :2], teacher, 2.0))
    p = F.softmax(teacher / 2, dim=1)
    assert terms["kd"].item() == pytest.approx(float(-(p * F.log_softmax(logits[:, :2] / 2, dim=1)).sum() / 4))


def test_a_client_that_was_never_asked_has_nothing_to_replay():
    client, strategy = later()
    client.memory.clear()
    assert strategy.local_train(client).num_examples == 6


def test_one_sample_and_no_sample_at_all():
    whole = shard_of([2])
    client = client_of(tiny_net(4), whole, old=2, teacher=tiny_net(2, key=1))
    assert Replay().local_train(client).num_examples == 1
    client.shard = whole.select(torch.empty(0, dtype=torch.int64))
    assert Replay().local_train(client).num_examples == 0
    Replay().after_local_task(client)
    assert len(client.kept("past")) == 0


def test_the_teacher_is_the_last_global_net():
    server = server_of(tiny_net(2))
    Replay().after_task(server, [])
    assert torch.equal(server.shared["teacher"]["classifier.weight"], server.net.classifier.weight)


def test_a_memory_of_nothing_is_refused():
    with pytest.raises(ConfigError, match=r"memory: 0 is not allowed; it should be greater than or equal to 1"):
        Replay.parse({"memory": 0}, Where("e.yaml"))


def test_whole_runs_are_finite_repeatable_and_resumable(tmp_path):
    run = check_runs(tmp_path, {"replay": {"memory": 20}})
    assert set(run.rounds[-1]["terms"]) == {"ce", "kd"}
    kept = memories(run, "past")
    assert set(kept) == {0, 1}
    assert torch.equal(torch.cat([m["tasks"] for m in kept.values()]).unique(), torch.tensor([1, 2, 3]))


def test_clients_that_are_seldom_drawn_keep_their_own_samples(tmp_path):
    (run,) = play(tiny(tmp_path, "replay", clients=10, fraction=0.3, rounds=1), out=tmp_path)
    kept = memories(run, "past")
    assert set(kept) == set(range(10))  # all are asked when a task ends
    together = torch.cat([m["indices"] for m in kept.values()])
    assert len(together) == len(together.unique())
