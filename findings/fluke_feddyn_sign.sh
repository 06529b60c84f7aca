#!/usr/bin/env bash
# fluke's FedDyn turns the sign of both of its corrections: at best it is FedAvg, and for larger alpha it diverges.
#
# FedDyn (Acar et al., ICLR 2021, algorithm 1): a client minimises L(v) - <g, v> + alpha / 2 * |v - w|^2, then g -= alpha
# * (v - w), so that g is its gradient; the server sends the mean of the v less h / alpha, where h sums alpha * (mean v -
# w) up with a minus: it goes further in the direction in which the clients went. fluke keeps g with that sign, but adds
# alpha * <g, v> to the loss, and to the mean it sends the mean of g: both with the other sign, and both once more
# (client) or once less (server: by alpha instead of 1) times alpha than they should be. (The authors' code keeps -g /
# alpha, for which those lines would be right.)
#
# At fluke's own alpha of 0.01 nothing is left of the method, and it ends where FedAvg does; at 0.1 and at 0.5, where
# FedDyn reaches the optimum of all clients' data, it goes away from it, round by round. No word in the documentation; the
# repository's newest code (April 2026) is the same.
#
# Below: four clients with least squares of their own, full batches, all in each round, 40 rounds of 50 steps. Clipping,
# by default at a norm of 5, is off; it bounds the step, not the direction.
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

import numpy as np
import torch
from fluke.algorithms.feddyn import FedDynClient, FedDynServer
from fluke.client import Client
from fluke.config import OptimizerConfigurator
from fluke.data import FastDataLoader
from fluke.server import Server

torch.set_num_threads(1)
print(f"fluke-fl {version('fluke-fl')}")
CLIENTS, ROUNDS, STEPS, RATE = 4, 40, 50, 0.1


def net():
    model = torch.nn.Linear(3, 1, bias=False)
    model.weight.data.zero_()
    return model


def half_square(a, b):
    return ((a[:, 0] - b) ** 2).mean() / 2


def by_fluke(data, alpha=None):
    more = {} if alpha is None else dict(alpha=alpha)
    clients = [
        (Client if alpha is None else FedDynClient)(
            index=i,
            train_set=FastDataLoader(torch.tensor(x).float(), torch.tensor(y).float(), num_labels=1, batch_size=len(x)),
            test_set=None,
            optimizer_cfg=OptimizerConfigurator(dict(name="SGD", lr=RATE)),
            loss_fn=half_square,
            local_epochs=STEPS,
            clipping=0,
            **more,
        )
        for i, (x, y) in enumerate(data)
    ]
    server = (Server if alpha is None else FedDynServer)(net(), None, clients, weighted=False, **more)
    for client in clients:
        client.set_channel(server.channel)
    if alpha is not None:  # what FedDyn's `_round_zero` does
        for client in clients:
            client._send_weight()
        server._send_weights(server._receive_weights())
        for client in clients:
            client._receive_weights()
    for number in range(1, ROUNDS + 1):
        server.broadcast_model(clients)
        for client in clients:
            client.local_update(number)
        server.aggregate(clients, server.receive_client_models(clients, state_dict=False))
    return server.model.weight.detach().numpy()[0]


def gradient(w, x, y):
    return x.T @ (x @ w - y) / len(x)


def reference(data, alpha, as_fluke=False):
    w, h, own = np.zeros(3), np.zeros(3), np.zeros((CLIENTS, 3))
    for _ in range(ROUNDS):
        ends = []
        for i, (x, y) in enumerate(data):
            v = w.copy()
            for _ in range(STEPS):
                v -= RATE * (gradient(v, x, y) + (alpha if as_fluke else -1) * own[i] + alpha * (v - w))
            own[i] -= alpha * (v - w)
            ends.append(v)
        mean = np.mean(ends, axis=0)
        h -= alpha * (mean - w)
        w = mean + own.mean(axis=0) if as_fluke else mean - h / alpha
    return mean


for seed in range(2):
    numbers = np.random.default_rng(seed)
    data = []
    for _ in range(CLIENTS):
        x = numbers.normal(size=(20, 3)) * numbers.uniform(0.3, 1.5, size=3)
        data.append((x, x @ numbers.normal(size=3) * 2))
    x, y = (np.concatenate(part) for part in zip(*data))
    optimum = np.linalg.lstsq(x, y, rcond=None)[0]

    def far(w):
        return float(np.linalg.norm(w - optimum))

    fedavg = far(by_fluke(data))
    print(f"seed {seed}, distance from the optimum: FedAvg {fedavg:.2f}", end="")
    for alpha in (0.01, 0.1, 0.5):
        weights, paper = by_fluke(data, alpha), far(reference(data, alpha))
        print(f"; alpha {alpha}: paper {paper:.3f}, fluke {far(weights):.4g}", end="")
        assert paper < 0.9 * fedavg and far(weights) > 0.95 * fedavg
        assert np.allclose(weights, reference(data, alpha, as_fluke=True), rtol=1e-2, atol=1e-3)
    assert paper < 0.01 and far(weights) > 100 * fedavg
    print()
PYTHON
