"""Central accuracies of nets of series, beside published ones and baselines of aeon.

    python tests/benchmarks/series_ceiling.py --aeon AEON/bin/python         # 28 x 5 runs; hours on two cores
    python tests/benchmarks/series_ceiling.py --sets OSULeaf --nets fcn1d --seeds 3 --epochs 300

Each run is `fcil train`'s: default split of the archive, last epoch, no test series looked at in between. `mean` is
over the seeds, `ensemble` of the mean of their predictions: the published InceptionTime is such an ensemble of five.
The published values are those that the wheel of aeon carries (30 resamples, of which column 0 is the default split;
none of the multivariate sets), from `aeon/testing/example_results_files/classification/accuracy/`.

Needs aeon, or the files of the sets in $FCIL_DATA. All are trained alike: Adam at 0.001 falling as a cosine, batches of
16, no weight decay, 500 epochs (InceptionTime's code: batches of 64, 1,500 epochs, the rate halved on a plateau). But
`shapeformer` has the settings of `experiments/series/shapeformer_*.yaml`, with RAdam.
`--aeon` is a Python that has aeon and runs `series_baselines.py`, `--folder` a folder of .tsv files for it.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import platform
import statistics
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import yaml
from rich.console import Console

import fcil
from fcil.config import Where
from fcil.federation.context import Datasets
from fcil.runs.preflight import share_out
from fcil.store import Run, final_weights
from fcil.training import read, train

SETS = {
    "OSULeaf": "ucr:OSULeaf",
    "FaceAll": "ucr:FaceAll",
    "ACSF1": "ucr:ACSF1",
    "BasicMotions": "uea:BasicMotions",
    "JapaneseVowels": "uea:JapaneseVowels",
    "GunPoint": "ucr:GunPoint",
    "ItalyPowerDemand": "ucr:ItalyPowerDemand",
}
NETS = ("resnet1d", "fcn1d", "inceptiontime", "shapeformer")
SERIES = Path(__file__).parents[2] / "experiments" / "series"
SHAPEFORMER = {"BasicMotions": "shapeformer_basic_motions", "GunPoint": "shapeformer_gunpoint"}
"""Files with its settings; those of JapaneseVowels for all other sets."""
PUBLISHED = "testing/example_results_files/classification/accuracy"


def settings(name: str, net: str, seeds: int, epochs: int) -> dict[str, Any]:
    common = {
        "name": f"{name}-{net}",
        "seeds": list(range(seeds)),
        "data": {"dataset": SETS[name], "longer": "pad"},
    }
    if net == "shapeformer":
        file = SERIES / f"{SHAPEFORMER.get(name, 'shapeformer_japanese_vowels')}.yaml"
        return {**yaml.safe_load(file.read_text(encoding="utf-8")), **common}
    return {
        **common,
        "net": {"name": net},
        "train": {"epochs": epochs, "batch_size": 16, "evaluate_every": 0},
        "optimizer": {"name": "adam", "lr": 1e-3, "min_lr": 1e-5, "weight_decay": 0},
        "resources": {"device": "auto"},
    }


def ensemble(experiment: dict[str, Any], runs: list[Run]) -> float:
    """Accuracy of the mean of the runs' predictions."""
    (training,) = read(experiment)
    context = share_out(training.plan(0), Datasets(), Where("benchmark"))
    nets = [context.trained_net(final_weights(run.path)) for run in runs]
    right = total = 0
    with torch.inference_mode():
        for batch in context.scenario.test(1).batches(256, augment=False, shuffle=False, drop_single=False):
            mean = torch.stack([net(batch.x).logits.softmax(1) for net in nets]).mean(0)
            right, total = right + int((mean.argmax(1) == batch.y).sum()), total + len(batch.y)
    return right / total


def published(name: str) -> dict[str, float]:
    """Accuracies on the default split, by classifier."""
    spec = find_spec("aeon")
    found = {}
    for home in (spec and spec.submodule_search_locations) or ():
        for path in sorted(Path(home, PUBLISHED).glob("*_accuracy.csv")):
            with path.open(encoding="utf-8") as file:
                rows = {row[0]: row[1:] for row in csv.reader(file) if row}
            if name in rows:
                found[path.name.removesuffix("_accuracy.csv")] = float(rows[name][rows["Resamples:"].index("0")])
    return found


def baselines(python: str, name: str, seeds: int, folder: Path | None) -> str:
    """Accuracies of aeon's baselines, as text."""
    program = [python, str(Path(__file__).with_name("series_baselines.py")), name, "--seeds", str(seeds)]
    more = [] if folder is None else ["--folder", str(folder)]
    done = subprocess.run([*program, *more], capture_output=True, text=True, check=True)
    each = json.loads(done.stdout)["accuracy"]
    return ", ".join(f"{who} {statistics.mean(values):.1f}" for who, values in each.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--nets", nargs="+", choices=NETS, default=list(NETS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=500)
    parser.add_argument("--out", type=Path, default=Path("results/series-ceiling"))
    parser.add_argument("--aeon", help="a Python that has aeon, for baselines in the same run")
    parser.add_argument("--folder", type=Path, help="where it finds the .tsv files of sets that aeon has not")
    asked = parser.parse_args()
    print(f"python {' '.join(sys.argv)}\nfcil {fcil.__version__}, torch {torch.__version__}, {platform.platform()}\n")
    print("| set | net | mean | sd | ensemble | seconds | published | aeon here |")
    print("|---|---|--:|--:|--:|--:|---|---|")
    for name in asked.sets:
        there = ", ".join(f"{who} {100 * value:.1f}" for who, value in published(name).items()) or "none"
        beside = baselines(asked.aeon, name, asked.seeds, asked.folder) if asked.aeon else ""
        for net in asked.nets:
            experiment, begun = settings(name, net, asked.seeds, asked.epochs), time.monotonic()
            runs = train(experiment, out=asked.out, console=Console(file=io.StringIO()))
            each = [100 * float(run.summary["final_accuracy"]) for run in runs]
            spread = f"{statistics.stdev(each):.1f}" if len(each) > 1 else "-"
            together = 100 * ensemble(experiment, runs)
            seconds = time.monotonic() - begun
            row = (
                name,
                net,
                f"{statistics.mean(each):.1f}",
                spread,
                f"{together:.1f}",
                f"{seconds:.0f}",
                there,
                beside,
            )
            print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
