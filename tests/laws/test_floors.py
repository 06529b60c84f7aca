"""Laws of the house, read from the syntax of every module of `fcil/` and `strategies/`.

A module imports from its own floor or from lower ones, inside functions too. Only
`fcil/federation/` knows flwr and Ray. Nothing is pickled, nothing is printed, no device is named by
hand. Random numbers are drawn on the CPU and from a stream with a name, or a run on a GPU would be another.
A new room gets a line in `fcil.check.floors`. No two files import each other, by whatever way round,
and no folder holds more modules than one takes in at a glance.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from fcil.check.floors import floor

ROOT = Path(__file__).parent.parent.parent
STRATEGIES = floor("strategies")
ENGINES = {"flwr", "ray"}
PICKLES = {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
FORBIDDEN_IN_STRATEGIES = {"logging", "wandb", "tensorboard"}
DRAWS = {"rand", "randn", "randint", "randperm", "normal", "bernoulli", "multinomial", "poisson"}
ON_THE_DEVICE = {"rand_like", "randn_like", "randint_like"}
IN_PLACE = {"normal_", "uniform_", "random_", "bernoulli_", "exponential_", "geometric_", "cauchy_", "log_normal_"}
LONGEST = 400


def modules() -> Iterator[tuple[str, str]]:
    """Name and source of every module, tests apart."""
    for path in sorted([*ROOT.glob("fcil/**/*.py"), *ROOT.glob("strategies/**/*.py")]):
        parts = path.relative_to(ROOT).with_suffix("").parts
        yield ".".join(parts).removesuffix(".__init__"), path.read_text(encoding="utf-8")


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
        yield "has no floor in fcil/check/floors.py"
        return
    for line, target in imports(tree):
        top, theirs = target.split(".")[0], floor(target)
        if target == ".":
            yield f"line {line}: a relative import"
        elif theirs is not None and theirs > own and module != "fcil":
            yield f"line {line}: imports {target} from floor {theirs}, which lies above its own, {own}"
        elif top in ENGINES and not f"{module}.".startswith("fcil.federation."):
            yield f"line {line}: imports {top} outside fcil/federation"
        elif top in PICKLES or (top in FORBIDDEN_IN_STRATEGIES and own == STRATEGIES):
            yield f"line {line}: imports {top}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Call | ast.Attribute | ast.Name) and (deed := forbidden(node, own)):
            yield f"line {node.lineno}: {deed}"
        if isinstance(node, ast.Call) and module != "fcil.rng" and (deed := drawn_elsewhere(node)):
            yield f"line {node.lineno}: {deed}"
    if source.count("\n") > LONGEST:
        yield f"has more than {LONGEST} lines"


def forbidden(node: ast.Call | ast.Attribute | ast.Name, own: int) -> str | None:
    """A call or name that no module, or no strategy, may hold."""
    text = ast.unparse(node)
    if text in {"torch.load", "torch.save", "torch.package"}:
        return f"{text} (pickle)"
    if own == STRATEGIES and text.split(".")[-1] == "DataLoader":
        return "a DataLoader in a strategy"
    if not isinstance(node, ast.Call):
        return None
    called = ast.unparse(node.func)
    if called == "print" or called.endswith(".cuda"):
        return f"{called}()"
    if any(k.arg == "allow_pickle" and ast.unparse(k.value) != "False" for k in node.keywords):
        return "allow_pickle"
    arguments = " ".join(map(ast.unparse, [*node.args, *(k.value for k in node.keywords)]))
    if own == STRATEGIES and called.endswith(".to") and ("device" in arguments or "cuda" in arguments):
        return f"{text}: a strategy moves nothing between devices"
    return None


def drawn_elsewhere(node: ast.Call) -> str | None:
    """A draw of random numbers on a device, or from PyTorch's global stream; all of `torch.nn.init` is for `seeded`."""
    where, _, called = ast.unparse(node.func).rpartition(".")
    words = {k.arg: ast.unparse(k.value) for k in node.keywords}
    if called in {"generator", "Generator"} and ("device" in words or (called == "Generator" and node.args)):
        return f"{called}() with a device; it is to draw on the CPU, and `fcil.rng.sent` takes numbers to a device"
    if called in ON_THE_DEVICE or "ropout" in called:
        return f"{called}() draws on the device of its input; draw on the CPU, and `fcil.rng.sent` takes numbers there"
    if (called in DRAWS and where == "torch") or (called in IN_PLACE and not where.endswith("init")):
        if "device" in words:
            return f"{called}() with a device; draw on the CPU, and `fcil.rng.sent` takes numbers there"
        return None if "generator" in words else f"{called}() without a generator"
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
        ("fcil.losses", "from fcil.strategy import Strategy", "imports fcil.strategy from floor"),
        ("fcil.rng", "def f():\n    import fcil.data.tasks", "imports fcil.data.tasks from floor"),
        ("fcil.nets.net", "from fcil import Strategy", "imports fcil.strategy from floor"),
        ("fcil.nets.net", "from fcil import synthesis", "imports fcil.synthesis from floor"),
        ("strategies.mine", "from fcil import run", "imports fcil.experiment from floor"),
        ("strategies.mine", "import fcil", "imports fcil from floor"),
        ("fcil.synthesis.mine", "import strategies.lander", "imports strategies.lander from floor"),
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
        ("fcil.nets.net", "from fcil.rng import generator\ngenerator(0, device=x.device)", "generator() with a device"),
        ("strategies.mine", "torch.Generator(device='cuda')", "Generator() with a device"),
        ("fcil.synthesis.mine", "torch.Generator('cuda')", "Generator() with a device"),
        ("fcil.synthesis.mine", "torch.randn(3, generator=rng, device=rng.device)", "randn() with a device"),
        ("strategies.mine", "torch.randperm(3)", "randperm() without a generator"),
        ("fcil.nets.net", "torch.empty(3, device=d).uniform_(0, 1)", "uniform_() without a generator"),
        ("fcil.losses", "torch.rand_like(x)", "rand_like() draws on the device"),
        ("fcil.nets.net", "nn.Dropout(0.5)", "Dropout() draws on the device"),
        ("strategies.mine", "F.dropout2d(x)", "dropout2d() draws on the device"),
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
        (
            "fcil.nets.net",
            "sent(torch.randn(3, generator=rng), x)\nnn.init.normal_(w)\nw.uniform_(generator=g)",
        ),
        ("fcil.nets.net", "torch.Generator().manual_seed(0)\nself.generator(labels, 3)\nclient.generator('noise')"),
    ],
)
def test_the_law_abiding_are_left_alone(module, source):
    assert list(offences(module, source)) == []


# Circles ------------------------------------------------------------------------------------------

WHOLE = 16
"""Modules that lie flat in one folder, at most."""


def arrows() -> dict[str, set[str]]:
    """For each module those it imports, wherever in its text, but for what is there for type checkers alone."""
    sources = dict(modules())
    found: dict[str, set[str]] = {}
    for module, source in sources.items():
        tree = ast.parse(source)
        idle = {
            inner
            for node in ast.walk(tree)
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
            for inner in ast.walk(node)
        }
        found[module] = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node not in idle and node.module:
                whole = [f"{node.module}.{alias.name}" for alias in node.names]
                found[module] |= {name if name in sources else node.module for name in whole}
            elif isinstance(node, ast.Import) and node not in idle:
                found[module] |= {alias.name for alias in node.names}
        found[module] &= sources.keys() - {module}
    return found


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Modules that reach themselves, each with all those it goes round with."""
    reached = {module: set(targets) for module, targets in graph.items()}
    for middle in graph:  # Warshall
        for targets in reached.values():
            if middle in targets:
                targets |= reached[middle]
    return sorted({tuple(sorted(m for m in reached[own] if own in reached[m])) for own in graph if own in reached[own]})


def test_no_two_files_import_each_other():
    graph = arrows()
    del graph["fcil"]  # which loads its names when they are first asked for
    assert circles({module: targets - {"fcil"} for module, targets in graph.items()}) == []


def test_a_circle_is_found():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [("a", "b", "c")]


def test_no_folder_is_crowded():
    flat: dict[str, int] = {}
    for module, _ in modules():
        if not module.endswith("__main__") and not (ROOT / Path(*module.split("."))).is_dir():
            folder = module.rpartition(".")[0]
            flat[folder] = flat.get(folder, 0) + 1
    del flat["strategies"]  # a method a file, however many there are
    assert {folder: count for folder, count in flat.items() if count > WHOLE} == {}
