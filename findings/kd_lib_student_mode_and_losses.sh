#!/usr/bin/env bash
# KD_Lib trains students in evaluation mode from the second epoch on, and three of its losses have their best student near
# the uniform distribution, whatever the teacher says.
#
# The base class of its methods measures validation accuracy on the student itself after each epoch, which calls `eval()`,
# and `train()` is called once, before the first. From the second epoch on there is no dropout, and BatchNorm normalises
# by the first epoch's statistics. The teacher is measured on a copy and trains as usual, so teacher and student, or a
# student with distillation and one trained by hand, differ in more than the method. DML has a loop of its own with the
# same.
#
# "Preparing lessons" (Wen et al., arXiv:1911.07471) distils by KL divergence from corrected teacher probabilities.
# ProbShift and LabelSmoothReg pass teacher and student to KLDivLoss in the other order and without the logarithm: minimal
# is sum s (log s - t), whose solution is the softmax of the teacher's probabilities, and no probability is more than e
# times another. NoisyTeacher (Sau and Balasubramanian, arXiv:1610.09650, soft targets of the teacher) has by default the
# mean squared error between the student's log-probabilities and the teacher's probabilities, which no student can bring
# to 0 and the uniform one nearly minimises. Of a teacher that is 52 % sure, students fitted to the three losses are 15,
# 15 and 11 % sure of ten classes; VanillaKD's, beside them, 52 %.
#
# Seen with KD-Lib 0.0.32, the newest release, and torch 2.14.1 on Linux (2026-11); the release itself asks for torch
# 1.8.1, and none of it depends on that. Modules that it imports and this does not need (text, plots) are stand-ins. Fails
# if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.14.1" "torchvision==0.29.1" "numpy==2.4.6" "pandas==2.3.3" "tqdm==4.70.1"
"$folder/venv/bin/pip" install --quiet --no-deps "KD-Lib==0.0.32"
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import contextlib
import io
import sys
from importlib.machinery import ModuleSpec
from importlib.metadata import version
from unittest.mock import MagicMock

import torch
import torch.nn.functional as F

for name in (
    "matplotlib.pyplot", "torch.utils.tensorboard", "transformers", "torchtext.legacy.data", "torchtext.data",
    "torchtext.datasets", "contexttimer",
):  # fmt: skip
    parts = name.split(".")
    for i in range(len(parts)):
        if (module := ".".join(parts[: i + 1])) not in sys.modules:
            sys.modules[module] = MagicMock()
            sys.modules[module].__spec__ = ModuleSpec(module, None)

from KD_Lib.KD import DML, LabelSmoothReg, NoisyTeacher, ProbShift, VanillaKD
from torch.utils.data import DataLoader, TensorDataset

print(f"KD-Lib {version('KD-Lib')}, torch {torch.__version__}")


class Net(torch.nn.Module):
    """Notes in which mode it was whenever gradients were wanted."""

    def __init__(self):
        super().__init__()
        self.norm, self.layer, self.modes = torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 10), []

    def forward(self, x):
        if torch.is_grad_enabled():
            self.modes.append(self.training)
        return self.layer(self.norm(x))


def loader():
    x = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    return DataLoader(TensorDataset(x, torch.arange(64) % 10), batch_size=16)


def sgd(net):
    return torch.optim.SGD(net.parameters(), 0.1)


def quiet(train, **options):
    with contextlib.redirect_stdout(io.StringIO()):
        train(epochs=4, plot_losses=False, save_model=False, **options)


for kind in (VanillaKD, ProbShift, LabelSmoothReg, NoisyTeacher):
    teacher, student = Net(), Net()
    method = kind(teacher, student, loader(), loader(), sgd(teacher), sgd(student))
    quiet(method.train_teacher, save_model_pth="./models/teacher.pt")
    modes = teacher.modes[:]
    quiet(method.train_student, save_model_pth="./models/student.pt")
    print(
        f"{kind.__name__}, 16 steps of 4 epochs: the teacher trains in training mode in {sum(modes)}, the student in"
        f" {sum(student.modes)}; batches that the student's BatchNorm saw: {int(student.norm.num_batches_tracked)}"
    )
    assert all(modes) and student.modes == [True] * 4 + [False] * 12
cohort = [Net(), Net()]
quiet(DML(cohort, loader(), loader(), [sgd(net) for net in cohort]).train_students)
calls = [len(net.modes) // 4 for net in cohort]
assert all(all(net.modes[:n]) and not any(net.modes[n:]) for net, n in zip(cohort, calls, strict=True))
print("DML: both students in training mode in the first epoch alone")

torch.manual_seed(0)
scores = 2 * torch.randn(32, 10)
labels = scores.argmax(1)  # the teacher is right, so that no correction is made
for temperature in (1.0, 4.0):
    sure = {"teacher": float(F.softmax(scores / temperature, dim=1).amax(1).mean())}
    for kind, options in (
        (VanillaKD, {"distil_weight": 1.0}),
        (ProbShift, {"ka_weight": 1.0}),
        (LabelSmoothReg, {"ka_weight": 1.0}),
        (NoisyTeacher, {"distil_weight": 1.0, "alpha": -1.0}),  # never noise
    ):
        net = Net()
        method = kind(net, net, None, None, None, None, temp=temperature, **options)
        student = torch.zeros(32, 10, requires_grad=True)
        optimizer = torch.optim.Adam([student], 0.1)
        for _ in range(1000):
            optimizer.zero_grad()
            method.calculate_kd_loss(student, scores, labels).backward()
            optimizer.step()
        fitted = F.softmax(student.detach() / temperature, dim=1)
        sure[kind.__name__] = float(fitted.amax(1).mean())
        if kind in (ProbShift, LabelSmoothReg):
            wanted = F.softmax(F.softmax(scores / temperature, dim=1), dim=1)
            assert torch.allclose(fitted, wanted, atol=1e-3)
    print(f"temperature {temperature}, mean largest probability: " + ", ".join(f"{k} {v:.3f}" for k, v in sure.items()))
    assert abs(sure["VanillaKD"] - sure["teacher"]) < 0.01
    assert max(sure[k] for k in ("ProbShift", "LabelSmoothReg", "NoisyTeacher")) < 0.16 < sure["teacher"]
PYTHON
