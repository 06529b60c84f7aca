"""Loss terms that methods of synthesis share: what makes an image of a generator a good one to a net.

Each is a pure function and returns a scalar to be minimised, without a weight.

Shapes: B batch, C classes, c x H x W an image.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fcil.losses import Statistics

EPSILON = 1e-8
"""Added to variances before they are divided by."""


def batchnorm_divergence(net: nn.Module, stats: Statistics) -> Tensor:
    """Mean over BatchNorm layers and channels of KL(N(M, V) || N(m, v)), all variances plus 1e-8:

        1/2 log(v / V) - 1/2 [1 - (V + (M - m)^2) / v]

    m, v are the statistics of a batch (`fcil.losses.record_statistics`), M, V the running ones of `net`. MFCL
    (@ 8ab937b, `DeepInversionFeatureHook`); the distance of norms of other methods is `statistics_distance`.

    Raises:
        ValueError: no statistics: the net has no BatchNorm, or was not run while recording.
    """
    if not stats:
        raise ValueError("no BatchNorm statistics: the net has no such layer, or was not run while recording")
    remembered, layers = dict(net.named_buffers()), []
    for name in (name.removesuffix("mean") for name in stats if name.endswith("running_mean")):
        v, big_v = stats[f"{name}var"] + EPSILON, remembered[f"{name}var"] + EPSILON
        apart = (remembered[f"{name}mean"] - stats[f"{name}mean"]).square()
        layers.append(((v / big_v).log() / 2 - (1 - (big_v + apart) / v) / 2).mean())
    return torch.stack(layers).mean()


def confidence(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """-1/B sum_i log softmax(z_i / T)_{argmax z_i}: cross-entropy with the net's own answer, logits z (B, C).

    At T = 1000, as in MFCL's released code, it is log C whatever the net says, nearly without a gradient.
    """
    return F.cross_entropy(logits / temperature, logits.argmax(dim=1))


def balance(logits: Tensor) -> Tensor:
    """1 + 1/log C sum_k q_k log q_k with q = 1/B sum_i softmax(z_i): 0 where a batch has as much of every class.

    It is 1 where all samples are surely of one class. The information entropy of DAFL (Chen et al., ICCV 2019)
    and MFCL, shifted to begin at 0. A net of one class has nothing to balance and gives 0. Logits z (B, C).
    """
    count, classes = logits.shape
    if classes == 1:
        return 0 * logits.sum()
    log_q = F.log_softmax(logits, dim=1).logsumexp(dim=0) - math.log(count)  # (C,): finite where q itself is 0
    return 1 + (log_q.exp() * log_q).sum() / math.log(classes)


def gaussian(sigma: float, side: int = 5) -> Tensor:
    """A blur (side, side) proportional to exp(-r^2 / 2 sigma^2), r in pixels from the middle; its sum is 1."""
    steps = torch.arange(side, dtype=torch.float64) - (side - 1) / 2
    line = (-steps.square() / (2 * sigma**2)).exp()
    line = line / line.sum()
    return line[:, None] * line


def smoothness(images: Tensor, blur: Tensor) -> Tensor:
    """Mean of (x - blur * x)^2, with the border mirrored: an image is to have little that a blur takes away.

    Images x (B, c, H, W) of sides above half the blur's, blur (side, side) with an odd side.
    """
    channels, reach = images.shape[1], len(blur) // 2
    kernel = blur.to(images).expand(channels, 1, -1, -1)
    smooth = F.conv2d(F.pad(images, (reach,) * 4, mode="reflect"), kernel, groups=channels)
    return F.mse_loss(images, smooth)
