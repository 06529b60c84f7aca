"""Backbones, the net with its growing classifier, and generators."""

from __future__ import annotations

from fcil.nets.acgan import AcGan, ConditionalGenerator, drop_running_statistics, evenly, one_of, real_fake_head
from fcil.nets.ahead import FeaturesAhead
from fcil.nets.backbone import Architecture, Backbone, Recipe, norm_factory, num_parameters
from fcil.nets.backbones import BACKBONES
from fcil.nets.generators import ImageGenerator, NoisyGenerator, PlainGenerator
from fcil.nets.latent import LatentGenerator
from fcil.nets.net import (
    Forwards,
    Net,
    build_net,
    check_batch,
    check_inputs,
    frozen,
    net_of,
    normalises_one,
    outputs_of,
)
from fcil.nets.norms import has_variance
from fcil.nets.pretrained.weights import begun_net
from fcil.nets.resnet import ResNet, ResNetRecipe
from fcil.nets.settings import NetSettings

__all__ = [
    "BACKBONES",
    "AcGan",
    "Architecture",
    "Backbone",
    "ConditionalGenerator",
    "FeaturesAhead",
    "Forwards",
    "ImageGenerator",
    "LatentGenerator",
    "Net",
    "NetSettings",
    "NoisyGenerator",
    "PlainGenerator",
    "Recipe",
    "ResNet",
    "ResNetRecipe",
    "begun_net",
    "build_net",
    "check_batch",
    "check_inputs",
    "drop_running_statistics",
    "evenly",
    "frozen",
    "has_variance",
    "net_of",
    "norm_factory",
    "normalises_one",
    "num_parameters",
    "one_of",
    "outputs_of",
    "real_fake_head",
]

unremembered = drop_running_statistics  # its name up to 0.1, for the strategies that run folders keep
