"""Every command of the tutorial is run as it stands there, but for the installation."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from command_line import Command

PAGE = (Path(__file__).parents[2] / "docs/tutorial.md").read_text(encoding="utf-8")


@pytest.mark.slow  # 40 seconds
def test_a_newcomer_comes_to_a_table_with_a_method_of_their_own(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fcil.runs.play.draw_run", lambda path: [])  # which tests of figures are about
    monkeypatch.setattr("fcil.runs.completion.draw_comparison", lambda *_: [])
    (experiment,) = re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL)
    Path("first.yaml").write_text(experiment)
    lines = "".join(re.findall(r"```bash\n(.*?)```", PAGE, flags=re.DOTALL)).splitlines()
    verbs = []
    for line in (line for line in lines if line.startswith("fcil ")):
        words = shlex.split(line)[1:]
        said = command(*words)
        assert said.code == 0, f"{line}\n{said.out}\n{said.err}"
        verbs.append(words[0])
        if words[0] == "compare":
            assert all(name in said.out for name in ("finetune", "my_method", "joint"))
    assert verbs == ["show", "run", "new", "check", "run", "compare", "plot", "report", "cite"]
    assert len(lines) == len(verbs) + 2  # the two of the installation
    assert Path("results/three/report.html").is_file()
    assert Path("results/three/tables/comparison.tex").is_file()


def test_the_changes_that_the_tutorial_shows_are_of_the_file_that_it_begins(command: Command) -> None:
    command("new", "strategy", "my_method")
    source = Path("my_method.py").read_text()
    first, change = [b for b in re.findall(r"```text\n(.*?)```", PAGE, flags=re.DOTALL) if "terms =" in b]
    assert all(line.strip() in source for line in first.splitlines())
    (old,) = [line for line in first.splitlines() if line.startswith("terms =")]
    Path("my_method.py").write_text(source.replace(old, change.strip()))
    Path("first.yaml").write_text(re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL)[0])
    assert command("run", "first.yaml", "strategy=./my_method.py", "--smoke").code == 0
