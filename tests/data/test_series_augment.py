"""Changes of series: each by its own draw, padding as it was, images untouched."""

from __future__ import annotations

import pytest
import torch

from fcil.data import Augment
from fcil.data.augment import batches_ahead
from fcil.nets.series.padding import lengths
from fcil.rng import generator

NAN = float("nan")


def ramps(*sizes: int, length: int = 40) -> torch.Tensor:
    """Series of two channels whose values are 1, 2, 3, ... and ten times that, of these lengths."""
    x = torch.full((len(sizes), 2, length), NAN)
    for row, size in enumerate(sizes):
        x[row, :, :size] = torch.arange(1.0, size + 1) * torch.tensor([[1.0], [10.0]])
    return x


SIZES = (40, 25, 1, 10) * 8


@pytest.mark.parametrize("change", [{"shift": 0.3}, {"scaling": 0.2}, {"masking": 0.4}, {"jitter": 0.1}])
def test_a_change_keeps_padding_and_lengths_and_repeats_with_its_generator(change: dict[str, float]) -> None:
    x = ramps(*SIZES)
    before = x.clone()
    changed = Augment(**change)(x, generator("a"))
    assert torch.equal(torch.isnan(changed), torch.isnan(x))
    assert lengths(changed).tolist() == list(SIZES)
    assert not torch.equal(changed.nan_to_num(), x.nan_to_num())
    assert torch.equal(x.nan_to_num(), before.nan_to_num())
    again = Augment(**change)(x, generator("a"))
    assert torch.equal(changed.nan_to_num(), again.nan_to_num())


def test_batches_that_are_prepared_together_are_changed_as_one_after_the_other() -> None:
    assert batches_ahead(8, (2, 40)) > 1
    augment, x, rng = Augment(shift=0.2, scaling=0.1, masking=0.2, jitter=0.1), ramps(*SIZES), generator("a")
    apart = torch.cat([augment(part, rng) for part in torch.split(x, [10, 20, 2])])
    assert torch.equal(augment(x, generator("a"), (10, 20, 2)).nan_to_num(), apart.nan_to_num())


def test_a_shift_moves_whole_series_and_repeats_the_value_at_its_end() -> None:
    x = ramps(*SIZES)
    changed = Augment(shift=0.25)(x, generator("a"))
    moved = set()
    for series, size in zip(changed, SIZES, strict=True):
        values = series[0, :size]
        assert torch.equal(series[1, :size], 10 * values)
        by = int(values[size // 2] - (size // 2 + 1))
        assert torch.equal(values, (torch.arange(1.0, size + 1) + by).clamp(1, size))
        assert abs(by) <= size // 4
        moved.add(by)
    assert min(moved) < 0 < max(moved)


def test_scaling_is_a_factor_for_each_series_and_channel() -> None:
    x = ramps(40).expand(2000, 2, 40)
    factors = (Augment(scaling=0.2)(x, generator("a")) / x)[:, :, :]
    assert torch.allclose(factors, factors[:, :, :1].expand_as(factors), atol=1e-5)
    assert factors[:, 0, 0].std().item() == pytest.approx(0.2, rel=0.1)
    assert factors.mean().item() == pytest.approx(1, abs=0.02)
    assert abs(torch.corrcoef(factors[:, :, 0].T)[0, 1].item()) < 0.1


def test_masking_sets_one_stretch_of_all_channels_to_zero() -> None:
    x = ramps(*SIZES)
    changed = Augment(masking=0.5)(x, generator("a"))
    spans = []
    for series, size in zip(changed, SIZES, strict=True):
        zero = series[0, :size] == 0
        assert torch.equal(zero, series[1, :size] == 0)
        where = zero.nonzero().flatten()
        assert len(where) <= size // 2
        assert not len(where) or int(where[-1] - where[0]) == len(where) - 1
        spans.append(len(where))
    assert len(set(spans)) > 3


def test_jitter_is_noise_of_the_deviation_that_is_given() -> None:
    x = ramps(40).expand(500, 2, 40)
    noise = Augment(jitter=0.3)(x, generator("a")) - x
    assert noise.std().item() == pytest.approx(0.3, rel=0.02)


def test_no_change_is_the_default() -> None:
    x = ramps(3)
    assert Augment()(x, generator("a")) is x


def test_synthetic_series_are_changed_as_real_ones() -> None:
    assert Augment(shift=0.1, jitter=0.2).synthetic == Augment(shift=0.1, jitter=0.2)
