"""The subspace of a layer's inputs, estimated from random sketches, and the orthogonal part of a weight change.

A linear map is unchanged by a change of its weights W that is orthogonal to its inputs: where x lies in
the span of V, (W + D (I - V V^T)) x = W x for every D. Inputs of a convolution are its patches. A bias is
the weight of one more input, which is always 1.

    Y = X G               a sketch; the columns of X are the inputs, G is random normal
    E[Y Y^T] = r X X^T    so the leading left singular vectors of Y are about those of X

Sketches of several data sets, each with a G of its own, add up to a sketch of them all. That is the
randomised singular value decomposition of Halko, Martinsson and Tropp (SIAM Review 2011).

    with record_sketches(net, 256, generator) as sketches:
        net(images)
    basis = principal(sketches["classifier"], allowed=0.05 * sketches["classifier"].square().sum())

Shapes: d inputs of a layer (for a convolution channels * sides of the kernel, one more with a bias), o its
outputs, r width of a sketch, k vectors of an orthonormal basis.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from fcil.rng import sent
from fcil.types import Tensors

LINEAR = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
"""Layers that are linear in their inputs or in patches of them."""
ROUNDING = 1e-12
"""Share of a sketch's energy below which there is only rounding error."""


def linear_layers(net: nn.Module) -> dict[str, nn.Module]:
    """Return the layers that have such a subspace, by name."""
    return {name: layer for name, layer in net.named_modules() if isinstance(layer, LINEAR)}


@contextmanager
def record_sketches(net: nn.Module, width: int, generator: torch.Generator) -> Iterator[Tensors]:
    """Record sketches Y (d, r) of the inputs of each linear layer or convolution of `net` within the block.

    They add up over forwards, each with random numbers of its own, so memory does not grow with the images.
    A layer that is not called gets none.
    """
    sketches: Tensors = {}
    with ExitStack() as hooks:
        for name, layer in linear_layers(net).items():
            hook = partial(_record, sketches, name, width, generator)
            hooks.callback(layer.register_forward_pre_hook(hook).remove)
        yield sketches


def _record(
    sketches: Tensors, name: str, width: int, generator: torch.Generator, layer: nn.Module, inputs: tuple[Any, ...]
) -> None:
    found = sketch(layer, inputs[0], width, generator)
    sketches[name] = sketches[name] + found if name in sketches else found


def sketch(layer: nn.Module, x: Tensor, width: int, generator: torch.Generator) -> Tensor:
    """Return X G (d, r) for the inputs X (d, n) that `layer` reads from x, with fresh normal numbers G (n, r).

    In grouped convolutions the patches of all groups are taken together.
    """
    x = x.detach()
    if isinstance(layer, nn.Linear):
        x = x.flatten(0, -2)  # (n, d)
        g = sent(torch.randn(len(x), width, generator=generator, dtype=x.dtype), x)
        seen = x if layer.bias is None else torch.cat([x, x.new_ones(len(x), 1)], dim=1)
        return seen.t() @ g
    assert isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d)
    # The gradient of a convolution's kernel is the sum of patches times gradients of outputs. With random
    # output gradients it is the sketch, and no patch is materialised.
    with torch.enable_grad():
        kernel = x.new_zeros(layer.groups * width, *layer.weight.shape[1:], requires_grad=True)
        out = layer._conv_forward(x, kernel, None)  # (B, groups r, positions)
        g = sent(torch.randn(out.shape, generator=generator, dtype=x.dtype), x)
        (gradient,) = torch.autograd.grad(out, kernel, g)
    rows: Tensor = gradient.reshape(layer.groups, width, -1).sum(dim=0)  # (r, c k k)
    if layer.bias is not None:
        ones = g.transpose(0, 1).reshape(layer.groups, width, -1).sum(dim=(0, 2))
        rows = torch.cat([rows, ones[:, None]], dim=1)
    return rows.t()


def principal(found: Tensor, allowed: Tensor | float, least: int = 0) -> Tensor:
    """Return the fewest leading left singular vectors (d, k) of a sketch (d, r) that leave no more than `allowed` out.

        sum_{i > k} sigma_i^2 <= allowed,   k >= least as far as the rank goes

    In double precision.
    """
    u: Tensor
    u, sigma, _ = torch.linalg.svd(found.double(), full_matrices=False)
    left = sigma.square().flip(0).cumsum(0).flip(0)  # energy left out by the first 0, 1, 2, ... vectors
    rank = int((left > ROUNDING * left[0]).sum())
    needed = int((left > allowed).sum())
    return u[:, : min(rank, max(needed, least))]


def joined(basis: Tensor | None, more: Tensor) -> Tensor:
    """Return an orthonormal basis of the joint span of `basis` (d, k) and `more` (d, m): (d, min(d, k + m))."""
    both = more.double() if basis is None else torch.cat([basis.double(), more.double()], dim=1)
    return cast(Tensor, torch.linalg.qr(both)[0])


def away(change: Tensor, basis: Tensor) -> Tensor:
    """Return D (I - V V^T): the part of the rows of D (o, d) orthogonal to the orthonormal basis V (d, k)."""
    return change - (change @ basis) @ basis.T


def as_rows(weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return weight and bias of a layer as one matrix (o, d), whose columns match the inputs in a sketch."""
    rows = weight.flatten(1)
    return rows if bias is None else torch.cat([rows, bias[:, None]], dim=1)


def from_rows(rows: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Return weight and bias, in the shapes of these."""
    if bias is None:
        return rows.reshape(weight.shape), None
    return rows[:, :-1].reshape(weight.shape), rows[:, -1].clone()
