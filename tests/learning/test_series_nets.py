"""Nets of series: sizes, and padding that changes nothing, in training and in evaluation."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fcil import rng
from fcil.errors import ConfigError
from fcil.losses import record_statistics, statistics_distance
from fcil.nets import BACKBONES, Net, NetSettings, build_net, check_batch, normalises_one, num_parameters
from fcil.nets.backbone import Norm
from fcil.nets.norms import has_variance, population_statistics
from fcil.nets.series import BatchNorm1d, Conv1d, ShapeFormer, layers, long_kernels
from fcil.nets.series.layers import Dropping, GroupNorm1d
from fcil.shapelets import Discovery, discover
from fcil.synthesis.common.student import untrained_copy

SERIES = [name for name, recipe in BACKBONES.items() if recipe.inputs == "series"]
NORMS: tuple[Norm, ...] = ("batch", "group", "none")
SHAPE = (3, 24)
NAN = float("nan")


def net_of_series(name: str, norm: Norm = "batch") -> Net:
    settings = NetSettings(name=name, norm=norm, width=8)
    net = build_net(settings, shape=SHAPE, num_classes=4, text_width=5, key=("series", name))
    with torch.no_grad():
        for number, layer in enumerate(m for m in net.modules() if isinstance(m, nn.BatchNorm1d | nn.GroupNorm)):
            layer.bias.fill_(0.1 * number + 0.3)  # so that a padded step is no zero after it
    for layer in (m for m in net.modules() if isinstance(m, Dropping)):
        layer.share = 0.0  # its draws depend on the size of a batch
    if isinstance(net.backbone, ShapeFormer):
        y = torch.tensor([0, 1, 0, 1])
        net.backbone.append(discover(some_series(), y, Discovery(window=4, per_class=3)), torch.Generator())
    return net


def some_series(count: int = 4, seed: int = 0) -> Tensor:
    """Series of unequal lengths, the longest of SHAPE."""
    x = torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(seed))
    for row in range(1, count):
        x[row, :, SHAPE[1] - 5 * row :] = NAN
    return x


@contextmanager
def always_masked(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nets mask as they do on a GPU, where nothing looks whether there is padding."""
    with monkeypatch.context() as patch:
        for module in ("convolutional", "inception", "shapeformer"):
            patch.setattr(f"fcil.nets.series.{module}.padding_of", layers.split_padding)
        yield


# Architecture --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "channels", "parameters"),
    [
        # of the released nets without their last layer, worked out by hand from the papers' tables
        ("fcn1d", 1, 264_704),
        ("resnet1d", 1, 504_000),
        ("inceptiontime", 1, 420_192),
        ("inceptiontime", 6, 420_192 - 2_240 - 32 - 128 + 6 * 32 + 32 * 32 * 70 + 6 * 32 + 6 * 128),
    ],
)
def test_sizes_are_those_of_the_released_code(name, channels, parameters):
    assert num_parameters(BACKBONES[name], (channels, 50)) == parameters


def test_the_size_of_a_net_of_series_is_that_for_one_channel():
    assert num_parameters(BACKBONES["fcn1d"]) == num_parameters(BACKBONES["fcn1d"], (1, 7))


@pytest.mark.parametrize("name", SERIES)
def test_width_is_in_proportion_and_short_series_are_read(name):
    whole, half = (BACKBONES[name].build((2, 3), width=width) for width in (None, BACKBONES[name].width // 2))
    assert half.width == whole.width // 2
    assert half(torch.randn(2, 2, 3)).shape == (2, half.width)


@pytest.mark.parametrize("kernel", [1, 3, 8, 40])
def test_a_convolution_keeps_the_length_and_pads_the_end_of_an_even_kernel_more(kernel):
    with rng.seeded("convolution"):
        layer = Conv1d(2, 3, kernel)
    x = torch.randn(2, 2, 10, generator=torch.Generator().manual_seed(0))
    before = (kernel - 1) // 2  # of TensorFlow's SAME at stride 1
    plain = F.conv1d(F.pad(x, (before, kernel - 1 - before)), layer.weight, layer.bias)
    assert torch.allclose(layer(x), plain, atol=1e-6)


# Padding -------------------------------------------------------------------------------------


@pytest.mark.parametrize("extra", [0, 1, 7, 50])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", SERIES)
def test_padding_further_changes_no_logit_no_gradient_and_no_statistic(name, training, norm, extra):
    x = some_series()
    longer = torch.cat([x, x.new_full((len(x), SHAPE[0], extra), NAN)], dim=2)
    found = []
    for batch in (x, longer):
        net = net_of_series(name, norm).train(training)
        logits = net(batch).logits
        logits.square().sum().backward()
        gradient = torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None])
        state = torch.cat([b.flatten().double() for b in net.buffers()] or [torch.zeros(1)])
        found.append((logits, gradient, state))
    (logits, gradient, state), (further, another, later) = found
    assert torch.isfinite(logits).all()
    assert torch.allclose(logits, further, rtol=1e-5, atol=1e-5)
    assert torch.allclose(gradient, another, rtol=1e-3, atol=1e-4 * float(gradient.abs().max()))
    assert torch.allclose(state, later, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("extra", [1, 50])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", SERIES)
def test_a_whole_batch_without_padding_gives_what_it_gives_padded(name, training, norm, extra):
    """The one goes through PyTorch's own layers, the other through masks."""
    x = torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(1))
    padded = torch.cat([x, x.new_full((4, SHAPE[0], extra), NAN)], dim=2)
    plain, masked = (net_of_series(name, norm).train(training) for _ in range(2))
    assert torch.allclose(plain(x).logits, masked(padded).logits, rtol=1e-5, atol=1e-5)
    for name_, buffer in plain.named_buffers():
        assert torch.allclose(buffer, masked.state_dict()[name_], rtol=1e-5, atol=1e-6), name_


@pytest.mark.parametrize("name", SERIES)
def test_a_series_beside_longer_ones_has_in_evaluation_the_logits_it_has_alone(name):
    net, x = net_of_series(name).eval(), some_series()
    together = net(x).logits
    for row in range(len(x)):
        real = int((~torch.isnan(x[row, 0])).sum())
        assert torch.allclose(net(x[row : row + 1, :, :real]).logits, together[row : row + 1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", SERIES)
def test_masks_where_nothing_is_padded_are_the_plain_layers(name, training, monkeypatch):
    x = torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(1))
    plain, masked = (net_of_series(name).train(training) for _ in range(2))
    expected = plain(x).logits
    with always_masked(monkeypatch):
        assert torch.allclose(masked(x).logits, expected, rtol=1e-5, atol=1e-5)


def test_no_mask_is_carried_where_nothing_is_padded_on_a_cpu():
    x = torch.randn(2, *SHAPE)
    same, mask = layers.padding_of(x)
    assert same is x
    assert mask is None
    assert layers.padding_of(some_series())[1] is not None


# Normalisation -------------------------------------------------------------------------------


def test_batch_norm_is_pytorchs_without_padding_and_over_real_steps_with_it():
    x = torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(2))
    mask = torch.tensor([[1.0] * 6, [1] * 4 + [0] * 2, [1] + [0] * 5])[:, None]
    ours, plain = BatchNorm1d(4), nn.BatchNorm1d(4)
    assert torch.equal(ours(x), plain(x))
    ours, plain = BatchNorm1d(4), nn.BatchNorm1d(4)
    steps = x.transpose(1, 2)[mask[:, 0].bool()]  # (real steps, 4)
    expected = plain(steps)
    assert torch.allclose(ours(x, mask).transpose(1, 2)[mask[:, 0].bool()], expected, atol=1e-6)
    assert torch.allclose(ours.running_mean, plain.running_mean, atol=1e-6)
    assert torch.allclose(ours.running_var, plain.running_var, atol=1e-6)
    assert int(ours.num_batches_tracked) == 1


@pytest.mark.parametrize("kernel", [16, 17, 40])
def test_a_long_kernel_has_pytorchs_values_and_gradients_once_twice_and_vectorised(kernel):
    stream = torch.Generator().manual_seed(0)
    x = torch.randn(2, 5, 3, 50, generator=stream, requires_grad=True)
    weight = torch.randn(2, 4, 3, kernel, generator=stream, requires_grad=True)

    def gradients(convolve) -> list[Tensor]:
        def loss(x: Tensor, weight: Tensor) -> Tensor:
            return convolve(x, weight).square().sum()

        first = torch.autograd.grad(loss(x[0], weight[0]), (x, weight), create_graph=True)
        second = torch.autograd.grad(first[0].square().sum() + first[1].square().sum(), (x, weight))
        each = torch.func.vmap(torch.func.grad(loss, (0, 1)))(x.detach(), weight.detach())
        return [convolve(x[0], weight[0]), *first, *second, *each]

    for ours, theirs in zip(gradients(long_kernels.convolve), gradients(torch.conv1d), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * float(theirs.detach().abs().max()))


@pytest.mark.parametrize("taken", [True, False])
def test_a_long_kernel_on_a_cpu_takes_the_faster_gradients_unless_in_bf16(taken, monkeypatch):
    convolve, calls = long_kernels.convolve, []
    monkeypatch.setattr(long_kernels, "convolve", lambda *both: calls.append(1) or convolve(*both))
    layer, x = Conv1d(3, 4, 16, bias=False), torch.randn(2, 3, 50)
    with torch.autocast("cpu", torch.bfloat16, enabled=not taken):
        layer(x).float().sum().backward()
    assert bool(calls) == taken
    assert layer.weight.grad is not None


@pytest.mark.parametrize("padded", [0, 4])
def test_a_single_step_is_normalised_by_running_statistics_and_changes_none(padded):
    x, mask = torch.randn(1, 3, 1 + padded), torch.tensor([[[1.0] + [0] * padded]])
    layer = BatchNorm1d(3)
    layer.running_mean.fill_(0.5)
    expected = (x[:, :, :1] - 0.5) / (1 + layer.eps) ** 0.5
    assert torch.allclose(layer(x, mask if padded else None)[:, :, :1], expected)
    assert layer.running_mean.tolist() == [0.5] * 3
    assert layer.running_var.tolist() == [1] * 3


def test_group_norm_is_pytorchs_on_each_series_cut_to_its_real_steps():
    x = torch.randn(2, 32, 6, generator=torch.Generator().manual_seed(3))
    mask = torch.tensor([[1.0] * 6, [1] * 4 + [0] * 2])[:, None]
    layer = GroupNorm1d(2, 32)
    nn.init.normal_(layer.weight)
    masked = layer(x, mask)
    for row, steps in ((0, 6), (1, 4)):
        cut = x[row : row + 1, :, :steps]
        plain = F.group_norm(cut, 2, layer.weight, layer.bias)
        assert torch.allclose(masked[row : row + 1, :, :steps], plain, atol=1e-5)


def test_statistics_are_recorded_over_real_steps_and_match_the_running_ones():
    x, net = some_series(8), net_of_series("resnet1d")
    net.backbone.load_state_dict({**net.backbone.state_dict(), **population_statistics(net.backbone, [x])})
    with record_statistics(net.eval()) as stats:
        net(x)
    assert len(stats) == 2 * 12
    # population_statistics keeps unbiased variances; everything else agrees
    assert float(statistics_distance(net, stats).detach()) < 0.05 * len(stats)
    with record_statistics(net) as further:
        net(torch.cat([x, x.new_full((8, SHAPE[0], 9), NAN)], dim=2))
    assert all(torch.allclose(stats[name], further[name], rtol=1e-5, atol=1e-5) for name in stats)


def test_bf16_keeps_statistics_in_single_precision():
    net, x = net_of_series("fcn1d"), some_series()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = net(x)
    assert out.logits.dtype == torch.float32
    assert torch.allclose(out.logits, net_of_series("fcn1d")(x).logits, atol=0.1)


# Students, checks and messages ---------------------------------------------------------------


@pytest.mark.parametrize("name", SERIES)
def test_an_untrained_copy_has_no_weight_of_its_teacher(name):
    teacher = net_of_series(name)
    student = untrained_copy(copy.deepcopy(teacher), "fresh", "student")
    same = [n for n, p in student.named_parameters() if p.ndim > 1 and torch.equal(p, teacher.state_dict()[n])]
    assert same == []


@pytest.mark.parametrize("name", SERIES)
def test_a_batch_of_one_series_has_a_variance_and_one_of_one_step_has_none(name):
    settings = NetSettings(name=name, width=4)
    assert normalises_one(settings, (1, 30))
    assert not has_variance(BACKBONES[name].build((1, 1)), torch.zeros(1, 1, 1))
    check_batch(settings, (1, 30), 1, "federation.batch_size")
    with pytest.raises(ConfigError, match=r"1 is not allowed with .* on series of 1, whose last maps are 1: batch"):
        check_batch(settings, (2, 1), 1, "federation.batch_size")


def test_a_net_of_the_other_kind_is_refused():
    for name, shape, said in (
        ("resnet18", (2, 30), "reads images, and the data are series of shape 2 x 30; expected one of resnet1d, fcn1d"),
        ("fcn1d", (1, 8, 8), "reads series, and the data are images of shape 1 x 8 x 8; expected one of resnet8"),
    ):
        with pytest.raises(ConfigError, match=f"net.name: {name} {said}"):
            build_net(NetSettings(name=name), shape=shape, num_classes=2, text_width=None, key=("wrong",))


def test_settings_of_images_are_refused_for_nets_of_series():
    with pytest.raises(ValueError, match="memory_format: channels_last is not allowed with fcn1d, a net of series"):
        NetSettings(name="fcn1d", memory_format="channels_last")
    with pytest.raises(ValueError, match="stem: cifar is not allowed with fcn1d"):
        NetSettings(name="fcn1d", stem="cifar")
