#!/usr/bin/env bash
# NVFlare's SCAFFOLD with some of the clients in a round: the server's control is N / |S| times what it should be.
#
# SCAFFOLD (Karimireddy et al., ICML 2020, algorithm 1): clients correct their steps by c - c_i, where c is the mean of all
# N clients' c_i; so after a round with the clients S, c += |S| / N * mean of the changes of their c_i. The controller
# `Scaffold(num_clients=...)` draws that many of the connected clients at random in each round, and adds the mean as it is.
# The changes sum up to c_i, so c is N / |S| times the mean of the c_i: ten times with 2 of 20 clients. With c = 10 * mean
# gradient in each step the method is no longer a variance reduction, but a push along old gradients.
#
# What comes of it depends on how many take part. At 10 of 20 it makes no difference that matters. At 4 and 2 of 20 it is
# 18 to 250 times as far from the optimum as the paper's after 100 rounds, and at 1 of 10 it does not settle where the
# paper's does. With all clients (as in the examples) both are the same. `ScaffoldRecipe` hands its `min_clients`, "minimum
# number of clients required to start", on as `num_clients`: with more clients than that connected, it draws as well.
#
# The means are also weighted by each client's steps, where the paper's are not; with equal steps, as below, that is the
# same. No word in the documentation; the repository's newest code (August 2026) is the same.
#
# Below: the released controller and the released client helper, joined by function calls; no server is started. Least
# squares, full batches, ten local steps.
#
# Seen with nvflare 2.9.0, torch 2.14.1 and numpy 2.4.6 on Linux (2026-11). Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.14.1" "numpy==2.4.6" "nvflare==2.9.0"
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import copy
import logging
from importlib.metadata import version

import numpy as np
import torch
from nvflare.apis.fl_context import FLContext
from nvflare.app_common.abstract.fl_model import FLModel
from nvflare.app_common.app_constant import AlgorithmConstants
from nvflare.app_common.workflows.scaffold import Scaffold
from nvflare.app_opt.pt.scaffold import PTScaffoldHelper

logging.disable(logging.CRITICAL)
torch.set_num_threads(1)
print(f"nvflare {version('nvflare')}, torch {torch.__version__}")
ROUNDS, STEPS = 100, 10


def net():
    model = torch.nn.Linear(3, 1, bias=False).double()
    torch.nn.init.zeros_(model.weight)
    return model


class Client:
    def __init__(self, x, y, rate):
        self.x, self.y, self.rate = torch.tensor(x), torch.tensor(y), rate
        self.model, self.helper = net(), PTScaffoldHelper()
        self.helper.init(self.model)

    def train(self, sent):
        self.model.load_state_dict({name: torch.as_tensor(value) for name, value in sent.params.items()})
        given = copy.deepcopy(self.model)
        self.helper.load_global_controls(sent.meta[AlgorithmConstants.SCAFFOLD_CTRL_GLOBAL])
        controls = self.helper.get_params()
        optimizer = torch.optim.SGD(self.model.parameters(), self.rate)
        for _ in range(STEPS):
            optimizer.zero_grad()
            (((self.model(self.x)[:, 0] - self.y) ** 2).mean() / 2).backward()
            optimizer.step()
            self.helper.model_update(self.model, self.rate, *controls)
        self.helper.terms_update(self.model, self.rate, *controls, given)
        change = {name: value.copy() for name, value in self.helper.get_delta_controls().items()}
        params = {name: value.numpy().copy() for name, value in self.model.state_dict().items()}
        return FLModel(
            params=params, meta={AlgorithmConstants.SCAFFOLD_CTRL_DIFF: change, "NUM_STEPS_CURRENT_ROUND": STEPS}
        )


class Simulated(Scaffold):
    """The released controller, with clients in place of a network."""

    def __init__(self, data, rate, chosen):
        super().__init__(num_clients=len(chosen[0]), num_rounds=len(chosen))
        self.fl_ctx, self.chosen = FLContext(), iter(chosen)
        self.clients, self.model, self.path = [Client(x, y, rate) for x, y in data], self.load_model(), []
        self._global_ctrl_weights = {name: np.zeros_like(value) for name, value in self.model.params.items()}

    def load_model(self):
        return FLModel(params={name: value.numpy().copy() for name, value in net().state_dict().items()})

    def sample_clients(self, num_clients=None):
        return next(self.chosen)

    def send_model_and_wait(self, targets=None, data=None, **_):
        return [self.clients[i].train(data) for i in targets]

    def save_model(self, model):
        self.path.append(model.params["weight"][0].copy())

    def event(self, *_):
        pass

    fire_event_with_data = event


def reference(data, rate, chosen, too_large=False):
    w, c, own, path = np.zeros(3), np.zeros(3), np.zeros((len(data), 3)), []
    for drawn in chosen:
        ends, changes = [], []
        for i in drawn:
            x, y = data[i]
            v = w.copy()
            for _ in range(STEPS):
                v -= rate * (x.T @ (x @ v - y) / len(x) - own[i] + c)
            changes.append((w - v) / (STEPS * rate) - c)
            ends.append(v)
        for i, change in zip(drawn, changes, strict=True):
            own[i] += change
        w = np.mean(ends, axis=0)
        c = c + (1 if too_large else len(drawn) / len(data)) * np.mean(changes, axis=0)
        path.append(w)
    return np.array(path)


for clients, part, rate in ((20, 20, 0.05), (20, 10, 0.05), (20, 4, 0.02), (20, 2, 0.02), (10, 1, 0.05)):
    ratios = []
    print(f"{part} of {clients} clients, rate {rate}: distance from the optimum after {ROUNDS} rounds", end="")
    for seed in range(3):
        numbers = np.random.default_rng(seed)
        centre, data = numbers.normal(size=3), []
        for _ in range(clients):
            x = numbers.normal(size=(20, 3)) * numbers.uniform(0.3, 1.5, size=3)
            data.append((x, x @ (centre + numbers.normal(size=3))))
        optimum = np.linalg.lstsq(*(np.concatenate(of) for of in zip(*data, strict=True)), rcond=None)[0]
        chosen = [numbers.choice(clients, part, replace=False).tolist() for _ in range(ROUNDS)]
        server = Simulated(data, rate, chosen)
        server._run_rounds()
        by_nvflare, paper = np.array(server.path), reference(data, rate, chosen)
        assert np.allclose(by_nvflare, reference(data, rate, chosen, too_large=True), rtol=1e-6, atol=1e-9)
        controls = np.array([client.helper.c_local.state_dict()["weight"].numpy()[0] for client in server.clients])
        assert np.allclose(server._global_ctrl_weights["weight"][0], clients / part * controls.mean(axis=0), atol=1e-9)
        far = [float(np.linalg.norm(path[-1] - optimum)) for path in (paper, by_nvflare)]
        ratios.append(far[1] / far[0])
        print(f"{';' if seed else ':'} paper {far[0]:.2g}, nvflare {far[1]:.2g}", end="")
    print()
    if part == clients:
        assert np.allclose(by_nvflare, paper, atol=1e-9)
    if clients / part >= 5:
        assert min(ratios) > 5 and (part > 1 or far[1] > 1)
PYTHON
