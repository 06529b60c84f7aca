"""A data set of one's own: a folder of images, `train/<class>/*` and `test/<class>/*`, and nothing else.

    python docs/examples/own_dataset.py

writes the digits 0 to 5 of scikit-learn as PNG files, learns them in three tasks, and prints, with numbers that may
differ on another machine:

    files: 600 in 12 folders
    data: 6 classes, images of 1 x 16 x 16
    client 0 holds [36, 44, 0, 0, 0, 0] training images of each class in task 1
    joint: 86.7 % on the test images, after 3 tasks
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from PIL import Image
from rich.console import Console
from sklearn.datasets import load_digits

import fcil

NAMES = ("zero", "one", "two", "three", "four", "five")


def write_images(root: Path) -> None:
    """A hundred PNG files of each class, a fifth of them for the test."""
    digits = load_digits()
    for label, name in enumerate(NAMES):
        for number, pixels in enumerate(digits.images[digits.target == label][:100]):
            folder = root / ("test" if number % 5 == 0 else "train") / name
            folder.mkdir(parents=True, exist_ok=True)
            image = Image.fromarray((pixels * 15.9375).astype("uint8"))
            image.resize((16, 16)).save(folder / f"{number:03}.png")


def main() -> None:
    with TemporaryDirectory() as folder:
        root = Path(folder) / "images"
        write_images(root)
        files = list(root.rglob("*.png"))
        print(f"files: {len(files)} in {len({file.parent for file in files})} folders")
        experiment: dict[str, Any] = {
            "name": "own-dataset",
            "data": {"dataset": "image_folder", "root": str(root), "tasks": 3},
            "federation": {"clients": 2, "rounds": 2, "batch_size": 16, "backend": "inprocess"},
            "optimizer": {"lr": 0.1},
            "net": {"name": "resnet8", "width": 8},
            "strategy": "joint",
        }
        (run,) = fcil.run(experiment, out=Path(folder) / "results", console=Console(quiet=True))
        counts, names = run.partition()  # (tasks, clients, classes)
        dataset = fcil.data.load_dataset(fcil.data.DataSettings(**experiment["data"]))
        print(f"data: {len(names)} classes, images of {' x '.join(map(str, dataset.shape))}")
        print(f"client 0 holds {counts[0, 0].tolist()} training images of each class in task 1")
        final, tasks = run.summary["final_accuracy"], run.summary["tasks"]
        print(f"{run.strategy}: {100 * final:.1f} % on the test images, after {tasks} tasks")


if __name__ == "__main__":
    main()
