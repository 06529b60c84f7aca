"""How many samples of a pool are no copies, in the summary, the log and the figure of a run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from run_folders import make_run

from fcil.store.pools import distinct_samples, pool_sizes


def test_copies_count_once() -> None:
    x = torch.zeros(5, 1, 2, 2, dtype=torch.uint8)
    x[3, 0, 1, 1] = 1
    x[4, 0, 1, 1] = 2
    assert distinct_samples(x.numpy()) == 3
    assert distinct_samples(x[:0].numpy()) == 0
    many = np.lib.stride_tricks.as_strided(np.zeros(1, np.uint8), (2**30 + 1,), (0,))  # which takes no memory
    assert distinct_samples(many) is None


def test_the_summary_and_the_log_tell_of_each_pool(tmp_path: Path) -> None:
    """The samples of these runs are all alike: eight, of which one is no copy."""
    folder = make_run(tmp_path, "lander")
    sizes = [{"task": task, "samples": 8, "distinct": 1, "classes": 2 * task} for task in (1, 2, 3)]
    assert json.loads(folder.summary.read_text())["synthetic"] == sizes == pool_sizes(folder)
    assert "8 synthetic samples, 1 of them distinct, of 2 classes" in folder.log.read_text()
    assert "synthetic" not in json.loads(make_run(tmp_path, "finetune").summary.read_text())
