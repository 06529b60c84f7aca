#!/usr/bin/env bash
# Counters of multiply-adds: torchinfo gives ViT-B/16 a hundredth, thop two thirds, ptflops Swin 70 %; thop, torchinfo and
# torchprofile give a DCGAN generator four times what it has.
#
# The multiply-adds of convolutions, linear layers and attention are no matter of taste: a linear layer of n tokens has
# n * in * out, a transposed convolution (input positions) * (size of the kernel tensor), attention 2 * n^2 * d beside its
# four projections. ViT-B/16 at 224 x 224 has 17.56 G (Dosovitskiy et al., ICLR 2021; torchvision's documentation has the
# same), the generator of Radford et al. (ICLR 2016) for 64 x 64 has 0.105 G.
#
# - torchinfo 1.8.0: a linear layer counts once for an image, whatever the number of tokens or positions, and so for each
#   series of a batch in a net of time series. ViT-B/16 then is "cheaper" than ResNet-18 (0.17 G and 1.81 G), by the
#   formula it costs ten times as much. ConvNeXt has linear layers too: a fourteenth. The error grows with the number of
#   tokens. The repository counts linear layers by position since November 2024, which no release has; attention is still
#   left out there. Issue 226 (2023, open) has ViT's figure.
# - thop 0.1.1: a MultiheadAttention has no rule and is 0, its weights too: 58.1 of ViT's 86.6 million parameters. Swin's
#   attention calls functions and is 0. Nothing is said by default.
# - ptflops 0.7.5: the README says that the default backend is `aten` and `pytorch` must not be used for transformers. The
#   default is `pytorch`. Swin-T is 3.1 G by default, 4.5 G with `backend="aten"`.
# - thop, torchinfo and torchprofile 0.1.0: a transposed convolution is counted by output positions. With a stride of 2
#   each has four times too many, and with it all of a generator or decoder.
# ResNet-18 is right in all (normalisation and pooling are 1 % at most). ptflops' `aten` leaves the attention's own two
# products out (4 % of ViT). ultralytics-thop 2.2.3, a fork of thop, has ViT, Swin and DCGAN right.
#
# Seen with the versions below on Linux (2026-11); newest code of ptflops, thop and torchprofile does the same. Fails if
# that changes. Downloads PyTorch.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.14.1" "torchvision==0.29.1" "numpy==2.4.6" "setuptools==84.2.1" \
  "thop==0.1.1.post2209072238" "torchinfo==1.8.0" "ptflops==0.7.5" "torchprofile==0.1.0"
CUDA_VISIBLE_DEVICES="" "$folder/venv/bin/python" -W ignore - <<'PYTHON'
import contextlib
import io
from importlib.metadata import version

import ptflops
import thop
import torch
import torchinfo
import torchprofile
import torchvision
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

print(", ".join(f"{tool} {version(tool)}" for tool in ("torch", "thop", "torchinfo", "ptflops", "torchprofile")))


def reference(net, x):
    """Multiply-adds of all matrix products and convolutions that are carried out."""
    torch.backends.mha.set_fastpath_enabled(False)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        net(x)
    torch.backends.mha.set_fastpath_enabled(True)
    return counter.get_total_flops() / 2


def of_thop(net, x):
    return thop.profile(net, (x,), verbose=False)[0]


def of_torchinfo(net, x):
    return torchinfo.summary(net, input_data=x, verbose=0).total_mult_adds


def of_ptflops(net, x, **options):
    options |= {"as_strings": False, "print_per_layer_stat": False}
    return ptflops.get_model_complexity_info(net, tuple(x.shape[1:]), **options)[0]


def of_ptflops_aten(net, x):
    return of_ptflops(net, x, backend="aten")


def of_torchprofile(net, x):
    return torchprofile.profile_macs(net, x)


def generator():
    layers, channels = [], 100
    for out, stride, padding in ((512, 1, 0), (256, 2, 1), (128, 2, 1), (64, 2, 1), (3, 2, 1)):
        layers += [nn.ConvTranspose2d(channels, out, 4, stride, padding, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
        channels = out
    return nn.Sequential(*layers[:-2], nn.Tanh())


models = torchvision.models
image = (3, 224, 224)
nets = {
    "ResNet-18": (models.resnet18, image),
    "ViT-B/16": (models.vit_b_16, image),
    "Swin-T": (models.swin_t, image),
    "ConvNeXt-T": (models.convnext_tiny, image),
    "DCGAN": (generator, (100, 1, 1)),
}
counters = (of_thop, of_torchinfo, of_ptflops, of_ptflops_aten, of_torchprofile)
ratio = {}
for name, (make, shape) in nets.items():
    torch.manual_seed(0)
    x = torch.randn(1, *shape)
    exact = reference(make().eval(), x)
    line = f"{name:10s} exact {exact / 1e9:6.3f} G"
    for counter in counters:
        with contextlib.redirect_stdout(io.StringIO()):
            count = counter(make().eval(), x)
        ratio[name, counter] = count / exact
        line += f"; {counter.__name__[3:]} {count / 1e9:.3f} ({count / exact:.2f})"
    print(line)
    if name == "ViT-B/16":
        tokens, width, hidden = 197, 768, 3072
        layer = tokens * (4 * width**2 + 2 * width * hidden) + 2 * tokens**2 * width
        assert exact == 12 * layer + 196 * width * (3 * 16 * 16) + width * 1000
    if name == "DCGAN":
        sizes = ((1, 100, 512), (4, 512, 256), (8, 256, 128), (16, 128, 64), (32, 64, 3))
        assert exact == sum(side**2 * before * after * 16 for side, before, after in sizes)

for counter in counters:
    assert 0.99 < ratio["ResNet-18", counter] < 1.02
assert ratio["ViT-B/16", of_torchinfo] < 0.011 and ratio["Swin-T", of_torchinfo] < 0.011
assert ratio["ConvNeXt-T", of_torchinfo] < 0.08
assert 0.6 < ratio["ViT-B/16", of_thop] < 0.68 and 0.6 < ratio["Swin-T", of_thop] < 0.68
assert ratio["Swin-T", of_ptflops] < 0.72 and 0.99 < ratio["Swin-T", of_ptflops_aten] < 1.02
for counter in (of_thop, of_torchinfo, of_torchprofile):
    assert 4 < ratio["DCGAN", counter] < 4.2
assert 0.99 < ratio["DCGAN", of_ptflops] < 1.02

vit = models.vit_b_16().eval()
parameters = thop.profile(vit, (torch.zeros(1, *image),), verbose=False)[1]
own = sum(p.numel() for p in vit.parameters())
print(f"thop's parameters of ViT-B/16: {parameters / 1e6:.1f} of {own / 1e6:.1f} M")
assert parameters < 60e6 and own > 86e6

layer = nn.Linear(64, 64, bias=False)
for steps in (1, 100, 10000):
    count = of_torchinfo(layer, torch.zeros(1, steps, 64))
    print(f"torchinfo, linear layer 64 to 64 on {steps} steps: {count} of {steps * 64 * 64}")
    assert count == 64 * 64
PYTHON
