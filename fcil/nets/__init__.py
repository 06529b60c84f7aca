"""Backbones, the net with its growing classifier, and generators of images."""

from __future__ import annotations

from fcil.nets.generators import NoisyGenerator
from fcil.nets.net import Net, NetSettings, build_net, frozen
from fcil.nets.resnet import BACKBONES, Backbone, Recipe, ResNet

__all__ = ["BACKBONES", "Backbone", "Net", "NetSettings", "NoisyGenerator", "Recipe", "ResNet", "build_net", "frozen"]
