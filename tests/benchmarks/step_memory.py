"""Print the peak memory of a process that takes four steps of a LANDER client, in parts or with one backward pass.

    python tests/benchmarks/step_memory.py parts|whole [--batch 32]

A step in parts adds the gradients of the real images before the forward of the synthetic ones (`Client.descend`).
Printed: megabytes of the resident set before the nets are built, and at the peak.
"""

from __future__ import annotations

import argparse
import resource
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from step_workloads import Place, WholeLANDER, client_step

from fcil.federation.settings import settled


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("form", choices=["parts", "whole"])
    parser.add_argument("--batch", type=int, default=32)
    asked = parser.parse_args()
    with settled(1):
        before = peak()
        client_step(Place(batch=asked.batch), WholeLANDER() if asked.form == "whole" else None)()
    print(f"{asked.form}, batches of {asked.batch}: {before} MB before, {peak()} MB at the peak")


if __name__ == "__main__":
    main()
