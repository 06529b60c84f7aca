#!/usr/bin/env bash
# PyTorch's FakeTensorMode on a machine without a GPU: what it can tell of a training step on "cuda", and what not.
#
# Fake tensors are known as the way to check code for a GPU that is not there: device mismatches and reads on the host
# raise. On a pretended cuda device that is half true:
#
#   forward, device mismatch, item()     as hoped: works, raises, raises
#   loss.backward()                      raises: autograd asks CUDA for a real device
#   module.to("cuda")                    raises: parameters cannot be swapped
#   x.cpu()                              passes without a word, though a GPU would be waited for there
#   torch.autocast("cuda", bfloat16)     turns itself off with a warning: products stay float32
#
# So a training step has no backward pass there, a wait that copies instead of reading is not seen, and a test of mixed
# precision tests none. A device of one's own (PrivateUse1) worn by CPU tensors goes the whole way.
#
# Seen with torch 2.14.1 on Linux (2026-11), no GPU. Fails if one of these changes. Downloads PyTorch.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.14.1" numpy
CUDA_VISIBLE_DEVICES="" "$folder/venv/bin/python" - <<'PYTHON'
import warnings

import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

print(f"torch {torch.__version__.partition('+')[0]}, GPUs: {torch.cuda.device_count()}")
assert not torch.cuda.is_available(), "made for a machine without a GPU"


def said(action):
    try:
        return f"gives {action()}"
    except Exception as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0][:90]}"


def bf16():
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with torch.autocast("cuda", dtype=torch.bfloat16):
            return (x @ w).dtype, len(told)


with FakeTensorMode():
    x = torch.randn(8, 4, device="cuda")
    w = torch.randn(4, 3, device="cuda", requires_grad=True)
    loss = torch.relu(x @ w).sum()
    seen = {
        "forward": said(lambda: loss.device),
        "backward": said(loss.backward),
        "item": said(loss.item),
        "cpu": said(lambda: loss.detach().cpu().device),
        "tolist": said(lambda: x[0].cpu().tolist()),
        "module": said(lambda: torch.nn.Linear(4, 3).to("cuda").weight.device),
        "autocast": said(bf16),
        "mixed": said(lambda: x + torch.ones(4)),
        "optimizer": said(lambda: torch.optim.SGD([w], 0.1).step()),
    }
for name, what in seen.items():
    print(f"{name:10} {what}")

assert seen["forward"] == "gives cuda:0"
assert "hasPrimaryContext" in seen["backward"]
assert seen["item"].startswith(DataDependentOutputException.__name__)
assert seen["cpu"] == "gives cpu"
assert "swap" in seen["module"]
assert seen["autocast"] == "gives (torch.float32, 1)"
assert seen["mixed"].startswith("FakeTensorDeviceMismatchError")
PYTHON
