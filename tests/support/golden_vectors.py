"""Reads the vectors in `tests/golden/`: inputs and expected outputs of running the reference code."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

FOLDER = Path(__file__).parents[1] / "golden"


@dataclass(frozen=True)
class Case:
    tensors: dict[str, Tensor]  # floating-point ones in double precision
    parameters: dict[str, Any]
    tolerance: float

    def under(self, prefix: str) -> dict[str, Tensor]:
        """The tensors whose name begins with `prefix.`, without it."""
        return {k[len(prefix) + 1 :]: v for k, v in self.tensors.items() if k.startswith(prefix + ".")}


def load_case(name: str) -> Case:
    tensors = load_file(FOLDER / f"{name}.safetensors")
    described = json.loads((FOLDER / f"{name}.json").read_text())
    return Case(
        {k: v.double() if v.is_floating_point() else v for k, v in tensors.items()},
        described["parameters"],
        described["tolerance"]["float64"],
    )


def assert_matches(got: Tensor, expected: Tensor, tolerance: float, what: str = "") -> None:
    """max|got - expected| relative to max(max|expected|, 0.001); integers exactly."""
    if not expected.is_floating_point():
        assert torch.equal(got.to(expected.dtype), expected), what
        return
    assert got.shape == expected.shape, what
    error = (got.double() - expected).abs().max() / max(expected.abs().max().item(), 1e-3)
    assert error <= tolerance, f"{what}: relative error {error:.2e} > {tolerance:.0e}"
