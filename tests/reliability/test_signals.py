"""Ctrl-C and SIGTERM while Ray is at work: how long it takes, what is left, and that the run goes on.

    pytest -m slow tests/reliability/test_signals.py -s

`FCIL_SOAK_REPORT` names a file that gets a line of JSON for each. `tests/federation/test_interrupts.py` has
what does not need Ray.
"""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import psutil
import pytest
from small_runs import checkpoint
from test_soak import experiment, finish, orphans, start, when

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("presses", [(signal.SIGINT,), (signal.SIGTERM,), (signal.SIGINT, signal.SIGINT)])
def test_a_run_on_ray_stops_in_time_and_leaves_nothing(tmp_path: Path, presses: tuple[signal.Signals, ...]) -> None:
    source, out = experiment(tmp_path, "lander", "ray"), tmp_path / "out"
    process = start(source, out)
    assert when(lambda: [*out.glob("tiny/*/seed0/rounds.jsonl")], process)
    family = psutil.Process(process.pid).children(recursive=True)
    time.sleep(1.0)
    began = time.monotonic()
    for number in presses:
        process.send_signal(number)
        time.sleep(0.2)
    assert process.wait(timeout=60) == 130
    report = {"presses": [s.name for s in presses], "seconds": round(time.monotonic() - began, 1)}
    report["orphans"] = orphans(family, report)
    if "FCIL_SOAK_REPORT" in os.environ:
        with Path(os.environ["FCIL_SOAK_REPORT"]).open("a", encoding="utf-8") as file:
            file.write(json.dumps(report) + "\n")
    assert report["seconds"] < 10  # type: ignore[operator]
    assert report["orphans"] == []
    resumed, whole = finish(source, out), finish(source, tmp_path / "whole")
    assert checkpoint(resumed)[1] == checkpoint(whole)[1]
