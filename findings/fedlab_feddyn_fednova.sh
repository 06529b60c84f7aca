#!/usr/bin/env bash
# FedLab's FedDyn trains clients as FedAvg does, whatever alpha is, and its FedNova steps N/K times too far by default.
#
# FedDyn (Acar et al., ICLR 2021, algorithm 1) adds two terms to a client's loss. FedLab computes both from
# `model_parameters`, which copies the weights out of `param.data`: numbers in the loss without a gradient. Weights after
# three rounds are equal to the bit for alpha 0, 0.1 and 100 and for its plain trainer; what is left of the method is the
# server's state. (The released server also takes the old weights off a sum over K clients once, not K times, so that
# weights grow although no client moves; corrected in the repository later, issue 319. The client's terms were not.)
#
# FedNova (Wang et al., NeurIPS 2020): the mean of normalised steps times the mean number of steps. FedLab
# gives each of the K clients of a round the weight 1/K, and its default option, `weighted_scale`, multiplies by N/K
# then. Ten clients of a hundred that agree on a step make the server go ten times as far; in the repository's newest
# code too.
#
# Seen with fedlab 1.3.0 and torch 2.14.1 on Linux (2026-11). Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.14.1" "numpy==2.4.6" "nvidia-ml-py==13.615.71" "munch==4.0.0" "tqdm==4.70.1" \
  "torchvision==0.29.1" "pandas==2.3.3" "scikit-learn==1.9.1"
"$folder/venv/bin/pip" install --quiet --no-deps "fedlab==1.3.0"
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
from importlib.metadata import version

import torch
from fedlab.contrib.algorithm.basic_client import SGDSerialClientTrainer
from fedlab.contrib.algorithm.feddyn import FedDynSerialClientTrainer, FedDynServerHandler
from fedlab.contrib.algorithm.fednova import FedNovaServerHandler

print(f"fedlab {version('fedlab')}")


class Quiet:
    def info(self, *_):
        pass


class OneLoader:
    def get_dataloader(self, *_):
        x = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
        return [(x[i : i + 16], (x[i : i + 16, 0] > 0).long()) for i in range(0, 64, 16)]


def net():
    torch.manual_seed(0)
    return torch.nn.Linear(8, 2)


def after_three_rounds(kind, *more):
    client = kind(net(), 1, logger=Quiet())
    client.setup_dataset(OneLoader())
    client.setup_optim(2, 16, 0.1, *more)
    weights = client.model_parameters.clone()
    for _ in range(3):
        client.local_process([weights], [0])
        ((weights,),) = client.uplink_package
    return weights


plain = after_three_rounds(SGDSerialClientTrainer)
for alpha in (0.0, 0.1, 100.0):
    weights = after_three_rounds(FedDynSerialClientTrainer, alpha)
    print(f"FedDyn, alpha {alpha:5}: largest difference from the plain trainer {float((weights - plain).abs().max())}")
    assert torch.equal(weights, plain)

server = FedDynServerHandler(net(), 10, 0.1, logger=Quiet())
server.num_clients = 100
server.setup_optim(0.1)
begin = server.model_parameters.clone()
for _ in range(10):
    for _ in range(10):
        server.load([server.model_parameters.clone()])
grown = float(server.model_parameters.norm() / begin.norm())
print(f"FedDyn, ten rounds of ten clients of a hundred that do not move: weights {grown:.1f} times as long")
assert grown > 5

for option, times in (("weighted_scale", 10), ("uniform", 1), ("weighted_com", 1)):
    server = FedNovaServerHandler(net(), 10, 0.1, logger=Quiet())
    server.num_clients = 100
    server.setup_optim(*() if option == "weighted_scale" else (option,))  # the first is the default
    begin = server.model_parameters.clone()
    for _ in range(10):
        server.load([begin + 0.01, torch.tensor([4.0])])
    step = float((server.model_parameters - begin).mean())
    print(f"FedNova, {option}: clients moved by 0.01, the server by {step:.3f}")
    assert abs(step - 0.01 * times) < 1e-5
PYTHON
