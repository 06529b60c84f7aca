#!/usr/bin/env bash
# peft's `add_weighted_adapter`: the average of n equal LoRA adapters is n times one of them for three of eleven
# ways to combine, and an n-th of one for four (TIES and DARE-TIES).
#
# With weights of 1 / n the average of n adapters that are all the same is that adapter, whatever the method (task
# arithmetic, Ilharco et al. 2023; TIES, Yadav et al. 2023; DARE, Yu et al. 2024, all without a trim here). "linear",
# "dare_linear" and "magnitude_prune" add up A and B apart, each with the root of the weight, so that the product is
# (sum of roots)^2 = n times too large for adapters that are alike, as those of clients from a common start are: ten
# clients' average is a step of ten. The documentation's own example, 0.7 and 0.3, makes 1.92 of one. "ties", "dare_ties",
# and both with "_svd", take the mean over the adapters of the elected sign on top of the weights, which makes 1 / n.
# "svd" (the default), "cat" and the others with "_svd" are right.
#
# TIES here elects the sign before the weights: an adapter of weight 2 is outvoted and left out for one of weight 0.1.
# (mergekit 0.1.5, as its code reads, elects after the weights; its ties by default divides by those of the elected.)
#
# The documentation calls "linear" "a very rough approximation" that "should be avoided if you can afford it", and advises
# weights of 1 or more for TIES; it says nothing of a factor, and nothing about the other two. The repository's code of
# August 2026 is the same.
#
# Seen with peft 0.21.2 and torch 2.14.1 on Linux (2026-11). Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.14.1" "numpy==2.4.6" "transformers==5.24.0" "accelerate==1.15.0" \
  "safetensors==0.8.0" "huggingface-hub==2.4.0" "peft==0.21.2"
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
from importlib.metadata import version

import torch
from peft import LoraConfig, get_peft_model

torch.set_num_threads(1)
print(f"peft {version('peft')}, torch {torch.__version__}")
PLAIN = ("linear", "dare_linear", "magnitude_prune")
TIES = ("ties", "dare_ties", "ties_svd", "dare_ties_svd")
EXACT = ("svd", "cat", "dare_linear_svd", "magnitude_prune_svd")


def adapters(pairs):
    config = LoraConfig(r=4, lora_alpha=4, target_modules=["0"])
    model = get_peft_model(torch.nn.Sequential(torch.nn.Linear(32, 32, bias=False)), config, adapter_name="0")
    layer = model.base_model.model[0]
    for i, (a, b) in enumerate(pairs):
        if i:
            model.add_adapter(str(i), config)
        layer.lora_A[str(i)].weight.data.copy_(a)
        layer.lora_B[str(i)].weight.data.copy_(b)
    return model, layer


def combined(pairs, weights, kind):
    model, layer = adapters(pairs)
    names = [str(i) for i in range(len(pairs))]
    model.add_weighted_adapter(names, weights, "new", combination_type=kind, density=1.0, svd_rank=4)
    return layer.get_delta_weight("new").detach()


def factor(seen, true):
    return float((seen * true).sum() / (true * true).sum())


torch.manual_seed(0)
a, b = torch.randn(4, 32), torch.randn(32, 4)
one = b @ a
for n in (2, 10):
    print(f"{n} equal adapters, weights 1/{n}, factor of one:", end="")
    for kinds, expected in ((PLAIN, n), (TIES, 1 / n), (EXACT, 1)):
        factors = [factor(combined([(a, b)] * n, [1 / n] * n, kind), one) for kind in kinds]
        print(f" {', '.join(kinds)}: {factors[0]:.2f};", end="")
        assert all(abs(f / expected - 1) < 1e-3 for f in factors)
    print()
seen = factor(combined([(a, b)] * 2, [0.7, 0.3], "linear"), one)
print(f"equal adapters, linear, weights 0.7 and 0.3: {seen:.2f} of one")
assert abs(seen - (0.7**0.5 + 0.3**0.5) ** 2) < 1e-3

clients = [(a + 0.3 * torch.randn_like(a), b + 0.3 * torch.randn_like(b)) for _ in range(10)]
mean = torch.stack([q @ p for p, q in clients]).mean(0)
print("ten clients from a common start, weights 1/10, factor and relative distance of the mean of their updates:")
for kind in PLAIN + TIES + EXACT:
    seen = combined(clients, [0.1] * 10, kind)
    far = float((seen - mean).norm() / mean.norm())
    print(f"  {kind}: {factor(seen, mean):.2f}, {far:.2f}")
    assert (far > 8 and kind in PLAIN) or (0.8 < far < 1 and kind in TIES) or (far < 0.2 and kind in EXACT)

pairs, weights = [(a, b), (-0.5 * a, b)], [0.1, 2.0]  # after the weights: 0.1 and -1 times the first
seen = factor(combined(pairs, weights, "ties_svd"), one)
print(f"TIES of 1 and -0.5 with weights 0.1 and 2: {seen:.2f}; signs elected with the weights: -1.00")
assert abs(seen - 0.1) < 1e-3
PYTHON
