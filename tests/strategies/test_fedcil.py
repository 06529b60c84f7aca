"""FedCIL: the losses of either side by hand and with gradients, replay, consistency, consolidation, what is sent."""

from __future__ import annotations

from dataclasses import replace
from math import log

import pytest
import torch
import torch.nn.functional as F
from scripted_roles import check_runs, client_of, gradient, server_of, shard_of, tiny
from small_runs import play
from tiny_net import normal, tiny_net
from torch import Tensor

from fcil import Batch, Client, Update
from fcil.config import Where
from fcil.errors import ConfigError
from fcil.nets import AcGan, ConditionalGenerator, drop_running_statistics, evenly, one_of, real_fake_head
from fcil.nets.acgan import judged
from fcil.rng import generator, seeded
from strategies.fedcil import SIDES, FedCIL, clones, consistency, within

SMALL = FedCIL(latent=3, width=2, consolidation=2, consolidation_batch=4, images=6)


def built(num_classes: int = 4, shape: tuple[int, ...] = (3, 6, 6), key: int = 0) -> ConditionalGenerator:
    with seeded("test", key):
        return ConditionalGenerator(num_classes, shape, (0.5,) * shape[0], (0.25,) * shape[0], latent=3, width=2)


def acgan(num_classes: int = 4, adversarial: float = 1.0) -> AcGan:
    with seeded("test"):
        head = real_fake_head(8)
    net = tiny_net(num_classes, text_width=None)
    return AcGan(net, head, built(num_classes), torch.arange(num_classes), adversarial, generator("test"))


def softmax_kl(p: Tensor, q: Tensor) -> Tensor:
    """KL(softmax p || softmax q), the mean over rows, written out."""
    a, b = p.softmax(1), q.softmax(1)
    return (a * (a.log() - b.log())).sum(1).mean()


def later_client(
    strategy: FedCIL = SMALL, labels: tuple[int, ...] = (2, 2, 2), round: int = 2, **shared: Tensor
) -> Client:
    """A client of a second task of two old and two new classes, which was sent generators."""
    state = {"past": clones(built(2, key=1)), "generator": clones(built(4, key=2)), "realness": clones(acgan().head)}
    shard = shard_of(list(labels), first_of=[1, 1, 2, 2])
    return replace_round(client_of(tiny_net(4, text_width=None), shard, old=2, shared=state), round)


def replace_round(client: Client, round: int) -> Client:
    client.round = round
    return client


# The generator ---------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 30, 17), (1, 3, 3), (3, 64, 64)])
def test_images_of_any_sides_are_normalised_pixels(shape):
    made = built(5, shape)
    images = made.draw(torch.tensor([0, 4, 2]), generator("z"))
    assert images.shape == (3, *shape)
    assert -2 <= images.min() < images.max() <= 2  # (0 - 0.5) / 0.25 and (1 - 0.5) / 0.25


def test_the_first_map_is_a_linear_layer_on_the_noise_and_the_one_hot_label():
    made, z, y = built(), normal(5, 3), torch.tensor([3, 0, 1, 1, 2])
    whole = torch.cat([made.noise.weight, made.classes.weight.T], dim=1)
    by_hand = F.linear(torch.cat([z, F.one_hot(y, 4).float()], dim=1), whole, made.noise.bias)
    expected = made.convs(made.unfold(by_hand)).sigmoid()
    assert torch.allclose(made(z, y), (expected - 0.5) / 0.25, atol=1e-5)


def test_images_depend_on_label_and_noise_and_the_stream_alone():
    made = built().eval()
    same, again = (made.draw(torch.tensor([1, 1, 2]), generator("z")) for _ in range(2))
    assert torch.equal(same, again)
    assert not torch.allclose(same[0], same[1])
    other = made.draw(torch.tensor([3, 1, 2]), generator("z"))
    assert not torch.allclose(same[0], other[0])
    assert torch.equal(same[1:], other[1:])


def test_what_a_generator_starts_from_does_not_depend_on_how_many_classes_there_are():
    few, many = clones(built(2)), clones(built(4))
    assert all(torch.equal(few[k], many[k]) for k in few if k != "classes.weight")


def test_statistics_are_not_moved_within_the_block_and_are_after_it():
    net = tiny_net()
    before = net.backbone.bn.running_mean.clone()
    with drop_running_statistics(net):
        first = net(normal(4, 3, 6, 6)).logits
    assert torch.equal(net.backbone.bn.running_mean, before)
    assert torch.equal(net(normal(4, 3, 6, 6)).logits, first)  # normalised by the batch in both
    assert not torch.equal(net.backbone.bn.running_mean, before)


def test_rows_are_drawn_class_by_class():
    labels = torch.tensor([7] * 97 + [2] * 2 + [5])
    drawn = labels[next(evenly(labels, 3000, generator("rows")))]
    for label in (2, 5, 7):
        assert (drawn == label).float().mean().item() == pytest.approx(1 / 3, abs=0.04)
    rows = next(evenly(torch.tensor([1, 0, 1, 1]), 400, generator("rows")))
    assert set(rows.tolist()) == {0, 1, 2, 3}


def test_values_are_drawn_alike():
    drawn = one_of(torch.tensor([3, 8]), 1000, generator("one"))
    assert set(drawn.tolist()) == {3, 8}
    assert (drawn == 3).float().mean().item() == pytest.approx(0.5, abs=0.05)


# The two losses --------------------------------------------------------------------------------


def test_real_against_fake_by_hand_and_its_gradient():
    r = torch.tensor([[0.0], [2.0]], requires_grad=True)
    p = torch.tensor([0.5, 1 / (1 + torch.tensor(-2.0).exp().item())])
    assert judged(r, real=True).item() == pytest.approx((log(2) - log(p[1])) / 2, rel=1e-6)
    assert judged(r, real=False).item() == pytest.approx((log(2) - log(1 - p[1])) / 2, rel=1e-5)
    assert torch.allclose(gradient(judged(r, real=True), r).flatten(), (p - 1) / 2)
    assert torch.allclose(gradient(judged(r, real=False), r).flatten(), p / 2)


def test_a_genuine_batch_counts_with_its_class_and_as_real():
    gan, x, y = acgan(adversarial=3.0), normal(5, 3, 6, 6), torch.tensor([0, 1, 2, 3, 0])
    logits, realness = gan.judge(x)
    terms = gan.genuine(logits, realness, y, 0.25, "replay_")
    assert set(terms) == {"replay_ce", "replay_real"}
    p = logits.softmax(1)
    assert torch.allclose(terms["replay_ce"], -0.25 * p[range(5), y].log().mean())
    assert torch.allclose(terms["replay_real"], -0.25 * 3.0 * realness.sigmoid().log().mean())
    error = 0.25 * (p - F.one_hot(y, 4)) / 5
    assert torch.allclose(gradient(terms["replay_ce"], logits), error, atol=1e-7)


def test_fakes_teach_the_discriminator_and_leave_the_generator_alone():
    gan = acgan()
    terms = gan.caught(6)
    total = terms["fake_ce"] + terms["fake"]
    assert gradient(terms["fake"], gan.head.weight).any()
    assert gradient(terms["fake_ce"], gan.net.classifier.weight).any()
    assert gradient(terms["fake"], gan.net.classifier.weight) is None
    assert all(gradient(total, p) is None for p in gan.generator.parameters())


def test_the_generator_is_rewarded_for_class_and_realness_by_hand():
    gan, twin = acgan(adversarial=2.0), acgan(adversarial=2.0)
    x, y = twin.fakes(6)  # the same draws as inside
    logits, realness = twin.judge(x)
    terms = gan.deceiving(6)
    assert torch.allclose(terms["generator_ce"], F.cross_entropy(logits, y))
    assert torch.allclose(terms["generator_real"], -2.0 * realness.sigmoid().log().mean())
    got = gradient(sum(terms.values()), gan.generator.noise.weight)
    expected = gradient(F.cross_entropy(logits, y) - 2.0 * realness.sigmoid().log().mean(), twin.generator.noise.weight)
    assert torch.allclose(got, expected, atol=1e-6)
    assert got.any()


def test_a_step_of_the_generator_moves_it_and_nothing_else():
    gan = acgan()
    before, net, head = clones(gan.generator), gan.net.weights(), clones(gan.head)
    gan.descend(torch.optim.Adam(gan.generator.parameters(), 0.01), 6)
    moved = [k for k, w in clones(gan.generator).items() if "weight" in k and not torch.equal(w, before[k])]
    assert "noise.weight" in moved
    assert "classes.weight" in moved
    assert all(torch.equal(w, net[k]) for k, w in gan.net.weights().items() if "num_batches" not in k)
    assert all(torch.equal(w, head[k]) for k, w in clones(gan.head).items())
    assert all(p.grad is None for p in [*gan.net.parameters(), *gan.head.parameters()])


def test_steps_of_the_generator_make_fakes_more_convincing():
    gan = acgan()
    optimizer = torch.optim.Adam(gan.generator.parameters(), 0.02)
    losses = [sum(gan.descend(optimizer, 32).values()).item() for _ in range(40)]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


# Consistency -----------------------------------------------------------------------------------


def test_consistency_by_hand_and_with_gradients_into_both_sides_of_a_divergence():
    gan, twin, shared, y = acgan(), acgan(), built(key=3).eval(), torch.tensor([0, 3, 2])
    real = normal(3, 3, 6, 6)
    got = consistency(gan, shared, gan.net(real).logits, y)
    every = one_of(torch.arange(4), 3, twin.stream)
    images = shared.draw(torch.cat([y, every]), twin.stream).detach()
    own = twin.generator.draw(every, twin.stream).detach()
    logits, shown, mine = twin.net(real).logits, twin.net(images).logits, twin.net(own).logits
    p = shown[3:].softmax(1)[range(3), every]
    expected = softmax_kl(shown[:3], logits) + softmax_kl(shown[3:], mine) - p.log().mean()
    assert torch.allclose(got, expected, atol=1e-5)
    for name in ("classifier.weight", "backbone.conv.weight"):
        pair = [gradient(term, a.net.get_parameter(name)) for term, a in ((got, gan), (expected, twin))]
        assert torch.allclose(*pair, atol=1e-5), name
        assert pair[0].any()
    assert all(gradient(got, p) is None for p in gan.generator.parameters())


@pytest.mark.parametrize(
    ("strategy", "round", "there"),
    [(SMALL, 2, True), (SMALL, 1, False), (replace(SMALL, fidelity="reference"), 2, False)],
)
def test_consistency_begins_in_the_second_round_and_is_not_in_the_reference(strategy, round, there):
    client = later_client(round=round)
    batch = Batch(normal(3, 3, 6, 6), torch.tensor([2, 2, 2]))
    terms = strategy.terms(client, strategy.parts(client), batch)
    assert ("consistency" in terms) == there
    assert (terms.get("consistency", torch.zeros(())).item() > 0) == there


def test_a_named_weight_overrules_the_side():
    assert [replace(SMALL, fidelity=side).settled.consistency for side in ("paper", "reference")] == [1.0, 0.0]
    assert FedCIL(fidelity="reference", consistency=0.5).settled.consistency == 0.5
    assert set(SIDES) == {"consistency"}


# Replay ----------------------------------------------------------------------------------------


def test_old_classes_are_replayed_from_the_last_tasks_generator_with_their_share():
    strategy, batch = replace(SMALL, replay=0.3), Batch(normal(3, 3, 6, 6), torch.tensor([2, 2, 2]))
    client, twin = later_client(round=1), later_client(round=1)
    got = strategy.terms(client, strategy.parts(client), batch)
    gan = strategy.parts(twin)
    logits, realness = gan.judge(batch.x)
    gan.caught(3)  # draws as much from the stream
    past = built(2, key=1).eval()
    y = one_of(torch.arange(2), 3, gan.stream)
    replayed, judged_replay = gan.judge(past.draw(y, gan.stream))
    assert torch.allclose(got["ce"], 0.7 * F.cross_entropy(logits, batch.y))
    assert torch.allclose(got["real"], 0.7 * judged(realness, real=True))
    assert torch.allclose(got["replay_ce"], 0.3 * F.cross_entropy(replayed, y), atol=1e-6)
    assert torch.allclose(got["replay_real"], 0.3 * judged(judged_replay, real=True), atol=1e-6)
    pair = [gradient(got["replay_ce"], client.net.classifier.weight)]
    pair.append(gradient(0.3 * F.cross_entropy(replayed, y), twin.net.classifier.weight))
    assert torch.allclose(*pair, atol=1e-6)


def test_without_a_share_or_in_the_first_task_nothing_is_replayed():
    batch = Batch(normal(3, 3, 6, 6), torch.tensor([1, 1, 0]))
    none = replace(SMALL, replay=0.0)
    assert "replay_ce" not in none.terms(later_client(), none.parts(later_client()), batch)
    first = client_of(tiny_net(2, text_width=None), shard_of([0, 1, 1]))
    terms = SMALL.terms(first, SMALL.parts(first), batch)
    assert set(terms) == {"ce", "real", "fake_ce", "fake"}


def test_fakes_are_of_old_classes_and_of_those_the_client_holds():
    assert SMALL.parts(later_client()).labels.tolist() == [0, 1, 2]
    first = client_of(tiny_net(4, text_width=None), shard_of([3, 1]))
    assert SMALL.parts(first).labels.tolist() == [1, 3]


# A client's update -----------------------------------------------------------------------------


def test_all_clients_begin_alike_and_from_what_the_server_shares():
    gans = []
    for index in (0, 5):
        client = client_of(tiny_net(2, text_width=None), shard_of([0, 1]))
        client.index = index
        gans.append(SMALL.parts(client))
    assert all(torch.equal(a, b) for a, b in zip(*(clones(g.generator).values() for g in gans), strict=True))
    assert torch.equal(gans[0].head.weight, gans[1].head.weight)
    got, sent = SMALL.parts(later_client()), clones(built(4, key=2))
    assert all(torch.equal(w, sent[k]) for k, w in clones(got.generator).items())


@pytest.mark.parametrize("labels", [(2, 3, 3, 2, 2), (3,), ()])
def test_a_client_sends_net_generator_head_and_which_new_classes_it_holds(labels):
    client = later_client(labels=labels)
    start = {**clones(built(4, key=2)), **{f"head.{k}": w for k, w in clones(acgan().head).items()}}
    update = SMALL.local_train(client)
    assert update.num_examples == len(labels)
    assert client.net.weights().keys() <= update.weights.keys()
    sent = within("generator.", update.weights)
    assert sent.keys() == clones(built(4)).keys()
    assert torch.equal(sent["noise.weight"], start["noise.weight"]) == (not labels)
    assert torch.equal(update.weights["realness.weight"], start["head.weight"]) == (not labels)
    held = [int(c in labels) for c in range(4)]
    assert update.weights["about.held"].tolist() == held
    assert update.weights["about.shape"].tolist() == [3, 6, 6]
    assert all(w.isfinite().all() for w in update.weights.values())
    if labels:
        assert {"terms/generator_ce", "terms/generator_real", "terms/consistency"} <= update.metrics.keys()


def test_the_state_that_a_client_was_sent_stays_as_it_was():
    client = later_client()
    before = {name: {k: w.clone() for k, w in client.shared[name].items()} for name in client.shared}
    SMALL.local_train(client)
    for name, tensors in before.items():
        assert all(torch.equal(w, client.shared[name][k]) for k, w in tensors.items()), name


# The server ------------------------------------------------------------------------------------


def updates_of(*labels: tuple[int, ...]) -> list[Update]:
    return [SMALL.local_train(later_client(labels=held)) for held in labels]


def test_without_consolidation_net_generator_and_head_are_averages():
    updates = updates_of((2, 2, 2), (3,))
    server = server_of(tiny_net(4, text_width=None, key=9), task=2, old=2)
    mean = replace(SMALL, consolidation=0).aggregate(server, updates)
    for name, w in server.net.weights().items():
        if w.is_floating_point():
            expected = (3 * updates[0].weights[name] + updates[1].weights[name]) / 4
            assert torch.allclose(w, expected, atol=1e-6), name
    for prefix in ("generator", "realness"):
        for name, w in server.shared[prefix].items():
            if w.is_floating_point():
                a, b = (u.weights[f"{prefix}.{name}"] for u in updates)
                assert torch.allclose(w, (3 * a + b) / 4, atol=1e-5), name
    assert not any(name.startswith("about.") for name in mean.weights)


def test_consolidation_trains_net_generator_and_head_on_what_clients_generate():
    updates = updates_of((2, 2, 2), (3,))
    outcomes = []
    for steps in (0, 2):
        server = server_of(tiny_net(4, text_width=None, key=9), task=2, old=2)
        server.shared["past"] = clones(built(2, key=1))
        replace(SMALL, consolidation=steps).aggregate(server, updates)
        outcomes.append((server.net.weights(), server.shared))
    (net, shared), (trained, after) = outcomes
    assert not torch.equal(net["classifier.weight"], trained["classifier.weight"])
    assert not torch.equal(shared["generator"]["noise.weight"], after["generator"]["noise.weight"])
    assert not torch.equal(shared["realness"]["weight"], after["realness"]["weight"])
    assert torch.equal(after["past"]["noise.weight"], clones(built(2, key=1))["noise.weight"])


def test_the_server_draws_as_many_images_of_every_client_of_the_classes_it_holds():
    updates = updates_of((2, 2, 2), (3, 2))
    server, drawn = server_of(tiny_net(4, text_width=None), task=2, old=2), []
    passed = list(SMALL.watched(server, iter(updates), drawn, {}))
    assert [len(batch.y) for batch in drawn] == [6, 6]
    assert [batch.x.shape for batch in drawn] == [(6, 3, 6, 6)] * 2
    assert set(drawn[0].y.tolist()) == {2}
    assert set(drawn[1].y.tolist()) <= {2, 3}
    assert all(not any(k.startswith("about.") for k in u.weights) for u in passed)


def test_updates_are_read_one_at_a_time():
    read: list[int] = []

    def one_by_one():
        for number, update in enumerate(updates_of((2, 2, 2), (3,))):
            read.append(number)
            yield update

    drawn: list[Batch] = []
    server = server_of(tiny_net(4, text_width=None), task=2, old=2)
    next(SMALL.watched(server, one_by_one(), drawn, {}))
    assert read == [0]


def test_enough_consolidation_teaches_the_net_the_classes_of_generated_images():
    strategy = replace(SMALL, consolidation=60, consolidation_lr=0.01, consolidation_batch=16, images=40)
    updates = updates_of((2, 3), (3, 2))
    server = server_of(tiny_net(4, text_width=None, key=9), task=2, old=2)
    drawn: list[Batch] = []
    list(strategy.watched(server, iter(updates), drawn, {}))
    strategy.aggregate(server, updates)
    x, y = (torch.cat(parts) for parts in zip(*drawn, strict=True))
    assert (server.net.eval()(x).logits.argmax(1) == y).float().mean() > 0.7


def test_a_new_task_keeps_the_generator_for_replay_and_gives_it_rows_for_new_classes():
    server = server_of(tiny_net(4, text_width=None), task=2, old=2)
    SMALL.before_task(server)
    assert server.shared == {}  # nobody has trained one yet
    old = server.shared["generator"] = clones(built(2))
    SMALL.before_task(server)
    assert torch.equal(server.shared["past"]["classes.weight"], old["classes.weight"])
    grown = server.shared["generator"]["classes.weight"]
    assert grown.shape == (4, old["classes.weight"].shape[1])
    assert torch.equal(grown[:2], old["classes.weight"])
    assert torch.equal(server.shared["generator"]["noise.weight"], old["noise.weight"])


@pytest.mark.parametrize(("field", "value"), [("replay", 1.5), ("replay", -0.1), ("latent", 0), ("consolidation", -1)])
def test_settings_out_of_range_are_refused(field, value):
    with pytest.raises(ConfigError, match=f"{field}: {value} is not allowed"):
        FedCIL.parse({field: value}, Where("e.yaml"))


# Whole runs ------------------------------------------------------------------------------------

OPTIONS = {"latent": 4, "width": 2, "consolidation": 2, "consolidation_batch": 4, "images": 4}


def test_whole_runs_are_finite_repeatable_and_resumable(tmp_path):
    run = check_runs(tmp_path, {"fedcil": OPTIONS})
    names = {"ce", "real", "fake_ce", "fake", "generator_ce", "generator_real"}
    later = names | {"replay_ce", "replay_real"}
    assert [set(record["terms"]) for record in run.rounds] == [names, later, later]


def test_clients_that_are_seldom_drawn(tmp_path):
    source = tiny(tmp_path, {"fedcil": OPTIONS}, clients=10, fraction=0.2, rounds=2, evaluate_every=2)
    (run,) = play(source, out=tmp_path)
    assert "consistency" in run.rounds[-1]["terms"]
    assert "accuracy" in run.rounds[-1]


def test_a_private_federation_refuses_generators(tmp_path):
    with pytest.raises(ConfigError, match=r"federation\.privacy: .*fedcil"):
        play(tiny(tmp_path, {"fedcil": OPTIONS}, rounds=1, privacy={"clip": 1.0}), out=tmp_path)
