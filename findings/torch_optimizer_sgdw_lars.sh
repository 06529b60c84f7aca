#!/usr/bin/env bash
# torch-optimizer's SGDW has no weight decay: it takes the same number off every weight. Its LARS trusts ten times as much
# as its documentation says.
#
# SGDW (Loshchilov and Hutter, ICLR 2019, algorithm 1): theta -= rate * gradient and theta -= rate * decay * theta. Here
# the second is theta -= rate * decay, without theta: positive weights shrink, negative ones grow, and all drift downwards
# at one speed, biases too, whatever the loss. Without a gradient a weight of 1 goes to 0.90, one of -1 to -1.10, where both
# should shrink by a tenth. On a regression of ten weights around zero, decay makes the norm larger, not smaller.
#
# LARS (You et al. 2017): the documentation names 0.001 as default for `trust_coefficient` and for `lr`; they are 0.01 and
# 0.01, so that a step is 100 times the documented one. (With weight_decay=0, its default, it is plain SGD; a warning in the
# documentation says that.)
#
# Issues about SGDW are open since 2022; the documentation says nothing, and the repository's code, as far as seen, is the
# same. SGDW of pytorch-optimizer 4.1.0, another package, reads as in the paper.
#
# Seen with torch-optimizer 0.3.0, its newest release, and torch 2.14.1 on Linux (2026-11). Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.14.1" "numpy==2.4.6" "pytorch-ranger==0.1.1" "torch-optimizer==0.3.0"
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
from importlib.metadata import version

import torch
import torch_optimizer

torch.set_num_threads(1)
print(f"torch-optimizer {version('torch-optimizer')}, torch {torch.__version__}")


def trained(start, loss, decay, steps, by_library, rate=0.1):
    w = start.clone().requires_grad_()
    optimizer = torch_optimizer.SGDW([w], lr=rate, weight_decay=decay)
    for _ in range(steps):
        w.grad = None
        loss(w).backward()
        if by_library:
            optimizer.step()
        else:
            with torch.no_grad():
                w -= rate * (w.grad + decay * w)
    return w.detach()


start = torch.tensor([1.0, -1.0, 0.0])
for by_library, expected in ((False, [0.9044, -0.9044, 0]), (True, [0.9, -1.1, -0.1])):
    w = trained(start, lambda w: 0 * w.sum(), 0.01, 100, by_library)
    print(
        f"no gradient, {'library' if by_library else 'paper'}: {start.tolist()} become {[round(v, 2) for v in w.tolist()]}"
    )
    assert torch.allclose(w, torch.tensor(expected), atol=1e-3)

torch.manual_seed(0)
x = torch.randn(50, 10)
y = x @ torch.randn(10) + torch.randn(50)
norms = {}
for decay in (0, 0.3, 1, 3):
    for by_library in (False, True):
        w = trained(torch.zeros(10), lambda w: ((x @ w - y) ** 2).mean() / 2, decay, 1000, by_library)
        norms[decay, by_library] = float(w.norm())
    print(f"regression, decay {decay}: norm of the weights by the paper {norms[decay, False]:.2f}, ", end="")
    print(f"library {norms[decay, True]:.2f}")
assert (
    norms[0, True] == norms[0, False]
    and norms[3, False] < 0.4 * norms[0, False]
    and norms[3, True] > 1.5 * norms[0, True]
)

default = torch_optimizer.LARS([torch.zeros(1, requires_grad=True)]).defaults
told = [
    line.strip() for line in torch_optimizer.LARS.__doc__.splitlines() if "(default: 0.001)" in line or "lr:" in line
]
print(f"LARS: trust_coefficient {default['trust_coefficient']}, lr {default['lr']}; told: {told}")
assert default["trust_coefficient"] == default["lr"] == 0.01 and len(told) == 2
PYTHON
