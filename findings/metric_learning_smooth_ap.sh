#!/usr/bin/env bash
# pytorch-metric-learning's SmoothAPLoss takes images of other classes for positives unless a batch has as many classes as
# images of each: a perfect embedding has a loss of 0.8, and training with it does not come to one.
#
# Smooth-AP (Brown et al., ECCV 2020): a query's average precision with a sigmoid for the step, the mean over its class's
# images of rank among the class / rank among all; the loss is one less that, and 0 where each class is apart. The loss
# here is told labels, but uses them for counting alone: it cuts the batch into runs. The length of these is the number of
# classes and their number that of images of a class, the one for the other: right for 4 classes of 4, not for 8 of 4 or
# the 32 of 4 of a usual sampler. With more classes than images a query's "positives" are of several classes; with fewer,
# they are half its class, and the rest of it are negatives.
#
# A comment in the code says that the order of classes does not matter, and an error is raised unless each has the same
# number of images; that those of a class have to come in one run is not said, and a shuffled batch has a loss of 0.6 even
# with 4 of 4. The documentation on the web says that positives come from the labels, in any order and with different
# counts: not so in the newest release.
#
# Below: losses of perfect embeddings, and embeddings of 64 points trained with the loss and with the reference, from the
# same start: a mean average precision of 1.00 by the reference, of 0.38 (16 classes of 4) and 0.56 (4 of 16) by the loss.
#
# Seen with pytorch-metric-learning 2.9.0 and torch 2.14.1 on Linux (2026-11). Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.14.1" "numpy==2.4.6" "scikit-learn==1.9.1" "pytorch-metric-learning==2.9.0"
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
from importlib.metadata import version

import torch
from pytorch_metric_learning.losses import SmoothAPLoss

torch.set_num_threads(1)
print(f"pytorch-metric-learning {version('pytorch-metric-learning')}, torch {torch.__version__}")


def ranks_of(step, embeddings, labels):
    """For each query and each image of its class: its rank among the class, and among all."""
    e = torch.nn.functional.normalize(embeddings.double(), dim=1)
    s = e @ e.T
    above = step(s[:, None, :] - s[:, :, None])  # query, image, other image
    above = above * (1 - torch.eye(len(s), dtype=s.dtype))
    same = (labels[:, None] == labels[None, :]).double()
    among_class = 1 + (above * same[:, None, :]).sum(2)
    return same, among_class / (1 + above.sum(2))


def reference(embeddings, labels):
    same, ratio = ranks_of(lambda d: torch.sigmoid(d / 0.01), embeddings, labels)
    return (1 - (ratio * same).sum(1) / same.sum(1)).mean()


def mean_average_precision(embeddings, labels):
    same, ratio = ranks_of(lambda d: (d > 0).double(), embeddings, labels)
    same = same - torch.eye(len(same), dtype=same.dtype)  # not the query itself
    return float(((ratio * same).sum(1) / same.sum(1)).mean())


loss = SmoothAPLoss()
for classes, of_class, expected in ((4, 4, 0), (8, 4, 0.32), (32, 4, 0.63), (16, 2, 0.4), (4, 8, 0.44), (2, 16, 0.82)):
    y = torch.arange(classes).repeat_interleave(of_class)
    perfect = torch.eye(classes)[y]
    seen = loss(perfect, y).item()
    print(
        f"{classes} classes of {of_class}, perfect: reference {reference(perfect, y):.3f}, library {seen:.3f}", end=""
    )
    torch.manual_seed(0)
    random = torch.randn(len(y), 16)
    paper, library = reference(random, y).item(), loss(random, y).item()
    print(f"; random: {paper:.4f}, {library:.4f}")
    assert reference(perfect, y) < 1e-9 and abs(seen - expected) < 0.01
    assert (abs(paper - library) < 1e-5) == (classes == of_class)

order = torch.randperm(16)
y = torch.arange(4).repeat_interleave(4)[order]
seen = loss(torch.eye(4)[y], y).item()
print(f"4 classes of 4 in a shuffled order, perfect: reference {reference(torch.eye(4)[y], y):.3f}, library {seen:.3f}")
assert seen > 0.5

for classes, of_class in ((8, 8), (16, 4), (4, 16)):
    y = torch.arange(classes).repeat_interleave(of_class)
    print(f"{classes} classes of {of_class}, trained, mean average precision:", end="")
    ends = []
    for name, criterion in (("reference", reference), ("library", loss)):
        torch.manual_seed(1)
        points = torch.randn(classes * of_class, 16, requires_grad=True)
        optimizer = torch.optim.Adam([points], lr=0.05)
        for _ in range(STEPS := 150):
            optimizer.zero_grad()
            criterion(points, y).backward()
            optimizer.step()
        ends.append(mean_average_precision(points.detach(), y))
        print(f" {name} {ends[-1]:.2f}", end="")
    print(f" (start {mean_average_precision(torch.randn(len(y), 16), y):.2f})")
    assert ends[0] > 0.95 and (ends[1] > 0.95) == (classes == of_class)
PYTHON
