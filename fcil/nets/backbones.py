"""The registry of backbones: `net.name` of an experiment, `fcil list nets`."""

from __future__ import annotations

from fcil.nets.backbone import Recipe
from fcil.nets.plain import LeNet5, Mlp, PlainRecipe, StridedCnn
from fcil.nets.resnet import ResNetRecipe
from fcil.nets.series import Fcn1d, InceptionTime, ResNet1d, SeriesRecipe, ShapeFormerRecipe

BACKBONES: dict[str, Recipe] = {
    "resnet8": ResNetRecipe("three stages of one block, 16-32-64: for laptops and tests", (1, 1, 1), 16, False),
    "resnet18": ResNetRecipe("four stages of two blocks, 64-128-256-512: LANDER's net", (2, 2, 2, 2), 64, True),
    "resnet20": ResNetRecipe("three stages of three blocks, 16-32-64", (3, 3, 3), 16, False),
    "resnet32": ResNetRecipe("three stages of five blocks, 16-32-64: TARGET's net", (5, 5, 5), 16, False),
    "resnet34": ResNetRecipe(
        "four stages of 3, 4, 6 and 3 blocks, 64-128-256-512: NAYER's teacher", (3, 4, 6, 3), 64, True
    ),
    "lenet5": PlainRecipe("convolutions 6-16-120 and 84 units; width 3 is half of it: DAFL's and DFAD's", 6, LeNet5),
    "mlp": PlainRecipe("two hidden layers of 400 units: Split-MNIST of van de Ven", 400, Mlp),
    "cnn": PlainRecipe("two strided convolutions 6-16 and 32 linear units: FedGen's for MNIST", 6, StridedCnn),
    "resnet1d": SeriesRecipe("three residual blocks of kernels 8-5-3, 64-128-128: Wang's", 64, ResNet1d),
    "fcn1d": SeriesRecipe("convolutions of kernels 8-5-3, 128-256-128: Wang's", 128, Fcn1d),
    "inceptiontime": SeriesRecipe(
        "six inception modules of kernels 40-20-10, 4 x 32: one network of InceptionTime", 32, InceptionTime
    ),
    "shapeformer": ShapeFormerRecipe("attention over shapelets of each class, and over convolutions of 48", 48),
}
