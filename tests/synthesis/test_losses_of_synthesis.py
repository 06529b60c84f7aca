"""The terms of synthesis against numbers worked out by hand, and their gradients."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from golden_vectors import assert_matches, load_case
from tiny_net import normal, tiny_net
from torch import Tensor, nn

from fcil.losses import head_cross_entropy, record_statistics
from fcil.synthesis.common.losses import balance, batchnorm_divergence, confidence, gaussian, smoothness


@pytest.fixture(autouse=True)
def _double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def gradient(term: Tensor, x: Tensor) -> Tensor:
    (got,) = torch.autograd.grad(term, x)
    return got


# Batch-norm divergence -------------------------------------------------------------------------


def layer(mean: list[float], var: list[float]) -> nn.BatchNorm1d:
    made = nn.BatchNorm1d(len(mean)).eval()
    made.running_mean.copy_(torch.tensor(mean))
    made.running_var.copy_(torch.tensor(var))
    return made


def divergence(net: nn.Module, x: Tensor) -> Tensor:
    with record_statistics(net) as stats:
        net(x)
    return batchnorm_divergence(net, stats)


def test_the_divergence_is_a_kl_of_gaussians_averaged_over_channels_and_layers():
    net = nn.Sequential(layer([0.0, 1.0], [1.0, 4.0]), layer([0.5, 0.5], [2.0, 1.0]))
    x = normal(6, 2).double()
    with record_statistics(net) as stats:
        net(x)
    expected = []
    for number in (0, 1):
        m, v = stats[f"{number}.running_mean"], stats[f"{number}.running_var"]
        mine = torch.distributions.Normal(net[number].running_mean, net[number].running_var.sqrt())
        theirs = torch.distributions.Normal(m, v.sqrt())
        expected.append(torch.distributions.kl_divergence(mine, theirs).mean())
    assert torch.allclose(batchnorm_divergence(net, stats), torch.stack(expected).mean(), atol=1e-7)


def test_the_divergence_is_zero_where_a_batch_is_as_remembered_and_pulls_it_there():
    net, x = layer([1.0], [4.0]), torch.tensor([[-1.0], [3.0]])  # mean 1, variance 4
    assert abs(divergence(net, x).item()) < 1e-12
    high = (x + 1).requires_grad_()  # mean 2: 1/2 (1)^2 / 4
    term = divergence(net, high)
    assert term.item() == pytest.approx(1 / 8)
    assert torch.allclose(gradient(term, high)[:, 0].sum(), torch.tensor(1 / 4))  # towards a lower mean
    wide = torch.tensor([[-3.0], [5.0]], requires_grad=True)  # variance 16
    term = divergence(net, wide)
    assert term.item() == pytest.approx(math.log(16 / 4) / 2 - (1 - 4 / 16) / 2)
    assert (gradient(term, wide)[:, 0] * torch.tensor([-1.0, 1.0]) > 0).all()  # towards a narrower batch


def test_a_batch_without_spread_is_far_and_not_infinite():
    term = divergence(layer([0.0], [1.0]), torch.ones(3, 1))
    assert term.isfinite()
    assert term > 1e6


def test_a_divergence_without_statistics_is_refused():
    with pytest.raises(ValueError, match="no BatchNorm statistics"):
        batchnorm_divergence(nn.Linear(2, 2), {})


# Answers ---------------------------------------------------------------------------------------


def test_confidence_is_cross_entropy_with_the_largest_logit():
    logits = torch.tensor([[0.0, math.log(3)], [math.log(7), 0.0]], requires_grad=True)
    term = confidence(logits)
    assert term.item() == pytest.approx((math.log(4 / 3) + math.log(8 / 7)) / 2)
    expected = torch.tensor([[0.25, -0.25], [-0.125, 0.125]]) / 2
    assert torch.allclose(gradient(term, logits), expected)


def test_a_high_temperature_leaves_confidence_without_a_say():
    logits = (10 * normal(4, 6).double()).requires_grad_()
    term = confidence(logits, 1000.0)
    assert term.item() == pytest.approx(math.log(6), abs=0.03)
    assert gradient(term, logits).abs().max() < 1e-3
    assert torch.equal(confidence(logits, 2.0), confidence(logits / 2))


def test_balance_is_zero_for_all_classes_alike_and_one_for_a_single_class():
    sure = 40 * torch.eye(4)
    assert balance(sure).item() == pytest.approx(0, abs=1e-9)
    assert balance(sure[[1, 1, 1]]).item() == pytest.approx(1, abs=1e-9)
    assert balance(sure[[0, 1]]).item() == pytest.approx(1 - math.log(2) / math.log(4), abs=1e-9)
    assert balance(torch.zeros(3, 4)).item() == pytest.approx(0, abs=1e-12)


def test_balance_has_the_gradient_of_its_formula():
    logits = normal(5, 3).double().requires_grad_()
    q = logits.softmax(dim=1).mean(dim=0)
    by_hand = 1 + (q * q.log()).sum() / math.log(3)
    term = balance(logits)
    assert torch.allclose(term, by_hand)
    assert torch.allclose(gradient(term, logits), gradient(by_hand, logits))


def test_balance_of_a_class_that_is_never_seen_stays_finite():
    logits = torch.tensor([[0.0, -5000.0], [0.0, -4000.0]], requires_grad=True)
    term = balance(logits)
    assert term.item() == pytest.approx(1)
    assert gradient(term, logits).isfinite().all()


def test_one_class_needs_no_balance():
    logits = torch.ones(3, 1, requires_grad=True)
    term = balance(logits)
    assert term.item() == 0
    assert not gradient(term, logits).any()


# Images ----------------------------------------------------------------------------------------


def test_a_blur_is_a_gaussian_whose_sum_is_one():
    blur = gaussian(1.0)
    assert blur.shape == (5, 5)
    assert blur.sum().item() == pytest.approx(1)
    assert (blur[2, 3] / blur[2, 2]).item() == pytest.approx(math.exp(-1 / 2))
    assert (blur[0, 1] / blur[2, 2]).item() == pytest.approx(math.exp(-5 / 2))
    assert gaussian(1.0, 3).shape == (3, 3)


def test_the_references_blur_is_the_root_of_two_wide():
    case = load_case("52_mfcl_generator")
    assert_matches(gaussian(math.sqrt(2)), case.tensors["expected.blur_kernel"], case.tolerance)


def test_smoothness_is_what_a_blur_takes_away():
    x = torch.zeros(1, 2, 7, 7)
    x[0, 1, 3, 3] = 1.0
    blur = gaussian(1.0)
    left = -blur
    left[2, 2] += 1
    x.requires_grad_()
    term = smoothness(x, blur)
    assert term.item() == pytest.approx((left.square().sum() / x.numel()).item())
    got = gradient(term, x)
    assert got[0, 1, 3, 3] > 0  # less of the dot, more around it
    assert got[0, 1, 3, 4] < 0
    assert not got[0, 0].any()
    by_hand = x.detach().clone()
    by_hand[0, 1, 3, 3] += 1e-6
    slope = (smoothness(by_hand, blur) - term).item() / 1e-6
    assert got[0, 1, 3, 3].item() == pytest.approx(slope, rel=1e-4)


def test_an_even_image_is_smooth_up_to_its_border():
    assert smoothness(torch.full((2, 1, 4, 6), 3.0), gaussian(2.0)).item() == pytest.approx(0, abs=1e-20)


# A head apart from its features ----------------------------------------------------------------


def test_the_cross_entropy_of_the_head_moves_the_head_alone():
    net, x = tiny_net(3).double(), normal(4, 3, 8, 8).double()
    labels = torch.tensor([0, 1, 2, 2])
    out = net(x)
    term = head_cross_entropy(net.classifier, out.features, labels)
    p = out.logits.softmax(dim=1)
    assert torch.allclose(term, -p[range(4), labels].log().mean())
    weight, bias, conv = net.classifier.weight, net.classifier.bias, net.backbone.conv.weight
    got = torch.autograd.grad(term, [weight, bias, conv], allow_unused=True)
    off = (p - torch.eye(3)[labels]) / 4  # (B, C)
    assert torch.allclose(got[0], off.T @ out.features)
    assert torch.allclose(got[1], off.sum(dim=0))
    assert got[2] is None
