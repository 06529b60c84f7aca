#!/usr/bin/env bash
# torchmetrics' generalised Dice of an image depends on the other images of its batch, and on its place among them.
#
# The score (Sudre et al. 2017) weighs a class by 1 over its volume in the target, squared. A class that an image does not
# have would weigh infinitely. The function then takes the greatest weight of that class in the batch, and hands these
# out in the wrong order (a table of classes by images is read as one of images by classes), so that an absent class gets
# the weight of some class in some image. Alone it weighs 0, and false positives of it are free. One image with one
# prediction so has a score of 0.99 alone, 0.26 first of two, 0.02 second of two, 0.93 first of five. The class
# `GeneralizedDiceScore` takes the mean of these: of 96 images with three classes, two of them absent from about half, a
# model has 0.81 in batches of 1, 0.51 in batches of 8 and 0.33 in one, and which of two models is better depends on the
# batch size. It also changes with shuffling. With `weight_type="linear"` it is as defined.
#
# The documentation gives the formula, and a value per sample, and says nothing of a batch. Issue 2846 (open) is about
# scores per class of images without it.
#
# Seen with torchmetrics 1.9.0 and torch 2.14.1 on Linux (2026-11); the repository's newest code (August 2026) is the same.
# Fails if that changes. Downloads PyTorch.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.14.1" "numpy==2.4.6" "torchmetrics==1.9.0"
CUDA_VISIBLE_DEVICES="" "$folder/venv/bin/python" -W ignore - <<'PYTHON'
from importlib.metadata import version

import torch
from torch.nn.functional import one_hot
from torchmetrics.functional.segmentation import generalized_dice_score
from torchmetrics.segmentation import GeneralizedDiceScore

print(f"torchmetrics {version('torchmetrics')}, torch {torch.__version__}")
CLASSES, SIDE = 3, 16
options = {"num_classes": CLASSES, "input_format": "index"}


def reference(prediction, target):
    """By the formula, with the greatest finite weight of the same image for a class that it does not have."""
    pred, true = (one_hot(x, CLASSES).reshape(-1, CLASSES).double() for x in (prediction, target))
    weights = true.sum(0) ** -2
    weights[weights.isinf()] = weights[weights.isfinite()].max()
    return float(2 * (weights * (pred * true).sum(0)).sum() / (weights * (pred.sum(0) + true.sum(0))).sum())


# an image without class 2, of which the prediction has some; four others, predicted without a fault
target = torch.zeros(5, SIDE, SIDE, dtype=torch.long)
target[0, :4, :4] = 1
target[1, 8:10, 8:10] = 2
target[2, 8:, 8:], target[2, :2, :2] = 2, 1
target[3, :8], target[3, 12:, 12:] = 1, 2
target[4, :3] = 1
prediction = target.clone()
prediction[0, 10:] = 2

found = {}
for batch in ((0,), (0, 4), (0, 1), (1, 0), (0, 1, 2, 3, 4), (1, 2, 3, 4, 0)):
    index = torch.tensor(batch)
    scores = generalized_dice_score(prediction[index], target[index], **options)
    found[batch] = float(scores[batch.index(0)])
    print(f"images {batch}: score of image 0 is {found[batch]:.3f}")
print(f"reference {reference(prediction[0], target[0]):.3f}")
assert found[(0,)] > 0.98 and 0.2 < found[0, 1] < 0.3 and found[1, 0] < 0.05 and 0.9 < found[0, 1, 2, 3, 4] < 0.95

for kind in ("simple", "linear"):
    alone, of_two = (
        float(generalized_dice_score(prediction[batch], target[batch], weight_type=kind, **options)[-1])
        for batch in ([0], [1, 0])
    )
    print(f"weight_type {kind}: alone {alone:.3f}, second of two {of_two:.3f}")
    assert (abs(alone - of_two) < 1e-6) == (kind == "linear")

generator = torch.Generator().manual_seed(0)
IMAGES = 96
truth = torch.zeros(IMAGES, SIDE, SIDE, dtype=torch.long)
for image in range(IMAGES):
    for label in (1, 2):
        if torch.rand(1, generator=generator) < 0.5:
            row, column, size = torch.randint(0, 8, (3,), generator=generator).tolist()
            truth[image, row : row + size + 1, column : column + size + 1] = label
wrong = torch.rand(truth.shape, generator=generator)
models = {
    "A": torch.where(wrong < 0.06, torch.randint(0, CLASSES, truth.shape, generator=generator), truth),
    "B": torch.where((truth == 2) & (wrong < 0.5), 1, truth),
}
means = {}
for name, guess in models.items():
    for size in (1, 2, 8, 32, 96):
        metric = GeneralizedDiceScore(**options)
        for start in range(0, IMAGES, size):
            metric.update(guess[start : start + size], truth[start : start + size])
        means[name, size] = float(metric.compute())
    values = ", ".join(f"{means[name, size]:.3f} in batches of {size}" for size in (1, 2, 8, 32, 96))
    right = sum(map(reference, guess, truth)) / IMAGES
    print(f"model {name}, {IMAGES} images: {values}; reference {right:.3f}")
assert means["A", 1] > 0.8 and means["A", 96] < 0.4
assert means["A", 1] > means["B", 1] and means["A", 96] < means["B", 96] - 0.2
PYTHON
