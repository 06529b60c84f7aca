#!/usr/bin/env bash
# pytorch-optimizer's Lamb takes a first step ten times too long, treats every layer of a norm above 10 as one of 10, and
# with rectify=True has no trust ratio.
#
# LAMB (You et al., ICLR 2020, algorithm 2): the direction of Adam is scaled so that a layer's step has the length rate *
# phi(norm of its weights), with phi(z) = z, or z between bounds to be chosen. That length does not depend on the moments,
# so that their bias correction can be left out or not; "the default follows version 3 of the paper without bias
# correction", says the documentation. But the rate is divided by 1 - beta1 ** t: with beta1 of 0.9, steps are 10, 5.3, 3.7
# ... times rate * norm, 27 steps too many in all, just where a warm-up would have them short.
#
# The norm of the weights is cut at 10 (a class attribute; no parameter, no word in the documentation). A layer of 400 x
# 400 with weights of 0.5 has a norm of 200: its steps are a twentieth of what they should be beside those of a small layer.
#
# With rectify=True the "update" of the ratio is the weights after the step, not the step: the ratio is about 1 for all
# layers, and LAMB is RAdam; weights 100 times larger get the same steps, not 100 times longer ones.
#
# The repository's code of February 2026 (3.9.0) has the same three.
#
# Seen with pytorch-optimizer 4.1.0 and torch 2.14.1 on Linux (2026-11). Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.14.1" "numpy==2.4.6" "pytorch-optimizer==4.1.0"
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
from importlib.metadata import version

import torch
from pytorch_optimizer import Lamb

torch.set_num_threads(1)
print(f"pytorch-optimizer {version('pytorch-optimizer')}, torch {torch.__version__}")
RATE = 1e-4


def gradients(size, steps):
    torch.manual_seed(0)
    return [torch.randn(size, size) + 0.5 for _ in range(steps)]


def relative_steps(size, value, steps, **options):
    """Length of each step over rate * norm of the weights; 1 by the paper."""
    w = torch.nn.Parameter(torch.full((size, size), value))
    optimizer, seen = Lamb([w], lr=RATE, **options), []
    for g in gradients(size, steps):
        before = w.detach().clone()
        w.grad = g.clone()
        optimizer.step()
        seen.append(float((w - before).norm() / before.norm() / RATE))
    return seen


def reference(size, value, steps, correct):
    w, m, v, seen = torch.full((size, size), value), 0, 0, []
    for t, g in enumerate(gradients(size, steps), 1):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        by = (1 - 0.9**t, 1 - 0.999**t) if correct else (1, 1)
        update = m / by[0] / ((v / by[1]).sqrt() + 1e-6)
        step = RATE * w.norm() / update.norm() * update
        seen.append(float(step.norm() / w.norm() / RATE))
        w = w - step
    return seen


for correct in (False, True):
    assert all(abs(s - 1) < 1e-3 for s in reference(4, 1.0, 60, correct))
seen = relative_steps(4, 1.0, 60)
print(f"steps over rate * norm, first six: {', '.join(f'{s:.2f}' for s in seen[:6])}; reference 1, corrected or not")
print(f"sum over 60 steps: {sum(seen):.1f}, reference 60.0")
assert all(abs(s * (1 - 0.9**t) - 1) < 0.01 for t, s in enumerate(seen, 1))

for size in (4, 40, 400):
    seen = relative_steps(size, 0.5, 60)[-1]
    print(f"layer of {size} x {size}, norm {size * 0.5:.0f}: step 60 over rate * norm {seen:.3f}")
    assert abs(seen - min(1, 10 / (size * 0.5))) < 0.02

for value in (0.01, 1.0):
    plain, rectified = (relative_steps(4, value, 60, rectify=on)[-1] * value * 4 for on in (False, True))
    print(f"weights of {value}: length of step 60 over the rate {plain:.3f}, with rectify=True {rectified:.3f}")
    assert abs(plain / (4 * value) - 1) < 0.02 and 0.1 < rectified < 1
PYTHON
