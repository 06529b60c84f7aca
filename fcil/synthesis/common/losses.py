"""Loss terms shared by methods of synthesis: measures of how useful a generator's image is to a net.

Each is a pure function and returns a scalar to be minimised, without a weight.

Shapes: B batch, C classes, c x H x W an image.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fcil.losses import Statistics, kl_divergence, record_statistics
from fcil.rng import sent

EPSILON = 1e-8
"""Addend to variances before a division."""


def batchnorm_divergence(net: nn.Module, stats: Statistics) -> Tensor:
    """Return the mean over BatchNorm layers and channels of KL(N(M, V) || N(m, v)), all variances plus 1e-8:

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
    """Return -1/B sum_i log softmax(z_i / T)_{argmax z_i}: cross-entropy with the net's prediction, logits z (B, C).

    At T = 1000, as in MFCL's released code, it is about log C for any prediction, nearly without a gradient.
    """
    return F.cross_entropy(logits / temperature, logits.argmax(dim=1))


def balance(logits: Tensor) -> Tensor:
    """Return 1 + 1/log C sum_k q_k log q_k with q = 1/B sum_i softmax(z_i): 0 where a batch is balanced.

    It is 1 where all samples are surely of one class. The information entropy of DAFL (Chen et al., ICCV 2019)
    and MFCL, shifted to start at 0. A net of one class is always balanced and gives 0. Logits z (B, C).
    """
    classes = logits.shape[1]
    if classes == 1:
        return 0 * logits.sum()
    return 1 + negative_entropy(logits) / math.log(classes)


def negative_entropy(logits: Tensor) -> Tensor:
    """Return sum_k q_k log q_k with q = 1/B sum_i softmax(z_i): the balance of DAFL, from -log C up to 0.

    In code "information entropy" or "balance" (RDSKD @ 8512a9d, DataFree @ 9e79fa9). Logits z (B, C).
    """
    log_q = F.log_softmax(logits, dim=1).logsumexp(dim=0) - math.log(len(logits))  # (C,): finite where q itself is 0
    return (log_q.exp() * log_q).sum()


def activation(features: Tensor) -> Tensor:
    """Return -mean |f|: real images excite a net more than noise does (DAFL); f (B, F) is the classifier's input."""
    return -features.abs().mean()


def disagreement(student: Tensor, teacher: Tensor, distance: Literal["kl", "l1"], temperature: float = 1.0) -> Tensor:
    """Return the disagreement of two nets on a batch, differentiable in both; logits s, t (B, C).

        kl    T^2 / B sum_i KL(softmax(t_i / T) || softmax(s_i / T))
        l1    mean |s - t| over all entries

    A generator maximises it (Micaelli and Storkey, NeurIPS 2019: kl; DFAD: l1), a student minimises it.
    """
    if distance == "l1":
        return F.l1_loss(student, teacher)
    return kl_divergence(student, teacher, temperature)


def sameness(x: Tensor, logits: Tensor) -> Tensor:
    """Return |p_2 - p_1| / |x_2 - x_1|, Frobenius norms of the two halves of a batch apart, p = softmax(z).

    Images are to differ more than the net's predictions for them. RDSKD's diversity (@ 8512a9d) is
    1 / (|x_2 - x_1| / |p_2 - p_1| + 1e-20); equal predictions are harmless here. Input x (B, ...), logits z (B, C).
    """
    halves = (t.chunk(2) for t in (x, logits.softmax(dim=1)))
    apart, answers = (torch.linalg.vector_norm(second - first) for first, second in halves)
    ratio: Tensor = answers / (apart + 1e-20 * answers).clamp(min=torch.finfo(x.dtype).tiny)
    return ratio


def gaussian(sigma: float, side: int = 5) -> Tensor:
    """Return a blur (side, side) proportional to exp(-r^2 / 2 sigma^2), r in pixels from the middle; its sum is 1."""
    steps = torch.arange(side, dtype=torch.float64) - (side - 1) / 2
    line = (-steps.square() / (2 * sigma**2)).exp()
    line = line / line.sum()
    return line[:, None] * line


def smoothness(samples: Tensor, blur: Tensor) -> Tensor:
    """Return the mean of (x - blur * x)^2, with the border mirrored: the part of a sample that a blur removes.

    Images x (B, c, H, W) and a blur (side, side), or series (B, c, L) and a blur (side,); side is odd, and H, W and L
    are above half of it.
    """
    channels, reach = samples.shape[1], len(blur) // 2
    kernel = sent(blur, samples).expand(channels, 1, *blur.shape)
    convolve = F.conv2d if blur.ndim == 2 else F.conv1d
    smooth = convolve(F.pad(samples, (reach,) * 2 * blur.ndim, mode="reflect"), kernel, groups=channels)
    return F.mse_loss(samples, smooth)


def total_variation(images: Tensor) -> Tensor:
    """Return the total variation: mean |a - b| over neighbours in each of four directions, summed; x (B, c, H, W).

    To the right, downwards and along both diagonals, so sides are at least 2. DeepInversion in the form of
    DataFree (@ 9e79fa9, `get_image_prior_losses`); NVlabs' own code takes Euclidean norms instead of means.
    """
    pairs = (
        (images[..., :-1], images[..., 1:]),
        (images[..., :-1, :], images[..., 1:, :]),
        (images[..., 1:, :-1], images[..., :-1, 1:]),
        (images[..., :-1, :-1], images[..., 1:, 1:]),
    )
    return torch.stack([(a - b).abs().mean() for a, b in pairs]).sum()


def jensen_shannon(one: Tensor, other: Tensor, temperature: float = 1.0) -> Tensor:
    """Return 1/B sum_i 1/2 [KL(p_i || m_i) + KL(q_i || m_i)], m = (p + q) / 2: 0 where both agree, log 2 at most.

    p, q are the softmax of logits (B, C) divided by `temperature`.
    """
    log_p, log_q = (F.log_softmax(logits / temperature, dim=1) for logits in (one, other))
    log_m = torch.logaddexp(log_p, log_q) - math.log(2)
    both = [(log.exp() * (log - log_m)).sum(dim=1).mean() for log in (log_p, log_q)]
    return torch.stack(both).mean()


def clamped_jensen_shannon(one: Tensor, other: Tensor, temperature: float = 1.0) -> Tensor:
    """Return 1/B sum_i 1/2 [KL(m_i || p_i) + KL(m_i || q_i)], p, q and m clamped to [0.01, 0.99] after m was formed.

    The released codes of DeepInversion (NVlabs; DataFree @ 9e79fa9, `jsdiv`): the divergences run the other
    way. Clamped values have no gradient; with a hundred classes that is most of p and q. Logits (B, C).
    """
    p, q = (F.softmax(logits / temperature, dim=1) for logits in (one, other))
    m, p, q = (t.clamp(0.01, 0.99) for t in ((p + q) / 2, p, q))
    both = [(m * (m.log() - t.log())).sum(dim=1).mean() for t in (p, q)]
    return torch.stack(both).mean()


@torch.no_grad()
def bns_score(net: nn.Module, x: Tensor, batch_size: int = 256) -> Tensor:
    """Return the distance of samples from a net's training data: `batchnorm_divergence` with statistics of all samples.

    So it is KL(net || samples), its mean over layers and channels; near 0 for training data. The measure of data
    similarity of "The Knowledge Within" (CVPR 2020). x (N, ...) as the net's input is; `batch_size` affects
    memory alone: means and variances of the batches are combined exactly.

    Raises:
        ValueError: the net is in train mode, which would change its running statistics, or has no BatchNorm.
    """
    if net.training:
        raise ValueError("a net in train mode would learn from the samples it is to judge; call eval() first")
    shares, parts = list[float](), list[Statistics]()
    for batch in torch.split(x, batch_size):
        with record_statistics(net) as stats:
            net(batch)
        shares.append(len(batch) / len(x))
        parts.append(dict(stats))
    whole: Statistics = {}
    for name in parts[0]:
        if name.endswith("running_mean"):
            variance = f"{name.removesuffix('mean')}var"
            means, variances = (torch.stack([part[key] for part in parts], dim=1) for key in (name, variance))
            whole[name] = means @ means.new_tensor(shares)
            apart = (means - whole[name][:, None]).square()
            whole[variance] = (variances + apart) @ means.new_tensor(shares)
    return batchnorm_divergence(net, whole)
