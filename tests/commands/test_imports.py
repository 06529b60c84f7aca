"""What each verb loads, in a process of its own: torch takes a second and half a gigabyte, the others add to it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from run_folders import make_results
from small_runs import write_experiment

ROOT = Path(__file__).parents[2]
HEAVY = {"torch", "flwr", "ray", "pandas", "scipy", "scipy.stats", "sklearn", "matplotlib", "torch._dynamo"}
CODE = """
import sys
from fcil import __main__
try:
    __main__.main()
except SystemExit as stop:
    sys.stderr.write(f"{stop.code or 0}\\n" + " ".join(sys.modules))
"""


def heavy(*arguments: object) -> set[str]:
    """Return which large packages a command loads; it has to end well."""
    command = [sys.executable, "-c", CODE, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=True)
    said = done.stderr.splitlines()
    assert said[-2] == "0", done.stderr
    return HEAVY & set(said[-1].split())


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["show", "--schema"],
        *(["list", kind] for kind in ("strategies", "synthesizers", "datasets", "nets", "encoders")),
        ["list", "strategies", "lander"],
        ["list", "datasets", "cifar100"],
        ["list", "nets", "resnet8", "--json"],
    ],
    ids=" ".join,
)
def test_what_there_is_can_be_told_without_a_large_package(arguments: list[str]) -> None:
    assert heavy(*arguments) == set()


@pytest.mark.parametrize(("verb", "needs"), [("compare", {"scipy", "scipy.stats"}), ("plot", {"matplotlib"})])
def test_finished_runs_are_told_without_torch(verb: str, needs: set[str], tmp_path: Path) -> None:
    assert heavy(verb, make_results(tmp_path / "runs"), "--out", tmp_path / "out") <= needs


def test_an_experiment_is_shown_without_what_plays_it() -> None:
    """Though some client of it holds a single image, and the maps of its net are looked at."""
    assert heavy("show", ROOT / "experiments" / "quickstart.yaml") == {"torch"}


def test_a_run_loads_neither_a_compiler_nor_tables_for_notebooks(tmp_path: Path) -> None:
    nayer = {"rounds": 1, "warmup": 0, "steps": 2, "batch_size": 8, "samples": 8, "width": 8, "latent": 8}
    source = write_experiment(tmp_path, strategy={"lander": {"synthesizer": {"nayer": nayer}}})
    assert heavy("run", source, "federation.backend=inprocess", "--out", tmp_path / "out") <= {
        *("torch", "flwr", "matplotlib"),
    }
