"""Quality of samples, measured with their teacher: `quality.json` of a student's run, and the table at the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import torch
from rich.table import Table
from rich.text import Text
from safetensors.torch import load_file

from fcil.console.tables import NONE, percent, simple_table
from fcil.data import Shard
from fcil.federation.context import RunContext
from fcil.federation.settings import settled
from fcil.nets import Net, frozen
from fcil.store import Run
from fcil.store.files import is_there, read_json, write_json
from fcil.store.groups import group_runs
from fcil.store.weights import samples_digest
from fcil.synthesis.common.quality import quality
from fcil.types import Tensors

QUALITY = "quality.json"
"""File in a student's run folder: the quality of its samples."""
BATCH = 256
"""Test images per batch."""


def measure(run: Run, teacher: RunContext, weights: Tensors) -> None:
    """Write `quality.json`: the quality of a run's pool by its teacher, and the teacher's accuracy.

    Args:
        teacher: a run whose plan names its net and its data.
        weights: of the teacher.
    """
    place, scenario = teacher.device, teacher.scenario
    net = frozen(teacher.trained_net(weights)).to(place)
    pool = load_file(run.folder.synthetic / "task1.safetensors", device=str(place))
    mean, std = (torch.tensor(v, device=place) for v in (scenario.dataset.mean, scenario.dataset.std))
    with settled(teacher.plan.resources.threads):  # the runs are finished, and their engine is gone
        found = asdict(quality(net, pool, mean, std)) | {"teacher_accuracy": accuracy(net, scenario.test(1))}
    write_json(run.path / QUALITY, found | {"of": samples_digest(run.path, weights)})


def is_measured(run: Run, weights: Tensors) -> bool:
    """Return whether `quality.json` is about the stored samples and this teacher."""
    path = run.path / QUALITY
    return is_there(path) and samples_digest(run.path, weights) in (None, read_json(path).get("of"))


@torch.no_grad()
def accuracy(net: Net, test: Shard) -> float:
    """Return the share of the test images that a net predicts correctly."""
    batches = test.batches(BATCH, augment=False, shuffle=False)
    return sum(int((net(batch.x).logits.argmax(dim=1) == batch.y).sum()) for batch in batches) / len(test)


def quality_table(runs: Sequence[Run]) -> Table:
    """Return the quality of samples, and the student's accuracy, as a table."""
    table = simple_table("Samples", "agreement: the teacher sees the label; bns: KL to its statistics, less is nearer")
    for title in ("", "student", "samples", "agreement", "bns", "diversity"):
        table.add_column(title, justify="right" if title else "left")
    for group in group_runs(runs):
        for run in group.runs:
            about = read_json(run.path / QUALITY)
            numbers = [f"{about[key]:.3g}" if about[key] is not None else NONE for key in ("bns", "diversity")]
            shares = percent(run.summary["final_accuracy"]), percent(about["agreement"])
            table.add_row(Text(group.label), shares[0], str(about["samples"]), shares[1], *numbers)
    return table
