"""The learning rate over rounds against the reference code, and the clients' optimizers."""

from __future__ import annotations

import pytest
import torch
from golden_vectors import assert_matches, load_case

from fcil.config import Where, dump, parse
from fcil.errors import ConfigError
from fcil.optimizer import (
    SGD,
    Adam,
    AdamW,
    OptimizerSettings,
    RAdam,
    build_optimizer,
    learning_rate,
    restore_state,
    state_of,
)

NAMES = ("sgd", "adam", "adamw", "radam")


def curve(settings: OptimizerSettings, rounds: int) -> torch.Tensor:
    return torch.tensor([learning_rate(settings, r, rounds) for r in range(1, rounds + 1)], dtype=torch.double)


@pytest.mark.parametrize("rounds", [10, 100])
def test_cosine_matches_the_reference(rounds):
    case = load_case("15_lander_lr_schedule")
    expected = case.tensors[f"expected.cosine.rounds{rounds}"]
    assert_matches(curve(OptimizerSettings(), rounds), expected, case.tolerance)


@pytest.mark.parametrize("rounds", [10, 100])
def test_whole_milestones_match_the_reference(rounds):
    case = load_case("15_lander_lr_schedule")
    settings = OptimizerSettings(schedule="step", milestones=tuple(case.parameters["milestones"]))
    assert_matches(curve(settings, rounds), case.tensors[f"expected.step.rounds{rounds}"], case.tolerance)


def test_fractional_milestones_match_the_reference_over_its_hundred_rounds():
    case = load_case("15_lander_lr_schedule")
    settings = OptimizerSettings(schedule="step")
    assert_matches(curve(settings, 100), case.tensors["expected.step.rounds100"], case.tolerance)


def test_an_exponential_rate_falls_by_its_factor_after_each_round():
    rates = curve(OptimizerSettings(schedule="exponential", lr=0.5, gamma=0.9), 4)
    assert rates.tolist() == pytest.approx([0.5, 0.45, 0.405, 0.3645])


def test_fractional_milestones_scale_with_the_rounds():
    rates = curve(OptimizerSettings(schedule="step", lr=1.0, milestones=(0.1, 1.0)), 30)
    assert rates.tolist() == [1.0] * 3 + [0.1] * 27


def test_a_constant_rate_stays():
    assert set(curve(OptimizerSettings(schedule="constant", lr=0.01), 7).tolist()) == {0.01}


def parsed(**raw: object) -> OptimizerSettings:
    return parse(OptimizerSettings, raw, Where("e.yaml", "optimizer"))


def test_milestones_keep_their_kind_through_yaml():
    settings = parsed(schedule="step", milestones=[0.5, 75, 1.0])
    assert settings.milestones == (0.5, 75, 1.0)
    assert [type(m) for m in settings.milestones] == [float, int, float]
    assert parse(OptimizerSettings, dump(settings), Where("e.yaml")) == settings


@pytest.mark.parametrize(
    "raw",
    [
        {"name": "sdg"},
        {"lr": 0},
        {"momentum": 1.0},
        {"weight_decay": -1e-4},
        {"milestones": [1.5]},
        {"milestones": [0]},
        {"schedule": "cosin"},
        {"gamma": 2},
    ],
)
def test_values_out_of_range_are_refused(raw):
    with pytest.raises(ConfigError, match=f"e.yaml: optimizer.{next(iter(raw))}"):
        parsed(**raw)


def test_a_cosine_that_would_rise_is_refused():
    with pytest.raises(ConfigError, match=r"e.yaml: optimizer.min_lr: 0.001 is above lr 0.0001"):
        parsed(lr=1e-4)
    assert parsed(lr=1e-4, schedule="constant").lr == 1e-4


def test_sgd_takes_the_steps_of_its_equation():
    p = torch.nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.double))
    settings = OptimizerSettings(momentum=0.5, weight_decay=0.1)
    optimizer = build_optimizer(settings, iter([p]), lr=0.2)
    value, velocity = p.detach().clone(), torch.zeros(2, dtype=torch.double)
    for gradient in (torch.tensor([0.3, 0.4]).double(), torch.tensor([-0.1, 0.2]).double()):
        p.grad = gradient
        optimizer.step()
        velocity = 0.5 * velocity + gradient + 0.1 * value
        value = value - 0.2 * velocity
    torch.testing.assert_close(p.detach(), value, rtol=1e-14, atol=0)


@pytest.mark.parametrize(("name", "kind"), [("sgd", "SGD"), ("adam", "Adam"), ("adamw", "AdamW"), ("radam", "RAdam")])
def test_an_optimizer_starts_without_memory_at_the_rate_of_the_round(name, kind):
    parameters = [torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(3), requires_grad=False)]
    optimizer = build_optimizer(OptimizerSettings(name=name), parameters, lr=0.03)
    assert type(optimizer).__name__ == kind
    assert not optimizer.state
    (group,) = optimizer.param_groups
    assert (group["lr"], group["weight_decay"], len(group["params"])) == (0.03, 5e-4, 1)


@pytest.mark.parametrize("name", NAMES)
def test_steps_are_equal_to_the_bit_for_any_number_of_threads(name):
    def run(threads: int) -> torch.Tensor:
        torch.set_num_threads(threads)
        rng = torch.Generator().manual_seed(0)
        p = torch.nn.Parameter(torch.randn(70_001, generator=rng))
        optimizer = build_optimizer(OptimizerSettings(name=name), [p], lr=0.01)
        for _ in range(3):
            p.grad = torch.randn(70_001, generator=rng)
            optimizer.step()
        return p.detach()

    threads = torch.get_num_threads()
    try:
        assert torch.equal(run(1), run(2))
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("ours", "theirs", "options"),
    [
        (SGD, torch.optim.SGD, {"momentum": 0.9, "weight_decay": 1e-3, "fused": True}),
        (SGD, torch.optim.SGD, {}),
        (Adam, torch.optim.Adam, {"betas": (0.5, 0.999), "fused": True}),
        (Adam, torch.optim.Adam, {"weight_decay": 1e-3}),
        (AdamW, torch.optim.AdamW, {"fused": True}),
        (RAdam, torch.optim.RAdam, {"weight_decay": 1e-3, "foreach": False}),
    ],
)
def test_without_the_compiler_a_step_is_torchs_to_the_bit(ours, theirs, options):
    nets = [torch.nn.Linear(5, 3) for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    optimizers = [kind(net.parameters(), lr=0.1, **options) for kind, net in zip((ours, theirs), nets, strict=True)]
    assert isinstance(optimizers[0], theirs)
    x, seen = torch.randn(4, 5), []
    optimizers[0].register_step_post_hook(lambda *_: seen.append(1))
    for _ in range(4):
        for net, optimizer in zip(nets, optimizers, strict=True):
            optimizer.zero_grad()
            net(x).square().sum().backward()
            optimizer.step()
    state, other = (flatten(optimizer.state_dict()) for optimizer in optimizers)
    assert all(torch.equal(a, b) for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True))
    assert state == other
    assert len(seen) == 4
    again = ours([torch.nn.Parameter(p.detach().clone()) for p in nets[0].parameters()], lr=1.0, **options)
    again.load_state_dict(optimizers[0].state_dict())
    assert flatten(again.state_dict()) == state


@pytest.mark.parametrize("name", NAMES)
def test_an_optimizer_goes_on_to_the_bit_where_another_stopped(name):
    settings, rng = OptimizerSettings(name=name), torch.Generator().manual_seed(0)
    gradients = [torch.randn(2, 4, generator=rng) for _ in range(14)]  # RAdam's rectification begins in between

    def steps(p, optimizer, some):
        for gradient in some:
            p.grad = gradient.clone()
            optimizer.step()

    whole, parted = (torch.nn.Parameter(torch.ones(2, 4)) for _ in range(2))
    optimizer = build_optimizer(settings, [whole], lr=0.01)
    steps(whole, optimizer, gradients)
    state = {}
    for first in range(0, 14, 2):
        optimizer = build_optimizer(settings, [parted], lr=0.01)
        restore_state(optimizer, ["w"], state)
        before = {key: t.clone() for key, t in state.get("w", {}).items()}
        steps(parted, optimizer, gradients[first : first + 2])
        assert all(torch.equal(before[key], t) for key, t in state.get("w", {}).items())  # it took a copy
        state = state_of(optimizer, ["w"])
    assert torch.equal(whole, parted)


@pytest.mark.parametrize("name", NAMES)
def test_a_tensor_that_has_grown_begins_anew_and_the_others_go_on(name):
    settings = OptimizerSettings(name=name)
    small, grown, other = (torch.nn.Parameter(torch.ones(*size)) for size in ((2, 3), (4, 3), (5,)))
    alone = torch.nn.Parameter(torch.ones(4, 3))
    optimizer = build_optimizer(settings, [small, other], lr=0.1)
    small.grad, other.grad = torch.ones(2, 3), torch.ones(5)
    optimizer.step()
    after, fresh = (build_optimizer(settings, some, lr=0.1) for some in ([grown, other], [alone]))
    restore_state(after, ["head", "trunk"], state_of(optimizer, ["head", "trunk"]))
    twin = torch.nn.Parameter(other.detach().clone())
    optimizer.param_groups[0]["params"][1], optimizer.state[twin] = twin, optimizer.state.pop(other)
    for _ in range(2):
        for p in (grown, alone, other, small, twin):
            p.grad = torch.full_like(p, 0.5)
        for one in (after, fresh, optimizer):
            one.step()
    assert torch.equal(grown, alone)
    assert torch.equal(other, twin)


def test_without_momentum_there_is_nothing_to_keep():
    p = torch.nn.Parameter(torch.ones(2))
    optimizer = build_optimizer(OptimizerSettings(momentum=0), [p], lr=0.1)
    p.grad = torch.ones(2)
    optimizer.step()
    assert state_of(optimizer, ["w"]) == {}
    restore_state(optimizer, ["w"], {})


def flatten(state):
    """The values of an optimizer's state, tensors as lists."""
    moments = {
        f"{k}/{n}": v.tolist() if isinstance(v, torch.Tensor) else v
        for k, s in state["state"].items()
        for n, v in s.items()
    }
    return moments | {f"group/{k}": v for group in state["param_groups"] for k, v in group.items()}


@pytest.mark.parametrize("name", NAMES)
def test_a_gradient_beyond_the_largest_norm_is_scaled_to_it_and_a_shorter_one_is_left(name):
    """Two parameters count together: 3 and 4 have the norm 5."""
    for most, factor in ((1.0, 0.2), (5.0, 1.0), (8.0, 1.0), (None, 1.0)):
        bounded, plain = ([torch.nn.Parameter(torch.ones(1)) for _ in range(2)] for _ in range(2))
        settings = OptimizerSettings(name=name, weight_decay=0.0, max_norm=most)
        optimizers = [
            build_optimizer(settings, bounded, lr=0.1),
            build_optimizer(OptimizerSettings(name=name, weight_decay=0.0), plain, lr=0.1),
        ]
        for p, q, gradient in zip(bounded, plain, (3.0, -4.0), strict=True):
            p.grad, q.grad = torch.tensor([gradient]), torch.tensor([factor * gradient])
        for optimizer in optimizers:
            optimizer.step()
        for p, q in zip(bounded, plain, strict=True):
            assert p.grad.item() == pytest.approx(q.grad.item(), rel=1e-5)
            assert p.item() == pytest.approx(q.item(), rel=1e-6)


def test_a_parameter_without_a_gradient_does_not_count_and_stays():
    reached, other = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    optimizer = build_optimizer(OptimizerSettings(weight_decay=0.0, max_norm=1.0), [reached, other], lr=0.5)
    reached.grad = torch.tensor([6.0, 8.0])
    optimizer.step()
    assert reached.tolist() == pytest.approx([0.7, 0.6])
    assert other.tolist() == [1, 1]


def test_a_largest_norm_of_zero_is_refused():
    with pytest.raises(ConfigError, match=r"max_norm: 0 is not allowed"):
        parse(OptimizerSettings, {"max_norm": 0}, Where("e.yaml"))
