"""What `fcil new` writes for a net, a data set, a synthesizer and a partition: files that run as they are."""

from __future__ import annotations

NET = '''"""{title}: what this net is, in one line.

Shapes: B batch, c channels, F = 4 width features; an image is (c, H, W).
"""

from dataclasses import dataclass

from torch import Tensor, nn

from fcil.nets import Architecture, Backbone, norm_factory
from fcil.types import Count


class Trunk(Backbone):
    """Convolutions, each with a norm; the mean over the last maps are the features."""

    def __init__(self, channels: int, width: int, depth: int, norm: str) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for number in range(depth):
            before = width if number else channels
            layers += [nn.Conv2d(before, width, 3, padding=1, bias=False), norm_factory(norm)(width), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.width = 4 * width  # F, which classifier and label-text head read

    def forward(self, x: Tensor) -> Tensor:  # (B, c, H, W) to (B, F)
        return self.layers(x)


@dataclass(frozen=True, kw_only=True)
class {title}(Architecture):
    depth: Count = 3
    """Layers."""

    def build(self, shape, stem="auto", width=None, norm="batch") -> Backbone:
        return Trunk(shape[0], width or 16, self.depth, norm)
'''

DATASET = '''"""{title}: what these samples are, and where they come from, in one line.

Here stripes, made by a seed of their own: class k is bright in row k, or in the column after that.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fcil.data import DataSource, Samples
from fcil.types import Count


@dataclass(frozen=True, kw_only=True)
class {title}(DataSource):
    each: Count = 60
    """Training images of each class."""

    # `kind = "series"` is for time series, (N, channels, steps) float32; `augment` for how samples are varied.

    def load(self, root: Path | None) -> Samples:
        """Every worker calls it: it returns the same each time. `root` is `data.root`, for sets that lie in files."""
        rng = np.random.default_rng(0)
        x, y = self.stripes(self.each, rng)
        x_test, y_test = self.stripes(20, rng)
        return Samples(x, y, x_test, y_test, [f"stripe {{k}}" for k in range(10)])

    def stripes(self, each: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        y = np.repeat(np.arange(10), each)  # class numbers from 0
        x = rng.integers(0, 120, (len(y), 1, 8, 8), dtype=np.uint8)  # (N, channels, height, width)
        for image, label in zip(x, y, strict=True):
            place = (0, label) if label < 8 else (0, slice(None), label - 8)
            image[place] += 120
        return x, y
'''

SYNTHESIZER = '''"""{title}: how samples are made from a net alone, in one line.

    L = CE(T(x), y) + tv TV(x)        T the teacher, y the wanted labels; the pixels of x move

Shapes: N samples of a chain, C classes of the teacher, (c, H, W) an image.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fcil.rng import generator, sent
from fcil.synthesis import SynthesisProblem, Synthesizer
from fcil.types import Count, NonNegative, Positive, Tensors


@dataclass
class Chain:
    """What a chain has made so far: tensors, numbers and modules, which are saved."""

    x: Tensor  # (N, c, H, W) in [0, 1]
    y: Tensor  # (N,)


@dataclass(frozen=True, kw_only=True)
class {title}(Synthesizer):
    samples: Count = 200
    """Samples kept in the pool."""
    rounds: Count = 10
    """Episodes of a chain."""
    steps: Count = 20
    """Steps of Adam in an episode."""
    lr: Positive = 0.05
    """Learning rate of Adam."""
    tv: NonNegative = 0.1
    """Weight of the mean squared difference between neighbouring pixels."""

    @property
    def episodes(self) -> int:
        return self.rounds

    def start(self, problem: SynthesisProblem, chain: int) -> Chain:
        rng = generator(*problem.key, "{name}", chain)
        x = sent(torch.rand(self.share(chain), *problem.shape, generator=rng), problem.device)
        labels = torch.tensor(problem.labels, device=problem.device)
        return Chain(x, labels[torch.arange(len(x), device=problem.device) % len(labels)])

    def episode(self, problem: SynthesisProblem, state: Chain, number: int) -> dict[str, float]:
        x = state.x.clone().requires_grad_(True)
        adam = torch.optim.Adam([x], self.lr)
        mean, std = problem.mean[:, None, None], problem.std[:, None, None]
        for _ in range(self.steps):
            logits = problem.teacher((x - mean) / std).logits  # (N, C)
            rough = (x.diff(dim=-1) ** 2).mean() + (x.diff(dim=-2) ** 2).mean()
            terms = {{"ce": F.cross_entropy(logits, state.y), "tv": self.tv * rough}}
            (gradient,) = torch.autograd.grad(terms["ce"] + terms["tv"], x)
            x.grad = gradient
            adam.step()
            x.data.clamp_(0, 1)
        state.x = x.detach()
        return {{key: term.item() for key, term in terms.items()}}

    def pool(self, problem: SynthesisProblem, state: Chain) -> Tensors:
        return {{"x": (state.x * 255).round().to(torch.uint8), "y": state.y}}

    def smoke(self) -> Any:
        return replace(self, rounds=2, steps=2, samples=min(20, self.samples))
'''

PARTITION = '''"""{title}: who holds which samples of a task, in one line.

Client j holds a share of the samples in proportion to (j + 1)^skew.
"""

from dataclasses import dataclass

import numpy as np

from fcil.data import Partitioner
from fcil.types import NonNegative


@dataclass(frozen=True, kw_only=True)
class {title}(Partitioner):
    skew: NonNegative = 1.0
    """Exponent of the sizes; 0 is even shares."""

    def deal(self, labels: np.ndarray, clients: int, rng: np.random.Generator) -> list[np.ndarray]:
        shares = np.arange(1, clients + 1) ** self.skew
        ends = (np.cumsum(shares) / shares.sum() * len(labels)).astype(int)[:-1]
        return np.split(rng.permutation(len(labels)), ends)  # positions in labels (N,), each of them once
'''
