#!/usr/bin/env bash
# torchdistill: SPKD has the wrong norm and is a batch size too weak, DIST+ rewards features opposite to the teacher's,
# and KDLoss without a hard loss drops tau squared and beta.
#
# SPKD (Tung and Mori, ICCV 2019, section 2) divides each row of the batch's similarity matrix by its L2 norm. The class
# calls `normalize(matrix, 1)`, whose second argument is the p of the norm, not the dimension: rows are divided by their
# L1 norm. On features after a ReLU the loss is 5.7 times too small at a batch of 8, 28 times at 32 and 122 times at 128,
# so the paper's weight of 3000 (CIFAR-10) acts there as one of about 25, and a study of batch sizes is one of weights. An
# issue (221) discussed its sum over the batch and not this.
#
# DIST+ (Huang et al., TPAMI 2025) adds relations of features to DIST, whose terms are all 1 - correlation. The class's
# channel term is the correlation itself, added to the loss: with the sample configuration's equal weights a student with
# exactly the teacher's features has no less loss than one with their negative, by the channel term alone 2 more, and
# features fitted to the loss from a random start end at correlation -1 with the teacher's channels.
#
# KDLoss documents alpha * CE + beta * tau^2 * KL, beta being 1 - alpha unless given. With alpha 0 or None, or without
# labels, as in data-free distillation, it returns KL alone: at tau 4 a sixteenth of what alpha 1e-6 gives, at tau 20 a
# 400th, and the same for every beta. LogitStdKDLoss has the same lines. A scan over alpha that begins at 0 has a jump
# there which is no result.
#
# Seen with torchdistill 1.1.5 and torch 2.14.1 on Linux (2026-11). Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.14.1" "torchvision==0.29.1" "numpy==2.4.6" "pyyaml==6.0.4" "scipy==1.17.1"
"$folder/venv/bin/pip" install --quiet --no-deps "torchdistill==1.1.5"
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
from importlib.metadata import version

import torch
import torch.nn.functional as F
from torchdistill.losses.mid_level import DISTPlusLoss, KDLoss, LogitStdKDLoss, SPKDLoss

print(f"torchdistill {version('torchdistill')}, torch {torch.__version__}")


def outputs(**values):
    return {name: {"output": value} for name, value in values.items()}


def spkd(student, teacher, p):
    def rows(x):
        similarity = x @ x.T
        return similarity / similarity.abs().pow(p).sum(1, keepdim=True).pow(1 / p)

    return float(((rows(student) - rows(teacher)) ** 2).sum() / len(student) ** 2)


for batch, least, most in ((8, 5, 7), (32, 26, 30), (128, 118, 126)):
    factors = []
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        student, teacher = (torch.randn(batch, 512, generator=generator).relu() for _ in range(2))
        loss = float(SPKDLoss("x", "x", "batchmean")(outputs(x=student), outputs(x=teacher)))
        assert abs(loss / spkd(student, teacher, 1) - 1) < 1e-3  # L1
        factors.append(spkd(student, teacher, 2) / loss)
    print(f"SPKD, batch {batch:3}: the paper's loss is {min(factors):.1f} to {max(factors):.1f} times this one")
    assert least < min(factors) and max(factors) < most


def dist_plus(student, teacher, channel, spatial):
    loss = DISTPlusLoss("z", "output", "z", "output", "f", "output", "f", "output", iota=channel, kappa=spatial)
    return loss(outputs(z=logits, f=student), outputs(z=logits, f=teacher))


torch.manual_seed(0)
logits, features = torch.randn(4, 10), torch.randn(4, 8, 5, 5)
for weights in ((1.0, 0.0), (0.0, 1.0), (1.0, 1.0)):
    same, opposite = (float(dist_plus(s, features, *weights)) for s in (features, -features))
    print(f"DIST+, channel {weights[0]}, spatial {weights[1]}: same features {same:.3f}, their negative {opposite:.3f}")
    assert abs(same - weights[0]) < 1e-5 and abs(opposite + weights[0] - 2 * weights[1]) < 1e-5
for start in range(3):
    torch.manual_seed(start)
    student = torch.randn(4, 8, 5, 5, requires_grad=True)
    optimizer = torch.optim.Adam([student], 0.05)
    for _ in range(400):
        optimizer.zero_grad()
        dist_plus(student, features, 1.0, 1.0).backward()
        optimizer.step()
    centred = [x - x.mean(1, keepdim=True) for x in (student.detach(), features)]
    correlation = float(F.cosine_similarity(*centred, dim=1).mean())
    print(f"DIST+, start {start}: fitted features have correlation {correlation:.3f} with the teacher's channels")
    assert correlation < -0.99

student, teacher, labels = torch.randn(64, 10), torch.randn(64, 10), torch.arange(64) % 10
for kind in (KDLoss, LogitStdKDLoss):

    def kd(tau, alpha, beta=None, labels=labels, kind=kind):
        loss = kind(".", "output", ".", "output", tau, alpha=alpha, beta=beta)
        return float(loss({".": {"output": student}}, {".": {"output": teacher}}, labels))

    for tau in (1.0, 4.0, 20.0):
        factor = kd(tau, 1e-6) / kd(tau, 0.0)
        print(f"{kind.__name__}, tau {tau}: alpha 1e-6 gives {factor:.2f} times what alpha 0 gives")
        assert abs(factor / tau**2 - 1) < 1e-2
    assert kd(4.0, 0.0, beta=9.0) == kd(4.0, 0.0, beta=1.0) == kd(4.0, None, beta=9.0) == kd(4.0, 0.5, 9.0, labels=None)
PYTHON
