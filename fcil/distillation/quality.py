"""What was made, as its teacher sees it: `quality.json` of a student's run, and the table at the end."""

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
"""In a student's run folder: what its samples were like."""
BATCH = 256
"""Test images that are looked at together."""


def measure(run: Run, teacher: RunContext, weights: Tensors) -> None:
    """Write `quality.json`: what the pool of a run is like to its teacher, and how good that one is.

    Args:
        teacher: a run whose plan says which net it is, and on what data.
        weights: of the teacher.
    """
    place, scenario = teacher.device, teacher.scenario
    net = frozen(teacher.trained_net(weights)).to(place)
    pool = load_file(run.folder.synthetic / "task1.safetensors", device=str(place))
    mean, std = (torch.tensor(v, device=place) for v in (scenario.dataset.mean, scenario.dataset.std))
    with settled(teacher.plan.resources.threads):  # the runs have been played, and their engine is gone
        found = asdict(quality(net, pool, mean, std)) | {"teacher_accuracy": accuracy(net, scenario.test(1))}
    write_json(run.path / QUALITY, found | {"of": samples_digest(run.path, weights)})


def is_measured(run: Run, weights: Tensors) -> bool:
    """Whether `quality.json` is about the samples that lie there, and this teacher."""
    path = run.path / QUALITY
    return is_there(path) and samples_digest(run.path, weights) in (None, read_json(path).get("of"))


@torch.no_grad()
def accuracy(net: Net, test: Shard) -> float:
    """The share of the test images that a net gets right."""
    batches = test.batches(BATCH, augment=False, shuffle=False)
    return sum(int((net(batch.x).logits.argmax(dim=1) == batch.y).sum()) for batch in batches) / len(test)


def quality_table(runs: Sequence[Run]) -> Table:
    """What was made, and what the student has of it."""
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
