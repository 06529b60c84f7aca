"""What a run is said to have held of memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fcil.store.memory import forget_peaks, peak_memory

linux = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux counts peaks anew")
MEGABYTE = 10**6


PEAKS = """
from fcil.store.memory import forget_peaks, peak_memory
forget_peaks()
quiet = peak_memory()
held = bytearray(b"x") * 200_000_000
del held
loud = peak_memory()
forget_peaks()
print(quiet, loud, peak_memory())
"""


@linux
def test_a_peak_is_that_since_the_last_was_forgotten() -> None:
    # In a process of its own: one that has run other tests gives memory back while it is measured.
    told = subprocess.run([sys.executable, "-c", PEAKS], capture_output=True, text=True, check=True).stdout
    quiet, loud, again = map(int, told.split())
    assert loud > quiet + 150 * MEGABYTE
    assert again < loud - 150 * MEGABYTE


@linux
def test_processes_that_a_run_has_started_count_too() -> None:
    forget_peaks()
    alone = peak_memory()
    code = f"x = bytearray(b'x') * {100 * MEGABYTE}; print('there', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"there\n"
        together = peak_memory()
        child.communicate(b"\n")
    assert alone is not None
    assert together is not None
    assert together > alone + 90 * MEGABYTE
