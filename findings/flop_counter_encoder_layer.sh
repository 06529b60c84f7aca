#!/usr/bin/env bash
# PyTorch's FlopCounterMode gives a transformer encoder layer three numbers on a CPU, one of them 0, and an LSTM always 0.
#
# Papers take their "FLOPs" from a forward pass in eval mode without gradients, as a net is used. There an encoder layer
# takes one fused operator, for which the counter has no formula: no warning, and 0 for attention and feed-forward alike.
# A net with convolutions in front and encoder layers behind so seems to be its stem alone, and cheaper than the
# convolutional net beside it. With gradients, or after `torch.backends.mha.set_fastpath_enabled(False)`, all but the
# attention's own two products is counted: the fused attention of a CPU has no formula either. Only in train mode, where
# dropout forbids it, the number is whole. An LSTM is one operator on a CPU and is 0 in all modes; a GRU is counted.
#
# Seen with torch 2.14.1 on Linux (2026-11), on a CPU. Fails if one of the numbers changes. Downloads PyTorch.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.14.1" numpy
CUDA_VISIBLE_DEVICES="" "$folder/venv/bin/python" -W ignore - <<'PYTHON'
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

BATCH, STEPS, WIDTH, HIDDEN = 2, 5, 16, 32
torch.manual_seed(0)
x = torch.randn(BATCH, STEPS, WIDTH)
layers = {
    "encoder layer": nn.TransformerEncoderLayer(WIDTH, 2, HIDDEN, batch_first=True),
    "LSTM": nn.LSTM(WIDTH, HIDDEN, batch_first=True),
    "GRU": nn.GRU(WIDTH, HIDDEN, batch_first=True),
    "linear": nn.Linear(WIDTH, HIDDEN),
}
linear = 2 * BATCH * STEPS * (4 * WIDTH * WIDTH + 2 * WIDTH * HIDDEN)
attention = 2 * BATCH * STEPS * 2 * STEPS * WIDTH


def counted(layer, training, gradients):
    layer.train(training)
    with torch.set_grad_enabled(gradients), FlopCounterMode(display=False) as mode:
        layer(x)
    return mode.get_total_flops()


print(f"torch {torch.__version__.partition('+')[0]}; an encoder layer by hand: {linear} in linear layers, {attention} in attention")
seen = {}
for name, layer in layers.items():
    seen[name] = [counted(layer, *how) for how in ((True, True), (False, True), (False, False))]
    print(f"{name:14} train {seen[name][0]:6}   eval {seen[name][1]:6}   eval, no gradients {seen[name][2]:6}")
torch.backends.mha.set_fastpath_enabled(False)
slow = counted(layers["encoder layer"], False, False)
print(f"{'encoder layer':14} eval, no gradients, without the fast path {slow:6}")
assert seen["encoder layer"] == [linear + attention, linear, 0], seen
assert slow == linear, slow
assert seen["LSTM"] == [0, 0, 0], seen
assert min(seen["GRU"]) > 0 and len(set(seen["linear"])) == 1 and seen["linear"][0] > 0, seen
PYTHON
echo "as described: three numbers for one encoder layer, and none for the LSTM"
