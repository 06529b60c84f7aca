"""The parts of an AC-GAN that are not the classifier: a generator of images by label, and a real/fake head.

Odena, Olah and Shlens, "Conditional Image Synthesis with Auxiliary Classifier GANs", ICML 2017,
arXiv:1610.09585. The discriminator is any net of ours with the head beside its classifier.

Shapes: B batch, C classes, n latent width, w base width, (c, H, W) an image, s x s' the first map.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fcil.nets.backbone import Shape
from fcil.nets.doubling import DoublingConv2d
from fcil.nets.net import Net
from fcil.nets.norms import BatchNorm2d
from fcil.rng import sent
from fcil.types import Batch, Terms

SMALLEST = 4
"""Longest side of the generator's first map; sides are halved until none is longer."""


class ConditionalGenerator(nn.Module):
    """Noise z (B, n) and labels y (B,) -> images (B, c, H, W), normalised as the nets expect them.

        x = (sigmoid(convs(relu(BN(W z + E_y)))) - mean) / std

    W z + E_y is a linear layer on z and the one-hot label, written so that new classes are new rows of
    E. Every step of `convs` doubles the sides (less one pixel, where the image's are odd) and halves
    the channels, from 8 w at most to w. Weights start from torch's global stream: build inside
    `fcil.rng.seeded`.

    Args:
        num_classes: C.
        shape: c, H, W of the images; any sides.
        mean, std: of the real images, (c,) each; constant, and no part of the state.
        latent: n.
        width: w.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        num_classes: int,
        shape: Shape,
        mean: Sequence[float] | Tensor,
        std: Sequence[float] | Tensor,
        latent: int = 110,
        width: int = 64,
    ) -> None:
        super().__init__()
        channels, *largest = shape
        sides = _halvings(largest)
        wide = width * 2 ** min(3, len(sides) - 1)
        self.latent = latent
        first = (wide, *sides[0])
        self.noise = nn.Linear(latent, wide * sides[0][0] * sides[0][1])
        self.unfold = nn.Sequential(nn.Unflatten(1, first), BatchNorm2d(wide), nn.ReLU())
        self.convs = nn.Sequential(OrderedDict(_convs(channels, width, sides)))
        self.register_buffer("mean", torch.as_tensor(mean).float().view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.as_tensor(std).float().view(-1, 1, 1), persistent=False)
        self.classes = nn.Embedding(num_classes, self.noise.out_features)  # last: the rest does not depend on C

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        pixels = self.convs(self.unfold(self.noise(z) + self.classes(labels))).sigmoid()
        return cast(Tensor, (pixels - self.mean) / self.std)

    def draw(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Return images of these classes, with fresh noise."""
        weight = self.noise.weight
        z = torch.randn(len(labels), self.latent, generator=generator, dtype=weight.dtype)
        return cast(Tensor, self(sent(z, weight), labels))


def real_fake_head(features: int) -> nn.Linear:
    """Return a head: features (B, F) of a net -> the logit (B, 1) of being real."""
    return nn.Linear(features, 1)


def judged(realness: Tensor, *, real: bool) -> Tensor:
    """Return -1/B sum_i log sigmoid(r_i) for target real, of 1 - sigmoid(r_i) for target fake; any shape."""
    return F.binary_cross_entropy_with_logits(realness, torch.full_like(realness, float(real)))


@contextmanager
def drop_running_statistics(net: nn.Module) -> Iterator[None]:
    """Let a forward in train mode within the block leave BatchNorm's running statistics as they are.

    For images of another distribution than those the net is used on: the fakes of an untrained generator.
    """
    layers = [layer for layer in net.modules() if isinstance(layer, _BatchNorm)]
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.momentum = 0.0
    try:
        yield
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum


@dataclass(frozen=True)
class AcGan:
    """The two sides, the generator's classes, and the losses of either side."""

    net: Net
    head: nn.Linear
    generator: ConditionalGenerator
    labels: Tensor  # the classes of fakes (L,), each as likely
    adversarial: float
    stream: torch.Generator

    def judge(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return class logits (B, C) and the logit of being real (B, 1)."""
        out = self.net(x)
        return out.logits, self.head(out.features).to(out.logits)

    def fakes(self, count: int) -> Batch:
        y = one_of(self.labels, count, self.stream).to(self.head.weight.device)
        return Batch(self.generator.draw(y, self.stream), y)

    def genuine(self, logits: Tensor, realness: Tensor, y: Tensor, share: float, name: str = "") -> Terms:
        """Return A(x, y) of a batch with target real."""
        real = share * self.adversarial * judged(realness, real=True)
        return {f"{name}ce": share * F.cross_entropy(logits, y), f"{name}real": real}

    def caught(self, count: int) -> Terms:
        """Return the discriminator's terms on fresh fakes."""
        with torch.no_grad():
            x, y = self.fakes(count)
        with drop_running_statistics(self.net):
            logits, realness = self.judge(x)
        return {"fake_ce": F.cross_entropy(logits, y), "fake": self.adversarial * judged(realness, real=False)}

    def deceiving(self, count: int) -> Terms:
        """Return the generator's terms on fresh fakes."""
        x, y = self.fakes(count)
        with drop_running_statistics(self.net):
            logits, realness = self.judge(x)
        real = self.adversarial * judged(realness, real=True)
        return {"generator_ce": F.cross_entropy(logits, y), "generator_real": real}

    def descend(self, optimizer: torch.optim.Optimizer, count: int) -> Terms:
        """Take a step of the generator, on gradients of its own weights alone."""
        terms = self.deceiving(count)
        optimizer.zero_grad(set_to_none=True)
        torch.stack(list(terms.values())).sum().backward(  # type: ignore[no-untyped-call]
            inputs=list(self.generator.parameters())
        )
        optimizer.step()
        return terms


def one_of(values: Tensor, count: int, stream: torch.Generator) -> Tensor:
    """Return `count` of the values (L,), drawn uniformly with replacement."""
    return values[sent(torch.randint(len(values), (count,), generator=stream), values.device)]


def evenly(labels: Tensor, count: int, stream: torch.Generator) -> Iterator[Tensor]:
    """Yield rows (count,) of `labels` (N,) without end: of a class that occurs, drawn uniformly, a row likewise."""
    sizes = labels.bincount()
    sizes = sizes[sizes > 0]
    classes, starts, order = (
        torch.arange(len(sizes), device=labels.device),
        sizes.cumsum(0) - sizes,
        labels.argsort(stable=True),
    )
    while True:
        chosen = one_of(classes, count, stream)
        inside = sent(torch.rand(count, generator=stream), labels.device)
        yield order[starts[chosen] + (inside * sizes[chosen]).long()]


def _halvings(sides: Sequence[int]) -> list[tuple[int, ...]]:
    """Return the sides of the generator's maps, the first map first."""
    found = [tuple(sides)]
    while max(found[0]) > SMALLEST:
        found.insert(0, tuple(-(-side // 2) for side in found[0]))
    return found


def _convs(channels: int, width: int, sides: Sequence[tuple[int, ...]]) -> Iterator[tuple[str, nn.Module]]:
    steps = len(sides) - 1
    before = width * 2 ** min(3, steps)
    for step, size in enumerate(sides[1:], start=1):
        after = width * 2 ** min(3, steps - step)
        if size == tuple(2 * side for side in sides[step - 1]):
            yield f"conv{step}", DoublingConv2d(before, after, bias=False)
        else:
            yield f"up{step}", nn.Upsample(size=size)
            yield f"conv{step}", nn.Conv2d(before, after, 3, padding=1, bias=False)
        yield f"bn{step}", BatchNorm2d(after)
        yield f"act{step}", nn.ReLU()
        before = after
    yield "last", nn.Conv2d(before, channels, 3, padding=1)
