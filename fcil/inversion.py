"""Prototypes that travel as gradients: selection of the image, its perturbation, its gradient, and the inversion.

GLFC (Dong et al., CVPR 2022) lets clients send, in place of an image x of class y, its gradient with
respect to the weights W of a public encoder, and the server searches for an image with the
same gradient: gradient matching (Zhu et al., "Deep Leakage from Gradients", NeurIPS 2019, arXiv:1906.08935).

    x = image of class c nearest to the mean of unit features
    x <- x - rate d/dx mean BCE(V (f(x) + n) + b, onehot(c))   n ~ N(0, noise^2);  f features, V, b classifier
    g = d CE(E_W(x), y) / d W                           sent
    y = argmin of g's part for the last bias            p_c - [c = y] is negative for the label alone
    x' = argmin |d CE(E_W(x'), y) / d W - g|^2 / |g|^2  by L-BFGS from noise

The matching works by design: such a gradient is an image in another form, and hides nothing from anyone who
knows the encoder.

Shapes: P images, (channels, height, width) each; C classes, F feature width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fcil.data import Shard
from fcil.exemplars import BATCH, herd
from fcil.nets import Net
from fcil.rng import Key, seeded, sent
from fcil.types import Output, Tensors

CHANNELS = 12
SPREAD = 0.5
"""Bound of the uniform weights and biases: wide, so that sigmoids bend and gradients are informative."""
LARGEST = 4096
"""Most channels, and pixels a side, of an image that is sent."""


def outputs(net: Net, shard: Shard) -> Output:
    """Return the net's outputs for every sample, without augmentation, in eval mode; a shard of one sample or more."""
    training = net.training
    net.eval()
    with torch.no_grad():
        found = [net(batch.x) for batch in shard.batches(BATCH, augment=False, shuffle=False)]
    net.train(training)
    return Output(torch.cat([out.logits for out in found]), torch.cat([out.features for out in found]), None)


def nearest_to_means(net: Net, shard: Shard) -> tuple[Tensor, Tensor, Tensor]:
    """Return an image of every class (P, ...), its label (P,), and the spread of the class's features (P, F)."""
    features, labels = outputs(net, shard).features, sorted(set(shard.labels.tolist()))
    positions, spread = [], []
    for label in labels:
        here = torch.nonzero(shard.labels == label).flatten().to(features.device)
        first = herd(F.normalize(features[here], dim=1), 1)  # the first herded one is the nearest
        positions.append(here[first])
        spread.append(features[here].std(dim=0, correction=0))
    return shard.x(torch.cat(positions)), torch.tensor(labels, device=features.device), torch.stack(spread)


def perturbed(
    net: Net, x: Tensor, y: Tensor, noise: Tensor, steps: int, rate: float, stream: torch.Generator
) -> Tensor:
    """Return images x (P, ...) of classes y (P,) after `steps` of descent in eval mode, `noise` (P, F) on features."""
    training, target = net.training, F.one_hot(y, net.num_classes).to(x.dtype)
    net.eval()
    for _ in range(steps):
        x = x.detach().requires_grad_()
        drawn = sent(torch.randn(noise.shape, generator=stream), noise)
        logits = net.classifier(net(x).features + noise * drawn)
        each = F.binary_cross_entropy_with_logits(logits, target, reduction="none").mean(dim=1)  # (P,)
        (slope,) = torch.autograd.grad(each.sum(), x)
        x = x - rate * slope
    net.train(training)
    return x.detach()


class Encoder(nn.Module):
    """Three convolutions of 5x5 with sigmoids, two of stride 2, and a linear layer: as in Deep Leakage from Gradients.

    Sigmoids, because matching needs second derivatives everywhere. Weights depend on `key` and the
    sizes alone.
    """

    def __init__(self, shape: Sequence[int], num_classes: int, *key: Key) -> None:
        super().__init__()
        channels, height, width = shape
        with seeded("encoder", *key):
            self.body = nn.Sequential(
                *(nn.Conv2d(channels, CHANNELS, 5, padding=2, stride=2), nn.Sigmoid()),
                *(nn.Conv2d(CHANNELS, CHANNELS, 5, padding=2, stride=2), nn.Sigmoid()),
                *(nn.Conv2d(CHANNELS, CHANNELS, 5, padding=2), nn.Sigmoid()),
            )
            self.head = nn.Linear(CHANNELS * -(-height // 4) * -(-width // 4), num_classes)
            for weight in self.parameters():
                nn.init.uniform_(weight, -SPREAD, SPREAD)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (P, channels, height, width) to logits (P, C)."""
        logits: Tensor = self.head(self.body(x).flatten(1))
        return logits


def encoder_like(place: Tensor, shape: Sequence[int], num_classes: int, *key: Key) -> Encoder:
    """Return the encoder of this key, with the type and on the device of `place`."""
    return Encoder(shape, num_classes, *key).to(place)


def gradients(encoder: Encoder, x: Tensor, y: Tensor) -> Tensors:
    """Return every image's gradient of its cross-entropy, by name of the weight: (P, ...) for a weight (...)."""
    weights = dict(encoder.named_parameters())
    rows = [
        torch.autograd.grad(_loss(encoder, x[i : i + 1], y[i : i + 1]), list(weights.values())) for i in range(len(x))
    ]
    return {name: torch.stack(parts) for name, parts in zip(weights, zip(*rows, strict=True), strict=True)}


def labels_of(sent: Tensors) -> Tensor:
    """Return the labels (P,) of the images behind gradients."""
    return sent["head.bias"].argmin(dim=1)


def fits(sent: Tensors, shape: Sequence[int], num_classes: int) -> bool:
    """Return whether these untrusted tensors are gradients of the encoder for such images."""
    if len(shape) != 3 or min(shape) < 1 or max(shape) > LARGEST or any(t.dim() < 1 for t in sent.values()):
        return False
    with torch.device("meta"):  # sizes alone: no memory is reserved for a client's claims
        own = {name: w.shape for name, w in Encoder(shape, num_classes).named_parameters()}
    return own == {name: t.shape[1:] for name, t in sent.items()} and len({len(t) for t in sent.values()}) == 1


def invert(encoder: Encoder, sent: Tensors, shape: Sequence[int], steps: int, stream: torch.Generator) -> Tensor:
    """Return one image (channels, height, width) whose gradient matches `sent`, both without a dimension of images.

    Args:
        steps: iterations of L-BFGS, each with a line search, so that none increases the loss.
        stream: draws the initial noise; a CPU stream.
    """
    weights = dict(encoder.named_parameters())
    place = encoder.head.bias
    wanted = {name: sent[name].to(place) for name in weights}
    label = labels_of({"head.bias": wanted["head.bias"][None]})
    length = torch.stack([g.square().sum() for g in wanted.values()]).sum().clamp(min=torch.finfo(place.dtype).tiny)
    x = torch.randn(1, *shape, generator=stream).to(place).requires_grad_()

    def closure() -> Tensor:
        found = torch.autograd.grad(_loss(encoder, x, label), list(weights.values()), create_graph=True)
        apart = [(g - g_sent).square().sum() for g, g_sent in zip(found, wanted.values(), strict=True)]
        distance = torch.stack(apart).sum() / length
        (x.grad,) = torch.autograd.grad(distance, x)
        return distance.detach()

    search = torch.optim.LBFGS(
        [x], max_iter=steps, tolerance_grad=0, tolerance_change=0, history_size=20, line_search_fn="strong_wolfe"
    )
    with torch.enable_grad():
        search.step(closure)  # type: ignore[no-untyped-call]
    return x.detach()[0]


def _loss(encoder: Encoder, x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(encoder(x), y)
