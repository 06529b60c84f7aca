"""Augmentation: pixel for pixel what PIL does, different for every sample, differentiable."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance
from small_runs import write_experiment
from torch import Tensor

from fcil.data import Augment, normalise
from fcil.data.augment import brighten, crop
from fcil.data.preparation import AugmentSettings
from fcil.errors import ConfigError
from fcil.federation.context import Datasets
from fcil.federation.plan import from_json
from fcil.federation.synthesis.jobs import inversion
from fcil.runs.plans import read


def images(n: int = 64, channels: int = 3, height: int = 12, width: int = 10) -> Tensor:
    return torch.randint(
        0, 256, (n, channels, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(5)
    )


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_crop_flip_and_brightness_equal_pil() -> None:
    x = images()
    generator = seeded()
    padding, n = 3, len(x)
    spots = torch.randint(0, 2 * padding + 1, (2, n), generator=generator)
    mirror = torch.rand(n, generator=generator) < 0.5
    factor = 0.5 + torch.rand(n, generator=generator)
    got = brighten(crop(x, padding, spots, mirror), factor)
    for i in range(n):
        image = Image.fromarray(x[i].permute(1, 2, 0).numpy())
        padded = Image.new("RGB", (10 + 2 * padding, 12 + 2 * padding))
        padded.paste(image, (padding, padding))
        top, left = spots[:, i].tolist()
        image = padded.crop((left, top, left + 10, top + 12))
        if mirror[i]:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        image = ImageEnhance.Brightness(image).enhance(factor[i].item())
        assert np.array_equal(got[i].permute(1, 2, 0).numpy(), np.asarray(image)), i


def test_every_level_and_factor_is_cut_off_as_pil_does() -> None:
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    for factor in torch.linspace(0, 2, 201).tolist():
        expected = np.asarray(ImageEnhance.Brightness(Image.fromarray(levels[0, 0].numpy())).enhance(factor))
        assert np.array_equal(brighten(levels, torch.tensor([factor]))[0, 0].numpy(), expected), factor


def test_every_sample_gets_its_own_draw() -> None:
    x = images(1).expand(200, -1, -1, -1)
    changed = Augment(4, True, 0.25)(x, seeded())
    assert len({sample.numpy().tobytes() for sample in changed}) > 150


def test_draws_cover_their_range_and_nothing_else() -> None:
    x = torch.zeros(4000, 1, 9, 9, dtype=torch.uint8)
    x[:, 0, 4, 3] = 200
    changed = Augment(2, True, 0.25)(x, seeded())
    sample, _, row, column = changed.nonzero(as_tuple=True)
    assert len(sample) == 4000
    assert set(row.tolist()) == set(range(2, 7))
    assert set(column.tolist()) == set(range(1, 8))
    levels = changed.amax((1, 2, 3))
    assert (levels.min(), levels.max()) == (150, 249)  # [0.75, 1.25) of 200, cut off
    assert abs((column > 3).double().mean().item() - 0.5) < 0.1


def test_same_generator_same_result_and_input_untouched() -> None:
    x = images()
    before = x.clone()
    change = Augment(4, True, 0.25)
    assert torch.equal(change(x, seeded(1)), change(x, seeded(1)))
    assert not torch.equal(change(x, seeded(1)), change(x, seeded(2)))
    assert torch.equal(x, before)


def test_nothing_asked_nothing_changed() -> None:
    x = images()
    assert torch.equal(Augment()(x, seeded()), x)
    assert torch.equal(Augment(padding=0, flip=False, brightness=0.0)(x.float() / 255, seeded()), x.float() / 255)


def test_floats_take_the_same_crops_as_bytes() -> None:
    x = images()
    change = Augment(4, True)
    assert torch.equal(change(x.float() / 255, seeded()), change(x, seeded()).float() / 255)


def test_gradient_reaches_the_pixels_that_remain() -> None:
    x = (images(4, height=6, width=6).double() / 255).requires_grad_()
    change = Augment(2, True, 0.2)
    assert torch.autograd.gradcheck(lambda v: change(v, seeded(3)), (0.1 + 0.5 * x,))  # away from the clamp
    change.synthetic(x, seeded(3)).sum().backward()
    assert x.grad is not None
    assert set(x.grad.unique().tolist()) == {0.0, 1.0}  # cropped away or kept, once


def test_synthetic_samples_are_brightened_for_imagenet_only() -> None:
    cifar, imagenet = Augment(4, True, 0.25), Augment(4, True, 0.25, synthetic_brightness=0.25)
    assert cifar.synthetic == Augment(4, True)
    assert imagenet.synthetic.brightness == 0.25


def test_series_are_cropped_along_their_length() -> None:
    x = torch.arange(1.0, 21.0).view(1, 1, 20).expand(300, 2, 20)
    changed = Augment(padding=3)(x, seeded())
    assert changed.shape == x.shape
    assert set(changed[:, 0, 0].tolist()) == {0.0, 1.0, 2.0, 3.0, 4.0}
    assert torch.equal(changed[:, 0], changed[:, 1])


def test_normalise_is_that_of_torchvision() -> None:
    x = images()
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
    expected = (x.double() / 255 - torch.tensor(mean, dtype=torch.float64).view(3, 1, 1)) / torch.tensor(
        std, dtype=torch.float64
    ).view(3, 1, 1)
    assert normalise(x, mean, std).dtype == torch.float32
    assert torch.allclose(normalise(x, mean, std).double(), expected, atol=1e-5, rtol=0)
    assert torch.allclose(normalise(x.double() / 255, mean, std), expected, atol=1e-12, rtol=0)
    learned = torch.tensor(mean, requires_grad=True)
    normalise(x.float() / 255, learned, torch.tensor(std)).sum().backward()
    assert learned.grad is not None
    assert learned.grad.abs().min() > 0


def test_normalise_first_used_under_inference_mode_can_be_trained_through() -> None:
    mean, std = (0.123,), (0.456,)
    with torch.inference_mode():
        normalise(torch.rand(2, 1, 4, 4), mean, std)
    x = torch.rand(2, 1, 4, 4, requires_grad=True)
    normalise(x, mean, std).sum().backward()
    assert x.grad is not None
    assert x.grad.mean().item() == pytest.approx(1 / 0.456, rel=1e-5)


# Chosen one by one -------------------------------------------------------------------------------


OWN = Augment(4, True, 0.25, synthetic_brightness=0.25)
CHOICES: list[tuple[dict[str, Any], Augment]] = [
    ({"flip": False}, Augment(4, False, 0.25, 0.25)),
    ({"crop": 0}, Augment(0, True, 0.25, 0.25)),
    ({"crop": 2, "flip": True}, Augment(2, True, 0.25, 0.25)),
    ({"brightness": 0.5}, Augment(4, True, 0.5, 0.5)),
    ({"crop": 0, "flip": False, "brightness": 0.0}, Augment()),
]


@pytest.mark.parametrize(("chosen", "wanted"), CHOICES)
def test_each_augmentation_is_chosen_alone(chosen: dict[str, Any], wanted: Augment) -> None:
    assert AugmentSettings(**chosen).applied(OWN, (32, 32)) == wanted
    where_synthetic_are_not_brightened = AugmentSettings(**chosen).applied(Augment(4, True, 0.25), (32, 32))
    assert where_synthetic_are_not_brightened.synthetic_brightness == 0.0


def test_a_crop_that_could_leave_nothing_of_an_image_is_refused() -> None:
    assert AugmentSettings(crop=7).applied(OWN, (9, 8)).padding == 7
    with pytest.raises(ConfigError, match=r"augment\.crop: 8 is not allowed for samples of 9 x 8; at most 7"):
        AugmentSettings(crop=8).applied(OWN, (9, 8))


def test_what_is_chosen_is_what_clients_and_synthesizers_do(tmp_path: Path) -> None:
    for raw, clients, server in (
        (True, Augment(1), Augment(1)),
        (False, None, Augment(1)),
        ("none", None, Augment()),
        ({"crop": 3, "flip": True}, Augment(3, True), Augment(3, True)),
    ):
        (plan,) = read(write_experiment(tmp_path, data={"augment": raw}))[0].plans()
        context = Datasets().open(plan)
        assert context.scenario.shard(1, 0).augment == clients
        net = context.first_net()
        assert inversion(context, net, range(2), None, None, ("key",)).augment == server


def test_without_any_augmentation_batches_are_the_images(tmp_path: Path) -> None:
    (plan,) = read(write_experiment(tmp_path, data={"augment": "none"}))[0].plans()
    shard = Datasets().open(plan).scenario.shard(1, 0)
    (batch,) = shard.batches(len(shard), shuffle=False)
    assert torch.equal(batch.x, shard.x(torch.arange(len(shard))))


def test_another_augmentation_is_another_run(tmp_path: Path) -> None:
    raws: list[Any] = [True, False, "none", {"flip": True}, {"crop": 0}, {"brightness": 0.1}]
    plans = [read(write_experiment(tmp_path, data={"augment": raw}))[0].plans()[0] for raw in raws]
    assert len({plan.variant for plan in plans}) == len(raws)
    used = [Datasets().open(plan).scenario.dataset.augment for plan in plans]
    assert used[0] == used[1] == Augment(1)  # `false` is for clients alone
    assert used[2:] == [Augment(), Augment(1, True), Augment(), Augment(1, brightness=0.1)]
    assert from_json(plans[2].to_json()) == plans[2]
