"""Backbones, the net with its growing classifier, and generators of images."""

from __future__ import annotations

from fcil.nets.acgan import AcGan, ConditionalGenerator, evenly, one_of, real_fake_head, unremembered
from fcil.nets.generators import ImageGenerator, NoisyGenerator, PlainGenerator
from fcil.nets.latent import LatentGenerator
from fcil.nets.net import Net, NetSettings, build_net, frozen, net_of
from fcil.nets.resnet import BACKBONES, Backbone, Recipe, ResNet

__all__ = [
    "BACKBONES",
    "AcGan",
    "Backbone",
    "ConditionalGenerator",
    "ImageGenerator",
    "LatentGenerator",
    "Net",
    "NetSettings",
    "NoisyGenerator",
    "PlainGenerator",
    "Recipe",
    "ResNet",
    "build_net",
    "evenly",
    "frozen",
    "net_of",
    "one_of",
    "real_fake_head",
    "unremembered",
]
