"""The noisy-layer generator against the reference code, in double precision."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from golden_vectors import Case, assert_matches, load_case
from torch import nn

from fcil.nets import ImageGenerator, NoisyGenerator, PlainGenerator
from fcil.nets.doubling import DoublingConv2d
from fcil.nets.series.generators import DoublingConv1d
from fcil.rng import generator, seeded


def golden_generator(case: Case, **options: object) -> NoisyGenerator:
    p = case.parameters
    made = NoisyGenerator(
        case.tensors["inputs.label_emb"],
        (3, p["image"], p["image"]),
        p["batch"],
        latent=p["nz"],
        width=p["ngf"],
        rows_per_layer=p["nl"],
        **options,
    ).double()
    made.load_state_dict(case.under("params"))
    return made


def check(case: Case, made: NoisyGenerator, stage: str) -> None:
    made.zero_grad()
    images = made(case.tensors["inputs.targets"])
    loss = (images * case.tensors["inputs.loss_coefficients"]).sum()
    loss.backward()
    assert_matches(images, case.tensors[f"expected.{stage}.images"], case.tolerance)
    assert_matches(loss, case.tensors[f"expected.{stage}.weighted_sum"], case.tolerance)
    for name, expected in case.under(f"expected.{stage}.grad").items():
        assert_matches(made.get_parameter(name).grad, expected, case.tolerance, name)
    for name, expected in case.under(f"expected.{stage}.buffers").items():
        assert_matches(made.get_buffer(name), expected, case.tolerance, name)


def test_generator_matches_the_reference_before_and_after_its_noise_is_replaced():
    case = load_case("08_lander_generator_forward")
    made = golden_generator(case)
    assert len(made.noisy) == case.parameters["noisy_layers"]
    check(case, made, "before")
    made.load_state_dict(case.under("inputs.reinit"), strict=False)
    check(case, made, "after")


def test_deep_generator_matches_the_reference():
    case = load_case("16_lander_deep_generator_forward")
    made = golden_generator(case, deep=True)
    images = made(case.tensors["inputs.targets"])
    assert_matches(images, case.tensors["expected.images"], case.tolerance)
    assert_matches(images.square().sum(), case.tensors["expected.sum_of_squares"], case.tolerance)
    for name, expected in case.under("expected.buffers").items():
        assert_matches(made.get_buffer(name), expected, case.tolerance, name)


@pytest.mark.parametrize(
    ("classes", "side", "batch", "latent", "rows", "noisy_millions", "millions"),
    [
        (20, 32, 256, 256, 10, 3.41, 5.74),  # LANDER, CIFAR-100
        (40, 64, 256, 256, 10, 3.41, 12.06),  # LANDER, Tiny-ImageNet
        (100, 224, 256, 256, 10, 3.41, 10.3),  # LANDER, ImageNet: the deep stack
        (10, 32, 400, 1000, 10, 20.5, 28.9),  # NAYER, CIFAR-10
        (100, 32, 400, 1000, 100, 2.05, 10.5),  # NAYER, CIFAR-100
        (200, 64, 200, 1000, 200, 0.51, 33.5),  # NAYER, Tiny-ImageNet
    ],
)
def test_published_sizes(classes, side, batch, latent, rows, noisy_millions, millions):
    with torch.device("meta"):
        made = NoisyGenerator(torch.zeros(classes, 512), (3, side, side), batch, latent=latent, rows_per_layer=rows)
    total, noisy = (sum(p.numel() for p in m.parameters()) / 1e6 for m in (made, made.noisy))
    assert total == pytest.approx(millions, rel=1e-2)
    assert noisy == pytest.approx(noisy_millions, rel=1e-2)


def small(shape: tuple[int, int, int], **options: object) -> NoisyGenerator:
    with seeded("test", "generator"):
        anchors = torch.randn(5, 6)
        return NoisyGenerator(anchors, shape, 12, latent=8, width=4, rows_per_layer=5, **options)


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 16, 24)])
def test_images_have_the_shape_and_range_asked_for(shape):
    images = small(shape)(torch.arange(12) % 5)
    assert images.shape == (12, *shape)
    assert 0 <= images.min() < images.max() <= 1


def test_the_deep_stack_begins_at_128_pixels():
    assert "conv5" in dict(small((3, 128, 128)).named_children())
    assert "conv5" not in dict(small((3, 124, 124)).named_children())


@pytest.mark.parametrize(("shape", "options"), [((3, 30, 30), {}), ((3, 8, 6), {}), ((3, 24, 24), {"deep": True})])
def test_a_side_that_cannot_be_doubled_is_refused(shape, options):
    with pytest.raises(ValueError, match=f"multiples of .*, not {shape[1]} x {shape[2]}"):
        small(shape, **options)


def test_a_batch_may_be_smaller_but_not_larger_than_planned():
    made = small((1, 8, 8))
    assert made(torch.tensor([0, 1])).shape == (2, 1, 8, 8)
    with pytest.raises(ValueError, match="a batch of 16 labels; this generator was built for 15"):
        made(torch.zeros(16, dtype=torch.int64))


def test_redraw_renews_the_noisy_layers_alone_and_by_the_stream_alone():
    made = small((1, 8, 8))
    before = {name: value.clone() for name, value in made.state_dict().items()}
    state = torch.random.get_rng_state()
    made.redraw(generator("redraw", 1))
    changed = {name for name, value in made.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {f"noisy.{i}.{part}" for i in range(3) for part in ("weight", "bias")}
    assert not any(layer.bias.any() for layer in made.noisy)
    once = [layer.weight.clone() for layer in made.noisy]
    made.redraw(generator("redraw", 1))
    assert all(torch.equal(a, layer.weight) for a, layer in zip(once, made.noisy, strict=True))
    made.redraw(generator("redraw", 2))
    assert not torch.equal(once[0], made.noisy[0].weight)
    assert torch.equal(state, torch.random.get_rng_state())


def test_redrawn_weights_are_standard_normal():
    with torch.no_grad():
        made = NoisyGenerator(torch.zeros(2, 128), (1, 8, 8), 10, latent=256, width=4)
    made.redraw(generator("normal"))
    weight = made.noisy[0].weight
    assert abs(weight.mean()) < 0.02
    assert abs(weight.std() - 1) < 0.02


def test_anchors_are_neither_trained_nor_part_of_the_state():
    made = small((1, 8, 8))
    assert "anchors" not in made.state_dict()
    assert not made.anchors.requires_grad


@pytest.mark.parametrize(
    "build",
    [lambda: PlainGenerator((1, 4, 4), latent=8, width=4), lambda: ImageGenerator((1, 4, 4), latent=8, width=4)],
    ids=["plain", "image"],
)
def test_one_image_may_pass_through_a_first_map_of_one_by_one(build: Callable[[], nn.Module]) -> None:
    with seeded("one"):
        made, z = build().train(), torch.randn(1, 8)
    made(z).sum().backward()
    assert made(z).shape == (1, 1, 4, 4)


@pytest.mark.parametrize("build", [lambda: DoublingConv2d(3, 5), lambda: DoublingConv1d(3, 5, 9)])
def test_a_doubling_and_its_convolution_in_one_are_those_one_after_the_other(build: Callable[[], nn.Module]) -> None:
    """Values, gradients of both, and what the gradient of a gradient is (of penalties on it)."""
    conv = build().double()
    conv.weight.data.normal_()
    flat = conv.weight.dim() == 3
    x = torch.randn(2, 3, *((6,) if flat else (4, 7)), dtype=torch.float64, requires_grad=True)
    twice = F.interpolate(x, scale_factor=2.0)
    plain = (F.conv1d if flat else F.conv2d)(twice, conv.weight, conv.bias, padding=conv.kernel_size[0] // 2)
    factors = torch.randn_like(plain)
    found: list[list[torch.Tensor]] = []
    for y in (plain, conv(x)):
        first = torch.autograd.grad((y.square() * factors).sum(), [x, conv.weight], create_graph=True)
        found.append([y, *first, *torch.autograd.grad(first[0].square().sum(), [x, conv.weight])])
    for expected, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, expected)
