"""Every loss against the reference code's value and gradient, in double precision."""

from __future__ import annotations

import math

import pytest
import torch
from golden_vectors import assert_matches, load_case
from torch import Tensor, nn

from fcil.losses import (
    bounding,
    cross_entropy_with,
    kl_divergence,
    masked_adversarial,
    moments,
    new_class_cross_entropy,
    record_statistics,
    soft_cross_entropy,
    statistics_distance,
    supervised_contrastive,
    update_averages,
)


def gradient(loss: Tensor, x: Tensor) -> Tensor:
    (got,) = torch.autograd.grad(loss, x, retain_graph=True)
    return got


@pytest.mark.parametrize("situation", ["active", "mixed", "inactive"])
@pytest.mark.parametrize(("hinge", "golden"), [("batch", "batch_hinge"), ("sample", "per_sample_mean")])
def test_bounding_matches_the_reference(situation, hinge, golden):
    case = load_case("01_lander_bounding_loss")
    g = case.tensors[f"inputs.{situation}.g"].requires_grad_()
    anchors = case.tensors["inputs.anchors"][case.tensors[f"inputs.{situation}.labels"]]
    loss = bounding(g, anchors, case.parameters["radius"], hinge)
    assert_matches(loss, case.tensors[f"expected.{situation}.{golden}"], case.tolerance)
    expected = case.tensors[f"expected.grad.{situation}.{golden}.{situation}.g"]
    assert_matches(gradient(loss, g), expected, case.tolerance)


def test_anchors_get_no_gradient():
    anchors = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    embedding = torch.zeros(4, 3, requires_grad=True)
    bounding(embedding, anchors, 0.0, "sample").backward()
    assert anchors.grad is None
    assert embedding.grad.abs().sum() > 0


@pytest.mark.parametrize("temperature", [1, 2, 4])
def test_soft_cross_entropy_matches_the_reference(temperature):
    case = load_case("02_lander_client_kd")
    student = case.tensors["inputs.student_logits"].requires_grad_()
    loss = soft_cross_entropy(student, case.tensors["inputs.teacher_logits"], temperature)
    assert_matches(loss, case.tensors[f"expected.loss_tau{temperature}"], case.tolerance)
    expected = case.tensors[f"expected.grad.loss_tau{temperature}.student_logits"]
    assert_matches(gradient(loss, student), expected, case.tolerance)


def test_masked_adversarial_matches_the_reference_and_differentiates_both_nets():
    case = load_case("04_lander_masked_adversarial")
    student = case.tensors["inputs.student_logits"].requires_grad_()
    teacher = case.tensors["inputs.teacher_logits"].requires_grad_()
    loss = masked_adversarial(student, teacher)
    assert_matches(loss, case.tensors["expected.loss"], case.tolerance)
    for name, logits in (("student_logits", student), ("teacher_logits", teacher)):
        assert_matches(gradient(loss, logits), case.tensors[f"expected.grad.loss.{name}"], case.tolerance, name)


@pytest.mark.parametrize("target", ["onehot", "soft"])
def test_cross_entropy_with_a_distribution_matches_the_reference(target):
    case = load_case("05_lander_soft_cross_entropy")
    logits = case.tensors["inputs.logits"].requires_grad_()
    loss = cross_entropy_with(logits, case.tensors[f"inputs.{target}"])
    assert_matches(loss, case.tensors[f"expected.loss_{target}"], case.tolerance)
    assert_matches(gradient(loss, logits), case.tensors[f"expected.grad.loss_{target}.logits"], case.tolerance)


@pytest.mark.parametrize("temperature", [1, 4, 20])
def test_kl_divergence_matches_the_reference(temperature):
    case = load_case("06_lander_kldiv")
    student = case.tensors["inputs.student_logits"].requires_grad_()
    loss = kl_divergence(student, case.tensors["inputs.teacher_logits"], temperature)
    assert_matches(loss, case.tensors[f"expected.loss_T{temperature}"], case.tolerance)
    expected = case.tensors[f"expected.grad.loss_T{temperature}.student_logits"]
    assert_matches(gradient(loss, student), expected, case.tolerance)


def test_the_two_distillations_differ_by_the_squared_temperature():
    rng = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 5, 4, generator=rng, dtype=torch.double)
    student.requires_grad_()
    hard = gradient(kl_divergence(student, teacher, 3.0), student)
    torch.testing.assert_close(hard, 9 * gradient(soft_cross_entropy(student, teacher, 3.0), student))


def test_new_class_cross_entropy_leaves_old_logits_alone():
    logits = torch.tensor([[9.0, 1.0, 2.0], [7.0, 3.0, 3.0]], requires_grad=True)
    loss = new_class_cross_entropy(logits, torch.tensor([1, 2]), num_old=1)
    expected = (torch.tensor(1 + torch.e).log() + torch.tensor(2.0).log()) / 2
    torch.testing.assert_close(loss, expected)
    grad = gradient(loss, logits)
    assert torch.equal(grad[:, 0], torch.zeros(2))
    assert (grad[:, 1:] != 0).all()


# BatchNorm matching ------------------------------------------------------------------------------


def golden_net() -> nn.Sequential:
    case = load_case("07_lander_bn_statistics")
    net = nn.Sequential()
    net.add_module("conv1", nn.Conv2d(3, 5, 3, padding=1))
    net.add_module("bn1", nn.BatchNorm2d(5))
    net.add_module("relu", nn.ReLU())
    net.add_module("conv2", nn.Conv2d(5, 7, 3, padding=1))
    net.add_module("bn2", nn.BatchNorm2d(7))
    net.double().load_state_dict(case.under("params"))
    return net.eval()


def test_batchnorm_matching_follows_the_reference_over_three_rounds():
    case, net, averages = load_case("07_lander_bn_statistics"), golden_net(), None
    for number in (1, 2, 3):
        x = case.tensors[f"inputs.round{number}.x"].requires_grad_()
        with record_statistics(net) as stats:
            net(x)
        loss = statistics_distance(net, stats, averages, case.parameters["momentum"])
        expected = case.under(f"expected.round{number}")
        assert_matches(loss, expected["loss"], case.tolerance)
        assert_matches(gradient(loss, x), expected["grad.x"], case.tolerance)
        for layer in (1, 2):
            one = {name: value for name, value in stats.items() if name.startswith(f"bn{layer}.")}
            got = statistics_distance(net, one, averages, case.parameters["momentum"])
            assert_matches(got, expected[f"layer{layer}"], case.tolerance)
        averages = update_averages(averages, stats, case.parameters["momentum"])
        for layer in (1, 2):
            assert_matches(averages[f"bn{layer}.running_mean"], expected[f"ema_mean.layer{layer}"], case.tolerance)
            assert_matches(averages[f"bn{layer}.running_var"], expected[f"ema_var.layer{layer}"], case.tolerance)
        assert not any(value.requires_grad for value in averages.values())


def test_statistics_are_taken_only_inside_the_block_and_of_the_latest_forward():
    net, rng = golden_net(), torch.Generator().manual_seed(0)
    first, second = torch.rand(2, 4, 3, 8, 8, generator=rng, dtype=torch.double)
    with record_statistics(net) as stats:
        net(first)
        net(second)
    seen = {name: value.clone() for name, value in stats.items()}
    net(first)
    assert seen.keys() == {"bn1.running_mean", "bn1.running_var", "bn2.running_mean", "bn2.running_var"}
    assert all(torch.equal(stats[name], seen[name]) for name in seen)
    torch.testing.assert_close(seen["bn1.running_mean"], net.conv1(second).mean(dim=(0, 2, 3)))
    assert not any(module._forward_pre_hooks for module in net.modules())


def test_hooks_are_removed_when_the_block_fails():
    net = golden_net()
    with pytest.raises(RuntimeError), record_statistics(net):
        net(torch.zeros(1, 9, 8, 8, dtype=torch.double))
    assert not any(module._forward_pre_hooks for module in net.modules())


def test_flat_features_and_half_precision_have_statistics_too():
    layer, x = nn.BatchNorm1d(3), torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    with record_statistics(layer) as stats:
        layer.eval()(x)
    torch.testing.assert_close(stats["running_var"], x.var(dim=0, correction=0))
    with record_statistics(layer) as stats:
        layer.bfloat16()(x.bfloat16())
    assert stats["running_mean"].dtype == torch.float32


@pytest.mark.parametrize("shape", [(6, 4), (6, 4, 7), (3, 4, 5, 5)])
def test_moments_are_pytorchs_with_their_gradients_once_twice_and_vectorised(shape):
    x = 3 + torch.randn(2, *shape, generator=torch.Generator().manual_seed(0)).double()

    def reference(x: Tensor) -> tuple[Tensor, Tensor]:
        var, mean = torch.var_mean(x, dim=[0, *range(2, x.dim())], correction=0)
        return mean, var

    def found(of) -> list[Tensor]:
        def loss(x: Tensor) -> Tensor:
            mean, var = of(x)
            return (mean.exp() * var.sqrt()).sum()

        one = x[0].clone().requires_grad_()
        (first,) = torch.autograd.grad(loss(one), one, create_graph=True)
        (second,) = torch.autograd.grad(first.pow(3).sum(), one)
        return [*of(one), first, second, torch.func.vmap(torch.func.grad(loss))(x)]

    torch.testing.assert_close(found(moments), found(reference))


def test_moments_of_many_values_are_precise():
    x = 2 + torch.randn(128, 2, 112, 112, generator=torch.Generator().manual_seed(0))
    mean, var = moments(x)
    wide = x.double()
    torch.testing.assert_close(mean, wide.mean(dim=(0, 2, 3)).float(), rtol=1e-6, atol=0)
    torch.testing.assert_close(var, wide.var(dim=(0, 2, 3), correction=0).float(), rtol=1e-6, atol=0)


def test_a_net_without_batchnorm_is_an_error_not_a_zero():
    net = nn.Linear(2, 2)
    with record_statistics(net) as stats:
        net(torch.zeros(1, 2))
    with pytest.raises(ValueError, match="no BatchNorm"):
        statistics_distance(net, stats)


def test_the_supervised_contrast_is_the_mean_over_samples_that_have_another_of_their_class():
    f, labels = torch.randn(5, 3, generator=torch.Generator().manual_seed(1)).double(), torch.tensor([0, 1, 0, 0, 2])
    z, terms = f / f.norm(dim=1, keepdim=True), []
    for i in (0, 2, 3):
        others = [a for a in range(5) if a != i]
        below = sum(math.exp(z[i] @ z[a] / 0.5) for a in others)
        terms.append(-sum(math.log(math.exp(z[i] @ z[p] / 0.5) / below) for p in {0, 2, 3} - {i}) / 2)
    assert supervised_contrastive(f, labels, 0.5).item() == pytest.approx(sum(terms) / 3, rel=1e-9)


@pytest.mark.parametrize("count", [1, 3])
def test_a_contrast_without_pairs_is_zero_and_has_no_gradient(count):
    f = torch.randn(count, 3, requires_grad=True)
    loss = supervised_contrastive(f, torch.arange(count), 0.1)
    loss.backward()
    assert loss == 0
    assert not f.grad.any()
