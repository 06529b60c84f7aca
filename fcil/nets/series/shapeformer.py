"""ShapeFormer: a branch that compares a series with shapelets of each class, and a generic one of convolutions.

Le, Luo, Aickelin and Tran, "ShapeFormer: shapelet transformer for multivariate time series classification" (KDD 2024,
arXiv:2405.14608); public code xuanmay2701/shapeformer @ e543a2a.

    class branch    tokens U of the shapelet bank;  Z = LN(g (U + A(U)));  Z = g LN(Z + FF(Z));  mean, or first token
    generic branch  V = convolutions 1 x 8 and c x 1 with BatchNorm and GELU;  Z = LN(V + A(drop(V + P)));
                    Z = LN(Z + FF(Z));  mean over steps
    A               self-attention of 4 heads, scale 1 / sqrt(width), LayerNorm in place of the last projection
    g               weights of the tokens, from their information gain, trained

Differs from the public code, where it does not do what it says: the window of the search is the setting, where the
code takes 50 steps whatever is set; the complexity of a window is that of a shapelet (`complexity`); gains and
positions are not cut to whole numbers; it runs on a CPU; no test series chooses the epoch that is reported. Padded
steps have no part in any sum, where the code fills them with noise.

Without shapelets the class branch is zero, and the generic one is the net.

Shapes: B batch, c channels, L steps, K shapelets.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fcil.nets.backbone import Backbone, Inputs, Norm, Shape, Stem
from fcil.nets.series.layers import Dropping, Mask, normalisation, padding_of, pooled
from fcil.nets.series.settings import ShapeFormerSettings
from fcil.nets.series.shapelet_bank import ShapeletBank
from fcil.rng import draws, sent
from fcil.shapelets import Shapelets
from fcil.types import Tensors

HEADS, INNER = 4, 256
"""Heads of an attention, if the width can be divided by it, and units of a feed-forward layer."""
KERNEL = 8
BANK = "bank."


@dataclass(frozen=True)
class ShapeFormerRecipe:
    """Architecture of a ShapeFormer: its width is that of the generic branch."""

    description: str
    width: int
    settings: ShapeFormerSettings = ShapeFormerSettings()
    stems: ClassVar[bool] = False
    inputs: ClassVar[Inputs] = "series"

    def build(self, shape: Shape, stem: Stem = "auto", width: int | None = None, norm: Norm = "batch") -> Backbone:
        """Return a net without shapelets for series of this shape; weights come from torch's global stream."""
        return ShapeFormer(shape, width or self.width, norm, self.settings)


class ShapeFormer(Backbone):
    """Features of both branches (B, 128 + width)."""

    def __init__(self, shape: Shape, width: int, norm: Norm, settings: ShapeFormerSettings) -> None:
        super().__init__()
        channels, steps = shape
        self.settings = settings
        of_class = HEADS * max(1, round(2 * width / 3))  # 128 beside 48
        self.width = of_class + width
        self.generic = GenericBranch(channels, steps, width, norm, settings.dropout)
        self.bank = ShapeletBank(channels, steps, of_class, settings)
        self.encoder = Encoder(of_class, settings.dropout)

    def forward(self, x: Tensor) -> Tensor:
        x, mask = padding_of(x)
        return torch.cat([self._of_class(x, mask), self.generic(x, mask)], 1)

    def _of_class(self, x: Tensor, mask: Mask) -> Tensor:
        if not len(self.bank):
            return x.new_zeros(len(x), self.bank.width)
        whole = x.new_full((len(x),), x.shape[2], dtype=torch.int64)
        own = self.bank(x, whole if mask is None else mask.sum((1, 2)).long())
        tokens: Tensor = self.encoder(own, gain=self.bank.gain)
        read = tokens[:, 0] if self.settings.read_out == "token" else tokens.mean(1)
        if self.training and self.settings.silent:
            heard = torch.rand(len(x), 1, generator=draws()) >= self.settings.silent
            read = read * sent(heard.float(), read)
        return read

    # Growth ---------------------------------------------------------------------------------------

    def append(self, shapelets: Shapelets, generator: torch.Generator) -> None:
        """Append a token for each shapelet; the tokens before stay as they are."""
        self.bank.append(shapelets, generator)

    def shapes(self, weights: Tensors) -> dict[str, torch.Size]:
        own = {name: tensor.shape for name, tensor in self.state_dict().items() if name not in self._of_bank()}
        values = weights.get(f"{BANK}values")
        given = any(f"{BANK}{name}" in weights for name in self.bank.shapes(0, 0))
        count, longest = (1, 1) if values is None or values.ndim != 2 else values.shape
        return own | {f"{BANK}{name}": shape for name, shape in self.bank.shapes(count, longest).items() if given}

    def fit(self, weights: Tensors) -> None:
        names = self.bank.shapes(0, 0)
        given = {name: weights[f"{BANK}{name}"] for name in names if f"{BANK}{name}" in weights}
        held = self.bank.tensors()
        if {n: t.shape for n, t in given.items()} != {n: t.shape for n, t in held.items()}:
            self.bank.hold(given)

    def private(self) -> frozenset[str]:
        return frozenset() if self.settings.share_shapelets else self._of_bank()

    def _of_bank(self) -> frozenset[str]:
        return frozenset(f"{BANK}{name}" for name in self.bank.tensors())


class GenericBranch(nn.Module):
    """Convolutions over time, then over channels, and self-attention over steps: features (B, width)."""

    def __init__(self, channels: int, steps: int, width: int, norm: Norm, dropout: float) -> None:
        super().__init__()
        self.over_time = nn.Conv1d(1, width, KERNEL)
        self.norm_time = normalisation(norm, width)
        self.over_channels = nn.Conv1d(width * channels, width, 1)
        self.norm_channels = normalisation(norm, width)
        self.position = nn.Parameter(torch.empty(steps, width))
        self.drop_some = Dropping(dropout)
        self.encoder = Encoder(width, dropout)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the positions; what else there is draws itself."""
        nn.init.uniform_(self.position, -0.02, 0.02)

    def forward(self, x: Tensor, mask: Mask) -> Tensor:
        """Return the features of series (B, c, L) with zeros for padding."""
        count, channels, steps = x.shape
        each = None if mask is None else mask.repeat_interleave(channels, 0)
        maps = self.over_time(F.pad(x.reshape(-1, 1, steps), ((KERNEL - 1) // 2, KERNEL // 2)))
        maps = F.gelu(self.norm_time(maps, each)).view(count, -1, steps)  # (B, c width, L)
        maps = F.gelu(self.norm_channels(self.over_channels(maps), mask)).transpose(1, 2)  # (B, L, width)
        behind = max(0, steps - len(self.position))  # steps longer than any of training have no position
        position = F.pad(self.position, (0, 0, 0, behind))[:steps]
        out = self.encoder(maps, asked=self.drop_some(maps + position), mask=mask)
        return pooled(out.transpose(1, 2), mask)


class Encoder(nn.Module):
    """Self-attention and a feed-forward layer, each with a shortcut and LayerNorm behind it."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.heads = gcd(HEADS, width)
        self.query_key_value = nn.Linear(width, 3 * width, bias=False)
        self.attended = nn.LayerNorm(width)
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.feed_forward = nn.Sequential(
            nn.Linear(width, INNER), nn.ReLU(), Dropping(dropout), nn.Linear(INNER, width), Dropping(dropout)
        )

    def forward(
        self, x: Tensor, *, asked: Tensor | None = None, gain: Tensor | None = None, mask: Mask = None
    ) -> Tensor:
        """Return tokens (B, n, width) for tokens.

        Args:
            asked: what is attended to, if not the tokens themselves.
            gain: weight of each token (n,).
            mask: of real tokens (B, 1, n).
        """
        weight = 1.0 if gain is None else gain[:, None]
        out = self.first((x + self._attention(x if asked is None else asked, mask)) * weight)
        return self.second(out + self.feed_forward(out)) * weight  # type: ignore[no-any-return]

    def _attention(self, x: Tensor, mask: Mask) -> Tensor:
        count, number, width = x.shape
        parts = self.query_key_value(x).view(count, number, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        real = None if mask is None else mask[:, None].bool()  # (B, 1, 1, n)
        out = F.scaled_dot_product_attention(parts[0], parts[1], parts[2], attn_mask=real, scale=width**-0.5)
        return self.attended(out.transpose(1, 2).reshape(count, number, width))  # type: ignore[no-any-return]
