"""Problems and nets for tests of synthesizers, and what is done with a chain in all of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from scripted_roles import tiny
from small_runs import checkpoint, play
from tiny_net import normal, tiny_net
from torch import Tensor, nn

from fcil.data import Augment, DataSettings, load_dataset, normalise
from fcil.errors import ConfigError
from fcil.nets import Backbone, Net, frozen
from fcil.rng import generator, seeded
from fcil.synthesis import Bound, SynthesisProblem, Synthesizer
from fcil.synthesis.common.state_codec import restore, values
from fcil.types import Tensors

# Problems --------------------------------------------------------------------------------------


def problem_of(teacher: Net, anchors: Tensor | None = None, **settings: Any) -> SynthesisProblem:
    """Images of 8 x 8 of all the teacher's classes, whose mean is 0.5 and whose deviation is 0.25."""
    own = teacher.classifier.weight
    defaults = {
        "labels": tuple(range(teacher.num_classes)),
        "shape": (3, 8, 8),
        "bound": None,
        "mean": own.new_full((3,), 0.5),
        "std": own.new_full((3,), 0.25),
        "augment": Augment(),
        "key": (0,),
    }
    return SynthesisProblem(teacher=frozen(teacher), anchors=anchors, **defaults | settings)


def bounded_problem(**settings: Any) -> SynthesisProblem:
    """A tiny net of five classes with a text head, anchors, and a bound to them."""
    return problem_of(tiny_net(5), normal(5, 16), **{"bound": Bound()} | settings)


# Nets ------------------------------------------------------------------------------------------


class TwoConvs(Backbone):
    """Images (B, c, H, W) -> features: twice a convolution, BatchNorm and ReLU; the mean over positions."""

    def __init__(self, channels: int, first: int, second: int) -> None:
        super().__init__()
        self.width = second
        self.conv = nn.Conv2d(channels, first, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(first)
        self.conv2 = nn.Conv2d(first, second, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(second)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn2(self.conv2(F.relu(self.bn(self.conv(x)))))).mean(dim=(2, 3))


def two_convs_named(tensors: Tensors) -> Tensors:
    """Tensors of a golden net of two convolutions under our names."""
    return {f"classifier{k[2:]}" if k.startswith("fc.") else f"backbone.{k}": t for k, t in tensors.items()}


def two_convs_net(tensors: Tensors) -> Net:
    """The net of two convolutions, in double precision, that these golden tensors describe."""
    net = Net(TwoConvs(3, len(tensors["bn.bias"]), len(tensors["bn2.bias"])), len(tensors["fc.bias"])).double()
    net.load(two_convs_named(tensors))
    return net


class NoNorm(Backbone):
    """Features without BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.width, self.conv = 4, nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(x)).mean(dim=(2, 3))


def plain_problem() -> SynthesisProblem:
    """Of a net without BatchNorm and without a text head."""
    with seeded("plain"):
        return problem_of(Net(NoNorm(), 3))


@cache
def digits() -> tuple[Net, Tensor, Tensor, Tensor]:
    """A net trained on digits for a second; normalised training images, and the mean and deviation of the data."""
    data = load_dataset(DataSettings(dataset="digits", tasks=5))
    mean, std = torch.tensor(data.mean), torch.tensor(data.std)
    x, y = normalise(data.train.take(torch.arange(len(data.train))), mean, std), data.train.y
    with seeded("digits"):
        net = Net(TwoConvs(1, 16, 32), 10)
    optimizer, rng = torch.optim.Adam(net.parameters()), generator("digits")
    for lr in (2e-2, 2e-2, 1e-2, 1e-3):
        optimizer.param_groups[0]["lr"] = lr
        for rows in torch.randperm(len(x), generator=rng).split(64):
            optimizer.zero_grad()
            F.cross_entropy(net(x[rows]).logits, y[rows]).backward()
            optimizer.step()
    return frozen(net), x, mean, std


def digits_problem(**settings: Any) -> SynthesisProblem:
    net, _, mean, std = digits()
    return problem_of(net, **{"shape": (1, 8, 8), "mean": mean, "std": std} | settings)


def sharp_net(classes: int = 3, text_width: int | None = None) -> Net:
    """An untrained net that is sure of what it says."""
    teacher = tiny_net(classes, text_width, key=8)
    with torch.no_grad():
        teacher.classifier.weight.mul_(20)
    return teacher


def colour_net(text_width: int | None = None) -> Net:
    """A net of three classes, red, green and blue, that is sure of what it says."""
    net = tiny_net(3, text_width)
    with torch.no_grad():
        net.backbone.conv.weight.zero_()
        net.backbone.conv.weight[range(3), range(3), 1, 1] = 1.0
        net.classifier.weight.zero_()
        net.classifier.weight[range(3), range(3)] = 10.0
        net.classifier.bias.zero_()
    return net


# Chains ----------------------------------------------------------------------------------------


def run_chain(method: Synthesizer, problem: SynthesisProblem, episodes: int | None = None) -> Any:
    """The first chain after some episodes, or all."""
    chain = method.start(problem, 0)
    for number in range(1, (episodes or method.episodes) + 1):
        method.episode(problem, chain, number)
    return chain


def gone_on(method: Synthesizer, problem: SynthesisProblem, after: int) -> Any:
    """The first chain after all episodes, saved and taken up again after some of them."""
    chain = method.start(problem, 0)
    restore(chain, values(run_chain(method, problem, after)))
    for number in range(after + 1, method.episodes + 1):
        method.episode(problem, chain, number)
    return chain


def check_batchnorm_is_needed_to_match_it(small: Callable[..., Synthesizer]) -> None:
    """A net without batch norm is refused, but where the method is made without the term that matches it."""
    here = replace(plain_problem(), anchors=normal(3, 16))
    with pytest.raises(ConfigError, match=r"needs batch-norm layers"):
        small().checked(here)
    method = small(bn=0.0)
    report = method.episode(method.checked(here), method.start(here, 0), 1)
    assert "bn" not in report
    assert math.isfinite(report["total"])


def alike(a: nn.Module, b: nn.Module) -> bool:
    """Whether two modules hold the same to the bit."""
    return all(torch.equal(t, b.state_dict()[name]) for name, t in a.state_dict().items())


def synthetic_of_a_run(folder: Path, strategy: str, synthesizer: dict[str, Any]) -> Tensors:
    """What the clients of a small federation on digits of two classes a task are given after its first task."""
    (run,) = play(tiny(folder, {strategy: {"synthesizer": synthesizer}}, rounds=1, stop_after=2), out=folder)
    assert torch.tensor([n for record in run.rounds for n in record["terms"].values()]).isfinite().all()
    tensors, _ = checkpoint(run)
    return {name: tensors[f"shared/synthetic/{name}"] for name in ("x", "y")}
