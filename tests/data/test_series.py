"""Padding of series: NaN in every channel, and nothing else."""

import torch

from fcil.nets.series.padding import lengths, split_padding

NAN = float("nan")


def test_padding_becomes_zeros_and_a_mask() -> None:
    x = torch.tensor([[[1.0, 2, NAN], [3, 4, NAN]], [[5, 6, 7], [0, 8, 9]]])
    filled, mask = split_padding(x)
    assert filled.tolist() == [[[1, 2, 0], [3, 4, 0]], [[5, 6, 7], [0, 8, 9]]]
    assert mask.tolist() == [[[1, 1, 0]], [[1, 1, 1]]]
    assert lengths(x).tolist() == [2, 3]


def test_the_gradient_of_a_padded_step_is_zero() -> None:
    x = torch.tensor([[[1.0, NAN]]], requires_grad=True)
    filled, _ = split_padding(x)
    (filled**2).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [[[2, 0]]]
