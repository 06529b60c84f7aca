#!/usr/bin/env bash
# tsai's TSTPlus has batch normalisation whatever `norm` says, sees the padding of a batch only once, and TST ignores its
# mask; tsai's ROCKET pads twice as far as the paper's.
#
# Batch or layer normalisation is one of the comparisons of the paper of TST (Zerveas et al., KDD 2021), and `norm` is
# documented: "flag to indicate whether BatchNorm (default) or LayerNorm is used". TSTPlus does not hand it on: with
# norm="LayerNorm" the net has the same layers and, for the same seed, the same outputs to the bit as with "BatchNorm".
#
# Steps in which all channels are NaN are padding to TSTPlus ("auto", its default), left out of attention and set to zero
# behind it. It finds them and then writes zeros into the caller's tensor: the second call with that tensor, of this net
# or of another one of an ensemble, has a series that ends in zeros, and another answer. `TST.forward(x, mask)` takes a
# mask and does nothing with it, the layers too.
#
# ROCKET (Dempster et al., DMKD 2020) pads half of its kernels so that their middle comes to lie on every point: as many
# values as the series has. tsai's `ROCKET`, "a GPU Pytorch implementation of the ROCKET functions", pads by twice that on
# either side, computed from the dilation before it is rounded down: of a series of 150, 200 values in the mean and up to
# 298, in some a tenth from zeros alone. The proportion of positive values, the feature that carries ROCKET, is another
# one by 0.035.
#
# Seen with tsai 1.0.1 and torch 2.14.1 on Linux (2026-11), on a CPU. Fails if that changes. Downloads PyTorch.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "tsai==1.0.1" "torch==2.14.1"
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
from importlib.metadata import version

import numpy as np
import torch
from tsai.models.ROCKET_Pytorch import ROCKET
from tsai.models.TST import TST
from tsai.models.TSTPlus import TSTPlus

print(f"tsai {version('tsai')}, torch {torch.__version__}")
series = torch.randn(8, 3, 50, generator=torch.Generator().manual_seed(0))


def tst(kind=TSTPlus, **more):
    torch.manual_seed(0)
    return kind(3, 2, 50, **more).cpu()


answers = {}
for norm in ("BatchNorm", "LayerNorm"):
    net = tst(norm=norm)
    kinds = sorted({type(layer).__name__ for layer in net.modules() if "Norm" in type(layer).__name__})
    print(f"TSTPlus(norm={norm!r}): {', '.join(kinds)}")
    assert kinds == ["BatchNorm1d"]
    answers[norm] = net(series.clone()).detach()
assert torch.equal(*answers.values())

net = tst().eval()
padded = series.clone()
padded[:, :, 30:] = torch.nan
zeros = padded.nan_to_num(0)
with torch.no_grad():
    first = net(padded)
    assert not padded.isnan().any()
    second = net(padded)
    change, spread = float((first - second).abs().mean()), float(second.std(0).mean())
    print(f"TSTPlus, the same tensor twice: outputs move by {change / spread:.0%} of their spread over series; no NaN is left in it")
    assert change > 0.05 * spread and torch.allclose(torch.as_tensor(second), torch.as_tensor(net(zeros)), atol=1e-6)

    net = tst(TST).eval()
    mask = torch.zeros(50, 50, dtype=torch.bool)
    mask[:, 30:] = True
    print(f"TST with a mask over the last 20 steps answers as without: {torch.equal(net(series), net(series, mask))}")
    assert torch.equal(net(series), net(series, mask))

    np.random.seed(0)
    torch.manual_seed(0)
    padding = [conv for conv in ROCKET(1, 150, 2000, device="cpu").convs if conv.padding[0]]
    noise = torch.randn(20, 1, 150)
    lengths, differences, zeros_alone = [], [], []
    for conv in padding:
        (size,), (dilation,) = conv.kernel_size, conv.dilation
        paper = torch.nn.functional.conv1d(noise, conv.weight, conv.bias, padding=(size - 1) * dilation // 2, dilation=dilation)
        theirs = conv(noise)
        seen = torch.nn.functional.conv1d(torch.ones(1, 1, 150), torch.ones_like(conv.weight), padding=conv.padding, dilation=dilation)
        assert paper.shape[-1] == 150
        lengths.append(theirs.shape[-1])
        differences.append(float(((paper > 0).float().mean(-1) - (theirs > 0).float().mean(-1)).abs().mean()))
        zeros_alone.append(float((seen == 0).float().mean()))
print(
    f"ROCKET, {len(padding)} of 2000 kernels pad: of 150 values they make {min(lengths)} to {max(lengths)}, {np.mean(lengths):.0f} in the "
    f"mean; up to {max(zeros_alone):.0%} see only padding; proportion of positive values off by {np.mean(differences):.3f}"
)
assert min(lengths) > 150 and max(lengths) > 280 and np.mean(differences) > 0.02
PYTHON
