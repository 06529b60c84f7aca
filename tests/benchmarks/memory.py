"""Measure how much memory a command needs with all the processes that it starts, by kind of process.

    python tests/benchmarks/memory.py [--every 0.5] [--json] -- python -m fcil run experiments/quickstart.yaml --out DIR

Every `--every` seconds the proportional set sizes (`Pss` in `/proc/*/smaps_rollup`: a page that several processes have
is divided among them) of the process tree are added up. Printed is the moment at which the sum was greatest: a line for
each kind of process, with its number of processes, their proportional set size, and what is theirs alone. Linux only.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import psutil

KINDS = (
    ("ray::ChainWorker", "synthesis worker"),
    ("ray::Worker", "client worker"),
    ("ray::Runner", "run of a matrix"),
    ("ray::IDLE", "idle Ray worker"),
    ("raylet", "raylet"),
    ("gcs_server", "gcs"),
    ("ray::DashboardAgent", "Ray agents and dashboard"),
    ("ray::RuntimeEnvAgent", "Ray agents and dashboard"),
    ("dashboard", "Ray agents and dashboard"),
    ("runtime_env", "Ray agents and dashboard"),
    ("log_monitor", "Ray agents and dashboard"),
    ("monitor.py", "Ray agents and dashboard"),
    ("default_worker.py", "Ray worker that starts"),
    ("fcil.federation.runtime.watcher", "watcher"),
)
"""Part of a command line, and the kind of such a process; the first that is in it counts."""


class Held(NamedTuple):
    """Memory of some processes, in bytes."""

    processes: int
    proportional: int
    private: int


def kind_of(command: list[str], root: bool) -> str:
    if root:
        return "driver"
    # The raylet's own command line holds that of the workers it is to start.
    name = Path(command[0]).name if command else ""
    if name in ("raylet", "gcs_server"):
        return {"gcs_server": "gcs"}.get(name, name)
    text = " ".join(command)
    return next((kind for part, kind in KINDS if part in text), "other")


def held(pid: int) -> tuple[int, int]:
    """Return the proportional set size of a process, and what is its alone."""
    sums = {"Pss": 0, "Private_Clean": 0, "Private_Dirty": 0}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()[1:]:
        name, _, value = line.partition(":")
        if name in sums:
            sums[name] = int(value.split()[0]) * 1024
    return sums["Pss"], sums["Private_Clean"] + sums["Private_Dirty"]


def look(root: psutil.Process) -> dict[str, Held]:
    """Return what each kind of process of a tree holds now."""
    found: dict[str, Held] = {}
    for process in [root, *root.children(recursive=True)]:
        try:
            kind = kind_of(process.cmdline(), process.pid == root.pid)
            proportional, private = held(process.pid)
        except (psutil.Error, OSError):  # gone
            continue
        before = found.get(kind, Held(0, 0, 0))
        found[kind] = Held(before.processes + 1, before.proportional + proportional, before.private + private)
    return found


def total(found: dict[str, Held]) -> int:
    return sum(one.proportional for one in found.values())


def watch(command: list[str], every: float) -> tuple[int, float, dict[str, Held]]:
    """Run a command; return its exit code, when its processes held most together, and what each kind held then."""
    began = time.monotonic()
    process = psutil.Popen(command, stdout=subprocess.DEVNULL)
    when, most = 0.0, dict[str, Held]()
    while process.poll() is None:
        found = look(process)
        if total(found) > total(most):
            when, most = time.monotonic() - began, found
        time.sleep(every)
    return process.returncode, when, most


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--every", type=float, default=0.5)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("command", nargs="+")
    asked = parser.parse_args()
    code, when, most = watch(asked.command, asked.every)
    if asked.json:
        sys.stdout.write(
            json.dumps({"code": code, "seconds": when, **{k: v._asdict() for k, v in most.items()}}) + "\n"
        )
        sys.exit(code)
    print(f"{' '.join(asked.command)}: exit code {code}")
    print(f"{platform.machine()}, {psutil.cpu_count()} processors, Python {platform.python_version()}")
    print(f"most memory after {when:.1f} s: {total(most) / 1e6:,.0f} MB, of these")
    for kind, one in sorted(most.items(), key=lambda item: -item[1].proportional):
        print(
            f"  {one.proportional / 1e6:7,.0f} MB {kind} x {one.processes} "
            f"({one.private / 1e6:,.0f} MB of no other process)"
        )
    sys.exit(code)


if __name__ == "__main__":
    main()
