"""Strategies, synthesizers, distillers and rules of aggregation on a device that is not the CPU, without a GPU.

`tests/support/pretended_device.py` is the device. Proven is, of every strategy, synthesizer, distiller and rule:

- no operation mixes the CPU and the device, forward, backward, in optimizers, on the server and in evaluation,
- a run on the device is the run on the CPU, to the bit: the same batches, crops, noise and labels are drawn, and none
  on the device,
- loops of training, evaluation and synthesis hold nothing that the host waits for: with more steps of each loop no line
  of the product waits more often. `WAITS` has the exception.

Not proven is what takes a GPU: that CUDA has a kernel for each operation and type, its rounding, bf16, memory, and
speed. `tests/gpu` is for that.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fcil.federation.protection.aggregation import RULES
from fcil.methods.files import built_in_files
from fcil.synthesis import synthesizer_names

ROOT = Path(__file__).parents[2]
RUNS = ROOT / "tests" / "support" / "pretended_runs.py"
WAITS = {"fcil/inversion.py": "PyTorch's L-BFGS reads its loss in each step of a line search"}
TOGETHER = 4
"""Methods that share a process, which takes seconds to begin."""
QUICK = [("strategies", ("finetune", "lander")), ("synthesizers", ("fast", "mfcl"))]
"""What is played whenever tests are run; all the rest takes two minutes."""


def groups() -> Iterator[Any]:
    yield from QUICK
    kinds = {
        "strategies": sorted(built_in_files()),
        "synthesizers": synthesizer_names(),
        "distillers": ["crd", "kd", "l1"],
        "aggregations": [*sorted(RULES), "privacy"],
    }
    quick = {(kind, name) for kind, names in QUICK for name in names}
    for kind, names in kinds.items():
        rest = [name for name in names if (kind, name) not in quick]
        for i in range(0, len(rest), TOGETHER):
            yield pytest.param(kind, tuple(rest[i : i + TOGETHER]), marks=pytest.mark.slow)


def reports(kind: str, names: tuple[str, ...]) -> list[dict[str, Any]]:
    """What a process says that played these methods."""
    support = os.pathsep.join(filter(None, [str(ROOT), str(RUNS.parent), os.environ.get("PYTHONPATH", "")]))
    done = subprocess.run(
        [sys.executable, str(RUNS), kind, *names],
        env={**os.environ, "PYTHONPATH": support},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


@pytest.mark.parametrize(
    ("kind", "names"), list(groups()), ids=lambda part: part if isinstance(part, str) else "-".join(part)
)
def test_a_run_on_the_device_is_that_of_the_cpu_and_its_loops_do_not_wait(kind: str, names: tuple[str, ...]) -> None:
    said = reports(kind, names)
    assert [report["name"] for report in said] == list(names)
    for report in said:
        assert report["problem"] is None, report
        assert report["differs"] is None, report
        assert report["seen"] > 10, report  # at the end all weights come to the CPU
        assert {line: n for line, n in report["waits"].items() if not line.startswith(tuple(WAITS))} == {}, report


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("x + torch.ones(2)", "same device"),
        ("torch.cat([x, torch.zeros(2)])", "same device"),
        ("torch.cat([x, torch.tensor(1.0).view(1)])", "same device"),
        ("F.mse_loss(x, torch.zeros(2))", "same device"),
        ("torch.randn(2, generator=torch.Generator(), device=x.device)", "draws on the device"),
        ("torch.randperm(2, device=x.device)", "draws on the device"),
        ("torch.rand_like(x)", "draws on the device"),
        ("x.normal_()", "draws on the device"),
        ("F.dropout(x)", "draws on the device"),
        ("x.numpy()", "numpy"),
        ("float(x.sum())", "reading a number"),
        ("bool((x > 0).all())", "reading a number"),
        ("x.cpu()", "a copy to the CPU"),
        ("x.to('cpu', non_blocking=True)", "a copy to the CPU"),
        ("torch.ones(2).to(x.device)", "a copy from the CPU"),
        ("torch.ones(2).to(x.device, non_blocking=True)", "a copy from the CPU"),
        ("torch.tensor([1.0], device=x.device)", "a copy from the CPU"),
        ("x.copy_(torch.ones(2))", "a copy from the CPU"),
        ("x[x > 0]", "indexing by a mask"),
        ("x[torch.tensor([0])]", "indices on the CPU"),
        ("x.nonzero()", "nonzero"),
        ("x.unique()", "unique"),
        ("torch.equal(x, x)", "equal"),
        ("F.one_hot(x.long())", "reading a number"),
        ("torch.bincount(x.long())", "bincount"),
        ("x.detach().requires_grad_().pow(2).sum().backward()", ""),
        ("x + torch.tensor(1.0)", ""),
        ("x * 2", ""),
        ("F.one_hot(x.long(), 2)", ""),
        ("torch.ones(2).pin_memory().to(x.device, non_blocking=True)", ""),
        ("sent(torch.ones(2), x)", ""),
        ("torch.zeros(3, device=x.device)", ""),
        ("torch.where(x > 0, x, 0.0)", ""),
        ("bounded_step(x.detach().requires_grad_())", ""),
    ],
)
def test_the_device_refuses_and_counts_what_a_gpu_would(text: str, complaint: str, refusals: dict[str, str]) -> None:
    assert complaint in refusals[text] if complaint else refusals[text] == ""


@pytest.fixture(scope="module")
def refusals() -> dict[str, str]:
    """What the device says to each expression of the test above: the error, or what was waited for."""
    test: Any = test_the_device_refuses_and_counts_what_a_gpu_would
    texts = [text for text, _ in test.pytestmark[0].args[1]]
    code = """
import json, sys
import torch
import torch.nn.functional as F
from pretended_device import register, watched
from fcil.optimizer import OptimizerSettings, build_optimizer
from fcil.rng import sent

def bounded_step(p):
    (3 * p).sum().backward()
    build_optimizer(OptimizerSettings(max_norm=1.0), [p], 0.1).step()

device, said = register(), {}
for text in json.load(sys.stdin):
    with watched() as watch:
        x = torch.zeros(2, device=device)
        try:
            eval(text)
            said[text] = ", ".join(watch.waits)
        except Exception as error:
            said[text] = str(error)
print(json.dumps(said))
"""
    paths = os.pathsep.join([str(ROOT), str(RUNS.parent)])
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps(texts),
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)
