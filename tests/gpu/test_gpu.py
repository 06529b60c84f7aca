"""What a GPU computes is what a CPU computes, as far as rounding goes: see README.md beside this file.

Both draw the same batches, crops, noise and labels, so that rounding alone takes them apart. The tolerances are ten
times and more what was measured between two libraries of convolutions on one CPU, after two tasks of a round of two
batches, or three episodes of two steps: in fp32 1e-6 for nets (but `ITS_OWN`) and 2e-3 for images, in bf16 7e-3
and 2e-2, and 0.3 for a term of a loss, since terms such as the disagreement with a student are small differences of
large numbers.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from small_plays import PLAYS, Precision
from torch import Tensor

from fcil.federation.protection.aggregation import RULES
from fcil.federation.settings import settled
from fcil.methods.files import built_in_files
from fcil.synthesis import synthesizer_names
from fcil.types import Tensors

CPU = torch.device("cpu")
DEVICE = torch.device(os.environ.get("FCIL_TEST_DEVICE") or ("cuda:0" if torch.cuda.is_available() else "meta"))
pytestmark = pytest.mark.slow
if DEVICE.type == "meta":
    pytest.skip("PyTorch sees no GPU; FCIL_TEST_DEVICE=cpu plays these tests on the CPU", allow_module_level=True)

NAMES = {
    "strategies": sorted(built_in_files()),
    "synthesizers": synthesizer_names(),
    "distillers": ["crd", "kd", "l1"],
    "aggregations": [*sorted(RULES), "privacy"],
}
NET: dict[Precision, float] = {"fp32": 1e-4, "bf16": 0.1}
"""Distance of all weights of the net together, relative to their length."""
ITS_OWN: dict[tuple[str, Precision], float] = {("mfcl", "fp32"): 5e-3}
"""The same of a method whose generator learns by Adam from gradients near zero, whose signs rounding can turn."""
IMAGES: dict[Precision, float] = {"fp32": 0.02, "bf16": 0.1}
"""The same of the images of a pool, in levels of 8 bits."""
TERMS: dict[Precision, float] = {"fp32": 0.02, "bf16": 1.0}
"""Distance of a term of a loss, relative to the larger of it and 0.1."""


@pytest.fixture(autouse=True)
def _peak(request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> Iterator[None]:
    """Print the most memory that the test had reserved of the GPU at once."""
    with settled(1):
        if DEVICE.type != "cuda":
            yield
            return
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(DEVICE)
        yield
        used, held = torch.cuda.max_memory_allocated(DEVICE), torch.cuda.max_memory_reserved(DEVICE)
        with capsys.disabled():
            print(f"\n{request.node.name}: {used / 2**20:.0f} MiB used, {held / 2**20:.0f} MiB reserved at most")


def on_the_device(kind: str, name: str, **settings: Any) -> dict[str, Any]:
    """The outcome on the GPU; where the CPU takes its place, with other convolutions than on the other side."""
    other = torch.backends.mkldnn.flags(enabled=False) if DEVICE.type == "cpu" else nullcontext()
    with other:
        return PLAYS[kind](name, DEVICE, **settings)


def apart(got: Tensors, expected: Tensors, prefix: str) -> float:
    """Relative distance of all tensors of floating point, or of bytes, whose name begins so."""
    names = [name for name, t in expected.items() if name.startswith(prefix) and t.dtype != torch.int64]
    assert names
    one, other = (torch.cat([tensors[name].double().flatten() for name in names]) for tensors in (got, expected))
    distance: Tensor = torch.linalg.vector_norm(one - other) / torch.linalg.vector_norm(other)
    return distance.item()


def terms(outcome: dict[str, Any]) -> dict[tuple[str, str], float]:
    """The terms of all losses, by round or episode and name."""
    found = {place: record.get("terms", record) for place, record in outcome["records"].items()}
    return {(p, k): v for p, named in found.items() for k, v in named.items() if isinstance(v, float)}


def cases() -> list[tuple[str, str]]:
    return [(kind, name) for kind, names in NAMES.items() for name in names]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("kind", "name"), cases())
def test_a_method_on_the_gpu_is_that_on_the_cpu(kind: str, name: str, precision: Precision) -> None:
    expected = PLAYS[kind](name, CPU, precision=precision)
    got = on_the_device(kind, name, precision=precision)
    assert expected["problem"] is None
    assert got["problem"] is None
    far = {place: abs(value - terms(got)[place]) / max(abs(value), 0.1) for place, value in terms(expected).items()}
    assert far
    assert {place: distance for place, distance in far.items() if not distance <= TERMS[precision]} == {}
    if kind == "synthesizers":
        assert apart(got["tensors"], expected["tensors"], "x") <= IMAGES[precision]
    else:
        assert apart(got["tensors"], expected["tensors"], "net/") <= ITS_OWN.get((name, precision), NET[precision])


def test_bf16_does_not_pass_for_fp32() -> None:
    full, short = (on_the_device("strategies", "finetune", precision=p) for p in ("fp32", "bf16"))
    assert apart(short["tensors"], full["tensors"], "net/") > NET["fp32"]


def test_a_run_on_the_gpu_repeats_itself() -> None:
    """Kernels that add in any order would show here; `settle_arithmetic` asks for those that do not."""
    first, second = (on_the_device("strategies", "lander") for _ in range(2))
    assert apart(second["tensors"], first["tensors"], "net/") <= NET["fp32"]
    assert second["records"].keys() == first["records"].keys()


def test_two_clients_and_a_synthesis_share_the_gpu_in_one_process() -> None:
    """A second run needs no more memory than the first: clients and syntheses leave none behind."""
    peaks = []
    for _ in range(2):
        if DEVICE.type == "cuda":
            torch.cuda.reset_peak_memory_stats(DEVICE)
        outcome = on_the_device("strategies", "lander", clients=2)
        assert outcome["problem"] is None
        assert any("synthesis" in str(record) for record in outcome["records"].values())
        peaks.append(torch.cuda.max_memory_allocated(DEVICE) if DEVICE.type == "cuda" else 0)
    assert peaks[1] <= 1.1 * peaks[0]
