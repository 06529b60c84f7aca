#!/usr/bin/env bash
# FedML's SCAFFOLD keeps the work of one client a round and its c_i stay 0, its FedDyn trains clients by plain SGD
# whatever alpha is, and on a CPU its simulated FedAvg and FedOpt hand the model from client to client.
#
# SCAFFOLD (Karimireddy et al., ICML 2020, algorithm 1): the server adds the mean of the clients' changes to x, and their
# changes of c_i over N to c; a client steps along gradient - c_i + c. FedML sums both over the clients and then
# overwrites the sums with what the last client sent: the others' work is lost. Clients compute a new c_i and store it in
# a dictionary that is thrown away, so c_i is 0 in all rounds: what is added to each step is c, of one client.
#
# FedDyn (Acar et al., ICLR 2021, algorithm 1) adds two terms to a client's loss. FedML computes both from `param.data`,
# which has no gradient. Weights after training are equal to the bit for alpha 0, 0.1 and 100, and are those of SGD.
#
# In the simulation with one process ("sp") the server's weights are `model.state_dict()` of the model that all clients
# train, and a state_dict holds the weights, no copy. On a CPU the second client so begins where the first ended, and so
# on: in FedAvg during the first round, in FedOpt, whose server reads them anew each round, in every one. Weights are
# those of a reference that does this. FedOpt's server then steps from the last client's model. (On a GPU, by the code,
# `model.cpu()` makes a copy before; not run here.)
#
# Seen with fedml 0.9.6 and torch 2.14.1 on Linux (2026-11), on a CPU. Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "setuptools==80.9.0" "torch==2.14.1" "torchvision==0.29.1" "fedml==0.9.6"
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import os
import sys
import traceback
from importlib.metadata import version
from types import SimpleNamespace

import torch
from fedml.core.mlops import MLOpsStore
from fedml.ml.aggregator.agg_operator import FedMLAggOperator
from fedml.ml.trainer.feddyn_trainer import FedDynModelTrainer
from fedml.simulation.sp.fedavg.fedavg_api import FedAvgAPI
from fedml.simulation.sp.fedopt.fedopt_api import FedOptAPI
from fedml.simulation.sp.scaffold.scaffold_trainer import ScaffoldTrainer

print(f"fedml {version('fedml')}")


def failed(*error):
    traceback.print_exception(*error)
    sys.stdout.flush()
    os._exit(1)


sys.excepthook = failed  # fedml leaves something behind that keeps Python from ending by itself
MLOpsStore.mlops_args = SimpleNamespace(using_mlops=False)
generator = torch.Generator().manual_seed(0)
clients = {}
for k in range(4):
    x = torch.randn(32, 5, generator=generator)
    clients[k] = [(x[i : i + 8], (x[i : i + 8, k] > 0).long()) for i in range(0, 32, 8)]
every = sum(clients.values(), [])
cpu = torch.device("cpu")


def net():
    torch.manual_seed(0)
    return torch.nn.Linear(5, 2)


def options(name, rounds=1, **more):
    return SimpleNamespace(
        federated_optimizer=name, client_num_in_total=4, client_num_per_round=4, comm_round=rounds, server_lr=1.0,
        initialize_all_clients=True, client_optimizer="sgd", learning_rate=0.1, weight_decay=0.0, epochs=1, batch_size=8,
        frequency_of_the_test=1000, dataset="x", enable_wandb=False, ci=0, server_optimizer="sgd", **more,
    )


def fedml(kind, name, rounds):
    data, model = [128, 128, every, every, dict.fromkeys(clients, 32), clients, clients, 2], net()
    args = options(name, rounds)
    trainer = kind(data, model, cpu, args) if name == "SCAFFOLD" else kind(args, cpu, data, model)
    trainer.train()
    return trainer, trainer.model_trainer.model.weight.detach().clone()


def sgd(model, batches):
    for x, y in batches:
        model.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()
        with torch.no_grad():
            for p in model.parameters():
                p -= 0.1 * p.grad
    return {name: v.clone() for name, v in model.state_dict().items()}


def reference(rounds, in_turn):
    weights = net().state_dict()
    for t in range(rounds):
        model, results = net(), []
        model.load_state_dict(weights)
        for k in clients:
            if not in_turn(t):
                model.load_state_dict(weights)
            results.append(sgd(model, clients[k]))
        weights = {name: sum(r[name] for r in results) / 4 for name in weights}
    return weights["weight"], results


def off(a, b):
    return float((a - b).abs().max())


# SCAFFOLD: what the server adds to its model and to c, of four clients that moved by 1, 2, 3 and 4
sent = [(32, {"w": torch.tensor(float(v))}, {"w": torch.tensor(float(v))}) for v in (1, 2, 3, 4)]
model, control = FedMLAggOperator.agg(options("SCAFFOLD"), sent)
print(f"SCAFFOLD, clients moved by 1, 2, 3, 4: the model by {model['w']} (paper 2.5), c by {control['w']} (paper 2.5)")
assert model["w"] == 4 and control["w"] == 1
trainer, weights = fedml(ScaffoldTrainer, "SCAFFOLD", 5)
largest = max(float(c.c_model_local.weight.abs().max()) for c in trainer.client_list)
print("SCAFFOLD, after five rounds: largest c_i", largest)
assert all(float(p.abs().max()) == 0 for c in trainer.client_list for p in c.c_model_local.parameters())
assert float(trainer.c_model_global.weight.abs().max()) > 0

# FedDyn's client, with a gradient of earlier rounds
results = []
for alpha in (0.0, 0.1, 100.0):
    client = FedDynModelTrainer(net(), options("FedDyn", feddyn_alpha=alpha))
    client.set_id(0)
    client.train(clients[0], cpu, client.args, {"weight": torch.ones(2, 5), "bias": torch.ones(2)})
    results.append(client.model.weight.detach().clone())
    print(f"FedDyn, alpha {alpha}: off plain SGD by {off(results[-1], results[0])}")
assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])
assert off(results[0], sgd(net(), clients[0])["weight"]) < 1e-6

# one process, a CPU: whose weights does a client begin with?
for kind, name, in_turn in ((FedAvgAPI, "FedAvg", lambda t: t == 0), (FedOptAPI, "FedOpt", lambda t: True)):
    for rounds in (1, 5):
        _, weights = fedml(kind, name, rounds)
        right, wrong = reference(rounds, lambda t: False)[0], reference(rounds, in_turn)[0]
        print(f"{name}, {rounds} rounds: off the paper {off(weights, right):.3f}, off clients in turn {off(weights, wrong):.1e}")
        assert off(weights, wrong) < 1e-5 < 0.01 < off(weights, right)
sys.stdout.flush()
os._exit(0)
PYTHON
