"""Time k clients trained one after the other beside the same k clients trained as one call, turn by turn.

    python tests/benchmarks/vectorised_clients.py [--clients 1 5 10 50] [--batch 10] [--nets mlp cnn resnet8]

Each client has weights, momentum and batch statistics of its own, and the same number of full batches. A step is
forward, cross-entropy, backward and the fused SGD of the clients; weights go in and come out once a turn. The ways:

- loop     one resident net, a client after the other, as the product trains them;
- vmap     `torch.func`: `vmap` over `functional_call`, and one backward pass for the sum of the clients' losses;
- vgrad    `torch.func`: `vmap` over `grad` over `functional_call`;
- grouped  layers of stacked weights: convolutions in k groups, batched matrix products, BatchNorm over k x C channels;
- floor    one net for all images of the k clients at once: the arithmetic without a client's own weights. No
           training of k clients, so what it takes cannot be reached where weights differ.

Printed: median processor seconds of a client's step (one thread) by way, and the median over the turns of the loop's
time by that of the way: above 1 the way is faster. `apart` is the largest difference of any number of a client's state
to the loop's in float64, after a turn.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from idle_round import processor
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.modules.batchnorm import _BatchNorm

from fcil.federation.settings import settled
from fcil.nets import Net, NetSettings, build_net
from fcil.nets.backbone import Shape
from fcil.nets.resnet import BasicBlock, ResNet
from fcil.optimizer import SGD
from fcil.types import Tensors

STEPS, CLASSES = 5, 10
LR, MOMENTUM, DECAY = 0.01, 0.9, 5e-4
WORKS: dict[str, tuple[NetSettings, Shape]] = {
    "mlp": (NetSettings(name="mlp", norm="none"), (1, 28, 28)),
    "cnn": (NetSettings(name="cnn", norm="none"), (1, 28, 28)),
    "cnn-batchnorm": (NetSettings(name="cnn"), (1, 28, 28)),
    "cnn-wide": (NetSettings(name="cnn", width=48, norm="none"), (1, 28, 28)),
    "resnet8": (NetSettings(name="resnet8"), (1, 8, 8)),
}
"""Nets with the shape of their images: MNIST, and digits for the last."""
Turn = Callable[[], list[Tensors]]
"""Takes `STEPS` steps of every client and returns the state of each."""


def optimizer(parameters: list[Tensor]) -> SGD:
    return SGD(parameters, LR, MOMENTUM, weight_decay=DECAY, fused=True)


def copies(net: Net, count: int) -> list[Tensors]:
    return [{name: t.clone() for name, t in net.state_dict().items()} for _ in range(count)]


def loop(net: Net, starts: list[Tensors], x: Tensor, y: Tensor) -> Turn:
    """One client after the other in the same net; x (steps, k, B, c, H, W), y (steps, k, B)."""

    def take() -> list[Tensors]:
        ends = []
        for client, start in enumerate(starts):
            net.load_state_dict(start)
            steps = optimizer([*net.parameters()])
            for step in range(STEPS):
                loss = F.cross_entropy(net(x[step, client]).logits, y[step, client])
                steps.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                steps.step()
            ends.append({name: t.clone() for name, t in net.state_dict().items()})
        return ends

    return take


def stacked(starts: list[Tensors]) -> Tensors:
    return {name: torch.stack([start[name] for start in starts]) for name in starts[0]}


def apart(states: Tensors, clients: int) -> list[Tensors]:
    return [{name: t[client].detach().clone() for name, t in states.items()} for client in range(clients)]


def vectorised(net: Net, starts: list[Tensors], x: Tensor, y: Tensor, *, inner_grad: bool) -> Turn:
    """All clients at once by `torch.func`."""
    names = {name for name, _ in net.named_parameters()}

    def loss(weights: Tensors, buffers: Tensors, images: Tensor, labels: Tensor) -> Tensor:
        out = functional_call(net, (weights, buffers), (images,))
        return F.cross_entropy(out.logits, labels)

    def take() -> list[Tensors]:
        states = stacked(starts)
        weights = {name: t.requires_grad_(not inner_grad) for name, t in states.items() if name in names}
        buffers = {name: t for name, t in states.items() if name not in names}
        steps = optimizer([*weights.values()])
        for step in range(STEPS):
            if inner_grad:
                for name, slope in vmap(grad(loss))(weights, buffers, x[step], y[step]).items():
                    weights[name].grad = slope
            else:
                steps.zero_grad(set_to_none=True)
                vmap(loss)(weights, buffers, x[step], y[step]).sum().backward()  # type: ignore[no-untyped-call]
            steps.step()
        return apart(states, len(starts))

    return take


# Layers of stacked weights ------------------------------------------------------------------------
#
# Maps are (B, k C, u, v), the channels of a client side by side; vectors are (k, B, F).


class Stack:
    """Forward of k clients' nets of the same architecture, in training mode."""

    def __init__(self, net: Net, states: Tensors, clients: int) -> None:
        self.net, self.states, self.clients = net, states, clients
        self.names = {module: name for name, module in net.named_modules()}

    def logits(self, x: Tensor) -> Tensor:
        """Logits (k, B, C) for images (k, B, c, H, W)."""
        maps = x.transpose(0, 1).flatten(1, 2)
        return self.run(self.net.classifier, self.run(self.net.backbone, maps))

    def own(self, module: nn.Module, name: str) -> Tensor:
        return self.states[f"{self.names[module]}.{name}"]

    def vectors(self, x: Tensor) -> Tensor:
        """Vectors (k, B, F) of maps (B, k C, u, v)."""
        return x.unflatten(1, (self.clients, -1)).flatten(2).transpose(0, 1) if x.ndim == 4 else x

    def run(self, module: nn.Module, x: Tensor) -> Tensor:
        if isinstance(module, nn.Conv2d):
            bias = None if module.bias is None else self.own(module, "bias").flatten()
            kernel = self.own(module, "weight").flatten(0, 1)
            return F.conv2d(x, kernel, bias, module.stride, module.padding, groups=self.clients)
        if isinstance(module, _BatchNorm):
            self.own(module, "num_batches_tracked").add_(1)
            mean, variance = (self.own(module, name).flatten() for name in ("running_mean", "running_var"))
            scale, shift = (self.own(module, name).flatten() for name in ("weight", "bias"))
            return F.batch_norm(x, mean, variance, scale, shift, True, cast(float, module.momentum), module.eps)
        if isinstance(module, nn.Linear):
            weight, bias = self.own(module, "weight"), self.own(module, "bias")
            return torch.baddbmm(bias[:, None], self.vectors(x), weight.transpose(1, 2))
        if isinstance(module, nn.Flatten):
            return self.vectors(x)
        if isinstance(module, ResNet):
            return self.vectors(self.run(module.stages, self.run(module.stem, x)).mean(dim=(2, 3), keepdim=True))
        if isinstance(module, BasicBlock):
            inner = F.relu(self.run(module.bn1, self.run(module.conv1, x)), inplace=True)
            outer = self.run(module.bn2, self.run(module.conv2, inner))
            return F.relu(outer + self.shortcut(module, x, outer), inplace=True)
        if isinstance(module, nn.ReLU):
            return F.relu(x, inplace=True)
        if isinstance(module, nn.Identity):
            return x
        for child in module.children():
            x = self.run(child, x)
        return x

    def shortcut(self, block: BasicBlock, x: Tensor, outer: Tensor) -> Tensor:
        if isinstance(block.shortcut, nn.Identity):
            return x
        own = x.unflatten(1, (self.clients, -1))[..., ::2, ::2]
        extra = outer.shape[1] // self.clients - own.shape[2]
        return F.pad(own, (0, 0, 0, 0, 0, extra)).flatten(1, 2)


def grouped(net: Net, starts: list[Tensors], x: Tensor, y: Tensor) -> Turn:
    names = {name for name, _ in net.named_parameters()}

    def take() -> list[Tensors]:
        states = stacked(starts)
        for name in names:
            states[name].requires_grad_()
        stack, steps = Stack(net, states, len(starts)), optimizer([states[name] for name in names])
        for step in range(STEPS):
            logits = stack.logits(x[step])
            loss = F.cross_entropy(logits.flatten(0, 1), y[step].flatten(), reduction="sum") / y.shape[2]
            steps.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            steps.step()
        return apart(states, len(starts))

    return take


def floor(net: Net, starts: list[Tensors], x: Tensor, y: Tensor) -> Turn:
    """One net on the images of all clients."""
    once = loop(net, starts[:1], x.flatten(1, 2)[:, None], y.flatten(1, 2)[:, None])
    return lambda: once()


def ways(net: Net, starts: list[Tensors], x: Tensor, y: Tensor) -> dict[str, Turn]:
    return {
        "loop": loop(net, starts, x, y),
        "vmap": vectorised(net, starts, x, y, inner_grad=False),
        "vgrad": vectorised(net, starts, x, y, inner_grad=True),
        "grouped": grouped(net, starts, x, y),
        "floor": floor(net, starts, x, y),
    }


def workload(name: str, clients: int, batch: int, dtype: torch.dtype) -> tuple[Net, list[Tensors], Tensor, Tensor]:
    """A net, the state each client starts from (one for all, as in a round), images and labels of its batches."""
    settings, shape = WORKS[name]
    net = build_net(settings, shape=shape, num_classes=CLASSES, text_width=None, key=("net",)).to(dtype).train()
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(STEPS, clients, batch, *shape, generator=rng, dtype=dtype)
    return net, copies(net, clients), x, torch.randint(CLASSES, (STEPS, clients, batch), generator=rng)


def distance(ends: list[Tensors], expected: list[Tensors]) -> float:
    """The largest difference of any number in the clients' states."""
    ours, theirs = (
        torch.cat([t.double().flatten() for end in each for t in end.values()]) for each in (ends, expected)
    )
    return float((ours - theirs).abs().max())


def medians(turns: dict[str, Turn], repeats: int, steps: int) -> tuple[dict[str, float], dict[str, float]]:
    """Median processor seconds of a client's step by way, and the loop's by it in the median turn."""
    for take in turns.values():
        take()
    rows = []
    for repeat in range(repeats):
        row = {}
        for name in turns if repeat % 2 else reversed(turns):
            began = time.process_time()
            turns[name]()
            row[name] = (time.process_time() - began) / steps
        rows.append(row)
    seconds = {name: statistics.median(row[name] for row in rows) for name in turns}
    return seconds, {name: statistics.median(row["loop"] / row[name] for row in rows) for name in turns}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 5, 10, 50])
    parser.add_argument("--batch", type=int, default=10)
    parser.add_argument("--nets", nargs="+", choices=[*WORKS], default=["mlp", "cnn", "cnn-batchnorm", "resnet8"])
    parser.add_argument("--repeats", type=int, default=7)
    given = parser.parse_args()
    print(f"command: python {' '.join(sys.argv)}")
    print(f"machine: {os.cpu_count()} cores, {processor()}; load {os.getloadavg()[0]:.1f}")
    print(f"versions: Python {platform.python_version()}, torch {torch.__version__}; one thread")
    print(f"batches of {given.batch}; {given.repeats} interleaved turns of {STEPS} steps of each client\n")
    print(
        "| net | weights | clients | ms a step: loop | vmap | vgrad | grouped | floor | loop / vmap | / vgrad "
        "| / grouped | / floor | apart: vmap | vgrad | grouped |"
    )
    print(f"|---|{'--:|' * 14}")
    with settled(1):
        for name in given.nets:
            for clients in given.clients:
                exact = ways(*workload(name, clients, given.batch, torch.float64))
                expected = exact["loop"]()
                far = [f"{distance(exact[way](), expected):.0e}" for way in ("vmap", "vgrad", "grouped")]
                net, *rest = workload(name, clients, given.batch, torch.float32)
                seconds, ratios = medians(ways(net, *rest), given.repeats, STEPS * clients)
                cells = [f"{1000 * s:.2f}" for s in seconds.values()] + [f"{ratios[way]:.2f}" for way in [*ratios][1:]]
                weights = sum(p.numel() for p in net.parameters())
                print(f"| {name} | {weights:,} | {clients} | {' | '.join(cells + far)} |", flush=True)


if __name__ == "__main__":
    main()
