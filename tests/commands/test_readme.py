"""What the README and the pages of `docs/` show is run as it stands there."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import pytest

import fcil
from fcil.check import check
from fcil.config import load_yaml
from fcil.distillation import distils
from fcil.distillation import read as distillations
from fcil.runs.plans import read
from fcil.searching.plans import read as read_search
from fcil.training import read as trainings
from fcil.training.settings import is_for_training

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TINY = [
    "federation={clients: 2, rounds: 1, local_epochs: 1, batch_size: 16, max_batches: 2, backend: inprocess}",
    "federation.stop_after=2",
    "net={name: resnet8, width: 4}",
]


def blocks(language: str) -> list[str]:
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def test_the_method_in_the_readme_runs_as_a_file_of_ones_own(tmp_path: Path) -> None:
    (source,) = [b for b in blocks("python") if "class FedLwF" in b]
    own = tmp_path / "fedlwf.py"
    own.write_text(source)

    (run,) = fcil.run(ROOT / "experiments/quickstart.yaml", *TINY, f"strategy={{{own}: {{keep: 10}}}}", out=tmp_path)

    assert run.strategy == "fedlwf"
    assert [set(r["terms"]) for r in run.rounds] == [{"ce"}, {"ce", "kd"}]
    assert (run.path / "strategy.py").read_text() == source
    assert (run.folder.figures / "accuracy.png").is_file()


def parts(folder: Path) -> dict[str, Path]:
    """Write the parts of one's own that `docs/methods.md` shows, and return the file of each class."""
    names = {"Stripes": "stripes.py", "Ramp": "ramp.py", "Shallow": "shallow.py", "Noise": "noise.py"}
    for name, file in names.items():
        (source,) = [b for b in blocks("python") if f"class {name}(" in b]
        (folder / file).write_text(source)
    return {name: folder / file for name, file in names.items()}


def test_the_parts_of_ones_own_run_as_the_page_shows_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = parts(tmp_path)
    (shown,) = [b for b in blocks("yaml") if "name: own_parts" in b]
    (tmp_path / "own.yaml").write_text(shown)
    monkeypatch.chdir(tmp_path)
    (run,) = fcil.run("own.yaml", out=tmp_path)
    assert run.summary["final_accuracy"] > 0
    assert {path.name: path.read_text() for path in (run.path / "parts").iterdir()} == {
        path.name: path.read_text() for path in files.values()
    }
    assert load_yaml(run.folder.config)["net"]["depth"] == 2


@pytest.mark.parametrize("name", ["Stripes", "Ramp", "Shallow", "Noise"])
def test_the_parts_of_ones_own_keep_the_laws_of_their_kind(tmp_path: Path, name: str) -> None:
    report = check(parts(tmp_path)[name])
    assert [result.name for result in report.failed if result.name != "options"] == []
    assert report.kind != "strategy"


def test_the_settings_in_the_readme_are_those_of_the_quick_start() -> None:
    (shown,) = [b for b in blocks("yaml") if "name: quickstart" in b]
    real = load_yaml(ROOT / "experiments/quickstart.yaml")
    for line in shown.splitlines():
        key, _, value = line.partition(": ")
        if value and not line.startswith(" ") and "..." not in value:
            assert f"{key}: {value}" in (ROOT / "experiments/quickstart.yaml").read_text(), line
            assert key in real


FILES = sorted((ROOT / "experiments").rglob("*.yaml"))


@pytest.mark.parametrize("path", [p for p in FILES if p.parent.name != "methods"], ids=lambda p: p.stem)
def test_every_experiment_file_is_valid(path: Path) -> None:
    if distils(path):
        assert all(one.student_plan(seed) for one in distillations(path) for seed in one.seeds)
        return
    if is_for_training(path):
        assert all(one.plan(seed) for one in trainings(path) for seed in one.seeds)
        return
    if "search:" in path.read_text(encoding="utf-8").splitlines():
        assert read_search(path)
        return
    experiments = read(path)
    assert all(e.plans() for e in experiments)
    assert all(e.name for e in experiments)


def test_the_python_of_the_pages_ends_in_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (shown,) = [b for b in blocks("python") if "fcil.synthesis.create" in b]
    (tmp_path / "experiments").symlink_to(ROOT / "experiments")
    monkeypatch.chdir(tmp_path)
    began, names = time.process_time(), dict[str, Any]()
    exec(shown, names)
    assert time.process_time() - began < 20  # of a processor, whoever else is at work
    assert names["runs"][0].finished
    assert names["pool"]["x"].shape == (48, 3, 32, 32)
    assert set(names["pool"]["y"].tolist()) == {0, 1, 2}
