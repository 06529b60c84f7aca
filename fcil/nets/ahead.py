"""Features of a frozen net for several batches at once, where a forward of one is mostly its own cost.

Shapes: B batch, c image channels, H and W sides in pixels, F feature width.
"""

from __future__ import annotations

from math import prod
from typing import cast

import torch
from torch import Tensor

from fcil.nets.net import Net
from fcil.types import Output

LARGEST = 2**15
"""Values (images x channels x pixels) of a forward up to which a larger batch costs less for each image on a CPU."""


class FeaturesAhead:
    """Outputs of a frozen net, equal to the bit to those of a forward of each batch.

    A batch that is a view into a tensor of several has its features computed with those of its neighbours. The heads
    see each batch alone: a matrix product of other sizes may add up in another order.
    """

    def __init__(self, net: Net) -> None:
        self._net = net
        self._whole: Tensor | None = None
        self._state = (0, 0, 0)  # first row, past the last, and the tensor's version
        self._features = torch.empty(0)

    def output(self, x: Tensor) -> Output:
        """Return the output for a batch (B, c, H, W), without a gradient."""
        with torch.no_grad():
            first = self._row(x)
            if first is None:
                return cast(Output, self._net(x))
            features = self._features[first - self._state[0] :][: len(x)]
            # As `parted` does: in the midst of a cache line a product may add up in another order.
            aligned = (features.data_ptr() - self._features.data_ptr()) % 64 == 0
            return self._net.heads(features if aligned else features.clone())

    def _row(self, x: Tensor) -> int | None:
        """Return the place of a batch in the tensor that it is a view into, whose features are known; None: alone."""
        whole, each, net = x._base, prod(x.shape[1:]), self._net
        if whole is None or whole.is_inference() or len(x) < 2 or not x.numel():  # one image is convolved differently
            return None
        if net.training or not net.backbone.apart or net.memory_format == "channels_last":
            return None
        if x.device.type != "cpu" or torch.is_autocast_enabled("cpu"):
            return None
        first, into = divmod(int(x.storage_offset()), each)
        past = first + len(x)
        contiguous = x.is_contiguous() and whole.is_contiguous() and whole.shape[1:] == x.shape[1:]
        if not contiguous or whole.storage_offset() or into:
            return None
        begun, ended, version = self._state
        if self._whole is not whole or version != whole._version or first < begun or past > ended:
            ended = min(len(whole), first + max(len(x), LARGEST // each // len(x) * len(x)))
            if ended == past:
                return None
            self._whole, self._state = whole, (first, ended, whole._version)
            self._features = self._net.backbone(whole[first:ended])
        return first
