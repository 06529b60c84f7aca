"""The shapelets of a net, one token each: the nearest window of a series beside the shapelet itself.

For a shapelet s of l steps in channel d at steps a to a + l, the shapelet filter looks at the windows of channel d that
begin at a - w to a + w and takes the nearest, by mean squared distance times the ratio of complexities, at most 3. Its
token is the difference feature W1 window + b - W2 s, plus embeddings of d, a and a + l.

Nothing else in a net depends on the number of shapelets, so tokens are appended as classes come, and a net without any
is a net, too. The tensors of the bank are in the state dict while there are tokens, padded with zeros to the longest
shapelet; zeros stay zeros in training. They are cut from training series: a federation has them stay with the client.

Shapes: B batch, c channels, L steps, K shapelets, M steps of the longest, D width.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fcil.nets.series.settings import ShapeFormerSettings
from fcil.shapelets import Shapelets
from fcil.types import Tensors

FACETS = ("channel", "start", "length", "label")
"""Columns of `place`."""
SMOOTH = 1e-3
"""Added to a complexity, so that a flat piece has one."""
MOST = 3.0
"""Largest ratio of complexities."""


class ShapeletBank(nn.Module):
    """Tokens (B, K, D) of series (B, c, L)."""

    values: Tensor | None
    """Shapelets (K, M)."""
    observed: Tensor | None
    """Weights of the window, W1 (K, M, D)."""
    known: Tensor | None
    """Weights of the shapelet, W2 (K, M, D)."""
    bias: Tensor | None
    """b (K, D). Differs: the public code has a bias with each of the two maps, of which only the difference counts."""
    gain: Tensor | None
    """Weights of the tokens (K,), which begin as n softmax(20 information gain) over the n that come together."""
    place: Tensor | None
    """Channel, first step, number of steps and class (K, 4), int64."""

    def __init__(self, channels: int, steps: int, width: int, settings: ShapeFormerSettings) -> None:
        super().__init__()
        self.width, self.settings = width, settings
        self.channel, self.start, self.end = (nn.Linear(n, width) for n in (channels, steps, steps + 1))
        for name in ("values", "observed", "known", "bias", "gain"):
            self.register_parameter(name, None)
        self.register_buffer("place", None)

    def __len__(self) -> int:
        return 0 if self.place is None else len(self.place)

    def reset_parameters(self) -> None:
        """Forget the shapelets: they are found in data, and no draw replaces them."""
        self.hold({})

    def shapes(self, count: int, longest: int) -> dict[str, torch.Size]:
        """Return the shapes of the tensors of a bank of so many shapelets."""
        wide = (count, longest, self.width)
        every = {"values": wide[:2], "observed": wide, "known": wide, "bias": wide[::2], "gain": wide[:1]}
        return {name: torch.Size(shape) for name, shape in (every | {"place": (count, len(FACETS))}).items()}

    def tensors(self) -> Tensors:
        """Return the tensors of the bank, by name; none if it is empty."""
        return {name: getattr(self, name) for name in self.shapes(0, 0)} if len(self) else {}

    def hold(self, tensors: Tensors) -> None:
        """Hold copies of these tensors from now on; none: no shapelets. Parameters are replaced."""
        home = self.channel.weight
        for name in self.shapes(0, 0):
            tensor = tensors.get(name)
            if name == "place":
                self.place = None if tensor is None else tensor.detach().clone().to(home.device, torch.int64)
            else:
                whole = None if tensor is None else nn.Parameter(tensor.detach().clone().to(home), home.requires_grad)
                setattr(self, name, whole)

    def append(self, shapelets: Shapelets, generator: torch.Generator) -> None:
        """Append a token for each shapelet, with weights as those of a linear layer begin; old tokens stay.

        Args:
            generator: on the CPU.
        """
        if not len(shapelets):
            return
        count, longest = shapelets.values.shape
        bound = shapelets.length.float().rsqrt()[:, None]
        inside = (torch.arange(longest) < shapelets.length[:, None])[:, :, None]
        wide = count, longest, self.width
        new = {
            "values": shapelets.values.float(),
            "observed": _uniform(wide, generator) * bound[:, :, None] * inside,
            "known": _uniform(wide, generator) * bound[:, :, None] * inside,
            "bias": _uniform((count, self.width), generator) * bound,
            "gain": count * (20 * shapelets.gain.float()).softmax(0),
            "place": torch.stack([getattr(shapelets, name) for name in FACETS], 1),
        }
        old = {name: tensor.detach().cpu() for name, tensor in self.tensors().items()}
        self.hold({name: _joined(old[name], tensor) for name, tensor in new.items()} if old else new)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Return the tokens of series.

        Args:
            x: (B, c, L), zeros for padding.
            lengths: steps of each series (B,).
        """
        place, values = cast(Tensor, self.place), cast(Tensor, self.values)
        longest = values.shape[1]
        channel, start, length = place[:, 0], place[:, 1], place[:, 2]
        series = x[:, channel]  # (B, K, L)
        with torch.no_grad():
            first = self.nearest(series, lengths)
        step = torch.arange(longest, device=x.device)
        windows = F.pad(series, (0, longest)).gather(2, first[:, :, None] + step)  # (B, K, M)
        windows = windows * (step < length[:, None])
        seen = torch.einsum("bkm,kmd->bkd", windows, cast(Tensor, self.observed)) + cast(Tensor, self.bias)
        own = torch.einsum("km,kmd->kd", values, cast(Tensor, self.known))
        return seen - own + _row(self.channel, channel) + _row(self.start, start) + _row(self.end, start + length)

    def nearest(self, series: Tensor, lengths: Tensor) -> Tensor:
        """Return the first step (B, K) of the window that is nearest to each shapelet.

        Where a series has no whole window within reach, it is the window nearest in time: at its end, or at its
        beginning with zeros behind it.

        Args:
            series: the channel of each shapelet (B, K, L), zeros for padding.
            lengths: (B,)
        """
        values, place = cast(Tensor, self.values).detach(), cast(Tensor, self.place)
        start, length = place[:, 1, None], place[:, 2, None]  # (K, 1)
        inside = torch.arange(values.shape[1], device=series.device) < length
        mean = values.sum(1, keepdim=True) / length
        centred, series = (values - mean) * inside, series - mean  # (K, M), (B, K, L): less is lost to rounding
        begin = torch.arange(series.shape[2], device=series.device)
        shared = F.conv1d(F.pad(series, (0, values.shape[1] - 1)), centred[:, None], groups=len(values))
        squares = _sums(series.square(), begin, length) - 2 * shared + centred.square().sum(1, keepdim=True)
        steps = _sums(series.diff(dim=2).square(), begin, length - 1)
        bends = (centred.diff(dim=1).square() * inside[:, 1:]).sum(1, keepdim=True).sqrt() + SMOOTH
        theirs = (steps if self.settings.complexity == "public_code" else steps.sqrt()) + SMOOTH
        ratio = (torch.maximum(theirs, bends) / torch.minimum(theirs, bends)).clamp(max=MOST)
        last = lengths[:, None, None] - length  # (B, K, 1)
        in_reach = ((begin - start).abs() <= self.settings.window) & (begin <= last)
        distance = (squares.clamp(min=0) * ratio).masked_fill(~in_reach, torch.inf)
        beside = torch.minimum(start, last).clamp(min=0).squeeze(2)
        return torch.where(in_reach.any(2), distance.argmin(2), beside)


def _sums(x: Tensor, begin: Tensor, length: Tensor) -> Tensor:
    """Return the sums (B, K, L) over `length` (K, 1) entries of x (B, K, N) from each `begin` (L,) on."""
    total = F.pad(x.double().cumsum(2), (1, 0))  # in single precision a difference of two sums keeps few digits
    most = x.shape[2]
    ends = (begin + length).clamp(max=most).expand(len(x), -1, -1)
    return (total.gather(2, ends) - total[:, :, begin.clamp(max=most)]).clamp(min=0).to(x.dtype)


def _row(layer: nn.Linear, index: Tensor) -> Tensor:
    """Return a linear layer's output for one-hot vectors with a one at `index` (K,); behind its end, at its end."""
    return F.embedding(index.clamp(max=layer.in_features - 1), layer.weight.T) + layer.bias


def _uniform(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.rand(shape, generator=generator) * 2 - 1


def _joined(old: Tensor, new: Tensor) -> Tensor:
    """Return the rows of both, each padded with zeros to the steps of the longer."""
    if old.ndim == 1 or old.shape[1:] == new.shape[1:]:
        return torch.cat([old, new])
    longest = max(old.shape[1], new.shape[1])
    wide = [F.pad(part, [0, 0] * (part.ndim - 2) + [0, longest - part.shape[1]]) for part in (old, new)]
    return torch.cat(wide)
