"""Residual networks: an image in, a feature vector after global average pooling out.

Two families. `resnet18` and `resnet34` (He et al., CVPR 2016, table 1) have four stages, widths
64-128-256-512 and a projection where a block changes shape. `resnet8`, `resnet20` and `resnet32`
(section 4.2) have three stages, widths 16-32-64 and shortcuts without parameters. Both serve the
class-incremental code this project follows: LANDER @ 44d7acc trains `resnet18`, TARGET @ 78cb9c0
`resnet32`.

Shapes: B batch, c image channels, H and W sides in pixels, F feature width.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import ClassVar, Literal, cast

import torch.nn.functional as F
from torch import Tensor, nn

from fcil.nets.backbone import Backbone, Inputs, MakeNorm, Norm, Shape, Stem, norm_factory
from fcil.nets.norms import BatchNorm2d


@dataclass(frozen=True)
class ResNetRecipe:
    """Architecture of a residual network."""

    description: str
    blocks: tuple[int, ...]  # residual blocks of two convolutions, by stage
    width: int  # of the first stage; it doubles from stage to stage
    projection: bool  # 1x1 convolution and BatchNorm where a block changes shape
    stems: ClassVar[bool] = True
    inputs: ClassVar[Inputs] = "images"

    def build(self, shape: Shape, stem: Stem = "auto", width: int | None = None, norm: Norm = "batch") -> ResNet:
        """Return a net for images of this shape; its weights come from torch's global stream."""
        if stem == "auto":
            stem = "cifar" if max(shape[1:]) <= 32 else "imagenet"
        return ResNet(
            shape[0], self.blocks, width or self.width, norm_factory(norm), projection=self.projection, stem=stem
        )


class ResNet(Backbone):
    """A stem, stages of basic blocks (every stage after the first halves the sides), global mean.

    Convolutions start Kaiming-normal (fan out), BatchNorm scales at one, also the last of a block.
    """

    apart = True  # convolutions, and no product of matrices
    used_once = True

    def __init__(
        self,
        channels: int,
        blocks: tuple[int, ...],
        width: int,
        norm: MakeNorm = BatchNorm2d,
        *,
        projection: bool,
        stem: Literal["cifar", "imagenet"],
    ) -> None:
        super().__init__()
        self.stem = _stem(channels, width, norm, stem)
        self.stages = nn.Sequential()
        narrow = width
        for stage, depth in enumerate(blocks):
            wide = width * 2**stage
            strides = [1 if stage == 0 else 2] + [1] * (depth - 1)
            sizes = [narrow] + [wide] * (depth - 1)
            self.stages.append(
                nn.Sequential(*(BasicBlock(n, wide, s, norm, projection) for n, s in zip(sizes, strides, strict=True)))
            )
            narrow = wide
        self.width = narrow
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.stages(self.stem(x))).mean(dim=(2, 3))


class BasicBlock(nn.Module):
    """relu(BN(conv(relu(BN(conv x)))) + shortcut x), 3x3 convolutions, the stride in the first."""

    def __init__(self, narrow: int, wide: int, stride: int, norm: MakeNorm, projection: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(narrow, wide, 3, stride, padding=1, bias=False)
        self.bn1 = norm(wide)
        self.conv2 = nn.Conv2d(wide, wide, 3, padding=1, bias=False)
        self.bn2 = norm(wide)
        self.shortcut = _shortcut(narrow, wide, stride, norm, projection)

    def forward(self, x: Tensor) -> Tensor:
        inner = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(inner)) + self.shortcut(x), inplace=True)


class PadShortcut(nn.Module):
    """He et al.'s option A: every `stride`-th pixel, then channels of zeros after the others.

    Other ports put half of the zeros before: the same net, with permuted channels.
    """

    def __init__(self, extra: int, stride: int) -> None:
        super().__init__()
        self.extra, self.stride = extra, stride

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.extra))


def _shortcut(narrow: int, wide: int, stride: int, norm: MakeNorm, projection: bool) -> nn.Module:
    if narrow == wide and stride == 1:
        return nn.Identity()
    if not projection:
        return PadShortcut(wide - narrow, stride)
    return nn.Sequential(
        OrderedDict(conv=nn.Conv2d(narrow, wide, 1, stride, bias=False), bn=norm(wide)),
    )


def _stem(channels: int, width: int, norm: MakeNorm, stem: Literal["cifar", "imagenet"]) -> nn.Module:
    """Return the stem: `cifar` keeps the sides; `imagenet` quarters them (7x7 stride 2, 3x3 max pooling stride 2)."""
    side, stride = (3, 1) if stem == "cifar" else (7, 2)
    layers = OrderedDict[str, nn.Module](
        conv=nn.Conv2d(channels, width, side, stride, padding=side // 2, bias=False),
        bn=norm(width),
        relu=nn.ReLU(inplace=True),
    )
    if stem == "imagenet":
        layers["pool"] = nn.MaxPool2d(3, stride=2, padding=1)
    return nn.Sequential(layers)
