"""What the quick start promises, over five seeds. Takes minutes: `pytest -m slow`."""

from __future__ import annotations

from pathlib import Path
from statistics import mean

import pytest

import fcil

COMPARE = Path(__file__).parents[2] / "experiments/compare_digits.yaml"


@pytest.mark.slow
def test_lander_keeps_twice_what_finetuning_does_and_joint_keeps_nearly_all(tmp_path: Path) -> None:
    runs = fcil.run(COMPARE, "federation.evaluate_every=0", out=tmp_path)
    final = {
        name: [r.summary["final_accuracy"] for r in runs if r.strategy == name]
        for name in ("finetune", "lander", "joint")
    }
    assert [len(values) for values in final.values()] == [5, 5, 5]
    assert mean(final["lander"]) >= 0.40
    assert mean(final["lander"]) >= 2 * mean(final["finetune"])
    assert mean(final["joint"]) > 0.9
