"""The losses that methods share. Each is a pure function of tensors and returns a scalar.

Temperatures are traps: `soft_cross_entropy` has no factor T^2 (client distillation), while
`kl_divergence` has it (training a student on the server).

BatchNorm matching compares a batch's statistics with a net's running statistics. Statistics are named
tensors, with the names of the buffers they are compared with (`stem.bn.running_mean`); so averages of
them can be stored, sent and saved like any other state.

Shapes: B batch, C classes, D width of a label-text embedding.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fcil.types import Tensors

Statistics: TypeAlias = Tensors
"""Mean and biased variance of every BatchNorm layer's input, (channels,) each, with gradients."""
Averages: TypeAlias = Tensors
"""Running averages of statistics over synthesis rounds; constants."""


def bounding(embedding: Tensor, anchors: Tensor, radius: float, hinge: Literal["sample", "batch"]) -> Tensor:
    """Return LANDER's bounding loss: zero within `radius` r of the anchor.

        sample   1/B sum_i max(0, |g_i - e_i|^2 / D - r)       the paper's
        batch    max(0, 1/B sum_i |g_i - e_i|^2 / D - r)       the reference code's (@ 44d7acc)

    r is in units of the mean over the D dimensions. `batch` gives no sample a gradient once the
    batch is inside on average. embedding g (B, D); anchors e (B, D), one a sample, constant.
    """
    distance = (embedding - anchors.detach()).square().mean(dim=1)  # (B,)
    if hinge == "batch":
        return F.relu(distance.mean() - radius)
    return F.relu(distance - radius).mean()


def cross_entropy_with(logits: Tensor, target: Tensor) -> Tensor:
    """Return -1/B sum_i sum_k p_ik log softmax(z_i)_k for target distributions p (B, C), logits z (B, C)."""
    return F.cross_entropy(logits, target)


def soft_cross_entropy(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return -1/B sum_i sum_k softmax(t_i / T)_k log softmax(s_i / T)_k, without a factor T^2.

    The distillation of LwF, TARGET and LANDER on clients (LANDER @ 44d7acc, `_KD_loss`): it includes
    the teacher's entropy, so it is not zero when both agree. Logits s, t (B, C).
    """
    return cross_entropy_with(student / temperature, F.softmax(teacher / temperature, dim=1))


def kl_divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return T^2 / B sum_i KL(softmax(t_i / T) || softmax(s_i / T)), logits s, t (B, C).

    Hinton et al., arXiv:1503.02531; the student of NAYER and LANDER takes T = 20. In single
    precision about four digits are left at that temperature.
    """
    return temperature**2 * _kl_by_sample(student / temperature, teacher / temperature).mean()


def masked_adversarial(student: Tensor, teacher: Tensor) -> Tensor:
    """Return -1/B sum_i [argmax s_i = argmax t_i] KL(softmax(t_i) || softmax(s_i)), logits s, t (B, C).

    It rewards samples for which both nets predict the same class and yet differ (NAYER, LANDER
    @ 44d7acc). Divides by B, not by the number that agree; the gradient runs through both nets.
    """
    agree = student.argmax(dim=1) == teacher.argmax(dim=1)
    return -(_kl_by_sample(student, teacher) * agree).mean()


def new_class_cross_entropy(logits: Tensor, labels: Tensor, num_old: int) -> Tensor:
    """Return the cross-entropy with the softmax over the new classes alone: CE(z[:, K:], y - K).

    Old logits get no gradient, so new data does not push old classes down (LANDER, section on later
    tasks). logits z (B, C); labels y (B,), all from K = `num_old` on.
    """
    return F.cross_entropy(logits[:, num_old:], labels - num_old)


def head_cross_entropy(classifier: nn.Module, features: Tensor, labels: Tensor) -> Tensor:
    """Return CE(h(stop f), y): it trains the classifier h alone, without a gradient to the features f (B, F) (MFCL)."""
    return F.cross_entropy(classifier(features.detach()), labels)


def supervised_contrastive(features: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Return -1/|A| sum_{i in A} 1/|P_i| sum_{p in P_i} log [exp(z_i.z_p / T) / sum_{a != i} exp(z_i.z_a / T)].

    z = f/|f|, f (B, F); P_i are the other samples of i's class, and A those that have any; without them it is 0.
    Khosla et al., "Supervised Contrastive Learning", NeurIPS 2020, arXiv:2004.11362, equation 2, on one view a sample.
    """
    z = F.normalize(features, dim=1)
    itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
    logits = (z @ z.T / temperature).masked_fill(itself, torch.finfo(z.dtype).min)
    same = (labels[:, None] == labels) & ~itself
    positives = same.sum(dim=1)
    log_p = F.log_softmax(logits, dim=1).masked_fill(~same, 0.0).sum(dim=1) / positives.clamp(min=1)  # (B,)
    return -log_p.sum() / (positives > 0).sum().clamp(min=1)


def _kl_by_sample(student: Tensor, teacher: Tensor) -> Tensor:
    """Return KL(softmax t || softmax s) of every sample (B,), differentiable in both."""
    p, q = F.log_softmax(teacher, dim=1), F.log_softmax(student, dim=1)
    return F.kl_div(q, p, log_target=True, reduction="none").sum(dim=1)


# Distances of weights -------------------------------------------------------------------------


def proximal(weights: Tensors, start: Tensors) -> Tensor:
    """Return 1/2 sum_i |w_i - s_i|^2 over the tensors of `weights`; `start` is constant.

    FedProx's pull to the weights at the round's start (Li et al., MLSys 2020), without its factor mu.
    """
    return torch.stack([(w - start[name]).square().sum() for name, w in weights.items()]).sum() / 2


def quadratic_penalty(weights: Tensors, optimum: Tensors, precision: Tensors) -> Tensor:
    """Return 1/2 sum_i F_i (w_i - o_i)^2 over the entries of `precision` F; o = `optimum` is constant.

    EWC's penalty on changes of important weights (Kirkpatrick et al., PNAS 2017, equation 3), without its
    factor lambda. Of a tensor that has grown since, such as a classifier, only the first rows are penalised.
    """
    held = [(precision[k], w, optimum[k]) for k, w in weights.items() if k in precision]  # summed in the net's order
    return torch.stack([(f * (w[: len(f)] - o).square()).sum() for f, w, o in held]).sum() / 2


def sigmoid_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Return -1/B sum_i sum_k [p_ik log sigmoid(z_i)_k + (1 - p_ik) log(1 - sigmoid(z_i)_k)], both (B, C).

    Each class is a binary problem, so targets need not add up to one: iCaRL (CVPR 2017, algorithm 3).
    """
    return F.binary_cross_entropy_with_logits(logits, target, reduction="sum") / len(logits)


# BatchNorm matching --------------------------------------------------------------------------


@contextmanager
def record_statistics(net: nn.Module) -> Iterator[Statistics]:
    """Record statistics of every BatchNorm layer's input in the latest forward of `net` within the block.

        with record_statistics(teacher) as stats:
            out = teacher(images)
        loss = statistics_distance(teacher, stats)

    Taken over batch and positions, of series over real steps, in one pass each; outside the block a forward costs
    no more than usual. Layers without running statistics are left out.
    """
    stats: Statistics = {}
    with ExitStack() as hooks:
        hooks.callback(net.register_forward_pre_hook(lambda *_: stats.clear()).remove)
        for name, layer in net.named_modules():
            if isinstance(layer, _BatchNorm) and layer.running_mean is not None:
                prefix = f"{name}." if name else ""
                hooks.callback(layer.register_forward_pre_hook(partial(_record, stats, prefix)).remove)
        yield stats


def _record(stats: Statistics, prefix: str, layer: nn.Module, inputs: tuple[Any, ...]) -> None:
    x: Tensor = inputs[0]  # (B, channels) or (B, channels, ...)
    mask: Tensor | None = inputs[1] if len(inputs) > 1 else None  # (B, 1, L), of the real steps of series
    if x.dtype in (torch.bfloat16, torch.float16):
        x = x.float()  # a mean with eight bits would be noise beside the distances that are minimised
    if mask is None:
        mean, var = moments(x)
    else:
        count = mask.sum().clamp(min=1)
        mean = (x * mask).sum(dim=(0, 2)) / count
        var = ((x - mean[:, None]) * mask).square().sum(dim=(0, 2)) / count
    stats[f"{prefix}running_mean"], stats[f"{prefix}running_var"] = mean, var


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and biased variance of each channel (C,) of `x` (B, C, ...).

    On a CPU `torch.var_mean` over several axes takes three to four times as long (`tests/benchmarks/moments.py`);
    on a GPU neither was timed, and there is one arithmetic for all devices.
    """
    mean, var = _Moments.apply(x)
    return mean, var


class _Moments(torch.autograd.Function):
    """Moments in two passes over `x`, and their gradient (dm + 2 (x - m) dv) / n in one."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        axes = [0, *range(2, x.dim())]
        mean = x.mean(axes)
        distance = x - _beside(mean, x)
        return mean, distance.mul_(distance).mean(axes)  # `square_` has no batching rule under vmap, and loops

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor]) -> None:
        ctx.save_for_backward(inputs[0], output[0])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (x, mean), (of_mean, of_var) = ctx.saved_tensors, gradients
        share = x.shape[1] / x.numel()
        slope = 2 * share * of_var
        return torch.addcmul(_beside(share * of_mean - mean * slope, x), x, _beside(slope, x))


def _beside(values: Tensor, x: Tensor) -> Tensor:
    """Return values of channels (C,) as they are added to `x` (B, C, ...)."""
    return values.view(1, -1, *[1] * (x.dim() - 2))


def statistics_distance(
    net: nn.Module, stats: Statistics, averages: Averages | None = None, momentum: float = 0.0
) -> Tensor:
    """Return the sum over BatchNorm layers of |M - m| + |V - v|, Euclidean norms over the channels.

    m, v are the statistics of a batch, M, V the running ones of `net`. Where `averages` E are given,
    (1-a) m + a E[m] replaces m (a = `momentum`): only the average over synthesis rounds has to
    match, and the gradient shrinks by 1 - a. DeepInversion (CVPR 2020) in the form of NAYER and
    LANDER @ 44d7acc, `DeepInversionHook`.

    Raises:
        ValueError: no statistics: the net has no BatchNorm, or was not run while recording.
    """
    if not stats:
        raise ValueError("no BatchNorm statistics: the net has no such layer, or was not run while recording")
    if averages is not None and momentum:
        stats = {name: (1 - momentum) * value + momentum * averages[name] for name, value in stats.items()}
    remembered = dict(net.named_buffers())
    return torch.stack([torch.linalg.vector_norm(remembered[name] - stats[name]) for name in stats]).sum()


def update_averages(averages: Averages | None, stats: Statistics, momentum: float) -> Averages:
    """Return E <- a E + (1-a) m, once at the end of a synthesis round; the first round gives E = m."""
    now = {name: value.detach().clone() for name, value in stats.items()}
    if averages is None:
        return now
    return {name: momentum * averages[name] + (1 - momentum) * value for name, value in now.items()}
