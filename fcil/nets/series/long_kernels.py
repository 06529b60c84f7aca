"""A convolution over time for long kernels on a CPU: the same values, gradients by faster products.

oneDNN (3.12, in torch 2.14) computes the gradients of a convolution of 20 or more steps at half the speed of its
values. Here the gradient of the input is a convolution with the kernel turned round, and that of the weights a product
of matrices over windows of the input, in which the channels of a step are side by side. The values are PyTorch's own;
the gradients are rounded in another order.

Shapes: B batch, C and D channels, S steps, K steps of the kernel, L = S - K + 1.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

LONG = 16
"""From this length on the products below are faster (`python tests/benchmarks/long_kernels.py`)."""


def worthwhile(x: Tensor, kernel: int) -> bool:
    """Return whether gradients for so long a kernel may be wanted, and are faster here: on a CPU, in fp32.

    Not in a trace, which has to be written to a file that other programs read.
    """
    here = x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    return kernel >= LONG and here and torch.is_grad_enabled() and not torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]


def convolve(x: Tensor, weight: Tensor) -> Tensor:
    """Return the convolution (B, D, L) of `x` (B, C, S) with `weight` (D, C, K), without padding or bias."""
    return cast(Tensor, _Convolution.apply(x, weight))


class _Convolution(torch.autograd.Function):
    """`torch.conv1d` with its gradients as two products. It can be differentiated twice, and vectorised."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor) -> Tensor:
        return torch.conv1d(x, weight)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None]:
        (gradient,), (x, weight) = gradients, ctx.saved_tensors
        kernel = weight.shape[2]
        to_x = to_weight = None
        if ctx.needs_input_grad[0]:
            turned = weight.flip(2).transpose(0, 1)
            to_x = torch.conv1d(F.pad(gradient, (kernel - 1, kernel - 1)), turned)
        if ctx.needs_input_grad[1]:
            steps = x.transpose(1, 2).contiguous()  # (B, S, C)
            windows = steps.unfold(1, kernel, 1).transpose(2, 3).flatten(2)  # (B, L, K C)
            summed = torch.bmm(gradient, windows).sum(0)  # (D, K C)
            to_weight = summed.view(len(weight), kernel, -1).transpose(1, 2)
        return to_x, to_weight
