"""A small generator of a classifier's input features, from labels and noise, and its losses.

`LatentGenerator` and the losses are those of FedGen (Zhu et al., ICML 2021, arXiv:2105.10056; code
@ dd5807c, `Generator`, `train_generator`); it grows with the classes, which the paper's does not.

Shapes: B batch, C classes, F feature width, n noise width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fcil.rng import sent

Condition = Literal["onehot", "embedding"]
Head = tuple[Tensor, Tensor]
"""Weight (C, F) and bias (C,) of a classifier."""


class LatentGenerator(nn.Module):
    """Features (B, F) for labels (B,) and noise (B, n), uniform in [0, 1).

        G(u, y) = fc2(relu(BN(fc1([u, c_y]))))

    c_y is the label as a one-hot vector (C,), or a learnt embedding (n,). Weights start from torch's
    global stream: build inside `fcil.rng.seeded`.
    """

    def __init__(
        self, num_classes: int, width: int, hidden: int = 256, noise: int = 32, condition: Condition = "onehot"
    ) -> None:
        super().__init__()
        self.noise, self.num_classes = noise, num_classes
        self.embedding = nn.Embedding(num_classes, noise) if condition == "embedding" else None
        self.fc1 = nn.Linear(noise + (num_classes if self.embedding is None else noise), hidden)
        self.bn = nn.BatchNorm1d(hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, noise: Tensor, labels: Tensor) -> Tensor:
        if self.embedding is None:
            label = F.one_hot(labels, self.num_classes).to(noise.dtype)
        else:
            label = self.embedding(labels)
        out: Tensor = self.fc2(F.relu(self.bn(self.fc1(torch.cat([noise, label], dim=1)))))
        return out

    def sample(self, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return features (B, F) for these labels, and the noise (B, n) that was drawn for them."""
        noise = sent(torch.rand(len(labels), self.noise, generator=generator), self.fc1.weight)
        return self(noise, labels), noise

    @torch.no_grad()
    def grow(self, num_classes: int, generator: torch.Generator) -> None:
        """Add classes: learnt weights stay as they are, new ones are initialised as at first.

        Parameters are replaced, so an optimizer built before does not see them.

        Raises:
            ValueError: it has more classes already.
        """
        extra, old = num_classes - self.num_classes, self.fc1.weight
        if extra < 0:
            raise ValueError(f"a generator for {self.num_classes} classes cannot grow to {num_classes}")
        if self.embedding is None:
            bound = 1 / math.sqrt(self.noise + num_classes)
            columns = torch.empty(len(old), extra).uniform_(-bound, bound, generator=generator)
            self.fc1.weight = nn.Parameter(torch.cat([old, columns.to(old)], dim=1))
            self.fc1.in_features = self.noise + num_classes
        else:
            rows = torch.randn(extra, self.noise, generator=generator)
            self.embedding.weight = nn.Parameter(torch.cat([self.embedding.weight, rows.to(old)]))
            self.embedding.num_embeddings = num_classes
        self.num_classes = num_classes


def teacher_loss(
    latent: Tensor, labels: Tensor, heads: Sequence[Head], shares: Tensor, over: Literal["sample", "batch"]
) -> Tensor:
    """Return sum_k mean_i w_k(y_i) CE(h_k(g_i), y_i), or the code's sum_k mean_i w_k(y_i) mean_i CE(h_k(g_i), y_i).

    A head of fewer classes has no loss for the labels beyond them.
    """
    total = latent.new_zeros(())
    for (weight, bias), share in zip(heads, shares.T, strict=True):
        asked = labels.masked_fill(labels >= len(bias), -100)  # those of -100 cost nothing
        ce, w = F.cross_entropy(F.linear(latent, weight, bias), asked, reduction="none"), share[labels].to(latent)
        total = total + ((w * ce).mean() if over == "sample" else w.mean() * ce.mean())
    return total


def disagreement(latent: Tensor, labels: Tensor, heads: Sequence[Head], shares: Tensor, student: Head) -> Tensor:
    """Return KL(softmax of sum_k w_k(y_i) h_k(g_i) || softmax of the student), its mean over samples and classes."""
    logits = F.linear(latent, *student)  # (B, C)
    ensemble = torch.zeros_like(logits)
    for (weight, bias), share in zip(heads, shares.T, strict=True):
        z = F.linear(latent, weight, bias)
        z = F.pad(z, (0, logits.shape[1] - z.shape[1]), value=-1e4)  # a head of fewer classes rules out the others
        ensemble = ensemble + share[labels, None].to(latent) * z
    p, q = F.log_softmax(ensemble, dim=1), F.log_softmax(logits, dim=1)
    return F.kl_div(q, p, log_target=True, reduction="none").mean()  # a p of zero has a gradient in this form alone


def diversity_loss(noise: Tensor, latent: Tensor) -> Tensor:
    """Return exp(-mean over all pairs of mean (u_i - u_j)^2 times mean |g_i - g_j|): noise (B, n), features (B, F)."""
    apart = (noise[:, None] - noise).square().mean(dim=2) * (latent[:, None] - latent).abs().mean(dim=2)
    return torch.exp(-apart.mean())
