#!/usr/bin/env bash
# Two libraries of CKA: rows under other layers' names, layers read after they were overwritten, one batch for all data.
#
# CKA of minibatches (Nguyen et al., ICLR 2021, equation 3) sums an unbiased HSIC between the examples of a batch over all
# batches, and divides at the end. A row of the matrix is a layer.
#
# torch_cka (PyTorch-Model-Compare), as its README has it, on torchvision's ResNet-18:
# 1. Rows come in the order in which layers finish, `export()` names them in the order of `named_modules()`. A module comes
# after its parts in one order and before them in the other, so with the default (all layers) or with any list that has a
# block and a part of it, names are shifted: 57 of 68 rows hold another value than that of their name. The row of the
# whole net is that of `conv1`. Lists of blocks alone, in the order of the forward pass, are right.
# 2. A layer's output is kept, not copied. What comes next in place changes it: the row "bn1" is the output of ReLU, and
# "layer1.0.bn2" is the output of the whole block, input added and ReLU taken. ResNets of torchvision, DenseNets and
# VGGs have such ReLUs.
#
# ckatorch:
# 3. A value is set at each batch, not added: all passes over the data but for the last batch are thrown away, and the
# last is the small one (`drop_last` is refused). The README has the sum over batches. Below, 64 of 70 examples may be
# anything.
#
# No word on these in either README. Newest code of both (November 2021; February 2026) is the same.
#
# Seen with torch_cka 0.21, ckatorch 1.0.3 and torch 2.14.1 on Linux (2026-11). Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.14.1" "torchvision==0.29.1" "numpy==2.4.6" "pandas==3.1.1" "tqdm==4.70.1" \
  "matplotlib==3.11.2" "seaborn==0.13.2" "safetensors==0.8.0" "pyyaml==6.0.3"
"$folder/venv/bin/pip" install --quiet --no-deps "torch_cka==0.21" "ckatorch==1.0.3"
cd "$folder"
MPLBACKEND=agg "$folder/venv/bin/python" -W ignore - <<'PYTHON'
import contextlib
import io
from importlib.metadata import version

import ckatorch
import torch
import torch_cka
from torch.utils.data import DataLoader, TensorDataset
from torchvision.models import resnet18

torch.set_num_threads(1)
torch.set_default_dtype(torch.float64)
print(f"torch_cka {version('torch_cka')}, ckatorch {version('ckatorch')}, torch {torch.__version__}")


def quiet(function, *args, **more):
    with contextlib.redirect_stderr(io.StringIO()):
        return function(*args, **more)


def hsic(k, m):
    """Unbiased, of two matrices of products of examples (Nguyen et al., equation 3)."""
    n = len(k)
    k, m = k - torch.diag(torch.diag(k)), m - torch.diag(torch.diag(m))
    rest = k.sum() * m.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (k.sum(0) @ m.sum(1))
    return ((k * m).sum() + rest) / (n * (n - 3))


def cka(batches):
    """Of pairs of features, a pair for each batch."""
    sums = torch.zeros(3, dtype=torch.float64)
    for x, y in batches:
        k, m = (f.flatten(1).double() @ f.flatten(1).double().T for f in (x, y))
        sums += torch.stack([hsic(k, m), hsic(k, k), hsic(m, m)])
    return float(sums[0] / (sums[1] * sums[2]).sqrt())


def features(net, x):
    """Copies of all layers' outputs, of the first call of each."""
    kept = {}

    def keep(name):
        def hook(layer, inputs, output):
            kept.setdefault(name, output.detach().clone())

        return hook

    hooks = [layer.register_forward_hook(keep(name)) for name, layer in net.named_modules()]
    with torch.no_grad():
        net.eval()(x)
    for hook in hooks:
        hook.remove()
    return kept


torch.manual_seed(0)
net, images = resnet18(weights=None, num_classes=10), torch.randn(32, 3, 32, 32)
loader = DataLoader(TensorDataset(images), batch_size=16)


def by_torch_cka(layers=None):
    measure = torch_cka.CKA(net, net, "a", "b", model1_layers=layers, model2_layers=["conv1"])
    with torch.no_grad():
        quiet(measure.compare, loader)
    for layer in net.modules():
        layer._forward_hooks.clear()
    return dict(zip(measure.export()["model1_layers"], measure.export()["CKA"][:, 0].tolist(), strict=True))


batches = [features(net, part) for (part,) in loader]
right = {name: cka([(kept[name], kept["conv1"]) for kept in batches]) for name in batches[0]}

print("1. torch_cka, all layers of ResNet-18 against conv1: the row of that name, and its CKA")
table = by_torch_cka()
for name in ("", "conv1", "layer1", "layer4.1", "fc"):
    print(f"  {name or '(whole net)':12} {table[name]:.3f}, {right[name]:.3f}")
same = [name for name in table if abs(table[name] - right[name]) < 1e-3]
print(f"  of {len(table)} rows {len(same)} are right: {', '.join(same)}")
assert len(same) < 15 and abs(table[""] - 1) < 1e-4 and right[""] < 0.8
blocks = by_torch_cka(["conv1", "layer1", "layer2", "layer3", "layer4", "fc"])
assert all(abs(blocks[name] - right[name]) < 1e-3 for name in blocks)
shifted = by_torch_cka(["layer1", "layer1.0", "layer4"])
print(
    f"  layers ['layer1', 'layer1.0', 'layer4']: row layer1 {shifted['layer1']:.3f}, row layer1.0 {shifted['layer1.0']:.3f};"
)
print(f"  right: layer1 {right['layer1']:.3f}, layer1.0 {right['layer1.0']:.3f}")
assert abs(shifted["layer1"] - right["layer1.0"]) < 1e-3 < abs(right["layer1"] - right["layer1.0"])

print("2. torch_cka, layers followed by something in place")
for name, holds in (("bn1", "relu"), ("layer1.0.bn2", "layer1.0")):
    value = by_torch_cka([name])[name]
    print(f"  {name}: {value:.3f}; its CKA {right[name]:.3f}; CKA of {holds} {right[holds]:.3f}")
    assert abs(value - right[holds]) < 1e-3 < 0.02 < abs(value - right[name])

print("3. ckatorch, 70 examples in batches of 16")


class Tokens(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = torch.nn.Linear(8, 32), torch.nn.Linear(32, 8)

    def forward(self, x):
        return self.b(torch.relu(self.a(x)))


def by_ckatorch(one, two, data):
    measure = ckatorch.CKA(one, two, layers=["a", "b"])
    result = quiet(measure, DataLoader(TensorDataset(data), batch_size=16), epochs=2)
    for layer in (*one.modules(), *two.modules()):
        layer._forward_hooks.clear()
    return result


one, two = Tokens(), Tokens()
data = torch.randn(70, 12, 8)
other = torch.cat([torch.randn(64, 12, 8) * 5, data[64:]])
every, last, changed = (by_ckatorch(one, two, part) for part in (data, data[64:], other))
print(f"  all data {every.tolist()}\n  the last six alone {last.tolist()}")
print(f"  the first 64 replaced by others {changed.tolist()}")
assert torch.equal(every, last) and torch.equal(every, changed)
PYTHON
