"""A distillation whose pool is made by several Ray workers equals the one that was made here."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file
from small_distillations import AFTER, taught, write
from small_runs import final_weights, same

from fcil.store import Run

pytestmark = [pytest.mark.slow, pytest.mark.ray]


def made(run: Run) -> Path:
    return run.path / "synthetic" / "task1.safetensors"


def test_the_samples_and_the_student_do_not_depend_on_the_workers(tmp_path: Path) -> None:
    source = write(tmp_path, **AFTER)
    (here,), _ = taught(source, out=tmp_path / "one")
    (there,), _ = taught(source, "backend=ray", "resources.synthesis_workers=2", out=tmp_path / "two")
    assert there.path.relative_to(tmp_path / "two") == here.path.relative_to(tmp_path / "one")
    assert same(load_file(made(here)), load_file(made(there)))
    assert same(final_weights(here), final_weights(there))
