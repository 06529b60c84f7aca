"""Ridge regression from sums that clients can add: a classifier in closed form on frozen features.

    G = sum_i h_i h_i^T,   P = sum_i h_i y_i^T,   W = (G + ridge tr(G) / M I)^-1 P

h_i are features, y_i one-hot labels. G, P and so W are the same however samples are shared out, and in whatever order
classes and clients come; the sums of some samples can be taken out again. All of it is in double precision.

Source: Guo et al., STSA, WWW 2026 (Yuqin-G/STSA: spatial-temporal statistics aggregation), which has (G + lambda I)
with lambda = 1e6 on unnormalised features; the penalty here is in proportion to the features' mean square.

Shapes: N samples, M features, C classes, g groups.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt

import torch
import torch.nn.functional as F
from torch import Tensor

from fcil.types import Tensors

NOTHING = 1e-9
"""Share of a sum below which what is left of it is rounding, and of two sums below which they are the same."""


@dataclass(frozen=True)
class Moments:
    """Sums over samples: G (M, M) and P (M, C), float64."""

    gram: Tensor
    cross: Tensor

    @classmethod
    def of(cls, h: Tensor, labels: Tensor, num_classes: int) -> Moments:
        """Return the sums over features (N, M) with labels (N,) of `num_classes` classes."""
        h = h.double()
        return cls(h.T @ h, class_sums(h, labels, num_classes).T)

    def __add__(self, other: Moments) -> Moments:
        """Return the sums over the samples of both; the later one may know more classes."""
        return self._joined(other, 1.0)

    def __sub__(self, other: Moments) -> Moments:
        """Return the sums without those samples, as if they had never been there: exact unlearning."""
        return self._joined(other, -1.0)

    def without(self, other: Moments) -> Moments:
        """Return `self - other`; a class with no sample left is zero in it, and not what rounding leaves of its sum.

        Raises:
            ValueError: no class has a sample left, or those samples were never in these sums.
        """
        assert other.cross.shape[1] <= self.cross.shape[1]
        left = self - other
        if left.gram.diagonal().min() < -NOTHING * self.gram.diagonal().max():
            raise ValueError("these samples are not in the sums")
        gone = left.cross.abs().amax(0) <= NOTHING * self.cross.abs().amax(0)
        if gone.all():
            raise ValueError("no sample would be left")
        return Moments(left.gram, left.cross.masked_fill(gone, 0.0))

    def _joined(self, other: Moments, sign: float) -> Moments:
        wide = max(self.cross.shape[1], other.cross.shape[1])
        mine, theirs = (F.pad(m.cross, (0, wide - m.cross.shape[1])) for m in (self, other))
        return Moments(self.gram + sign * other.gram, mine + sign * theirs)

    def solve(self, ridge: float) -> Tensor:
        """Return W (M, C), by Cholesky's decomposition.

        Args:
            ridge: the penalty, as a share of the mean of G's diagonal.
        Raises:
            ValueError: G is zero: there are no samples, or no feature is ever active.
        """
        scale = self.gram.diagonal().mean()
        if not scale > 0:
            raise ValueError("all features are zero; there is nothing to fit")
        penalty = torch.eye(len(self.gram), dtype=self.gram.dtype, device=self.gram.device) * (ridge * scale)
        return torch.cholesky_solve(self.cross, torch.linalg.cholesky(self.gram + penalty))

    def solve_standardised(self, ridge: float) -> tuple[Tensor, Tensor]:
        """Return W (M - 1, C) and b (C,), fitted to features of mean 0 and variance 1, for features as they are.

            S = (G - n m m^T) / (d d^T),   W = (S + ridge n I)^-1 (P - m n_c^T) / d,  again by d,   b = n_c / n - m^T W

        m and d are the means and deviations of the features over all n samples, n_c the samples of each class. All of
        them are in sums over features whose last is 1.

        Args:
            ridge: the penalty for one sample.
        Raises:
            ValueError: there are no samples, or no feature varies.
        """
        count, per_class = self.gram[-1, -1], self.cross[-1]
        mean = self.gram[:-1, -1] / count
        variance = self.gram.diagonal()[:-1] / count - mean.square()
        if not variance.max() > 0:
            raise ValueError("no feature varies; there is nothing to fit")
        deviation = (variance.clamp(min=0) + 1e-6 * variance.max()).sqrt()
        spread = (self.gram[:-1, :-1] - count * torch.outer(mean, mean)) / torch.outer(deviation, deviation)
        spread.diagonal().add_(ridge * count)
        moved = (self.cross[:-1] - torch.outer(mean, per_class)) / deviation[:, None]
        weight = torch.cholesky_solve(moved, torch.linalg.cholesky(spread)) / deviation[:, None]
        return weight, per_class / count - mean @ weight


def packed(gram: Tensor) -> Tensor:
    """Return the upper triangle of a symmetric matrix (M, M): (M (M + 1) / 2,)."""
    rows, columns = torch.triu_indices(*gram.shape, device=gram.device)
    return gram[rows, columns]


def unpacked(triangle: Tensor) -> Tensor:
    """Return the symmetric matrix (M, M) of an upper triangle."""
    size = isqrt(2 * len(triangle))
    gram = triangle.new_zeros(size, size)
    rows, columns = torch.triu_indices(size, size, device=triangle.device)
    gram[rows, columns] = triangle
    gram[columns, rows] = triangle
    return gram


def class_sums(h: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Return the sum of each class's features (C, M), for features (N, M)."""
    return F.one_hot(labels, num_classes).to(h).T @ h


def never(weight: Tensor) -> Tensor:
    """Return which classes have no sample, (C,) bool: W (M, C) of `Moments.solve` is zero for these alone."""
    return ~weight.any(0)


# Less than a Gram matrix on the wire -----------------------------------------------------------


def dealt(count: int, groups: int, rng: torch.Generator) -> Tensor:
    """Return the group of each of `count` samples, dealt out in random order: (N,), their sizes one apart at most."""
    place = torch.empty(count, dtype=torch.int64)
    place[torch.randperm(count, generator=rng)] = torch.arange(count) % groups
    return place


def group_sums(h: Tensor, labels: Tensor, place: Tensor, num_classes: int, groups: int) -> Tensors:
    """Return what STSA-E sends in place of G: class sums `sums` (g, C, M) and numbers `counts` (g, C) of groups.

    Args:
        place: the group of each sample (N,).
    """
    rows = place.to(labels.device) * num_classes + labels
    sums = class_sums(h.double(), rows, groups * num_classes)
    counts = torch.bincount(rows, minlength=groups * num_classes)
    return {"sums": sums.view(groups, num_classes, -1), "counts": counts.view(groups, num_classes).double()}


def estimated(sums: Tensor, counts: Tensor) -> Moments:
    """Return the moments that class sums (K, C, M) and numbers (K, C) of K groups tell: P exactly, G as an estimate.

        G = sum_c [ (N_c - 1)/(K - 1) sum_g s_gc s_gc^T / n_gc  -  (N_c - K)/((K - 1) N_c) P_c P_c^T ]

    Both factors are at least 0, and K is the number of groups that hold the class: STSA-E. A class held by a single
    group has s s^T / n, which leaves its spread out.
    """
    total, cross = counts.sum(0), sums.sum(0)  # (C,), (C, M)
    held = (counts > 0).sum(0).double()  # (C,), K of each class
    split = (held - 1).clamp(min=1)
    within = ((total - 1) / split).clamp(min=0).where(held > 1, torch.ones_like(total))
    between = ((total - held) / (split * total.clamp(min=1))).clamp(min=0).where(held > 1, torch.zeros_like(total))
    scaled = sums * (within / counts.clamp(min=1)).sqrt()[..., None]
    rows = scaled.flatten(0, 1)
    gram = rows.T @ rows - (cross * between[:, None]).T @ cross
    return Moments(gram, cross.T)


@dataclass(frozen=True)
class GroupSums:
    """What groups have sent, one row for each class that a group holds: so that a client can be taken out again.

    `estimated` weighs each group by how many hold a class, so the estimate of some groups cannot be taken out of that
    of all; these rows can.
    """

    sums: Tensor
    """(R, M), float64."""
    counts: Tensor
    """Samples of each row, (R,), float64."""
    labels: Tensor
    """Class of each row, (R,), int64."""

    @classmethod
    def of(cls, sums: Tensor, counts: Tensor, first: int) -> GroupSums:
        """Return the rows of groups' sums (K, C, M) and counts (K, C); `first` is the number of the first class."""
        group, label = torch.nonzero(counts, as_tuple=True)
        return cls(sums[group, label], counts[group, label], label + first)

    def __add__(self, other: GroupSums) -> GroupSums:
        """Return the rows of both."""
        both = zip((self.sums, self.counts, self.labels), (other.sums, other.counts, other.labels), strict=True)
        return GroupSums(*(torch.cat(pair) for pair in both))

    def without(self, other: GroupSums) -> GroupSums:
        """Return the rows without those of `other`, each of which is looked for among those here.

        Raises:
            ValueError: one of them is not here, or no row would be left.
        """
        left = torch.ones(len(self.labels), dtype=torch.bool, device=self.labels.device)
        for row, count, label in zip(other.sums, other.counts, other.labels, strict=True):
            alike = (left & (self.labels == label) & (self.counts == count)).nonzero().flatten()
            apart = torch.linalg.vector_norm(self.sums[alike] - row, dim=1)
            if not len(alike) or apart.min() > NOTHING * torch.linalg.vector_norm(row):
                raise ValueError("these samples are not in the sums")
            left[alike[apart.argmin()]] = False
        if not left.any():
            raise ValueError("no sample would be left")
        return GroupSums(self.sums[left], self.counts[left], self.labels[left])

    def moments(self, num_classes: int) -> Moments:
        """Return what these rows tell, class by class, as `estimated` does."""
        size = self.sums.shape[1]
        gram, cross = self.sums.new_zeros(size, size), self.sums.new_zeros(size, num_classes)
        for label in sorted(set(self.labels.tolist())):
            own = self.labels == label
            part = estimated(self.sums[own][:, None], self.counts[own][:, None])
            gram += part.gram
            cross[:, label] = part.cross[:, 0]
        return Moments(gram, cross)


def sketched(gram: Tensor, rank: int) -> Tensors:
    """Return the r greatest directions of G, `root` (M, r), and the mean eigenvalue `rest` of all others, a scalar.

        G is about B B^T + rest (I - U U^T),   B = U diag(sqrt(greatest eigenvalues))

    FedRAN sends B alone. Without the rest all that B leaves out counts as free of spread, and W grows along it.
    """
    values, vectors = torch.linalg.eigh(gram)  # in rising order
    rank = min(rank, len(gram))
    few = len(gram) - rank
    rest = values[:few].clamp(min=0).mean() if few else values.new_zeros(())
    return {"root": vectors[:, few:] * values[few:].clamp(min=0).sqrt(), "rest": rest}


def unsketched(root: Tensor, rest: Tensor) -> Tensor:
    """Return G (M, M) as a sketch has it; see `sketched`."""
    directions = root / torch.linalg.vector_norm(root, dim=0).clamp(min=torch.finfo(root.dtype).tiny)
    plain = torch.eye(len(root), dtype=root.dtype, device=root.device)
    gram: Tensor = root @ root.T + rest * (plain - directions @ directions.T)
    return gram
