"""A deployment on this machine: a SuperLink, a SuperNode for each client, TLS, and nodes that are known by their keys.

    python docs/examples/deployment.py

runs the same small experiment in one process and deployed, which takes a minute or two, and prints, with numbers that
may differ on another machine:

    in one process: 50.7 %
    deployed: 50.7 %
    accuracy.csv is the same, byte by byte: True
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console

import fcil

EXPERIMENT = """
name: deployment
data: {dataset: digits, tasks: 5, order: 1993}
federation: {clients: 2, rounds: 1, batch_size: 32, stop_after: 1, backend: inprocess}
optimizer: {lr: 0.1}
net: {name: resnet8, width: 4}
strategy: finetune
"""


def main() -> None:
    with TemporaryDirectory() as folder:
        source, local, deployed = (Path(folder) / name for name in ("small.yaml", "local", "deployed"))
        source.write_text(EXPERIMENT)
        (run,) = fcil.run(source, out=local, console=Console(quiet=True))
        print(f"in one process: {100 * run.summary['final_accuracy']:.1f} %")

        command = [sys.executable, "-m", "fcil.flower", "deploy", str(source), "--tls", "--out", str(deployed)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stdout + done.stderr)
        (record,) = deployed.rglob("accuracy.csv")
        last = [line.split(",") for line in record.read_text().splitlines()[1:]]
        print(f"deployed: {100 * sum(int(row[2]) for row in last) / sum(int(row[3]) for row in last):.1f} %")
        same = record.read_bytes() == (run.path / "accuracy.csv").read_bytes()
        print(f"accuracy.csv is the same, byte by byte: {same}")


if __name__ == "__main__":
    main()
