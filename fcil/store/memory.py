"""The most memory that a run held on this machine: its own process and those it started, Ray's workers among them."""

from __future__ import annotations

import contextlib
from pathlib import Path

import psutil


def forget_peaks() -> None:
    """Count from now on: one process may play several runs, one after the other. Linux alone can do that."""
    for pid in _family():
        with contextlib.suppress(OSError):
            Path(f"/proc/{pid}/clear_refs").write_text("5", encoding="ascii")


def peak_memory() -> int | None:
    """Return the sum of the processes' peak memory since `forget_peaks`, in bytes; None where it is not counted.

    Not counted are a GPU's memory, processes on other machines and those that have ended. Memory that
    processes share, such as the object store of Ray, counts in each that has touched it, and peaks need not coincide:
    the sum is an upper bound for the live processes.
    """
    own, *others = (_peak(pid) for pid in _family())
    return None if own is None else own + sum(peak or 0 for peak in others)


def _family() -> list[int]:
    process = psutil.Process()
    with contextlib.suppress(psutil.Error):
        return [process.pid, *(child.pid for child in process.children(recursive=True))]
    return [process.pid]


def _peak(pid: int) -> int | None:
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    return 1024 * int(found[0]) if found else None
