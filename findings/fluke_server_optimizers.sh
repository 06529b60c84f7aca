#!/usr/bin/env bash
# fluke's FedAdam, FedYogi and FedAdagrad apply the server's rate twice, and its FedAvgM throws the first round away.
#
# Reddi et al. (ICLR 2021, algorithm 2): m and v are moments of the mean of the clients' changes, and the server steps by
# rate * m / (sqrt(v) + tau). fluke's server aggregates with that rate first: the change it takes moments of is already
# rate times the clients'. As m / sqrt(v) has no scale, that amounts to a tau of tau / rate. At the rate 0.01 and tau
# 0.001 of fluke's own configurations of FedYogi and FedAdagrad tau is in effect 0.1, which drowns sqrt(v): weights whose
# changes differ by a factor of 100 make steps that differ by one of 85 instead of 6, up to 85 times too short. A search
# over the server's rate thus moves tau in the other direction. (At the rate of 1, as in its FedAdam, it is right.)
#
# FedAvgM (Hsu et al., 2019): v = beta * v + change, from v = 0. fluke sets v to 0 in the first round and adds nothing:
# the server stays where it was, and all clients' work of that round is lost. With one round it returns the start.
#
# Neither is in the documentation; the repository's newest code (April 2026) is the same.
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
from fluke.algorithms.fedavgm import FedAVGMServer
from fluke.algorithms.fedopt import FedOptServer

print(f"fluke-fl {version('fluke-fl')}")
BETA1, BETA2, TAU, ROUNDS = 0.9, 0.99, 1e-3, 5


class OneClient:
    index, n_examples = 0, 1


def net(weights):
    model = torch.nn.Linear(len(weights), 1, bias=False)
    model.weight.data = torch.as_tensor(weights)[None].clone()
    return model


def after(server, change, rounds):
    for _ in range(rounds):
        server.aggregate([OneClient()], [net(server.model.weight.detach()[0] + change)])
    return server.model.weight.detach()[0]


def paper(mode, change, rate, tau):
    w, m, v = (torch.zeros_like(change) for _ in range(3))
    for _ in range(ROUNDS):
        square = change**2
        m = BETA1 * m + (1 - BETA1) * change
        if mode == "adam":
            v = BETA2 * v + (1 - BETA2) * square
        elif mode == "yogi":
            v = v - (1 - BETA2) * square * torch.sign(v - square)
        else:
            v = v + square
        w = w + rate * m / (v.sqrt() + tau)
    return w


def shown(weights):
    return " ".join(f"{float(w):.2g}" for w in weights)


change = torch.tensor([0.001, 0.01, 0.1])
print(f"clients change the three weights by {shown(change)}, {ROUNDS} rounds")
for mode in ("adam", "yogi", "adagrad"):
    for rate in (1.0, 0.01):
        server = FedOptServer(net(torch.zeros(3)), None, [OneClient()], mode, rate, BETA1, BETA2, TAU)
        weights, right = after(server, change, ROUNDS), paper(mode, change, rate, TAU)
        print(f"{mode}, rate {rate}: paper {shown(right)}, fluke {shown(weights)}")
        torch.testing.assert_close(weights, paper(mode, change, rate, TAU / rate), rtol=1e-3, atol=0)
        assert rate == 1 or float((right / weights).max()) > 30

ones = torch.ones(3)
for rounds, right in ((1, 1.0), (2, 2.9), (3, 5.61)):
    weights = after(FedAVGMServer(net(torch.zeros(3)), None, [OneClient()], momentum=0.9), ones, rounds)
    print(f"FedAvgM, clients change by 1, after round {rounds}: paper {right}, fluke {float(weights[0]):.2f}")
    assert float(weights[0]) == 0 if rounds == 1 else abs(float(weights[0]) - (1.0, 2.9)[rounds - 2]) < 1e-5
PYTHON
