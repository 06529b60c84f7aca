"""What `import fcil` gives: little at once, everything when it is asked for."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

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
