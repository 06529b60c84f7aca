"""Run the suite with the oldest and the newest packages that `pyproject.toml` allows, in environments of their own.

    python tests/reliability/dependency_bounds.py                    # both ends, the whole default suite
    python tests/reliability/dependency_bounds.py lowest -- -x tests/config/test_config.py

`lowest` takes the least version that each requirement names, and of what those need the newest;
`highest` takes the newest of everything. Needs uv, which Flower brings. Several GB are downloaded.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
SHOWN = ("torch", "torchvision", "numpy", "flwr", "ray", "transformers", "pandas", "matplotlib", "pydantic", "PyYAML")
ENDS = {"lowest": "lowest-direct", "highest": "highest"}


def run_suite(end: str, folder: Path, arguments: list[str]) -> int:
    """Install one end of the bounds into `folder` and run pytest there; returns the exit code of what failed first."""
    python = folder / "bin" / "python"
    steps = [
        ["uv", "venv", "--quiet", "--python", sys.executable, str(folder)],
        ["uv", "pip", "install", "--quiet", "--python", str(python), "--resolution", ENDS[end], "-e", f"{ROOT}[dev]"],
        ["uv", "pip", "list", "--quiet", "--python", str(python)],
        [str(python), "-m", "pytest", "-q", *(arguments or ["-n", "2"])],
    ]
    for command in steps:
        listing = command[2:3] == ["list"]
        done = subprocess.run(command, cwd=ROOT, check=False, text=True, stdout=subprocess.PIPE if listing else None)
        if done.returncode:
            print(f"{end}: exit code {done.returncode} of {shlex.join(command)}", file=sys.stderr)
            return done.returncode
        if listing:
            versions = dict(line.split()[:2] for line in done.stdout.splitlines() if len(line.split()) >= 2)
            known = {name.lower(): version for name, version in versions.items()}
            print(f"{end}:", ", ".join(f"{name} {known.get(name.lower(), 'missing')}" for name in SHOWN), flush=True)
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("end", nargs="?", choices=[*ENDS], help="which end of the bounds; both if none is named")
    parser.add_argument("--keep", type=Path, help="a folder in which the environments are made and left")
    parser.add_argument("pytest", nargs="*", help="after --: arguments of pytest, in place of the whole default suite")
    cut = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    given, arguments = parser.parse_args(sys.argv[1:cut]), sys.argv[cut + 1 :]
    codes = {}
    with tempfile.TemporaryDirectory(prefix="fcil-bounds-") as scratch:
        for end in [given.end] if given.end else ENDS:
            codes[end] = run_suite(end, (given.keep or Path(scratch)) / end, arguments)
    print(", ".join(f"{end}: {'passed' if not code else f'failed ({code})'}" for end, code in codes.items()))
    return max(codes.values())


if __name__ == "__main__":
    raise SystemExit(main())
