"""Plays strategies and synthesizers on the CPU and on the pretended device, in a process of their own.

    python tests/support/pretended_runs.py strategies finetune lander
    python tests/support/pretended_runs.py synthesizers fast

Each is played three times: on the CPU, on the device, and on the device with longer loops: more batches in an epoch
and in an evaluation, more steps of a generator, of its student and of the server. It prints one JSON object for each:
what went wrong, what differs from the CPU, and each line that waits more often where loops are longer.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from pretended_device import register, watched
from small_plays import PLAYS

from fcil.check.contract import difference


def report(kind: str, name: str, device: torch.device) -> dict[str, Any]:
    """Play a method three times and say what is wrong."""
    played: list[dict[str, Any]] = []
    waits: list[Counter[str]] = []
    for place, long in ((torch.device("cpu"), False), (device, False), (device, True)):
        with watched() if place == device else nullcontext() as watch:
            played.append(PLAYS[kind](name, place, long=long))
            if watch is not None:
                waits.append(watch.waits)
        if played[-1]["problem"]:
            return {"name": name, "problem": played[-1]["problem"]}
    few, many = waits
    return {
        "name": name,
        "problem": None,
        "differs": difference(played[1], played[0]),
        "waits": {line: [few[line], many[line]] for line in many if many[line] > few[line]},
        "seen": sum(few.values()),
    }


def main(kind: str, names: Sequence[str]) -> None:
    torch.set_num_threads(1)
    device = register()
    for name in names:
        try:
            said = report(kind, name, device)
        except Exception as error:  # an answer for each method, whatever becomes of another
            said = {"name": name, "problem": f"{type(error).__name__}: {error}"}
        print(json.dumps(said), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
