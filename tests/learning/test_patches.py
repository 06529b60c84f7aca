"""Features of patches against plain loops over pixels, and what their sums promise."""

from __future__ import annotations

import pytest
import torch
from tiny_net import normal

from fcil.nets.patches import (
    FilterBank,
    Whitening,
    filter_sums,
    first_filters,
    next_filters,
    patch_sums,
    patches_of,
)
from fcil.rng import generator

SIDE, CONTRAST = 3, 0.01


def patches_by_hand(x: torch.Tensor) -> list[list[torch.Tensor]]:
    """Normalised patches of each image, row after row, in plain loops."""
    found = []
    for image in x:
        patches = []
        for row in range(image.shape[1] - SIDE + 1):
            for column in range(image.shape[2] - SIDE + 1):
                p = image[:, row : row + SIDE, column : column + SIDE].flatten()
                p = p - p.mean()
                patches.append(p / (p.square().mean() + CONTRAST).sqrt())
        found.append(patches)
    return found


def test_patches_are_those_of_a_loop_over_the_image():
    x = normal(2, 3, 5, 6).double()
    expected = torch.stack([torch.stack(patches) for patches in patches_by_hand(x)])
    assert torch.allclose(patches_of(x, SIDE, CONTRAST), expected, rtol=1e-12)


def test_a_patch_without_contrast_is_zero():
    assert not patches_of(torch.ones(1, 1, 4, 4), SIDE, CONTRAST).any()


def test_whitened_patches_are_uncorrelated():
    p = patches_of(normal(40, 1, 9, 9).double(), SIDE, CONTRAST)
    sums = patch_sums(p)
    whitening = Whitening.of(sums["patch"] / 40, sums["product"] / 40, floor=1e-6)
    q = whitening(p).flatten(0, 1)
    found = q.T @ q / len(q)  # a direction is lost: patches have mean 0
    assert torch.allclose(q.mean(0), torch.zeros(9, dtype=torch.float64), atol=1e-9)
    assert torch.allclose(torch.linalg.eigvalsh(found)[1:], torch.ones(8, dtype=torch.float64), atol=1e-3)


def test_sums_of_parts_are_the_sums_of_the_whole():
    p = patches_of(normal(6, 2, 5, 5), SIDE, CONTRAST)
    filters, whole = first_filters(7, p.shape[2], generator(0, "filters")), patch_sums(p)
    parts = [patch_sums(part) for part in (p[:1], p[1:])]
    for name, total in whole.items():
        assert torch.allclose(parts[0][name] + parts[1][name], total, rtol=1e-9, atol=1e-9)
    first, second = (filter_sums(part.flatten(0, 1), filters) for part in (p[:1], p[1:]))
    assert torch.allclose(first + second, filter_sums(p.flatten(0, 1), filters), rtol=1e-6, atol=1e-6)


def test_a_step_of_k_means_is_that_of_a_loop_over_patches():
    q = normal(50, 4).double()
    filters = first_filters(3, 4, generator(0, "filters"))
    total = torch.zeros(3, 4, dtype=torch.float64)
    for patch in q:
        products = [float(d @ patch) for d in filters]
        nearest = max(range(3), key=lambda k: abs(products[k]))
        total[nearest] += products[nearest] * patch
    assert torch.allclose(filter_sums(q, filters), total)
    assert torch.allclose(next_filters(total, filters), total / total.norm(dim=1, keepdim=True))


def test_a_filter_that_no_patch_is_nearest_to_stays():
    filters = torch.eye(2, dtype=torch.float64)
    after = next_filters(filter_sums(torch.tensor([[2.0, 0.1], [3.0, -0.2]]), filters), filters)
    assert torch.equal(after[1], filters[1])
    assert not torch.equal(after[0], filters[0])


def test_steps_of_k_means_bring_filters_nearer_to_patches():
    q = torch.cat([normal(100, 5) * 0.1 + axis for axis in torch.eye(5)[:3]])
    filters = first_filters(3, 5, generator(1, "filters"))

    def likeness() -> float:
        return float((q.double() @ filters.T).abs().amax(1).mean())

    before = likeness()
    for _ in range(5):
        filters = next_filters(filter_sums(q, filters), filters)
    assert likeness() > before


@pytest.mark.parametrize("grid", [1, 2])
def test_features_are_those_of_a_loop(grid: int) -> None:
    x = normal(2, 2, 6, 6)
    sums = patch_sums(patches_of(x, SIDE, CONTRAST))
    whitening = Whitening.of(sums["patch"] / 2, sums["product"] / 2, floor=0.1)
    filters = first_filters(3, 18, generator(0, "filters"))
    bank = FilterBank(SIDE, CONTRAST, 0.2, grid, whitening, filters)
    expected = []
    for patches in patches_by_hand(x.double()):
        z = torch.stack([filters @ whitening(p) for p in patches]).T.reshape(3, 4, 4)
        both = torch.cat([(z - 0.2).clamp(min=0), (-z - 0.2).clamp(min=0)])
        step = 4 // grid
        cells = [
            both[:, r * step : (r + 1) * step, c * step : (c + 1) * step].mean((1, 2))
            for r in range(grid)
            for c in range(grid)
        ]
        expected.append(torch.stack(cells, dim=1).flatten())
    assert torch.allclose(bank(x), torch.stack(expected).float(), rtol=1e-4, atol=1e-5)
