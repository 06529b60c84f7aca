"""Moored: with every part off it is LANDER in one forward, and each part does what its source says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from scripted_roles import client_of, server_of, shard_of
from small_runs import NAYER, play, write_experiment
from tiny_net import normal, tiny_net
from torch import Tensor

from fcil import Batch, Server, Update
from fcil.errors import TrainingError
from fcil.nets import Net
from fcil.nets.ridge import Moments
from fcil.roles import ServerServices
from fcil.store import Run
from strategies.moored import Moored, align, blended

POOL = {"x": normal(9, 3, 6, 6, key=4).abs().clamp(0, 1), "y": torch.tensor([0, 1, 0, 1, 0, 1, 0, 1, 0])}


def played(folder: Path, strategy: object) -> Run:
    folder.mkdir()
    (run,) = play(write_experiment(folder, strategy=strategy, federation={"stop_after": 4}), out=folder / "out")
    return run


def test_without_its_parts_it_is_lander_in_one_forward(tmp_path):
    same: dict[str, Any] = {"synthesizer": {"nayer": NAYER}}
    theirs = played(tmp_path / "lander", {"lander": {"forwards": "one", **same}})
    ours = played(tmp_path / "moored", {"moored": {"contrast": 0, "later_rate": 1.0, "readout": "classifier", **same}})
    assert (ours.path / "accuracy.csv").read_bytes() == (theirs.path / "accuracy.csv").read_bytes()
    nets = [load_file(run.path / "net.safetensors") for run in (ours, theirs)]
    assert all(torch.equal(nets[0][name], nets[1][name]) for name in nets[0] | nets[1])


# On a client ------------------------------------------------------------------------------------


def later_client(teacher: Net, **given: Any) -> Any:
    """A client of the second task, with two old classes, whose synthetic images are always the same four."""
    given = {"shared": {"anchors": normal(4, 16)}, "synthetic": [normal(4, 3, 6, 6, key=7)]} | given
    return client_of(tiny_net(4), shard_of([2, 3, 3, 2]), old=2, teacher=teacher, **given)


def test_the_features_that_are_kept_are_what_the_old_classifier_reads():
    teacher, batch = tiny_net(2, key=1), Batch(normal(3, 3, 6, 6, key=2), torch.tensor([2, 3, 3]))
    strategy, client = Moored(distil="classifier"), later_client(teacher)
    terms = strategy.local_loss(client, batch)
    x = torch.cat([batch.x, client.draw("synthetic", 4)])
    now, then = client.net(x).features, teacher.eval()(x).features
    apart = ((now - then) @ teacher.classifier.weight.T).square().mean()
    assert torch.allclose(terms["features"], strategy.balance(2, 4)[1] * apart, rtol=1e-4)
    assert "embedding" not in terms


def test_the_head_learns_old_and_new_classes_and_leaves_the_features_alone():
    teacher, batch = tiny_net(2, key=1), Batch(normal(3, 3, 6, 6, key=2), torch.tensor([2, 3, 3]))
    client = later_client(teacher)
    term = Moored(head=2.0).local_loss(client, batch)["head"]
    (weight,) = torch.autograd.grad(term, client.net.classifier.weight, retain_graph=True)
    (below,) = torch.autograd.grad(term, client.net.backbone.conv.weight, allow_unused=True)
    assert weight.any(dim=1).all()
    assert below is None


def test_the_first_task_contrasts_features_where_it_is_asked_to():
    client = client_of(tiny_net(2), shard_of([0, 1]), shared={"anchors": normal(2, 16)})
    batch = Batch(normal(4, 3, 6, 6), torch.tensor([0, 1, 1, 0]))
    assert set(Moored(contrast=0).local_loss(client, batch)) == {"ce", "bound"}
    assert Moored(contrast=0.5).local_loss(client, batch)["contrast"] > 0


@pytest.mark.parametrize(("old", "rate"), [(0, 0.04), (2, 0.01)])
def test_the_rate_of_later_tasks_is_scaled(old, rate):
    client = later_client(tiny_net(2, key=1)) if old else client_of(tiny_net(2), shard_of([0, 1]))
    client.shared["anchors"] = normal(4, 16)
    Moored(later_rate=0.25).local_train(client)
    assert client.lr == pytest.approx(rate)


# At the end of a task -----------------------------------------------------------------------------


class Showing(ServerServices):
    """Of a server that makes the same pool of any labels, and takes samples as they are."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []

    def synthesize(self, server: Server, *what: Any) -> Any:
        self.asked.append(list(what[1]))
        return dict(POOL)

    def inputs(self, server: Server, pool: Any) -> Tensor:
        return pool["x"]


def server_at(task: int, net: Net, old: int) -> Server:
    server = server_of(net, task=task, old=old, anchors=normal(6, 16))
    server.services = Showing()
    return server


def ended(strategy: Moored, server: Server, labels: list[int], clients: list[list[int]]) -> list[Update]:
    """End a task of these images, which clients have by their rows; return what they sent."""
    whole = shard_of(labels, key=server.task.number)
    shards = [whole.select(torch.tensor(rows, dtype=torch.int64)) for rows in clients]
    sent = [
        strategy.after_local_task(client_of(server.net, shard, old=server.task.num_old, shared=server.shared))
        for shard in shards
    ]
    strategy.before_task(server)
    strategy.after_task(server, [update for update in sent if update is not None])
    return [update for update in sent if update is not None]


def features_of(net: Net, labels: list[int], key: int) -> Tensor:
    shard = shard_of(labels, key=key)
    with torch.no_grad():
        f = net.eval()(shard.x(torch.arange(len(shard)))).features.double()
    return F.pad(f, (0, 1), value=1.0)


FIRST, SECOND = [0, 1, 1, 0, 1], [2, 3, 3, 2, 3, 2]


def test_moments_are_those_of_all_images_so_far_however_they_are_shared_out():
    strategy, server = Moored(readout="moments"), server_at(1, tiny_net(2), 0)
    sent = ended(strategy, server, FIRST, [[0, 1], [], [2, 3, 4]])
    assert [update.num_examples for update in sent] == [2, 3]
    before = Moments.of(features_of(server.net, FIRST, 1), torch.tensor(FIRST), 4)
    later = server_at(2, tiny_net(4, key=3), 2)
    later.shared, later.memo = server.shared, server.memo
    ended(strategy, later, SECOND, [[5, 1, 2], [0, 3, 4]])
    total = before + Moments.of(features_of(later.net, SECOND, 2), torch.tensor(SECOND), 4)
    weight, offset = total.solve_standardised(strategy.ridge)
    assert torch.allclose(later.shared["weight"], weight, rtol=1e-8, atol=1e-10)
    x = normal(3, 3, 6, 6)
    scores = later.net(x).features.double() @ weight + offset
    assert torch.allclose(strategy.predict(later.net, x, later.shared), scores, rtol=1e-6, atol=1e-8)


def test_samples_stand_for_old_classes_each_at_the_weight_of_a_new_one():
    strategy, server = Moored(readout="samples"), server_at(2, tiny_net(4), 2)
    server.shared |= {"synthetic": POOL, "teacher": tiny_net(2).weights()}
    ended(strategy, server, SECOND, [[0, 1, 2, 3, 4, 5]])
    with torch.no_grad():
        old = F.pad(server.net.eval()(POOL["x"]).features.double(), (0, 1), value=1.0)
    many = torch.cat([old] * 6 + [features_of(server.net, SECOND, 2)] * 9)  # 9 images stand for 2 x 3
    labels = torch.cat([POOL["y"]] * 6 + [torch.tensor(SECOND)] * 9)
    weight, _ = Moments.of(many, labels, 4).solve_standardised(strategy.ridge)
    assert torch.allclose(server.shared["weight"], weight, rtol=1e-6, atol=1e-9)


def test_sums_are_moved_along_with_features_that_a_linear_map_moves():
    before = tiny_net(2)
    server = server_at(2, tiny_net(4), 2)
    server.net.load({**server.net.weights(), **{n: t for n, t in before.weights().items() if "classifier" not in n}})
    with torch.no_grad():
        server.net.backbone.bn.weight *= 2.0  # through the ReLU and the mean: every feature is twice what it was
        server.net.backbone.bn.bias *= 2.0
    x = normal(200, 3, 6, 6, key=9) * torch.linspace(0.2, 4, 200).view(-1, 1, 1, 1)
    server.shared |= {"synthetic": {"x": x, "y": torch.zeros(200, dtype=torch.int64)}, "teacher": before.weights()}
    old = Moments.of(features_of(before, FIRST, 1), torch.tensor(FIRST), 2)
    expected = Moments.of(features_of(server.net, FIRST, 1), torch.tensor(FIRST), 2)
    moved = Moored(along="samples").moved(server, old, {})
    assert torch.allclose(moved.cross, expected.cross, rtol=0.05)
    assert torch.allclose(moved.gram, expected.gram, rtol=0.1)
    assert moved.gram[-1, -1].item() == pytest.approx(len(FIRST), rel=1e-12)
    assert not torch.allclose(old.cross[:-1], expected.cross[:-1], rtol=0.3)


def test_the_map_is_fitted_to_images_of_clients_however_they_are_shared_out():
    strategy, before = Moored(along="images"), tiny_net(2, key=5)

    def sent(clients: list[list[int]]) -> dict[str, Tensor]:
        whole, total = shard_of(SECOND, key=2), {}
        for rows in clients:
            shard = whole.select(torch.tensor(rows))
            update = strategy.after_local_task(client_of(tiny_net(4), shard, old=2, teacher=before))
            total = {name: total.get(name, 0) + t for name, t in update.weights.items()}
        return total

    apart, together = sent([[0, 1], [2, 3, 4, 5]]), sent([[0, 1, 2, 3, 4, 5]])
    t, h = features_of(before, SECOND, 2), features_of(tiny_net(4), SECOND, 2)
    assert torch.allclose(together["before"], t.T @ t)
    assert torch.allclose(together["turn"], t.T @ h)
    old = Moments.of(features_of(before, FIRST, 1), torch.tensor(FIRST), 2)
    server = server_at(2, tiny_net(4), 2)
    results = [strategy.moved(server, old, sums) for sums in (apart, together)]
    assert torch.allclose(results[0].cross, results[1].cross, rtol=1e-6)
    way = Moments(t.T @ t / 6, t.T @ h / 6).solve(1e-4)
    way[:, -1] = torch.eye(9)[-1]
    assert torch.allclose(results[1].gram, way.T @ old.gram @ way, rtol=1e-8)


def test_a_task_without_a_sample_ends_the_run_in_a_line():
    with pytest.raises(TrainingError, match="no client has a sample"):
        ended(Moored(readout="moments"), server_at(1, tiny_net(2), 0), FIRST, [[], []])


@pytest.mark.parametrize(("pool", "asked", "rows"), [("new", [0, 1, 2, 3], 9), ("carried", [2, 3], 18)])
def test_images_of_old_classes_are_made_anew_or_carried_along(pool, asked, rows):
    server = server_at(2, tiny_net(4), 2)
    server.shared |= {"synthetic": POOL, "teacher": tiny_net(2).weights()}
    ended(Moored(pool=pool, readout="classifier"), server, SECOND, [[0, 1]])
    assert server.services.asked == [asked]
    assert {name: len(t) for name, t in server.shared["synthetic"].items()} == {"x": rows, "y": rows}


def test_the_net_that_ends_a_task_is_blended_with_that_of_the_task_before():
    server, now, before = server_at(2, tiny_net(4), 2), tiny_net(4).weights(), tiny_net(2, key=5).weights()
    server.shared |= {"synthetic": POOL, "teacher": before}
    ended(Moored(blend=0.25, readout="classifier"), server, SECOND, [[0]])
    got = server.net.weights()
    assert torch.allclose(got["text_head.weight"], 0.75 * now["text_head.weight"] + 0.25 * before["text_head.weight"])
    rows = got["classifier.weight"]
    assert torch.allclose(rows[:2], 0.75 * now["classifier.weight"][:2] + 0.25 * before["classifier.weight"])
    assert torch.equal(rows[2:], now["classifier.weight"][2:])
    assert blended(torch.tensor(3), torch.tensor(5), 0.5) == 3


def test_new_rows_are_brought_to_the_length_of_old_ones():
    classifier = tiny_net(4).classifier
    before = classifier.weight.detach().clone()
    align(classifier, 2)
    length = classifier.weight.norm(dim=1)
    assert torch.equal(classifier.weight[:2], before[:2])
    assert length[2:].mean().item() == pytest.approx(length[:2].mean().item(), rel=1e-5)
    assert length[2].item() / length[3].item() == pytest.approx((before[2].norm() / before[3].norm()).item(), rel=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"ridge": 0.2, "readout": "classifier"},
            "ridge: 0.2 is read only where readout is moments, moved or samples; leave it out",
        ),
        ({"along": "images", "readout": "moments"}, "along: images is read only where readout is moved; leave it out"),
        ({"warmth": 0.2, "contrast": 0}, "warmth: 0.2 is read only where contrast is above 0; leave it out"),
        ({"select": "lowest-loss"}, "select: lowest-loss goes back to another net than readout: moved has read"),
        ({"fidelity": "reference", "readout": "samples"}, "select: lowest-loss goes back to another net"),
        ({"blend": 0.2, "readout": "moments"}, "blend: 0.2 changes the net whose features readout: moments has read"),
    ],
)
def test_settings_that_nothing_would_read_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Moored(**settings)


def test_a_run_knows_how_samples_are_normalised(tmp_path):
    run = played(tmp_path / "samples", {"moored": {"readout": "samples", "synthesizer": {"nayer": NAYER}}})
    assert 0 <= run.summary["final_accuracy"] <= 1
    with pytest.raises(TrainingError, match="belongs to no run"):
        server_of(tiny_net(2)).inputs(POOL)
