"""The examples of CONTRIBUTING.md work as they stand there."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch
from small_runs import silently
from tiny_net import tiny_net

import fcil
from fcil.data import catalog, sources
from fcil.nets import Recipe, backbones, num_parameters
from fcil.synthesis import Synthesizer

ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), flags=re.DOTALL)
TINY = {"clients": 2, "rounds": 1, "local_epochs": 1, "max_batches": 2, "stop_after": 2, "backend": "inprocess"}


def block(words: str) -> str:
    (found,) = [b for b in BLOCKS if words in b]
    return found


def test_the_method_runs(tmp_path: Path) -> None:
    own = tmp_path / "fedsmooth.py"
    own.write_text(block("class FedSmooth"))
    experiment = {"data": {"dataset": "digits", "tasks": 5}, "federation": TINY, "net": {"name": "resnet8", "width": 4}}

    with silently():
        (run,) = fcil.run({**experiment, "strategy": {str(own): {"smooth": 0.2}}}, out=tmp_path)

    assert [set(r["terms"]) for r in run.rounds] == [{"ce"}, {"ce"}]


def test_the_synthesizer_makes_a_pool() -> None:
    module = types.ModuleType("sure")
    sys.modules["sure"] = module  # where dataclasses look for it
    try:
        exec(block("class Sure"), vars(module))
    finally:
        del sys.modules["sure"]
    method: Synthesizer = module.Sure(rounds=2, steps=2, batch_size=10, samples=20, width=4)
    pool = method.run(teacher=tiny_net(), labels=range(2), shape=(3, 8, 8))
    assert pool["x"].shape == (20, 3, 8, 8)


def test_the_data_set_is_read(tmp_path: Path) -> None:
    entry: catalog.DatasetInfo = eval(block("DatasetInfo("), vars(catalog))
    names: dict[str, Any] = dict(vars(sources))
    exec(block("def _letters"), names)
    y = np.arange(52) % 26
    x = np.random.default_rng(0).integers(0, 256, (52, 1, 16, 16), dtype=np.uint8)
    np.savez(tmp_path / "letters.npz", x_train=x, y_train=y, x_test=x[:26], y_test=y[:26])

    found = names["_letters"](sources._find(entry, str(tmp_path), "letters.npz").path)

    assert (len(found.train), len(found.test), len(found.class_names)) == (52, 26, entry.num_classes)
    assert found.train.shape == entry.shape
    assert torch.equal(found.train.take(torch.tensor([3])), torch.from_numpy(x[3:4]))


def test_the_net_is_built() -> None:
    recipe: Recipe = eval("{" + block('"resnet14"') + "}", vars(backbones))["resnet14"]
    backbone = recipe.build((1, 8, 8))
    assert backbone(torch.zeros(2, 1, 8, 8)).shape == (2, 64)
    assert num_parameters(recipe) == 171_856
