"""Features of image patches: whitened, compared with filters, thresholded and pooled. Nothing of it needs a gradient.

    p^ = (p - mean p) / sqrt(var p + contrast)          each patch p, of all channels, by itself
    q  = W (p^ - mu)                                    W = V (Lambda + floor)^-1/2 V^T, from the patches' covariance
    z  = D q                                            D (K, d), rows of length 1
    f  = pooled [ max(0, z - a), max(0, -z - a) ]       the mean over each cell of a grid

and filters by spherical k-means, whose step is a sum over patches:

    D_k <- sum_i [k = argmax_j |D_j q_i|] (D_k q_i) q_i, then length 1; a filter that no patch is nearest to stays

Source: Coates, Lee and Ng, "An Analysis of Single-Layer Networks in Unsupervised Feature Learning", AISTATS 2011
(contrast, whitening, pooling), Coates and Ng, "The Importance of Encoding Versus Training with Sparse Coding and Vector
Quantization", ICML 2011 (the two-sided threshold), and "Learning Feature Representations with K-means", 2012 (spherical
k-means). They sum over four quadrants; the mean differs by a constant alone, which standardised features do not feel.

Shapes: B images (c, H, W), s a patch's side, d = c s^2, P patches of an image, K filters, g cells a side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fcil.types import Tensors

FEW = 4096
"""Patches that are compared with filters at once."""


def patches_of(x: Tensor, side: int, contrast: float) -> Tensor:
    """Return the patches of images (B, c, H, W), one apart, each with mean 0 and a variance of at most 1: (B, P, d)."""
    p = F.unfold(x, side).transpose(1, 2)
    p = p - p.mean(dim=2, keepdim=True)
    return p * (p.square().mean(dim=2, keepdim=True) + contrast).rsqrt()


def patch_sums(p: Tensor) -> Tensors:
    """Return sums over images of the mean patch (d,) and the mean product of two pixels of a patch (d, d), float64.

    Args:
        p: patches (B, P, d).
    """
    p = p.double()
    return {"patch": p.mean(1).sum(0), "product": torch.einsum("bpi,bpj->ij", p, p) / p.shape[1]}


@dataclass(frozen=True)
class Whitening:
    """What makes patches uncorrelated: mu (d,) and W (d, d)."""

    center: Tensor
    matrix: Tensor

    @classmethod
    def of(cls, patch: Tensor, product: Tensor, floor: float) -> Whitening:
        """Return that of patches with this mean (d,) and mean product (d, d); `floor` is added to each variance."""
        values, vectors = torch.linalg.eigh(product - torch.outer(patch, patch))
        return cls(patch, vectors * (values.clamp(min=0) + floor).rsqrt() @ vectors.T)

    def __call__(self, p: Tensor) -> Tensor:
        """Return whitened patches (..., d), in the precision of the patches."""
        return (p - self.center.to(p)) @ self.matrix.to(p)


def first_filters(count: int, width: int, rng: torch.Generator) -> Tensor:
    """Return random filters (K, d) of length 1, float64."""
    return F.normalize(torch.randn(count, width, generator=rng, dtype=torch.float64), dim=1)


def filter_sums(q: Tensor, filters: Tensor) -> Tensor:
    """Return the sums (K, d) of a step of spherical k-means over whitened patches (N, d), float64."""
    total = torch.zeros_like(filters)
    for part in torch.split(q, FEW):
        z = part @ filters.to(part).T
        nearest = z.abs().argmax(dim=1, keepdim=True)
        total.index_add_(0, nearest[:, 0], (part * z.gather(1, nearest)).double())
    return total


def next_filters(sums: Tensor, filters: Tensor) -> Tensor:
    """Return the filters (K, d) after a step whose sums are these, or any multiple of them."""
    length = torch.linalg.vector_norm(sums, dim=1, keepdim=True)
    return torch.where(length > 0, sums / length.clamp(min=torch.finfo(sums.dtype).tiny), filters)


@dataclass(frozen=True)
class FilterBank:
    """The features f of images, with all that they depend on."""

    side: int
    """Pixels of a patch's side, s."""
    contrast: float
    threshold: float
    """a, for patches whose variances are 1 after whitening."""
    grid: int
    """Cells of a side, g."""
    whitening: Whitening
    filters: Tensor
    """(K, d)."""

    def __call__(self, x: Tensor) -> Tensor:
        """Return f (B, 2 K g^2) of images (B, c, H, W)."""
        weight = self.whitening.matrix @ self.filters.T  # (d, K): whitening and filters are one product
        shift = self.whitening.center @ weight
        return torch.cat([self._pooled(part, weight.to(x), shift.to(x)) for part in in_parts(x, self.side)])

    def _pooled(self, x: Tensor, weight: Tensor, shift: Tensor) -> Tensor:
        z = patches_of(x, self.side, self.contrast) @ weight - shift  # (B, P, K)
        rows = x.shape[2] - self.side + 1
        maps = z.transpose(1, 2).reshape(len(x), -1, rows, x.shape[3] - self.side + 1)
        halves = [F.adaptive_avg_pool2d(F.relu(sign - self.threshold), self.grid) for sign in (maps, -maps)]
        return torch.cat(halves, dim=1).flatten(1)


def in_parts(x: Tensor, side: int) -> Sequence[Tensor]:
    """Return a batch of images in parts whose patches take some tens of megabytes at most."""
    count = (x.shape[2] - side + 1) * (x.shape[3] - side + 1)
    return torch.split(x, max(1, 2**23 // (count * x.shape[1] * side**2)))
