"""Layers of nets of series that leave padded steps out: of convolutions, statistics and means.

Each takes the mask of real steps beside its input; None says that nothing is padded, and then a layer is PyTorch's
own. So a series has the same features whatever length it is padded to.

Shapes: B batch, C channels, L steps; a mask is (B, 1, L), 1 for real steps and 0 for padded ones.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fcil.nets.backbone import Norm
from fcil.nets.norms import groups_of
from fcil.nets.series import long_kernels
from fcil.nets.series.padding import split_padding
from fcil.rng import draws, sent

Mask = Tensor | None


def padding_of(x: Tensor) -> tuple[Tensor, Mask]:
    """Return the series (B, C, L) with zeros for padding, and the mask; on a CPU None for it where nothing is padded.

    On a GPU there is always a mask: to know whether it is needed, the host would have to wait for the device at every
    step.
    """
    if x.device.type == "cpu" and not bool(torch.isnan(x).any()):
        return x, None
    return split_padding(x)


def real(x: Tensor, mask: Mask) -> Tensor:
    """Return `x` (B, C, L) with zeros at padded steps."""
    return x if mask is None else x * mask.to(x.dtype)


def pooled(x: Tensor, mask: Mask) -> Tensor:
    """Return the mean over real steps of `x` (B, C, L): (B, C); zero for a series without any."""
    if mask is None:
        return x.mean(dim=2)
    return real(x, mask).sum(dim=2) / mask.to(x.dtype).sum(dim=2).clamp(min=1)


class Conv1d(nn.Conv1d):
    """Convolution over time that reads zeros before, after and at padded steps, and keeps the length.

    An even kernel has its extra zero at the end, as in Keras (`padding="same"`). Weights start uniform by Glorot's
    rule and biases at zero, as they do there.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, bias: bool = True) -> None:
        super().__init__(inputs, outputs, kernel, padding=kernel // 2 if kernel % 2 else 0, bias=bias)
        draw_convolution(self)

    def forward(self, x: Tensor, mask: Mask = None) -> Tensor:
        (kernel,) = self.kernel_size
        x = real(x, mask)
        if self.bias is None and long_kernels.worthwhile(x, kernel):
            return long_kernels.convolve(F.pad(x, ((kernel - 1) // 2, kernel // 2)), self.weight)
        return super().forward(x if kernel % 2 else F.pad(x, (kernel // 2 - 1, kernel // 2)))


def draw_convolution(layer: nn.Conv1d) -> None:
    """Draw the weights of a convolution as `Conv1d` begins, from torch's global stream."""
    nn.init.xavier_uniform_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


class BatchNorm1d(nn.BatchNorm1d):
    """BatchNorm over batch and real steps. A batch of one step takes the running statistics, and leaves them as is."""

    def forward(self, x: Tensor, mask: Mask = None) -> Tensor:
        if mask is not None and self.training:
            return self._over_real_steps(x, mask)
        if self.training and x.numel() == self.num_features:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(x)

    def _over_real_steps(self, x: Tensor, mask: Tensor) -> Tensor:
        values = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
        running_mean, running_var = cast(Tensor, self.running_mean), cast(Tensor, self.running_var)
        count = mask.sum()  # a tensor: the host waits for nothing
        alone = count < 2
        mean = torch.where(alone, running_mean, (values * mask).sum(dim=(0, 2)) / count.clamp(min=1))
        centred = (values - mean[:, None]) * mask
        var = torch.where(alone, running_var, centred.square().sum(dim=(0, 2)) / count.clamp(min=1))
        with torch.no_grad():
            batches = cast(Tensor, self.num_batches_tracked).add_(1)
            momentum = 1 / batches if self.momentum is None else self.momentum
            unbiased = torch.where(alone, running_var, var * count / (count - 1).clamp(min=1))
            running_mean.lerp_(mean.to(running_mean), momentum)
            running_var.lerp_(unbiased.to(running_var), momentum)
        return (centred * (self.weight * (var + self.eps).rsqrt())[:, None] + self.bias[:, None]).to(x.dtype)


class GroupNorm1d(nn.GroupNorm):
    """GroupNorm over the real steps of each series."""

    def forward(self, x: Tensor, mask: Mask = None) -> Tensor:
        if mask is None:
            return super().forward(x)
        values = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
        values = values.view(len(x), self.num_groups, -1, x.shape[2])  # (B, groups, channels of one, L)
        steps = mask[:, None]  # (B, 1, 1, L)
        count = steps.sum(dim=3, keepdim=True).clamp(min=1) * values.shape[2]
        mean = (values * steps).sum(dim=(2, 3), keepdim=True) / count
        centred = (values - mean) * steps
        var = centred.square().sum(dim=(2, 3), keepdim=True) / count
        whole = (centred * (var + self.eps).rsqrt()).view(x.shape)
        return (whole * self.weight[:, None] + self.bias[:, None]).to(x.dtype)


class NoNorm(nn.Module):
    """A normalisation layer that does nothing."""

    def forward(self, x: Tensor, mask: Mask = None) -> Tensor:
        return x


def normalisation(norm: Norm, channels: int) -> nn.Module:
    """Return the normalisation layer of a net of series for so many channels."""
    if norm == "batch":
        return BatchNorm1d(channels)
    return GroupNorm1d(groups_of(channels), channels) if norm == "group" else NoNorm()


class Dropping(nn.Module):
    """Dropout that draws on the CPU, so that what is dropped is the same on every device."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not self.share:
            return x
        kept = (torch.rand(x.shape, generator=draws()) >= self.share).float() / (1 - self.share)
        return x * sent(kept, x)


class ConvNorm(nn.Module):
    """A convolution, its normalisation and, unless left out, ReLU."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, norm: Norm, *, relu: bool = True, bias: bool = True
    ) -> None:
        super().__init__()
        self.conv, self.norm, self.relu = Conv1d(inputs, outputs, kernel, bias), normalisation(norm, outputs), relu

    def forward(self, x: Tensor, mask: Mask) -> Tensor:
        normalised = self.norm(self.conv(x, mask), mask)
        return F.relu(normalised, inplace=True) if self.relu else normalised
