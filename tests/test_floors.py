"""Laws of the house, read from the syntax of every module of `fcil/` and `strategies/`.

A module imports from its own floor or from lower ones, inside functions too. Only
`fcil/federation/` knows flwr and Ray. Nothing is pickled, nothing is printed, no device is named by
hand. A new module gets a line in FLOORS.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FLOORS = {
    **dict.fromkeys(("fcil.types", "fcil.rng", "fcil.config", "fcil.errors", "fcil.fidelity", "fcil.io.bounded"), 0),
    "fcil.config.yaml": 0,
    **dict.fromkeys(("fcil.data", "fcil.nets", "fcil.anchors"), 1),
    **dict.fromkeys(("fcil.losses", "fcil.metrics", "fcil.optimizer", "fcil.exemplars", "fcil.inversion"), 1),
    "fcil.config.registry": 0,
    "fcil.subspace": 1,
    "fcil.distillers": 2,
    **dict.fromkeys(
        (
            "fcil.strategy",
            "fcil.roles",
            "fcil.methods.loading",
            "fcil.methods.verbs",
            "fcil.synthesis",
            "fcil.averaging",
        ),
        2,
    ),
    "strategies": 3,
    "fcil.federation": 4,
    **dict.fromkeys(
        ("fcil.experiment", "fcil.store", "fcil.plots", "fcil.console.progress", "fcil.methods.listing"), 5
    ),
    **dict.fromkeys(
        (
            "fcil.store.groups",
            "fcil.console.tables",
            "fcil.console.eta",
            "fcil.methods.scaffold",
            "fcil.methods.introspection",
        ),
        5,
    ),
    **dict.fromkeys(("fcil.config.matrix", "fcil.playing"), 5),
    **dict.fromkeys(("fcil.check", "fcil.compare", "fcil.distillation", "fcil.distillation.quantisation"), 5),
    **dict.fromkeys(("fcil.report", "fcil.terminal.listing", "fcil.doctor.show"), 5),
    **dict.fromkeys(("fcil.store.activity", "fcil.runs.verify", "fcil.doctor", "fcil.runs.export_split"), 5),
    **dict.fromkeys(("fcil.cli", "fcil.entry", "fcil.terminal.streams", "fcil.terminal.help"), 6),
    **dict.fromkeys(("fcil.flower", "fcil.__main__", "fcil"), 6),
}
ENGINES = {"flwr", "ray"}
PICKLES = {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
FORBIDDEN_IN_STRATEGIES = {"logging", "wandb", "tensorboard"}
LONGEST = 400


def modules() -> Iterator[tuple[str, str]]:
    """Name and source of every module, tests apart."""
    for path in sorted([*ROOT.glob("fcil/**/*.py"), *ROOT.glob("strategies/**/*.py")]):
        parts = path.relative_to(ROOT).with_suffix("").parts
        yield ".".join(parts).removesuffix(".__init__"), path.read_text(encoding="utf-8")


def floor(module: str) -> int | None:
    """The floor of the longest listed name that `module` is or lies in; the package itself holds nobody."""
    names = [".".join(module.split(".")[:n]) for n in range(module.count(".") + 1, 0, -1)]
    return next((FLOORS[name] for name in names if name in FLOORS and (name != "fcil" or module == "fcil")), None)


def homes() -> dict[str, str]:
    """Where the names live that `fcil` itself offers: `Strategy` -> `fcil.strategy`."""
    tree = ast.parse((ROOT / "fcil" / "__init__.py").read_text(encoding="utf-8"))
    found = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    return {alias.name: node.module or "" for node in found for alias in node.names}


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and module of every import; `from fcil import x` is resolved to x's home."""
    offered = homes()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level:
            yield node.lineno, "."
        elif isinstance(node, ast.ImportFrom) and node.module == "fcil":
            for name in (alias.name for alias in node.names):
                whole = f"fcil.{name}"
                yield node.lineno, offered.get(name, whole if floor(whole) is not None else "fcil")
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, node.module or ""


def offences(module: str, source: str) -> Iterator[str]:
    """What a module does that the laws forbid."""
    tree, own = ast.parse(source), floor(module)
    if own is None:
        yield "has no floor in tests/test_floors.py"
        return
    for line, target in imports(tree):
        top, theirs = target.split(".")[0], floor(target)
        if target == ".":
            yield f"line {line}: a relative import"
        elif theirs is not None and theirs > own and module != "fcil":
            yield f"line {line}: floor {own} imports {target} from floor {theirs}"
        elif top in ENGINES and not f"{module}.".startswith("fcil.federation."):
            yield f"line {line}: imports {top} outside fcil/federation"
        elif top in PICKLES or (top in FORBIDDEN_IN_STRATEGIES and own == FLOORS["strategies"]):
            yield f"line {line}: imports {top}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Call | ast.Attribute | ast.Name) and (deed := forbidden(node, own)):
            yield f"line {node.lineno}: {deed}"
    if source.count("\n") > LONGEST:
        yield f"has more than {LONGEST} lines"


def forbidden(node: ast.Call | ast.Attribute | ast.Name, own: int) -> str | None:
    """A call or name that no module, or no strategy, may hold."""
    text = ast.unparse(node)
    if text in {"torch.load", "torch.save", "torch.package"}:
        return f"{text} (pickle)"
    if own == FLOORS["strategies"] and text.split(".")[-1] == "DataLoader":
        return "a DataLoader in a strategy"
    if not isinstance(node, ast.Call):
        return None
    called = ast.unparse(node.func)
    if called == "print" or called.endswith(".cuda"):
        return f"{called}()"
    if any(k.arg == "allow_pickle" and ast.unparse(k.value) != "False" for k in node.keywords):
        return "allow_pickle"
    arguments = " ".join(map(ast.unparse, [*node.args, *(k.value for k in node.keywords)]))
    if own == FLOORS["strategies"] and called.endswith(".to") and ("device" in arguments or "cuda" in arguments):
        return f"{text}: a strategy moves nothing between devices"
    return None


def test_the_house_keeps_its_laws():
    found = [f"{module}: {offence}" for module, source in modules() for offence in offences(module, source)]
    assert found == []


def test_every_room_is_read():
    names = {module for module, _ in modules()}
    assert {"fcil.types", "fcil.losses", "fcil.nets", "fcil.nets.net"} <= names


@pytest.mark.parametrize(
    ("module", "source", "complaint"),
    [
        ("fcil.losses", "from fcil.strategy import Strategy", "floor 1 imports fcil.strategy from floor 2"),
        ("fcil.rng", "def f():\n    import fcil.data.tasks", "floor 0 imports fcil.data.tasks from floor 1"),
        ("fcil.nets.net", "from fcil import Strategy", "floor 1 imports fcil.strategy from floor 2"),
        ("fcil.nets.net", "from fcil import synthesis", "floor 1 imports fcil.synthesis from floor 2"),
        ("strategies.mine", "from fcil import run", "floor 3 imports fcil.experiment from floor 5"),
        ("strategies.mine", "import fcil", "floor 3 imports fcil from floor 6"),
        ("fcil.synthesis.mine", "import strategies.lander", "floor 2 imports strategies.lander from floor 3"),
        ("fcil.cli", "def f():\n    from ray import get", "imports ray outside fcil/federation"),
        ("fcil.store.files", "from . import folder", "a relative import"),
        ("fcil.federation.codec", "import pickle", "imports pickle"),
        ("fcil.nothing", "", "has no floor"),
        ("fcil.data", "print('x')", "print()"),
        ("fcil.data", "x.cuda()", "x.cuda()"),
        ("fcil.data", "import torch\ntorch.load('x')", "torch.load (pickle)"),
        ("fcil.data", "import numpy as np\nnp.load('x', allow_pickle=True)", "allow_pickle"),
        ("fcil.data", "\n" * 401, "more than 400 lines"),
        ("strategies.mine", "x.to(client.device)", "moves nothing between devices"),
        ("strategies.mine", "from torch.utils import data\ndata.DataLoader(x)", "a DataLoader"),
        ("strategies.mine", "import logging", "imports logging"),
    ],
)
def test_an_offender_is_caught(module, source, complaint):
    assert complaint in " ".join(offences(module, source))


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("strategies.mine", "from fcil import Strategy, Batch\nfrom fcil.losses import bounding\nx.to(y.dtype)"),
        ("fcil.federation.grids", "import ray\nfrom flwr.app import Message"),
        ("fcil.data", "import numpy as np\nnp.load('x', allow_pickle=False)\nconsole.print('x')"),
        ("fcil.store.files", "import logging\nfrom fcil.federation.observer import AccuracyRow"),
    ],
)
def test_the_law_abiding_are_left_alone(module, source):
    assert list(offences(module, source)) == []
