#!/usr/bin/env bash
# PyTorch's fused SGD with momentum ends with a TypeError as soon as a frozen layer is trained again; the plain one trains.
#
# Usual in class-incremental and transfer learning: one optimizer holds all layers, only the new head has gradients for
# some steps, then the backbone is unfrozen. The backbone has no momentum buffer then and the head has one. The plain and
# the foreach SGD begin the missing buffer with the first gradient; the fused one hands the list with its gap to an
# operator that takes tensors alone. The first step with the backbone fails: "expected Tensor as element 0 in argument 2,
# but got NoneType". Layers that all begin together are fine, and so are a second parameter group (a list of its own),
# SGD without momentum, and the fused Adam and AdamW, which begin their states layer by layer. The documentation says of
# `fused` that it is an implementation of the same algorithm.
#
# Seen with torch 2.14.1 on Linux (2026-11), on a CPU. Fails if that changes. Downloads PyTorch.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.14.1" numpy
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import torch
from torch import nn

torch.manual_seed(0)
x, y = torch.randn(8, 4), torch.randint(3, (8,))


def trained(method, *, two_groups=False, **options):
    torch.manual_seed(1)
    backbone, head = nn.Linear(4, 5, bias=False), nn.Linear(5, 3, bias=False)
    groups = [backbone, head] if two_groups else [nn.Sequential(backbone, head)]
    optimizer = method([{"params": list(group.parameters())} for group in groups], lr=0.1, **options)
    for step in range(4):
        backbone.requires_grad_(step >= 2)  # two steps of the head alone
        optimizer.zero_grad()
        nn.functional.cross_entropy(head(backbone(x).relu()), y).backward()
        try:
            optimizer.step()
        except TypeError as error:
            return f"step {step + 1}: TypeError: {error}"
    return f"trained, sum of weights {backbone.weight.sum() + head.weight.sum():.4f}"


SGD, Adam = torch.optim.SGD, torch.optim.Adam
seen = {
    "SGD, momentum": trained(SGD, momentum=0.9),
    "SGD, momentum, foreach": trained(SGD, momentum=0.9, foreach=True),
    "SGD, momentum, fused": trained(SGD, momentum=0.9, fused=True),
    "SGD, momentum, fused, two groups": trained(SGD, momentum=0.9, fused=True, two_groups=True),
    "SGD, fused": trained(SGD, fused=True),
    "Adam, fused": trained(Adam, fused=True),
}
print("torch", torch.__version__)
for name, what in seen.items():
    print(f"{name:34}{what}")
failed = [name for name, what in seen.items() if "TypeError" in what]
assert failed == ["SGD, momentum, fused"], failed
assert seen["SGD, momentum, fused"].startswith("step 3: TypeError: expected Tensor as element 0"), seen
plain = seen["SGD, momentum"]
assert plain == seen["SGD, momentum, foreach"] == seen["SGD, momentum, fused, two groups"], seen
PYTHON
