"""Backbones of time series, and their layers, which honour padding."""

from __future__ import annotations

from fcil.nets.series.convolutional import Fcn1d, ResNet1d
from fcil.nets.series.inception import InceptionTime
from fcil.nets.series.layers import BatchNorm1d, Conv1d, draw_convolution, padding_of, pooled
from fcil.nets.series.recipe import SeriesRecipe
from fcil.nets.series.settings import ShapeFormerSettings
from fcil.nets.series.shapeformer import GenericBranch, ShapeFormer, ShapeFormerRecipe
from fcil.nets.series.shapelet_bank import ShapeletBank

__all__ = [
    "BatchNorm1d",
    "Conv1d",
    "Fcn1d",
    "GenericBranch",
    "InceptionTime",
    "ResNet1d",
    "SeriesRecipe",
    "ShapeFormer",
    "ShapeFormerRecipe",
    "ShapeFormerSettings",
    "ShapeletBank",
    "draw_convolution",
    "padding_of",
    "pooled",
]
