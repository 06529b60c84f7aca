#!/usr/bin/env bash
# fluke's pFedMe ignores lamda, its APFL never trains the personal model, and its Per-FedAvg is SGD at two rates in turn.
#
# pFedMe (Dinh et al., NeurIPS 2020, algorithm 1): a client minimises its loss plus lamda / 2 * |theta - w|^2. fluke gives
# its optimizer the weights that are trained as w too, so that the term is 0; what it does with lamda afterwards is
# overwritten by the trained weights, which are also what the server gets. For every lamda the result is that of SGD which
# takes each batch k times, in other words FedAvg.
#
# APFL (Deng et al., 2020): v is trained by the gradient of the loss of alpha * v + (1 - alpha) * w. fluke builds the mix
# out of `.data`: the gradient does not reach v, and the optimizer of v skips it each time. What is evaluated as the
# personal model is a moving average of the client's FedAvg models; for the share `lam` of 1 (purely local training in the
# paper) it is its random start for ever.
#
# Per-FedAvg (Fallah et al., NeurIPS 2020), first order: w - beta * gradient(w - rate * gradient(w)). fluke does not go
# back to w after the inner step, so both steps stay: SGD with the rates `lr` and `beta` in turn.
#
# Nothing of that is in fluke's documentation, which names the papers; the repository's newest code (April 2026) is the
# same. A table of personalised methods made with it compares variants of FedAvg.
#
# Seen with fluke-fl 0.8.1 and torch 2.14.1 on Linux (2026-11). Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.14.1" "torchvision==0.29.1" "numpy==2.4.6" "pandas==3.1.1" "scikit-learn==1.9.1" \
  "torchmetrics==1.9.0" "rich==14.3.4" "diskcache==5.6.3" "omegaconf==2.4.0" "psutil==7.2.2" "seaborn==0.13.2" "cerberus==1.3.8"
"$folder/venv/bin/pip" install --quiet --no-deps "fluke_fl==0.8.1"
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
from importlib.metadata import version

import torch
from fluke.algorithms.apfl import APFLClient, APFLServer
from fluke.algorithms.per_fedavg import PerFedAVGClient, PerFedAVGOptimizer
from fluke.algorithms.pfedme import PFedMeClient, PFedMeOptimizer, PFedMeServer
from fluke.config import OptimizerConfigurator
from fluke.data import FastDataLoader
from fluke.server import Server

torch.set_num_threads(1)
print(f"fluke-fl {version('fluke-fl')}")
x = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
y = (x[:, 0] > 0).long()
batches = [(x[i : i + 16], y[i : i + 16]) for i in range(0, 64, 16)]
loss = torch.nn.CrossEntropyLoss()


def net(seed=0):
    torch.manual_seed(seed)
    return torch.nn.Linear(8, 2)


def flat(model):
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


def apart(a, b):
    return float((a - b).abs().max())


def client(kind, optimizer, epochs, **more):
    return kind(
        index=0,
        train_set=FastDataLoader(x, y, num_labels=2, batch_size=16),
        test_set=None,
        optimizer_cfg=OptimizerConfigurator(optimizer),
        loss_fn=loss,
        local_epochs=epochs,
        **more,
    )


def rounds(server, one, number):
    one.set_channel(server.channel)
    for k in range(1, number + 1):
        server.broadcast_model([one])
        one.local_update(k)
        yield flat(one.model)
        server.aggregate([one], server.receive_client_models([one], state_dict=False))


def step(model, batch, rate, at=None):
    gradients = torch.autograd.grad(loss(model(batch[0]), batch[1]), list(model.parameters()))
    for k, (p, gradient) in enumerate(zip(model.parameters(), gradients)):
        p.data = (p.data if at is None else at[k]) - rate * gradient


# pFedMe: three rounds of two epochs, each batch five times
RATE, TIMES, MU = 0.1, 5, 0.0
plain = net()
for _ in range(3 * 2):
    for batch in batches:
        for _ in range(TIMES):
            step(plain, batch, RATE)
first = None
for lamda in (0.0, 1.0, 15.0, 1000.0):
    one = client(PFedMeClient, dict(name=PFedMeOptimizer, lr=RATE, lamda=lamda, mu=MU), 2, k=TIMES)
    server = PFedMeServer(net(), None, [one], beta=1.0)
    list(rounds(server, one, 3))
    weights = flat(server.model)
    first = weights if first is None else first
    print(f"pFedMe, lamda {lamda:6}: {apart(weights, first)} from lamda 0, {apart(weights, flat(plain)):.0e} from SGD")
    assert torch.equal(weights, first) and apart(weights, flat(plain)) < 1e-5

# APFL: ten rounds of five epochs
for lam in (1.0, 0.5):
    one = client(APFLClient, dict(name="SGD", lr=RATE), 5, model=net(1), lam=lam)
    server = APFLServer(net(), None, [one], tau=1)
    average = start = flat(net(1))
    for trained in rounds(server, one, 10):
        average = (1 - lam) * trained + lam * average
    personal = one.personalized_model
    right = [float((model(x).argmax(1) == y).float().mean()) for model in (personal, server.model)]
    print(
        f"APFL, lam {lam}: personal model {apart(flat(personal), start):.1f} from its start, "
        f"{apart(flat(personal), average)} from a moving average; accuracy {right[0]:.2f}, the global one's {right[1]:.2f}"
    )
    assert apart(flat(personal), average) < 1e-6
    assert lam < 1 or (torch.equal(flat(personal), start) and right[0] < 0.6 < 0.9 < right[1])

# Per-FedAvg, first order: one round of two epochs, which are eight pairs of batches
BETA = 0.05
one = client(PerFedAVGClient, dict(name=PerFedAVGOptimizer, lr=RATE), 2, mode="FO", beta=BETA)
(weights,) = rounds(Server(net(), None, [one]), one, 1)
alternating, meta = net(), net()
for pair in range(8):
    inner, outer = (batches[(2 * pair + k) % 4] for k in (0, 1))
    step(alternating, inner, RATE)
    step(alternating, outer, BETA)
    before = [p.detach().clone() for p in meta.parameters()]
    step(meta, inner, RATE)
    step(meta, outer, BETA, at=before)
sgd, paper = apart(weights, flat(alternating)), apart(weights, flat(meta))
print(f"Per-FedAvg: {sgd:.0e} from SGD at two rates, {paper:.2f} from the paper's")
assert sgd < 1e-5 and paper > 0.1
PYTHON
