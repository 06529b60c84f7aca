#!/usr/bin/env bash
# fl4health: Flash makes a weight NaN that did not change in round 1; "weighted" aggregation divides by the number of
# clients twice; NT-Xent's denominators are one too large; the Dirichlet sampler hands out images twice.
#
# Flash (Panchal et al., ICML 2023). Its drift term weighs by |v before| / (|d * d - v| + |v before|), here weight by
# weight and with nothing added below. Before round 1 v is 0, so a weight with an update d of exactly 0 gets 0 / 0: NaN.
# Such weights are common: those of a pixel that is black in all images (the border of MNIST), of a unit that never fires, of a
# word that no client has, of a frozen layer. A NaN times a black pixel is NaN, so the whole model is gone after one round:
# below, all logits. `tau`, which keeps the other quotient off zero, is not in this one.
#
# `ClientLevelDPFedAvgM(weighted_aggregation=True)`. The weighted estimator (McMahan et al., ICLR 2018) is the
# sum of w_k * d_k over q * W, which is the mean already; fl4health divides that by the number of clients once more. With
# noise off, n clients with the same update move the model by 1 / n of it: a learning rate that falls with the number of
# clients. The unweighted one is right. Tests in the repository have the same division.
#
# `NtXentLoss` (Chen et al., ICML 2020, equation 1): the sum below leaves out an image's similarity with itself. fl4health
# sets this similarity to 0 and then takes exp: 1 too many. The docstring says 2 N - 2 negatives, and a comment that the
# diagonal is left out. It is 1 % or less of the loss at batches of 32, 8 % at 4, a third at 2 (temperature 0.5); with a
# batch of one, where the loss is 0 and has no gradient, it has one.
#
# `DirichletLabelBasedSampler` "downsamples" a client's data to `sample_percentage` (in many examples of the
# repository). It draws with replacement: 50 % are 39 % of the images, 75 % are 53 %, and 100 % are 63 to 64 %, some of
# them three times or more. "We will end up with 50 total data points" is all that the docstring says.
#
# The repository's newest code (May 2026) has the same lines. fl4health asks for Python 3.10 and old versions of numpy
# and torch; these modules run with newer ones, and are installed here whatever the version is.
#
# Seen with fl4health 0.4.2, flwr 1.18.0, torch 2.14.1 and numpy 2.4.6 on Linux (2026-11). Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.14.1" "numpy==2.4.6" "scipy==1.17.1" "opt_einsum==3.4.0" "flwr==1.18.0"
"$folder/venv/bin/pip" install --quiet --no-deps --ignore-requires-python "fl4health==0.4.2" "opacus==1.6.0"
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import logging
from importlib.metadata import version

import numpy as np
import torch
from fl4health.losses.contrastive_loss import NtXentLoss
from fl4health.parameter_exchange.parameter_packer import ParameterPackerWithClippingBit
from fl4health.strategies.client_dp_fedavgm import ClientLevelDPFedAvgM
from fl4health.strategies.flash import Flash
from fl4health.utils.dataset import TensorDataset
from fl4health.utils.sampler import DirichletLabelBasedSampler
from flwr.common import Code, FitRes, Status, ndarrays_to_parameters, parameters_to_ndarrays
from flwr.server.client_proxy import ClientProxy

logging.disable(logging.CRITICAL)
torch.set_num_threads(1)
print(f"fl4health {version('fl4health')}, flwr {version('flwr')}, torch {torch.__version__}")


class Proxy(ClientProxy):
    get_properties = get_parameters = fit = evaluate = reconnect = None


def aggregate(strategy, sent):
    results = [
        (Proxy(str(i)), FitRes(Status(Code.OK, ""), ndarrays_to_parameters(arrays), n, {}))
        for i, (arrays, n) in enumerate(sent)
    ]
    return parameters_to_ndarrays(strategy.aggregate_fit(1, results, [])[0])


def local(weights, x, y, steps=5, rate=0.1):
    w = torch.tensor(weights).requires_grad_()
    for _ in range(steps):
        loss = torch.nn.functional.cross_entropy(x @ w, y)
        w = (w - rate * torch.autograd.grad(loss, w)[0]).detach().requires_grad_()
    return w.detach().numpy()


numbers = np.random.default_rng(0)
start = numbers.normal(size=(20, 3)).astype(np.float32) / 10
for black in (0, 1):  # pixels that are 0 in all images of all clients
    sent = []
    for _ in range(4):
        x = torch.tensor(numbers.random((50, 20))).float()
        x[:, :black] = 0
        sent.append(([local(start, x, torch.arange(50) % 3)], 50))
    after = aggregate(Flash(initial_parameters=ndarrays_to_parameters([start])), sent)[0]
    logits = x.numpy() @ after
    print(f"Flash, round 1, {black} of 20 pixels black: NaN are {np.isnan(after).sum()} of 60 weights,", end=" ")
    print(f"{np.isnan(logits).mean():.0%} of logits")
    assert np.isnan(after).sum() == 3 * black and np.isnan(logits).mean() == black
    assert np.isfinite(np.mean([arrays[0] for arrays, _ in sent], axis=0)).all()

pack = ParameterPackerWithClippingBit().pack_parameters
for clients in (2, 10, 50):
    moved = []
    for weighted in (True, False):
        strategy = ClientLevelDPFedAvgM(
            initial_parameters=ndarrays_to_parameters([np.zeros(1)]),
            weighted_aggregation=weighted,
            weight_noise_multiplier=0.0,
        )
        strategy.sample_counts = [100] * clients  # as the server sets them
        moved.append(aggregate(strategy, [(pack([np.ones(1)], 0.0), 100)] * clients)[0].item())
    print(f"{clients} clients, each with an update of 1, no noise: weighted {moved[0]:.3g}, unweighted {moved[1]:.3g}")
    assert np.isclose(moved[0], 1 / clients) and np.isclose(moved[1], 1)


def nt_xent(a, b, temperature):
    z = torch.nn.functional.normalize(torch.cat([a, b]), dim=1)
    all_of, own = z @ z.T / temperature, torch.eye(len(z), dtype=bool)
    positive = all_of.roll(len(a), 1).diagonal()
    return (torch.logsumexp(all_of.masked_fill(own, -torch.inf), 1) - positive).mean()


torch.manual_seed(0)
for batch in (1, 2, 4, 8, 32, 128):
    line = []
    for temperature in (0.1, 0.5, 1.0):
        a = torch.randn(batch, 64, dtype=torch.float64, requires_grad=True)
        b = a.detach() + torch.randn(batch, 64) / 2
        loss, paper = NtXentLoss(torch.device("cpu"), temperature)(a, b), nt_xent(a, b, temperature)
        line.append(f"temperature {temperature} {float(loss.detach()):.4f} (paper {abs(float(paper.detach())):.4f})")
        z = torch.nn.functional.normalize(torch.cat([a, b]), dim=1)
        sums = torch.exp(
            torch.logsumexp((z @ z.T / temperature).masked_fill(torch.eye(2 * batch, dtype=bool), -torch.inf), 1)
        )
        assert torch.isclose(loss - paper, torch.log1p(1 / sums).mean())
        if batch == 1:
            gradients = [torch.autograd.grad(value, a)[0].norm() for value in (loss, paper)]
            assert gradients[0] > 1e-5 and gradients[1] < 1e-12
    print(f"NT-Xent, batch {batch}: {'; '.join(line)}")

images, share = 10_000, {0.5: 0.393, 0.75: 0.528, 1.0: 0.632}
for percentage, expected in share.items():
    data = TensorDataset(torch.arange(images), torch.arange(images) % 10)
    sampler = DirichletLabelBasedSampler(list(range(10)), hash_key=1, sample_percentage=percentage, beta=100)
    times = np.bincount(sampler.subsample(data).data.numpy(), minlength=images)
    print(f"sampler, {percentage:.0%} of {images}: {times.sum()} drawn, {(times > 0).sum()} different,", end=" ")
    print(f"{(times > 1).sum()} twice or more, one {times.max()} times")
    assert times.sum() == percentage * images and abs((times > 0).mean() - expected) < 0.015
PYTHON
