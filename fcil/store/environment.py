"""`env.json`: what a result may depend on beside its settings, and how much of it has changed since a run began."""

from __future__ import annotations

import os
import platform
import re
import sys
import time
from collections.abc import Iterable, Mapping
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

from fcil.errors import printable
from fcil.store.provenance import provenance

PACKAGES = ("fcil", "torch", "torchvision", "numpy", "flwr", "ray", "scipy", "scikit-learn", "transformers")
READERS = ("pillow", "safetensors", "PyYAML", "pydantic")
"""Packages by which files are read."""
CARRIERS = ("ray", "safetensors", "PyYAML", "pydantic")
"""Packages that only carry numbers: another version of one changes none."""
SWITCHES = (
    *("ATEN_CPU_CAPABILITY", "MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS", "MKL_DEBUG_CPU_TYPE", "CUBLAS_WORKSPACE_CONFIG"),
    *("ONEDNN_DEFAULT_FPMATH_MODE", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "NVIDIA_TF32_OVERRIDE"),
)
"""Variables that change how the libraries below torch compute."""
DEVICES = ("cpu", "cuda", "mps", "xpu")
INPUTS = ("images", "anchors", "strategy.py")
"""Inputs that are read beside the settings."""


def environment(
    devices: Iterable[str] = (), threads: int | None = None, inputs: Mapping[str, str | None] | None = None
) -> dict[str, Any]:
    """Return the circumstances a result may depend on beside its settings.

    Args:
        devices: names; by default those torch sees.
        inputs: digests of what is read, by name.
    """
    import torch  # seconds that a reader of folders need not wait

    names = list(devices) or [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] or ["cpu"]
    cuda = torch.version.cuda if names[0].startswith("cuda") else None
    versions = {name: _version(name) for name in (*PACKAGES, *READERS)}
    cudnn: Any = torch.backends.cudnn
    versions |= {"cuda": cuda, "cudnn": str(cudnn.version()) if cuda else None}
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": sys.argv,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "cpu": f"{_processor()}, {torch.backends.cpu.get_cpu_capability()}",
        "threads": torch.get_num_threads() if threads is None else threads,
        "devices": names,
        "card": _card(names[0]),
        "switches": {name: os.environ[name] for name in SWITCHES if name in os.environ},
        "versions": versions,
        "inputs": dict(inputs or {}),
        **provenance(),
    }


def _card(device: str) -> str | None:
    """The model of a GPU by its name in torch (`cuda:0`); None for anything else."""
    import torch

    number = re.fullmatch(r"cuda(?::([0-9]{1,3}))?", device)
    if number is None or int(number[1] or 0) >= torch.cuda.device_count():
        return None
    return torch.cuda.get_device_name(int(number[1] or 0))


def _processor() -> str:
    """The model of the CPU, which decides with the instructions in use how sums are rounded."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()


@lru_cache
def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


# What has changed ---------------------------------------------------------------------------------


def environments(env: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The environment that a run began in, and those it was resumed in; `env` is what `env.json` says."""
    later = env.get("resumed")
    return [env, *(one for one in later if isinstance(one, Mapping))] if isinstance(later, list) else [env]


def facts(env: Mapping[str, Any]) -> dict[str, Any]:
    """Return the facts that numbers depend on in one environment, by name; what it does not tell is left out."""
    devices, versions, inputs, switches = (env.get(key) for key in ("devices", "versions", "inputs", "switches"))
    kind = str(devices[0]).partition(":")[0] if isinstance(devices, list) and devices else None
    found = {"threads": env.get("threads"), "device": kind if kind in DEVICES else None}
    found |= {key: env.get(key) for key in ("cpu", "card")}
    if isinstance(versions, Mapping):
        found |= {name: version for name, version in versions.items() if name not in CARRIERS}
    if isinstance(inputs, Mapping):
        found |= {name: inputs.get(name) for name in INPUTS}
    if isinstance(switches, Mapping):
        found |= {name: switches.get(name, "unset") for name in SWITCHES}
    found["sources of fcil"] = env.get("sources")
    return {name: _plain(value) for name, value in found.items() if value is not None}


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return the facts that numbers depend on and that have changed, with both values."""
    old, new = facts(before), facts(now)
    return {name: (old[name], new[name]) for name in old if name in new and old[name] != new[name]}


def mixed(env: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Return the facts that numbers depend on and that changed during the run, with every value they had."""
    found: dict[str, list[Any]] = {}
    for one in environments(env):
        for name, value in facts(one).items():
            known = found.setdefault(name, [])
            if value not in known:
                known.append(value)
    return {name: values for name, values in found.items() if len(values) > 1}


def _plain(value: Any) -> Any:
    return value if type(value) is int else printable(str(value))
