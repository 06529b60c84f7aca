#!/usr/bin/env bash
# PyTorch's fused SGD on a CPU gives each weight the gradient of another one where the gradient's strides are not the
# weight's; nothing is said. The plain one and the foreach one step right.
#
# Server optimisers of federated learning (FedAvgM, FedAdam with a torch optimizer inside) set `weight.grad` by hand to
# the old weights minus the clients' mean. If the server's net is channels-last, as is usual for convolutions, and the
# mean comes of arrays, which are contiguous, shapes agree and strides do not. The fused step walks over both in the
# order of memory: the step has the right length and is spread over the wrong weights. Backward passes are safe, since
# autograd makes gradients with the strides of their weights. Fused Adam, AdamW and Adagrad scramble likewise; their
# steps hide it in the first round, where all entries are of one size, and differ from the second on.
#
# Seen with torch 2.14.1 on Linux (2026-11), on a CPU. Fails if that changes. Downloads PyTorch.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.14.1" "numpy==2.4.6"
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import numpy as np
import torch
from torch import nn

torch.manual_seed(0)
start = nn.Conv2d(3, 4, 3, bias=False).weight.detach()
means = [start.numpy() + np.random.default_rng(i).normal(size=start.shape).astype(np.float32) for i in range(3)]


def server(optimizer, form, **options):
    """Weights after rounds whose clients' means are given; of channels-last, or of contiguous weights."""
    net = nn.Conv2d(3, 4, 3, bias=False)
    with torch.no_grad():
        net.weight.copy_(start)
    net = net.to(memory_format=form)
    made = optimizer(net.parameters(), **options)
    for mean in means:
        net.weight.grad = net.weight.detach().contiguous() - torch.from_numpy(mean)  # the pseudo-gradient
        made.step()
    return net.weight.detach().contiguous()


print(f"torch {torch.__version__}")
wrong = {}
for optimizer, lr in ((torch.optim.SGD, 1.0), (torch.optim.Adam, 0.1), (torch.optim.AdamW, 0.1), (torch.optim.Adagrad, 0.1)):
    right = server(optimizer, torch.contiguous_format, lr=lr, fused=False)
    for name, options in (("plain", {"fused": False}), ("foreach", {"foreach": True}), ("fused", {"fused": True})):
        off = {
            str(form).rpartition(".")[2]: (server(optimizer, form, lr=lr, **options) - right).abs().max().item()
            for form in (torch.contiguous_format, torch.channels_last)
        }
        wrong[optimizer.__name__, name] = off
        print(f"{optimizer.__name__:8} {name:8}", {form: f"{difference:.0e}" for form, difference in off.items()})

small = 1e-5
assert all(off["contiguous_format"] < small for off in wrong.values()), "weights and gradients of equal strides"
assert all(off["channels_last"] < small for (_, name), off in wrong.items() if name != "fused"), "not fused"
assert all(off["channels_last"] > 0.05 for (_, name), off in wrong.items() if name == "fused"), "the fused steps are right"
PYTHON
echo "still so"
