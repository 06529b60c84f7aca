"""FedEWC against the reference code, in double precision; the penalty has a gradient where the code's has none."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import inf

import pytest
import torch
import torch.nn.functional as F
from golden_vectors import Case, assert_matches, load_case
from scripted_roles import check_runs, client_of, gradient, server_of, shard_of, tiny
from small_runs import checkpoint, play
from tiny_net import golden_net, normal, renamed, tiny_net

from fcil import Batch, Client, Update
from fcil.config import Where, parse
from fcil.errors import ConfigError, TrainingError
from fcil.losses import quadratic_penalty
from fcil.optimizer import OptimizerSettings
from strategies.fedewc import SIDES, FedEWC, fisher_diagonal


@pytest.fixture
def _double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def case() -> Case:
    return load_case("80_ewc")


def batches(case: Case, task: int, count: int) -> list[Batch]:
    t = case.tensors
    return [Batch(t[f"inputs.task{task}.batch{i}.x"], t[f"inputs.task{task}.batch{i}.labels"]) for i in range(count)]


def assert_all_match(got: dict[str, torch.Tensor], case: Case, name: str) -> None:
    expected = renamed(case.under(f"expected.{name}"))
    assert got.keys() == expected.keys()
    for key, value in expected.items():
        assert_matches(got[key], value, case.tolerance, f"{name} {key}")


def golden_client(case: Case, task: int) -> Client:
    known, total = case.parameters["known"], case.parameters["total"]
    net = golden_net(case.under("params.after_task1" if task == 1 else "params.task2"))
    assert net.num_classes == (known if task == 1 else total)
    real = batches(case, task, 4 - task)
    return client_of(net, [None] * sum(len(b.y) for b in real), old=0 if task == 1 else known, real=real)


# The reference ---------------------------------------------------------------------------------


@pytest.mark.usefixtures("_double")
def test_the_fisher_of_batches_matches_the_reference(case):
    client = golden_client(case, 1)
    for clip, name in ((None, "fisher_batch_clipped"), (1e9, "fisher_batch_unclipped")):
        client.net.load(client.start)
        update = FedEWC(fidelity="reference", clip=clip).after_local_task(client)
        assert_all_match(update.weights, case, name)
        assert update.num_examples == 18


@pytest.mark.usefixtures("_double")
def test_the_fisher_of_samples_matches_the_textbook(case):
    client = golden_client(case, 1)
    whole = [Batch(x[None], y[None]) for batch in client.real for x, y in zip(*batch, strict=True)]
    client.net.eval()
    got = fisher_diagonal(client.net, whole, FedEWC().trainable(client.net))
    assert_all_match(got, case, "fisher_per_sample")


@pytest.mark.usefixtures("_double")
def test_the_penalty_and_its_gradient_match_the_reference(case):
    client = golden_client(case, 2)
    fisher = renamed(case.under("expected.fisher_batch_clipped"))
    optimum = renamed(case.under("params.after_task1"))
    client.shared |= {"fisher": fisher, "optimum": optimum}
    weights = dict(client.net.named_parameters())
    penalty = quadratic_penalty(weights, optimum, fisher)
    assert_matches(penalty, case.tensors["expected.penalty"], case.tolerance)
    term = FedEWC(fidelity="reference").local_loss(client, client.real[0])["ewc"]
    assert_matches(term, case.tensors["expected.penalty_times_lambda"], case.tolerance)
    # Named without a prefix of its own beside the penalty, so it is taken by hand.
    for name, value in renamed(case.under("expected.penalty.grad")).items():
        assert_matches(gradient(penalty, weights[name]), value, case.tolerance, name)


@pytest.mark.usefixtures("_double")
def test_the_blend_of_two_tasks_matches_the_reference(case):
    strategy, known = FedEWC(fidelity="reference"), case.parameters["known"]
    first = golden_client(case, 1)
    server = server_of(first.net)
    strategy.after_task(server, [strategy.after_local_task(first)])
    assert_all_match(server.shared["fisher"], case, "fisher_batch_clipped")
    second = golden_client(case, 2)
    later = server_of(second.net, task=2, old=known)
    later.shared = server.shared
    strategy.after_task(later, [strategy.after_local_task(second)])
    assert_all_match(later.shared["fisher"], case, "fisher_blended")


# The textbook ----------------------------------------------------------------------------------


def held_client(old: int = 2, seen: int = 5, strategy: FedEWC | None = None):
    """A client of a second task that is held to a net of `old` classes, and a batch of new ones."""
    teacher, net = tiny_net(old, text_width=None, key=1), tiny_net(seen, text_width=None)
    fisher = {name: torch.full_like(p, 0.5) for name, p in teacher.named_parameters()}
    shared = {"fisher": fisher, "optimum": teacher.weights()}
    client = client_of(net, shard_of([2, 3, 4]), old=old, shared=shared)
    return client, Batch(normal(4, 3, 6, 6), torch.tensor([2, 3, 4, 2])), (strategy or FedEWC())


def test_the_penalty_holds_the_net_that_is_trained():
    client, batch, strategy = held_client()
    term = strategy.local_loss(client, batch)["ewc"]
    for name, p in client.net.named_parameters():
        rows = len(client.shared["optimum"][name])
        got = gradient(term, p)
        expected = 10 * 0.5 * (p[:rows] - client.shared["optimum"][name])
        assert torch.allclose(got[:rows], expected, rtol=1e-4)
        assert not got[rows:].any()  # the rows of new classes are free
    assert gradient(term, client.net.classifier.weight)[:2].any()


def test_a_net_that_has_not_moved_pays_nothing():
    weights = {"w": normal(3, 2), "b": normal(3)}
    assert quadratic_penalty(weights, weights, {"w": torch.ones(3, 2), "b": torch.ones(3)}) == 0
    moved = quadratic_penalty({"w": torch.tensor([3.0, 9.0])}, {"w": torch.tensor([1.0])}, {"w": torch.tensor([5.0])})
    assert moved.item() == 0.5 * 5 * 2**2


def test_the_penalty_does_not_depend_on_the_order_in_which_tensors_were_saved():
    client, batch, strategy = held_client()
    first = strategy.local_loss(client, batch)["ewc"]
    for name in ("fisher", "optimum"):
        client.shared[name] = dict(sorted(client.shared[name].items(), reverse=True))
    assert torch.equal(strategy.local_loss(client, batch)["ewc"], first)


def test_a_heavy_penalty_keeps_what_is_old_and_lets_new_rows_learn():
    def trained(strength: float):
        client, _, strategy = held_client(strategy=FedEWC(strength=strength))
        grown = {**client.net.weights(), **client.shared["optimum"]}
        for name in ("classifier.weight", "classifier.bias"):
            grown[name] = torch.cat([client.shared["optimum"][name], client.net.weights()[name][2:]])
        client.net.load(grown)
        client.optimizer = type(client.optimizer)(momentum=0.0, weight_decay=0.0)
        client.local_epochs, client.lr = 5, 0.01
        after = strategy.local_train(client).weights
        return {name: (w - grown[name]).abs() for name, w in after.items()}

    free, held = trained(0.0), trained(200.0)
    assert held["backbone.conv.weight"].max() < 0.3 * free["backbone.conv.weight"].max()
    assert held["classifier.weight"][2:].max() > 0.5 * free["classifier.weight"][2:].max()


def stiff_client(strategy: FedEWC, reported: float) -> Client:
    """A client that trains long in the last of three tasks; its Fisher is what clients reported after two."""
    client, _, _ = held_client(strategy=strategy)
    client.task = replace(client.task, number=3, total=3)
    client.local_epochs, client.lr = 200, 0.03
    client.optimizer = type(client.optimizer)(lr=0.03)
    value = 2 * min(reported, strategy.limit(client))
    client.shared["fisher"] = {name: torch.full_like(f, value) for name, f in client.shared["fisher"].items()}
    return client


def test_a_penalty_too_stiff_for_the_step_is_told_and_the_limit_keeps_it_in_reach():
    strategy = FedEWC(strength=10, clip=1e6)
    with pytest.raises(TrainingError, match=r"largest Fisher value is 60 and SGD follows 13 .*strategy\.clip=stable"):
        strategy.local_train(stiff_client(strategy, 30.0))
    limited = FedEWC(strength=10)
    client = stiff_client(limited, 30.0)
    assert client.shared["fisher"]["classifier.bias"][0] == pytest.approx(3.8 / 2 / (0.03 * 10))
    assert all(w.isfinite().all() for w in limited.local_train(client).weights.values())


def test_the_limit_is_that_of_the_penalty_alone():
    client, _, _ = held_client()
    client.task, client.optimizer = replace(client.task, total=6), OptimizerSettings(lr=0.1, momentum=0.5)
    assert FedEWC(strength=4, clip="stable").limit(client) == pytest.approx(3 / 0.1 / 2 / 4 / 5)
    assert FedEWC(strength=4, over_tasks="mean").limit(client) == pytest.approx(3 / 0.1 / 2 / 4)
    assert FedEWC(strength=0).limit(client) == inf
    assert FedEWC(clip=7.0).limit(client) == 7
    assert FedEWC(fidelity="reference").limit(client) == 1e-4
    client.optimizer = OptimizerSettings(name="adam", lr=0.1)
    assert FedEWC().limit(client) == inf


def test_a_client_reports_no_more_than_its_limit():
    client = client_of(tiny_net(3), shard_of([0, 1, 2, 1]))
    client.task = replace(client.task, total=5)
    free = FedEWC(clip=1e6).after_local_task(client).weights["classifier.bias"]
    strategy = FedEWC(strength=1e3)
    assert 0 < strategy.limit(client) < free.max()
    reported = strategy.after_local_task(client).weights["classifier.bias"]
    assert torch.equal(reported, free.clamp(max=strategy.limit(client)))


def test_a_loss_that_ends_for_another_reason_is_not_laid_to_the_penalty():
    strategy = FedEWC(strength=10)
    client = stiff_client(strategy, 0.1)
    client.shared["optimum"]["classifier.bias"].fill_(torch.nan)
    with pytest.raises(TrainingError, match=r"often helps$"):
        strategy.local_train(client)


def test_the_fisher_of_two_images_by_hand():
    net = tiny_net(3, text_width=None)
    client = client_of(net, shard_of([0, 2]))
    got = FedEWC().after_local_task(client)
    net.eval()
    squares = torch.zeros(3)
    for i, label in enumerate((0, 2)):
        p = net(client.shard.x(torch.tensor([i]))).logits.softmax(1)[0]
        squares += (p - F.one_hot(torch.tensor(label), 3)).square() / 2  # d CE / d bias = p - onehot
    assert torch.allclose(got.weights["classifier.bias"], squares, atol=1e-7)
    assert got.num_examples == 2
    assert all(f.shape == net.state_dict()[name].shape and (f >= 0).all() for name, f in got.weights.items())


def test_the_mode_that_the_net_was_left_in_does_not_matter_and_its_statistics_stay():
    sent = []
    for training in (True, False):
        client = client_of(tiny_net(3).train(training), shard_of([0, 1, 2, 1]))
        sent.append(FedEWC().after_local_task(client).weights["backbone.conv.weight"])
        assert all(torch.equal(client.start[name], w) for name, w in client.net.weights().items())
    assert torch.equal(*sent)


def test_the_text_head_which_the_loss_does_not_reach_is_free():
    client = client_of(tiny_net(3), shard_of([0, 1]))
    assert not FedEWC().after_local_task(client).weights["text_head.weight"].any()


def test_a_client_that_lacks_a_class_or_has_one_sample_or_none():
    for labels in ([1, 1, 1], [2]):
        update = FedEWC().after_local_task(client_of(tiny_net(3), shard_of(labels)))
        assert update.num_examples == len(labels)
        assert all(f.isfinite().all() for f in update.weights.values())
    assert FedEWC().after_local_task(client_of(tiny_net(3), shard_of([]))) is None


# On the server ---------------------------------------------------------------------------------


def test_clients_are_weighted_by_their_examples():
    net = tiny_net(2)
    updates = [Update({"w": torch.tensor([1.0])}, 1), Update({"w": torch.tensor([5.0])}, 3)]
    server = server_of(net)
    FedEWC().after_task(server, updates)
    assert server.shared["fisher"]["w"].item() == 4
    assert torch.equal(server.shared["optimum"]["classifier.weight"], net.classifier.weight)


@pytest.mark.parametrize(("over_tasks", "expected"), [("sum", [5.0, 4.0]), ("mean", [0.5 * 4 + 0.5 * 1, 4.0])])
def test_fishers_of_tasks_add_up_or_are_averaged_in_old_rows(over_tasks, expected):
    server = server_of(tiny_net(4), task=2, old=2)
    server.shared["fisher"] = {"w": torch.tensor([4.0])}
    FedEWC(over_tasks=over_tasks).after_task(server, [Update({"w": torch.tensor([1.0, 4.0])}, 2)])
    assert server.shared["fisher"]["w"].tolist() == expected


def test_when_nobody_answers_the_old_fisher_stays_and_the_last_task_leaves_none():
    server = server_of(tiny_net(4), task=2, old=2)
    server.shared["fisher"] = {"w": torch.tensor([4.0])}
    FedEWC().after_task(server, [])
    assert server.shared["fisher"]["w"].item() == 4
    last = server_of(tiny_net(4), task=3, old=2)
    FedEWC().after_task(last, [Update({"w": torch.ones(1)}, 1)])
    assert last.shared == {}
    client = client_of(tiny_net(4), shard_of([2, 3]), old=2)  # of a task after one in which nobody answered
    assert set(FedEWC().local_loss(client, Batch(normal(2, 3, 6, 6), torch.tensor([2, 3])))) == {"ce"}


# Sides -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SIDES)
@pytest.mark.parametrize(("fidelity", "column"), [("paper", 0), ("reference", 1)])
def test_an_open_field_takes_the_side_and_a_chosen_one_wins(name, fidelity, column):
    assert getattr(FedEWC(), name) is None
    assert getattr(FedEWC(fidelity=fidelity).settled, name) == SIDES[name][column]
    other = 0.5 if name in ("clip", "strength") else SIDES[name][1 - column]
    chosen = parse(FedEWC, {"fidelity": fidelity, name: other}, Where("e.yaml"))
    assert getattr(chosen.settled, name) == other


def test_the_cross_entropy_is_over_the_new_classes_or_all():
    client, batch, _ = held_client()
    client.net.eval()
    logits = client.net(batch.x).logits
    assert torch.allclose(FedEWC().local_loss(client, batch)["ce"], F.cross_entropy(logits[:, 2:], batch.y - 2))
    seen = FedEWC(classes="seen").local_loss(client, batch)["ce"]
    assert torch.allclose(seen, F.cross_entropy(logits, batch.y))


def test_a_limit_of_zero_is_refused():
    with pytest.raises(ConfigError, match=r"clip: 0 is not allowed"):
        FedEWC.parse({"clip": 0}, Where("e.yaml"))


# Whole runs ------------------------------------------------------------------------------------


@pytest.mark.parametrize("fidelity", ["paper", "reference"])
def test_whole_runs_are_finite_repeatable_and_resumable(tmp_path, fidelity):
    run = check_runs(tmp_path, {"fedewc": {"fidelity": fidelity}})
    assert [set(record["terms"]) for record in run.rounds] == [{"ce"}, {"ce", "ewc"}, {"ce", "ewc"}]
    assert run.rounds[-1]["terms"]["ewc"] > 0


def test_clients_that_are_seldom_drawn_are_asked_for_their_fisher_too(tmp_path):
    (run,) = play(tiny(tmp_path, "fedewc", clients=10, fraction=0.3, rounds=1), out=tmp_path)
    assert len(run.rounds[-1]["clients"]) == 3
    shared = {name for name in checkpoint(run)[0] if name.startswith("shared/fisher/")}
    assert "shared/fisher/classifier.weight" in shared
