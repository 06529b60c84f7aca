"""Domains that are made of one set of images: turned by some degrees, or with pixels in another order.

Every image is in every domain, as in the permuted and rotated digits of the field: Goodfellow et al., arXiv:1312.6211;
Lopez-Paz and Ranzato, NeurIPS 2017. Training images make training images, test images make test images.
"""

from __future__ import annotations

from math import cos, radians, sin

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fcil.data.domains.samples import SampleDomains
from fcil.data.domains.settings import DomainSettings
from fcil.data.images import Images, MemoryImages
from fcil.rng import numpy_generator

CHUNK = 4096
"""Images that are turned at once."""


def made(settings: DomainSettings, train: Images, test: Images) -> tuple[Images, Images, SampleDomains]:
    """Return the images of all domains, domain after domain, kept in memory."""
    count, parts = len(settings.labels), []
    for images in (train, test):
        x = images.take(torch.arange(len(images)))
        versions = [_changed(settings, x, number) for number in range(count)]
        parts.append(MemoryImages(torch.cat(versions), images.y.repeat(count)))
    of_train, of_test = (np.repeat(np.arange(count, dtype=np.int64), len(images)) for images in (train, test))
    return parts[0], parts[1], SampleDomains(settings.labels, of_train, of_test)


def _changed(settings: DomainSettings, x: Tensor, number: int) -> Tensor:
    if settings.rotated is not None:
        return torch.cat([rotated(part, settings.rotated[number]) for part in torch.split(x, CHUNK)])
    return permuted(x, number)


def rotated(x: Tensor, angle: float) -> Tensor:
    """Return images (N, channels, height, width), uint8, turned anticlockwise by `angle` degrees about their middle.

    Bilinear, and 0 outside of the image; a square image turned by a multiple of 90 degrees keeps its levels exactly.
    """
    height, width = x.shape[2:]
    quarters, rest = divmod(angle % 360, 90)
    if not rest and (height == width or not quarters % 2):
        return torch.rot90(x, int(quarters), (2, 3)).contiguous()
    c, s = cos(radians(angle)), sin(radians(angle))
    # From a place in the turned image to the place in x that is seen there; axes are of unit length in pixels.
    way = torch.tensor([[c, -s * height / width, 0.0], [s * width / height, c, 0.0]], dtype=torch.float32)
    grid = F.affine_grid(way.expand(len(x), 2, 3), list(x.shape), align_corners=False)
    return F.grid_sample(x.float(), grid, align_corners=False).round().clamp(0, 255).to(torch.uint8)


def permuted(x: Tensor, number: int) -> Tensor:
    """Return images (N, channels, height, width) with their pixels in the order of a number; 0 leaves them."""
    if number == 0:
        return x
    order = torch.from_numpy(numpy_generator("permuted pixels", number).permutation(x.shape[2] * x.shape[3]))
    return x.flatten(2)[:, :, order].reshape(x.shape)
