"""Server optimisers against Flower's strategies and plain loops, as settings, and in whole runs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAdagrad as FlowerAdagrad
from flwr.serverapp.strategy import FedAdam as FlowerAdam
from flwr.serverapp.strategy import FedAvgM as FlowerAvgM
from flwr.serverapp.strategy import FedYogi as FlowerYogi
from guarded_rounds import plans
from scripted_roles import client_of, shard_of
from small_runs import (
    Stop,
    StopAfter,
    checkpoint,
    final_weights,
    play,
    same,
    without_seconds,
    write_experiment,
    write_strategy,
)
from tiny_net import normal, tiny_net

from fcil import Strategy, Update, weighted_mean
from fcil.config import Where, dump, parse
from fcil.errors import ConfigError, TrainingError
from fcil.federation.codec import to_arrays, to_tensors
from fcil.federation.compat import new_run
from fcil.federation.optimisation.checks import check_server
from fcil.federation.optimisation.control import ControlVariate
from fcil.federation.optimisation.settings import (
    OPTIMIZERS,
    FedAdagrad,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedNova,
    FedYogi,
    Scaffold,
    ServerOptimizer,
)
from fcil.federation.optimisation.steps import CHANGE, CONTROL, begin_task, covered, grown, step
from fcil.federation.settings import FederationSettings
from fcil.io.state import num_bytes
from fcil.nets import Net
from fcil.optimizer import SGD, OptimizerSettings
from fcil.roles import Server
from fcil.types import Task, Tensors

ALL = sorted(OPTIMIZERS.keys() - {"fedavg"})


def a_server(clients: int = 3, net: Net | None = None) -> Server:
    return Server(net or tiny_net(), Task(1, 2, 0, 5, tuple("abcde")), 1, 0, clients, None)


def after_steps(net: Net, number: int, clients: int = 3, steps: float = 4.0) -> list[Update]:
    """Updates of clients that moved by a tenth, in other ways each round, and have counted batches."""
    start = net.state_dict()
    return [
        Update(
            {
                n: t + 0.1 * normal(*t.shape, key=100 * number + k) if t.is_floating_point() else t + number + k
                for n, t in start.items()
            },
            k + 1,
            {"steps": steps},
        )
        for k in range(clients)
    ]


def played(optimizer: ServerOptimizer, server: Server, updates: list[Update], momentum: float = 0.0) -> Update:
    """A round of a server; returns what its average gives, which is loaded."""
    mean = step(optimizer, server, iter(updates), weighted_mean, "examples", momentum)
    server.net.load({**server.net.state_dict(), **mean.weights})
    return mean


def names_of(net: Net) -> set[str]:
    return {name for name, _ in net.named_parameters()}


# Against Flower ----------------------------------------------------------------------------------


def flowers_round(strategy: Any, start: Tensors, updates: list[Update], number: int) -> Tensors:
    """The next net by a strategy of Flower's, whose state goes on from round to round."""
    new_run(1)
    sent = Message(RecordDict(), 1, "train")
    arrays: Any = ArrayRecord({name: to_arrays({name: t})[name] for name, t in start.items()})
    strategy.current_arrays = (
        arrays if isinstance(strategy, FlowerAvgM) else {name: a.numpy() for name, a in arrays.items()}
    )
    replies = [
        Message(
            RecordDict({"arrays": to_arrays(u.weights), "metrics": MetricRecord({"num-examples": u.num_examples})}),
            reply_to=sent,
        )
        for u in updates
    ]
    after, _ = strategy.aggregate_train(number, replies)
    return to_tensors(after)


@pytest.mark.parametrize(
    ("optimizer", "flowers"),
    [
        (FedAvgM(eta=0.5, beta=0.9), FlowerAvgM(server_learning_rate=0.5, server_momentum=0.9)),
        (FedAvgM(), FlowerAvgM(server_learning_rate=1.0, server_momentum=0.9)),
        (FedAdagrad(), FlowerAdagrad(eta=0.1, tau=1e-3)),
        (FedAdam(), FlowerAdam(eta=0.1, beta_1=0.9, beta_2=0.99, tau=1e-3)),
        (FedYogi(), FlowerYogi(eta=0.01, beta_1=0.9, beta_2=0.99, tau=1e-3)),
        (FedYogi(eta=0.3, beta_1=0.5, beta_2=0.8, tau=0.1), FlowerYogi(eta=0.3, beta_1=0.5, beta_2=0.8, tau=0.1)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_rounds_are_flowers(optimizer, flowers):
    server = a_server()
    parameters = names_of(server.net)
    for number in range(1, 7):
        updates, start = after_steps(server.net, number), server.net.weights()
        theirs = flowers_round(flowers, start, updates, number)
        settings = optimizer
        if isinstance(optimizer, FedAdam):
            # Flower corrects for moments that began at zero, with one round too many; Algorithm 2 does not.
            rate = optimizer.eta * np.sqrt(1 - 0.99 ** (number + 1)) / (1 - 0.9 ** (number + 1))
            settings = FedAdam(eta=float(rate))
        mean = played(settings, server, updates)
        plain = weighted_mean(updates).weights
        for name in parameters:
            assert torch.allclose(mean.weights[name].double(), theirs[name].double(), rtol=0, atol=1e-6), name
            assert mean.weights[name].dtype == torch.float32
        rest = plain.keys() - parameters
        assert {name.rpartition(".")[2] for name in rest} == {"running_mean", "running_var", "num_batches_tracked"}
        assert all(torch.equal(mean.weights[name], plain[name]) for name in rest)


def test_flowers_adam_makes_a_running_variance_negative_and_ours_does_not():
    """Where every client's variance falls, a step of the size of eta takes it below zero."""
    server = a_server()
    name = "backbone.bn.running_var"
    server.net.backbone.bn.running_var.fill_(0.05)
    updates = [
        Update({n: t * 0.5 if n == name else t for n, t in server.net.weights().items()}, 1, {"steps": 1.0})
        for _ in range(3)
    ]
    theirs = flowers_round(FlowerAdam(), server.net.weights(), updates, 1)
    assert theirs[name].max() < 0
    assert theirs[name].dtype == torch.float64
    mean = played(FedAdam(), server, updates)
    assert torch.allclose(mean.weights[name], torch.full((8,), 0.025))
    assert mean.weights[name].dtype == torch.float32


def test_without_a_past_momentum_of_one_round_is_the_mean():
    server = a_server()
    updates = after_steps(server.net, 1)
    assert_near(played(FedAvgM(), server, updates).weights, weighted_mean(updates).weights)


def assert_near(got: Tensors, expected: Tensors, atol: float = 1e-6) -> None:
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.allclose(got[name].double(), value.double(), rtol=0, atol=atol), name


# FedNova -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_the_way_covered_is_that_of_a_constant_gradient(steps, momentum):
    x = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))
    optimizer = SGD([x], 0.1, momentum, fused=True)
    for _ in range(steps):
        x.grad = torch.ones((), dtype=torch.float64)
        optimizer.step()
    assert covered(steps, momentum) == pytest.approx(-x.item() / 0.1, rel=1e-12)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("tau_eff", [None, 3.0])
def test_fednova_is_the_papers_equation(momentum, tau_eff):
    """x' = x - tau_eff sum_k p_k eta d_k with d_k = (x - x_k) / (eta |a_k|); p_k = n_k / n."""
    server = a_server()
    start, updates = server.net.weights(), after_steps(server.net, 1)
    for k, update in enumerate(updates):
        update.metrics["steps"] = float(3 * k + 2)
    n = sum(update.num_examples for update in updates)
    lengths = []
    for k in range(3):
        tau = 3 * k + 2
        lengths.append(sum((1 - momentum ** (tau - j)) / (1 - momentum) for j in range(tau)))
    eff = sum(u.num_examples / n * a for u, a in zip(updates, lengths, strict=True)) if tau_eff is None else tau_eff
    expected = {}
    for name in names_of(server.net):
        d = [(start[name] - u.weights[name]).double() / a for u, a in zip(updates, lengths, strict=True)]
        total = sum(u.num_examples / n * one for u, one in zip(updates, d, strict=True))
        expected[name] = start[name].double() - eff * total
    plain = weighted_mean(updates).weights
    mean = played(FedNova(tau_eff=tau_eff), server, updates, momentum)
    assert_near(mean.weights, {**plain, **expected})
    assert not torch.allclose(mean.weights["classifier.weight"], plain["classifier.weight"], atol=1e-4)
    assert mean.metrics == {"steps": 5.0}


def test_fednova_of_equal_steps_is_fedavg():
    server = a_server()
    updates = after_steps(server.net, 1, steps=7.0)
    assert_near(played(FedNova(), server, updates, 0.9).weights, weighted_mean(updates).weights)


def test_fednova_needs_the_steps_of_every_client():
    server = a_server()
    updates = after_steps(server.net, 1)
    del updates[1].metrics["steps"]
    with pytest.raises(TrainingError, match="fednova: a client did not say how many steps"):
        played(FedNova(), server, updates)


# SCAFFOLD ----------------------------------------------------------------------------------------

LABELS = [[0, 1, 2, 0, 1, 2, 0, 1], [3, 4, 3, 4, 3, 4], [0, 4, 0, 4, 1, 1, 2, 3, 3, 2]]
LR = 0.05


def local(server: Server, index: int, memory: dict[str, Any], momentum: float, task: int = 1) -> Any:
    """A client with its shard, whose net begins as the server's."""
    net = deepcopy(server.net)
    settings = OptimizerSettings(momentum=momentum, weight_decay=0.0, schedule="constant")
    shard = shard_of(LABELS[index], key=index)
    client = client_of(net, shard, memory=memory, shared=dict(server.shared), lr=LR, optimizer=settings)
    client.index, client.round = index, server.round
    if task > 1:
        client.task = Task(task, 2, 5, net.num_classes - 5, tuple(map(str, range(net.num_classes))))
    return client


def scaffold_round(
    optimizer: Scaffold,
    server: Server,
    memories: list[dict[str, Any]],
    momentum: float,
    task: int = 1,
    method: Strategy | None = None,
) -> None:
    updates = []
    for index, memory in enumerate(memories):
        client = local(server, index, memory, momentum, task)
        client.correction = ControlVariate(client, optimizer.lasts)
        update = (method or Strategy()).local_train(client)
        update.weights |= client.correction.changes
        updates.append(update)
    mean = step(optimizer, server, iter(updates), uniform, "uniform", momentum)
    assert not any(name.startswith(CHANGE) for name in mean.weights)
    server.net.load({**server.net.state_dict(), **mean.weights})
    server.round += 1


def uniform(updates: Any) -> Update:
    return weighted_mean(updates, "uniform")


def algorithm_one(net: Net, rounds: int, clients: int, eta_g: float) -> Iterator[tuple[Tensors, Tensors]]:
    """Algorithm 1 with option II, SGD by hand and all clients in every round; yields x and c."""
    names = names_of(net)
    c = {n: torch.zeros_like(p) for n, p in net.named_parameters()}
    theirs = [{n: torch.zeros_like(p) for n, p in net.named_parameters()} for _ in range(clients)]
    server = a_server(clients, net)
    for _ in range(rounds):
        x = server.net.weights()
        ways, changes, buffers = [], [], []
        for index in range(clients):
            client = local(server, index, {}, 0.0)
            y, count = client.net.train(), 0
            for _, batch in client.passes():
                y.zero_grad()
                torch.nn.functional.cross_entropy(y(batch.x).logits, batch.y).backward()
                with torch.no_grad():
                    for n, p in y.named_parameters():
                        if p.grad is not None:
                            p -= LR * (p.grad - theirs[index][n] + c[n])
                count += 1
            after = y.weights()
            plus = {n: theirs[index][n] - c[n] + (x[n] - after[n]) / (count * LR) for n in names}
            ways.append({n: after[n] - x[n] for n in names})
            changes.append({n: plus[n] - theirs[index][n] for n in names})
            buffers.append({n: t.double() for n, t in after.items() if n not in names})
            theirs[index] = plus
        moved = {n: x[n] + eta_g * sum(way[n] for way in ways) / clients for n in names}
        c = {n: c[n] + sum(change[n] for change in changes) / clients for n in names}
        averaged = {n: sum(b[n] for b in buffers) / clients for n in buffers[0]}
        server.net.load({**moved, **averaged})
        server.round += 1
        yield server.net.weights(), c


@pytest.mark.parametrize("eta_g", [1.0, 0.5])
def test_scaffold_is_algorithm_one(eta_g):
    net = tiny_net(text_width=None)
    server, memories = a_server(3, deepcopy(net)), [dict[str, Any]() for _ in range(3)]
    for number, (x, c) in enumerate(algorithm_one(net, 4, 3, eta_g)):
        scaffold_round(Scaffold(eta_g=eta_g), server, memories, 0.0)
        assert_near(server.net.weights(), x, atol=1e-5)
        assert_near(server.shared[CONTROL], c, atol=1e-5)
        assert max(float(t.abs().max()) for t in c.values()) > 0.01, number


class Bowls(Strategy):
    """Clients whose losses are bowls of other curvatures about other points, so that the minimum of all is known."""

    def local_loss(self, client, batch):
        bowl, point = 2.0**client.index, float(client.index)
        return {"bowl": bowl / 2 * torch.stack([((p - point) ** 2).sum() for p in client.net.parameters()]).sum()}


def test_scaffold_ends_where_the_clients_losses_are_least_together():
    """What no copy of the formula shows: with its signs turned round it ends further away than FedAvg, or nowhere."""
    least = (0 * 1 + 1 * 2 + 2 * 4) / (1 + 2 + 4)
    server, memories = a_server(3, tiny_net(text_width=None)), [dict[str, Any]() for _ in range(3)]
    plain = a_server(3, tiny_net(text_width=None))
    for _ in range(30):
        scaffold_round(Scaffold(), server, memories, 0.0, method=Bowls())
        plain.net.load(uniform([Bowls().local_train(local(plain, k, {}, 0.0)) for k in range(3)]).weights)
    far, far_without = (
        max(float((p.detach() - least).abs().max()) for p in one.net.parameters()) for one in (server, plain)
    )
    assert far < 1e-2 < 0.05 < far_without


def test_with_zero_control_variates_a_round_is_that_of_fedavg():
    server, memories = a_server(3, tiny_net(text_width=None)), [dict[str, Any]() for _ in range(3)]
    updates = [Strategy().local_train(local(server, k, {}, 0.9)) for k in range(3)]
    scaffold_round(Scaffold(), server, memories, 0.9)
    assert_near(server.net.weights(), uniform(updates).weights | counters(server.net))
    assert all(memory[CONTROL] for memory in memories)


def counters(net: Net) -> Tensors:
    return {name: t for name, t in net.weights().items() if not t.is_floating_point()}


def test_a_control_variate_is_the_mean_gradient_with_momentum_too():
    """Of a loss whose gradient is constant, c_k is that gradient, whatever the momentum and what c was."""
    server = a_server(1, tiny_net(text_width=None))
    server.shared[CONTROL] = {name: 0.1 * normal(*p.shape, key=3) for name, p in server.net.named_parameters()}
    client = local(server, 0, {}, 0.9)
    slope = {name: normal(*p.shape, key=5) for name, p in client.net.named_parameters()}
    client.correction = ControlVariate(client, "run")
    client.local_epochs = 3

    def loss(client: Any, batch: Any) -> Any:
        return {"line": torch.stack([(p * slope[n]).sum() for n, p in client.net.named_parameters()]).sum()}

    client.train(loss, list(slope))
    assert_near(client.memory[CONTROL], slope, atol=1e-4)


def test_control_variates_of_new_classes_begin_at_zero_and_one_of_a_task_begins_anew():
    for lasts in ("run", "task"):
        server, memories = a_server(3, tiny_net(text_width=None)), [dict[str, Any]() for _ in range(3)]
        optimizer = Scaffold(lasts=lasts)
        scaffold_round(optimizer, server, memories, 0.0)
        before = deepcopy(memories)
        server.net.grow(7, torch.Generator().manual_seed(0))
        begin_task(optimizer, server)
        assert (CONTROL in server.shared) == (lasts == "run")
        client = local(server, 0, memories[0], 0.0, task=2)
        correction = ControlVariate(client, lasts)
        correction.begin(dict(client.net.named_parameters()))
        held = correction._before["classifier.weight"]
        assert held.shape == server.net.classifier.weight.shape
        assert not held[5:].any()
        assert torch.equal(held[:5], before[0][CONTROL]["classifier.weight"]) == (lasts == "run")
        scaffold_round(optimizer, server, memories, 0.0, task=2)
        assert server.shared[CONTROL]["classifier.weight"].shape == server.net.classifier.weight.shape


def test_part_of_the_clients_moves_the_servers_variate_by_their_share():
    server = a_server(10, tiny_net(text_width=None))
    start = server.net.weights()
    change = {f"{CHANGE}{name}": torch.ones_like(p) for name, p in server.net.named_parameters()}
    step(Scaffold(), server, [Update(start | change, 3), Update(start | change, 9)], weighted_mean, "examples", 0.0)
    assert all(torch.allclose(t, torch.full_like(t, 0.2)) for t in server.shared[CONTROL].values())


# State -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lasts", ["run", "task"])
@pytest.mark.parametrize("kind", [FedAvgM, FedAdagrad, FedAdam, FedYogi])
def test_moments_of_new_classes_begin_at_zero_and_those_of_a_task_begin_anew(kind, lasts):
    optimizer, server = kind(lasts=lasts), a_server()
    played(optimizer, server, after_steps(server.net, 1))
    before = deepcopy(server.moments)
    assert set(before) == ({"m"} if kind is FedAvgM else {"m", "v"}) or kind is FedAvgM
    server.net.grow(7, torch.Generator().manual_seed(0))
    begin_task(optimizer, server)
    assert server.moments.keys() == (before.keys() if lasts == "run" else set())
    still = [Update(server.net.weights(), 1, {"steps": 1.0})]
    start = server.net.weights()
    after = played(optimizer, server, still).weights["classifier.weight"]
    assert torch.equal(after[5:], start["classifier.weight"][5:])
    assert torch.equal(after[:5], start["classifier.weight"][:5]) == (lasts == "task" or optimizer_forgets(optimizer))
    assert server.moments["m"]["classifier.weight"].shape == (7, 8)


def optimizer_forgets(optimizer: ServerOptimizer) -> bool:
    return isinstance(optimizer, FedAdagrad)  # whose beta_1 is 0


def test_a_tensor_of_another_width_begins_anew():
    assert not grown(torch.ones(2, 3), torch.ones(4, 4)).any()
    assert grown(torch.ones(2, 3), torch.ones(4, 3)).sum() == 6
    assert not grown(torch.ones(4, 3), torch.ones(2, 3)).any()


# Settings ----------------------------------------------------------------------------------------


def test_fedavg_is_the_default_and_every_optimizer_is_written_as_it_is_read():
    assert FederationSettings().server == FedAvg()
    assert dump(FedAvg()) == "fedavg"
    assert Strategy.servers == OPTIMIZERS.keys() - {"fedavg"}
    for name, kind in OPTIMIZERS.items():
        assert parse(ServerOptimizer, name, Where("x")) == kind()
        assert parse(ServerOptimizer, dump(kind()), Where("x")) == kind()
        json.dumps(dump(kind()))


def the_plan(folder: Path, *changes: str, strategy: Any = "finetune") -> Any:
    return plans(write_experiment(folder, strategy=strategy), "federation.clients=5", *changes)[0]


@pytest.mark.parametrize(
    ("server", "said"),
    [
        ("fedadm", 'federation.server: unknown server optimizer "fedadm"'),
        ("fedadm", 'Did you mean "fedadam"?'),
        ("[fedadam]", "federation.server: ['fedadam'] is not allowed; expected a server optimizer name"),
        ("{fedadam: {beta_1: 1.0}}", "federation.server.fedadam.beta_1: 1.0 is not allowed; it should be less than 1"),
        ("{fedadam: {tau: 0}}", "federation.server.fedadam.tau: 0 is not allowed; it should be greater than 0"),
        ("{fedavgm: {momentum: 0.9}}", "federation.server.fedavgm.momentum: unknown key (allowed: lasts, eta, beta)"),
        ("{fednova: {lasts: run}}", "federation.server.fednova.lasts: unknown key"),
        ("{scaffold: {lasts: runs}}", 'Did you mean "run"?'),
    ],
)
def test_a_setting_that_cannot_be_is_one_line(tmp_path, server, said):
    with pytest.raises(ConfigError, match=re.escape(said)) as error:
        the_plan(tmp_path, f"federation.server={server}")
    assert "\n" not in str(error.value)


OWN = """from dataclasses import dataclass

from fcil import Strategy, weighted_mean


@dataclass(frozen=True, kw_only=True)
class Own(Strategy):
"""
TRAINS = OWN + "    def local_train(self, client):\n        return super().local_train(client)\n"
AVERAGES = OWN + "    def aggregate(self, server, updates):\n        return super().aggregate(server, updates)\n"


@pytest.mark.parametrize(
    ("server", "changes", "said"),
    [
        ("fednova", ["strategy=fedprox"], '"fednova" does not fit strategy "fedprox" (fits: fedavg, fedadagrad, '),
        ("fedadam", ["strategy=analytic"], '"fedadam" does not fit strategy "analytic" (fits: fedavg)'),
        ("scaffold", ["strategy=fedcil"], '"scaffold" does not fit strategy "fedcil"'),
        ("fednova", ["optimizer={name: adam, lr: 0.001}"], "fednova: counts steps of SGD; optimizer.name is adam"),
        ("scaffold", ["optimizer.name=adamw"], "scaffold: counts steps of SGD; optimizer.name is adamw"),
        ("scaffold", ["optimizer.state=kept"], "optimizer.state: kept"),
        ("fednova", ["federation.aggregation=median"], "weighs updates itself, and so does federation.aggregation"),
        ("scaffold", ["federation.aggregation={krum: {malicious: 1}}"], "aggregation: krum"),
        ("fednova", ["federation.privacy={}"], "federation.privacy: its noise is made for a plain mean"),
        ("scaffold", ["federation.privacy={}"], "federation.privacy: its noise is made for a plain mean"),
        ("scaffold", ["federation.mods=[{fixed_clipping: {norm: 1}}]"], "the mod fixed_clipping is made for nets"),
        ("scaffold", ["federation.attack={sign_flip: {share: 0.2}}"], "the attack sign_flip changes nets"),
        ("scaffold", ["optimizer.max_norm=1"], "which optimizer.max_norm would shorten"),
        ("scaffold", ["federation.clients_per_call=2"], "federation.clients_per_call above 1"),
    ],
)
def test_what_does_not_go_together_is_one_line_before_the_run(tmp_path, server, changes, said):
    with pytest.raises(ConfigError, match=re.escape(said)) as error:
        check_server(the_plan(tmp_path, f"federation.server={server}", *changes))
    assert "\n" not in str(error.value)
    assert str(error.value).startswith("federation.server")


@pytest.mark.parametrize(
    ("server", "changes"),
    [
        ("fedadam", ["strategy=fedprox"]),
        ("scaffold", ["strategy=fedprox"]),
        ("fedadam", ["optimizer={name: adam, lr: 0.001}"]),
        ("fedavgm", ["federation.aggregation=median"]),
        ("fedyogi", ["federation.privacy={}"]),
        ("fednova", ["optimizer={state: kept, momentum: 0}"]),
        ("fednova", ["federation.mods=[{fixed_clipping: {norm: 1}}]"]),
        ("fednova", ["federation.attack={sign_flip: {share: 0.2}}"]),
        ("fednova", ["optimizer.max_norm=1"]),
        ("fednova", ["federation.clients_per_call=2"]),
        ("scaffold", ["federation.mods=[arrays_size]"]),
        ("scaffold", ["federation.attack={label_flip: {share: 0.2}}"]),
        ("fedavg", ["strategy=analytic", "federation.privacy={}"]),
    ],
)
def test_what_goes_together_is_let_through(tmp_path, server, changes):
    check_server(the_plan(tmp_path, f"federation.server={server}", *changes))


@pytest.mark.parametrize(
    ("source", "fits"), [(TRAINS, {"fedavgm", "fedadagrad", "fedadam", "fedyogi"}), (AVERAGES, set()), (OWN, ALL)]
)
def test_a_strategy_with_methods_of_its_own_says_what_fits_them(tmp_path, source, fits):
    for says in (False, True):
        text = source + ("    servers = Strategy.servers\n" if says else "    pass\n" if source == OWN else "")
        path = write_strategy(tmp_path, text, "own")
        kind = type(the_plan(tmp_path, strategy=str(path)).strategy.strategy)
        assert {name for name in ALL if kind.fits_server(name)} == (set(ALL) if says else set(fits))


# Whole runs --------------------------------------------------------------------------------------

MANY = {
    "fedavgm": "fedavgm",
    "fedadagrad": "fedadagrad",
    "fedadam": "{fedadam: {eta: 0.01}}",
    "fedyogi": "{fedyogi: {lasts: task}}",
    "fednova": "fednova",
    "scaffold": "scaffold",
    "scaffold of a task": "{scaffold: {lasts: task}}",
}


@pytest.mark.parametrize("server", MANY.values(), ids=MANY)
def test_a_run_that_was_stopped_goes_on_equal_to_the_bit(tmp_path, server):
    change = f"federation.server={server}"
    (tmp_path / "whole").mkdir()
    (whole,) = play(write_experiment(tmp_path / "whole"), change, out=tmp_path / "whole")
    with pytest.raises(Stop):
        play(write_experiment(tmp_path), change, out=tmp_path, observer=StopAfter(4))
    (resumed,) = play(write_experiment(tmp_path), change, out=tmp_path)
    assert same(checkpoint(resumed)[0], checkpoint(whole)[0])
    assert without_seconds(resumed) == without_seconds(whole)
    assert all(torch.isfinite(t).all() for t in final_weights(whole).values())
    assert all(t.dtype != torch.float64 for t in final_weights(whole).values())
    state = [name for name in checkpoint(whole)[0] if name.startswith(("moments/", f"shared/{CONTROL}", "clients/"))]
    assert bool(state) == (server != "fednova")


def test_each_optimizer_makes_another_net_and_another_folder(tmp_path):
    nets = {}
    for name in ("fedavg", *ALL):
        (run,) = play(write_experiment(tmp_path), f"federation.server={name}", "federation.stop_after=1", out=tmp_path)
        nets[run.path] = final_weights(run)["classifier.weight"]
    assert len(nets) == 7
    found = list(nets.values())
    assert all(not torch.equal(a, b) for k, a in enumerate(found) for b in found[:k])


def test_control_variates_are_counted_both_ways(tmp_path):
    few = ["federation.stop_after=1", "federation.rounds=3"]
    (plain,) = play(write_experiment(tmp_path), *few, out=tmp_path)
    (run,) = play(write_experiment(tmp_path), *few, "federation.server=scaffold", out=tmp_path)
    variate = num_bytes({n: t for n, t in checkpoint(run)[0].items() if n.startswith(f"shared/{CONTROL}")})
    assert variate > 0
    up, down = (
        [a[k] - b[k] for a, b in zip(run.rounds, plain.rounds, strict=True)] for k in ("bytes_up", "bytes_down")
    )
    assert up == [2 * variate] * 3
    assert down == [0, 2 * variate, 2 * variate]  # zeros are not sent


def test_fednova_makes_of_unequal_clients_what_fedavg_does_not(tmp_path):
    unequal = ["data.partition={dirichlet: 0.3}", "federation.max_batches=null", "federation.stop_after=1"]
    for changes, equal in ((unequal, False), (["federation.stop_after=1"], True)):
        nets = [
            final_weights(play(write_experiment(tmp_path), *changes, f"federation.server={name}", out=tmp_path)[0])
            for name in ("fedavg", "fednova")
        ]
        close = all(torch.allclose(nets[0][n], nets[1][n], atol=1e-4) for n in nets[0] if "batches" not in n)
        assert close == equal


@pytest.mark.ray
def test_on_ray_control_variates_are_those_of_one_process(tmp_path):
    few = ["federation.server=scaffold", "federation.stop_after=1", "resources.workers=2"]
    runs = []
    for backend in ("inprocess", "ray"):
        (tmp_path / backend).mkdir()
        path = write_experiment(tmp_path / backend)
        runs += play(path, *few, f"federation.backend={backend}", out=tmp_path / backend)
    assert same(checkpoint(runs[0])[0], checkpoint(runs[1])[0])
    assert without_seconds(runs[0]) == without_seconds(runs[1])
