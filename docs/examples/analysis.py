"""An analysis, as in a notebook: runs become one frame, the frame a table and a figure.

    python docs/examples/analysis.py [FOLDER]

makes two small runs in FOLDER (results/example-analysis), if they are not there yet, and prints, with numbers that
may differ on another machine:

    6 rows of 2 strategies, columns: trained_task, tested_task, correct, examples, accuracy
    accuracy over all classes seen (%), 1 seed
    label         finetune  joint
    trained_task
    1                 92.7   92.7
    2                 32.9   86.6
    figure: results/example-analysis/curves.png
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib
from rich.console import Console

import fcil

EXPERIMENT = {
    "name": "digits",
    "seeds": [0],
    "data": {"dataset": "digits", "tasks": 2, "order": 1993},
    "federation": {"clients": 2, "rounds": 1, "batch_size": 32, "backend": "inprocess"},
    "optimizer": {"lr": 0.1},
    "net": {"name": "resnet8", "width": 8},
    "strategy": "finetune",
    "matrix": {"strategy": ["finetune", "joint"]},
}


def main() -> None:
    out = Path(sys.argv[1] if len(sys.argv) > 1 else "results/example-analysis")
    fcil.run(EXPERIMENT, out=out, console=Console(quiet=True))

    frame = fcil.load(out)
    print(f"{len(frame)} rows of {frame.strategy.nunique()} strategies, columns: {', '.join(frame.columns[-5:])}")
    sums = frame.groupby(["label", "seed", "trained_task"])[["correct", "examples"]].sum()
    seen = (100 * sums.correct / sums.examples).rename("accuracy").reset_index()
    curves = seen.pivot_table(index="trained_task", columns="label", values="accuracy")
    print(f"accuracy over all classes seen (%), {seen.seed.nunique()} seed")
    print(curves.round(1))

    matplotlib.use("Agg")
    axes = curves.plot(marker="o", xlabel="tasks learnt", ylabel="accuracy (%)", ylim=(0, 100))
    axes.figure.savefig(out / "curves.png", dpi=150)
    print(f"figure: {out / 'curves.png'}")


if __name__ == "__main__":
    main()
