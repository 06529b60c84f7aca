"""What `import fcil` gives: little at once, everything when it is asked for."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path
from typing import Any

import pytest
from pathspec import GitIgnoreSpec

import fcil
from fcil.anchors.encoders import EMBEDDED_FILE
from fcil.methods.catalogue import SHIPPED
from fcil.terminal.shipped import SCHEMA

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


LIGHT = ["fcil.federation.settings", "fcil.federation.preconditions", "fcil.runs.plans"]
PROTECTED = """{data: {dataset: digits, tasks: 5}, strategy: finetune, name: protected, federation: {clients: 7,
    mods: [local_dp, fixed_clipping, adaptive_clipping, arrays_size, message_size], privacy: null,
    aggregation: {bulyan: {malicious: 1}}, attack: {noise: {share: 0.2}}}}"""


@pytest.fixture(scope="module")
def light(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What is loaded after each of some imports, one after the other, and at last after an experiment was read."""
    path = tmp_path_factory.mktemp("light") / "protected.yaml"
    path.write_text(PROTECTED, encoding="utf-8")
    code = f"""import importlib, json, sys
loaded = {{}}
for name in {LIGHT}:
    importlib.import_module(name)
    loaded[name] = [*sys.modules]
(experiment,) = sys.modules["fcil.runs.plans"].read({str(path)!r})
federation = experiment.plans()[0].federation
print(json.dumps(loaded | {{"read": [federation.aggregation.name, len(federation.mods.chosen), [*sys.modules]]}}))"""
    found: dict[str, Any] = fresh(code)
    return found


@pytest.mark.parametrize("module", ["fcil.runs.plans", "fcil.federation.settings", "fcil.federation.preconditions"])
def test_an_experiment_is_read_and_checked_without_flower_and_ray(light: dict[str, Any], module: str) -> None:
    """They take seconds to load, and only workers and the server need them."""
    assert module in light[module]
    assert {"flwr", "ray"}.isdisjoint(light[module])


def test_an_experiment_with_every_protection_is_read_without_flower_and_ray(light: dict[str, Any]) -> None:
    rule, mods, loaded = light["read"]
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


def test_every_part_that_the_pages_speak_of_is_there_after_import_fcil() -> None:
    """`fcil.check.check(...)`, say, before anybody has imported `fcil.check`."""
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    called = sorted(set(re.findall(r"\bfcil((?:\.\w+)+)\(", text)))
    assert {".run", ".load", ".check.check", ".synthesis.create"} <= set(called)
    code = f"import fcil, json\nprint(json.dumps([callable(eval('fcil' + name)) for name in {called}]))"
    assert fresh(code) == [True] * len(called)


HEAVY = {"torch", "flwr", "ray", "pandas", "matplotlib", "transformers"}


def test_settings_are_read_without_what_runs_need() -> None:
    for module in ("fcil.config", "fcil.config.matrix", "fcil.config.json_schema", "fcil.config.registry"):
        assert HEAVY.isdisjoint(fresh(f"import {module}, sys, json\nprint(json.dumps([*sys.modules]))")), module


@pytest.mark.parametrize(
    "words",
    [
        *["list", "list strategies", "list synthesizers", "list strategies --json", "list strategies lander"],
        *["list synthesizers nayer", "show --schema"],
    ],
)
def test_what_can_be_told_without_torch_is_told_without_it(words: str) -> None:
    code = f"""
import contextlib, io, json, sys
sys.argv = ["fcil", *{words.split()}]
from fcil.__main__ import main
with contextlib.redirect_stdout(io.StringIO()) as out:
    try:
        main()
    except SystemExit as stop:
        assert stop.code == 0, stop.code
print(json.dumps([len(out.getvalue()), [*sys.modules]]))
"""
    told, loaded = fresh(code)
    assert told > 100
    assert HEAVY.isdisjoint(loaded)


def test_what_strategies_of_users_import_is_where_it_was() -> None:
    """The addresses that are public, and four of machinery that earlier strategies named."""
    modules = ["types", "rng", "errors", "fidelity", "losses", "nets", "data", "exemplars", "subspace", "inversion"]
    modules += ["averaging", "optimizer", "roles", "strategy", "distillers", "metrics", "experiment", "config"]
    modules += [f"synthesis.{name}" for name in ("nayer", "muse", "fast", "base", "pool", "student", "keeper")]
    code = f"""
        import importlib, json
        for name in {modules}:
            importlib.import_module("fcil." + name)
        from fcil.synthesis.base import Synthesizer, Views, views_of
        from fcil.synthesis.pool import newest
        from fcil.flower import server
        from fcil.federation.flower_app import client
        print(json.dumps([Synthesizer.__name__, newest.__name__]))
    """
    assert fresh(textwrap.dedent(code)) == ["Synthesizer", "newest"]


def test_a_wheel_holds_every_file_of_the_package_and_all_that_it_reads() -> None:
    """hatch takes the folders it is given, but for what is excluded and for what git would ignore."""
    build = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hatch"]["build"]
    assert [*build] == ["targets"]
    assert build["targets"]["wheel"] == {"packages": ["fcil", "strategies"]}
    ignored = GitIgnoreSpec.from_lines((ROOT / ".gitignore").read_text(encoding="utf-8").splitlines())
    folders = [ROOT / name for name in build["targets"]["wheel"]["packages"]]
    files = {path for folder in folders for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"}
    assert [path for path in files if ignored.match_file(path.relative_to(ROOT))] == []
    read = {SCHEMA, SHIPPED, EMBEDDED_FILE, EMBEDDED_FILE.with_suffix(".json"), ROOT / "fcil/py.typed"}
    assert read | {ROOT / "fcil/report" / name for name in ("page.html", "page.css", "page.js")} <= files
    assert {path.stem for path in files if path.parent == ROOT / "strategies"} >= {"finetune", "lander"}
