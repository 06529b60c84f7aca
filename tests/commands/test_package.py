"""What `import fcil` gives: little at once, everything when it is asked for."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import fcil

ROOT = Path(__file__).parents[2]


def fresh(code: str) -> Any:
    """What a new process prints, as JSON; here every part has long since been imported."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_an_import_loads_nothing_else() -> None:
    loaded = fresh("import sys; before = set(sys.modules)\nimport fcil, json\nprint(json.dumps([*sys.modules]))")
    assert [name for name in loaded if name.startswith("fcil")] == ["fcil"]
    assert not {"torch", "numpy", "rich", "typer"} & set(loaded)


@pytest.mark.parametrize("module", ["fcil.runs.plans", "fcil.federation.settings", "fcil.federation.preconditions"])
def test_an_experiment_is_read_and_checked_without_flower_and_ray(module: str) -> None:
    """They take seconds to load, and only workers and the server need them."""
    loaded = fresh(f"import {module}, json, sys\nprint(json.dumps([*sys.modules]))")
    assert module in loaded
    assert {"flwr", "ray"}.isdisjoint(loaded)


def test_an_experiment_with_every_protection_is_read_without_flower_and_ray(tmp_path: Path) -> None:
    text = """{data: {dataset: digits, tasks: 5}, strategy: finetune, name: protected, federation: {clients: 7,
        mods: [local_dp, fixed_clipping, adaptive_clipping, arrays_size, message_size], privacy: null,
        aggregation: {bulyan: {malicious: 1}}, attack: {noise: {share: 0.2}}}}"""
    path = tmp_path / "protected.yaml"
    path.write_text(text, encoding="utf-8")
    code = f"""import json, sys
from fcil.runs.plans import read
(experiment,) = read({str(path)!r})
federation = experiment.plans()[0].federation
print(json.dumps([federation.aggregation.name, len(federation.mods.chosen), [*sys.modules]]))"""
    rule, mods, loaded = fresh(code)
    assert (rule, mods) == ("bulyan", 5)
    assert {"flwr", "ray"}.isdisjoint(loaded)


def test_what_there_is_can_be_listed_before_it_is_loaded() -> None:
    names, loaded = fresh("import fcil, sys, json\nprint(json.dumps([dir(fcil), [*sys.modules]]))")
    assert {"run", "load", "show", "resume", "distill", "Strategy", "Update", "check", "synthesis"} <= set(names)
    assert {"torch"}.isdisjoint(loaded)
    assert names == sorted(names)


def test_every_name_in_the_list_is_there() -> None:
    code = "import fcil, json\nprint(json.dumps({name: str(getattr(fcil, name)) for name in dir(fcil)}))"
    assert set(fresh(code)) >= set(fcil.__all__)


def test_every_part_that_the_readme_speaks_of_is_there_after_import_fcil() -> None:
    """`fcil.check.check(...)`, say, before anybody has imported `fcil.check`."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    called = sorted(set(re.findall(r"\bfcil((?:\.\w+)+)\(", text)))
    assert {".run", ".load", ".check.check", ".synthesis.create"} <= set(called)
    code = f"import fcil, json\nprint(json.dumps([callable(eval('fcil' + name)) for name in {called}]))"
    assert fresh(code) == [True] * len(called)
