"""A strategy of one's own: the file `fedlwf.py` beside this one, on three tasks of two digits.

    python docs/examples/own_strategy.py

prints, with numbers that may differ on another machine:

    after task 1: 100.0 % of all classes seen
    after task 2: 91.6 % of all classes seen
    after task 3: 81.0 % of all classes seen
    loss terms of the last round: ce 0.03, kd 3.39
    forgetting (Chaudhry): 4.9 points
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console

import fcil

EXPERIMENT = {
    "name": "own-strategy",
    "data": {"dataset": "digits", "tasks": 5, "order": 1993},
    "federation": {
        "clients": 2,
        "rounds": 5,
        "batch_size": 32,
        "stop_after": 3,
        "backend": "inprocess",
        "evaluate_every": 0,
    },
    "optimizer": {"lr": 0.1},
    "net": {"name": "resnet8", "width": 8},
}


def main() -> None:
    own = str(Path(__file__).with_name("fedlwf.py"))
    with TemporaryDirectory() as out:
        experiment = {**EXPERIMENT, "strategy": {own: {"keep": 3.0}}}
        (run,) = fcil.run(experiment, out=out, console=Console(quiet=True))
        for number, accuracy in enumerate(run.summary["accuracy_after_each_task"], start=1):
            print(f"after task {number}: {100 * accuracy:.1f} % of all classes seen")
        terms = ", ".join(f"{name} {value:.2f}" for name, value in run.rounds[-1]["terms"].items())
        print(f"loss terms of the last round: {terms}")
        print(f"forgetting (Chaudhry): {100 * run.summary['forgetting']['chaudhry']:.1f} points")


if __name__ == "__main__":
    main()
