"""Draws the pictures of architecture.md from the code, and writes its table of rooms.

    python docs/draw_architecture.py            # write pictures/*.svg and the table
    python docs/draw_architecture.py --check    # say what is out of date, exit code 1

Nothing is drawn from memory: a hop of `walks.txt` has to be defined where the walk says, and the text of the
function above it has to name it; rooms come from `fcil.check.floors` and from the import statements. `tests/laws`
runs the check.
"""

from __future__ import annotations

import ast
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from html import escape
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from fcil.check.floors import FLOORS, floor

HERE = Path(__file__).parent
ROOT = HERE.parent
PAGE = HERE / "architecture.md"
BEGIN, END = "<!-- rooms: written by draw_architecture.py -->", "<!-- end of rooms -->"
WIDTH = 800
MONO = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace"
SANS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"
STYLE = f"""
:root {{ --paper: #ffffff; --ink: #1f2328; --soft: #57606a; --line: #c3cbd4; --band: #f3f5f8; --mark: #0b62c4; }}
@media (prefers-color-scheme: dark) {{
  :root {{ --paper: #14181d; --ink: #e6edf3; --soft: #9ea8b3; --line: #3a424c; --band: #1d232a; --mark: #6cb2ff; }}
}}
text {{ font: 13px {SANS}; fill: var(--ink) }}
.code {{ font-family: {MONO}; font-size: 12.5px }}
.soft {{ fill: var(--soft); font-size: 12px }}
.small {{ font-size: 11px }}
.head {{ font-size: 14px; font-weight: 600 }}
.paper {{ fill: var(--paper); stroke: var(--line) }}
.band {{ fill: var(--band) }}
.box {{ fill: var(--paper); stroke: var(--line) }}
.line {{ stroke: var(--line); stroke-width: 1.5; fill: none }}
.jump {{ stroke: var(--mark); stroke-width: 1.5; fill: none; stroke-dasharray: 3 3 }}
.dot {{ fill: var(--mark) }}
"""


# What the code says -------------------------------------------------------------------------------


@cache
def modules() -> dict[str, ast.Module]:
    """The syntax of every module of `fcil/` and `strategies/`, by name."""
    found = {}
    for path in sorted([*ROOT.glob("fcil/**/*.py"), *ROOT.glob("strategies/**/*.py")]):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        found[name] = ast.parse(path.read_text(encoding="utf-8"))
    return found


def definition(place: str) -> ast.AST | None:
    """The function, method or class at `module:name`; None if there is none."""
    module, _, path = place.partition(":")
    node: ast.AST | None = modules().get(module)
    for part in path.split("."):
        body = getattr(node, "body", [])
        kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
        node = next((n for n in body if isinstance(n, kinds) and n.name == part), None)
    return node


def names_in(node: ast.AST) -> set[str]:
    """Every name and attribute that the text of a definition uses."""
    names = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
    own = {n.name for n in ast.walk(node) if isinstance(n, ast.FunctionDef)}
    return names | own | {n.attr for n in ast.walk(node) if isinstance(n, ast.Attribute)}


def room(module: str) -> str:
    """The room of a module: `fcil.data` of `fcil.data.files.decode`."""
    parts = module.split(".")
    inner = ".".join(parts[:3])
    if inner in ("fcil.synthesis.common", "fcil.synthesis.families"):
        return inner
    return ".".join(parts[: 1 if parts[0] == "strategies" else 2])


@cache
def rooms() -> list[str]:
    """Every room, from the highest floor to the lowest."""
    names = {room(module) for module in modules() if module != "fcil"}
    return sorted(names, key=lambda name: (-(floor(name) or 0), name))


@cache
def arrows() -> Counter[tuple[str, str]]:
    """(importing room, imported room) and how many modules of the first import from the second."""
    found: Counter[tuple[str, str]] = Counter()
    for module, tree in modules().items():
        idle = {id(n) for node in ast.walk(tree) if _for_types_alone(node) for n in ast.walk(node)}
        targets = {name for node in ast.walk(tree) if id(node) not in idle for name in _imported(node)}
        if module != "fcil":
            found.update((room(module), target) for target in {room(t) for t in targets} - {room(module)})
    return found


def _for_types_alone(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def _imported(node: ast.AST) -> Iterator[str]:
    """Modules of the project that an import statement names."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names if alias.name in modules() and alias.name != "fcil")
    elif isinstance(node, ast.ImportFrom) and node.module in modules():
        for whole in (f"{node.module}.{alias.name}" for alias in node.names):
            home = whole if whole in modules() else _homes().get(whole, node.module or "")
            if home != "fcil":
                yield home


@cache
def _homes() -> dict[str, str]:
    """Where the names live that `fcil` itself offers: `fcil.Strategy` -> `fcil.strategy`."""
    nodes = [n for n in ast.walk(modules()["fcil"]) if isinstance(n, ast.ImportFrom)]
    return {f"fcil.{alias.name}": node.module or "" for node in nodes for alias in node.names}


# Walks --------------------------------------------------------------------------------------------


class Hop(NamedTuple):
    stage: str
    depth: int
    place: str  # module:name
    jump: str  # how it is reached, where the text above does not name it
    note: str
    line: int  # of walks.txt


class Walk(NamedTuple):
    name: str
    title: str
    hops: list[Hop]


@cache
def walks() -> list[Walk]:
    """The walks of `walks.txt`."""
    found: list[Walk] = []
    stage = ""
    for number, line in enumerate((HERE / "walks.txt").read_text(encoding="utf-8").splitlines(), start=1):
        text = line.strip()
        name, colon, title = text.removeprefix("# ").partition(": ")
        if text.startswith("# ") and colon and name.isidentifier():
            found.append(Walk(name, title, []))
        elif text.startswith("== "):
            stage = text.removeprefix("== ")
        elif text and not text.startswith("#"):
            reached, _, note = text.partition(" | ")
            place, _, jump = reached.partition(" <- ")
            depth = (len(line) - len(line.lstrip())) // 2
            found[-1].hops.append(Hop(stage, depth, place, jump, note, number))
    return found


def broken_hops() -> list[str]:
    """What a walk claims and the code does not say, a line each."""
    found = []
    for walk in walks():
        above: dict[int, Hop] = {}
        for hop in walk.hops:
            above[hop.depth] = hop
            caller = definition(above[hop.depth - 1].place) if hop.depth else None
            name = hop.place.rpartition(":")[2].rpartition(".")[2]
            if definition(hop.place) is None:
                found.append(f"walks.txt, line {hop.line}: there is no {hop.place}")
            elif caller is not None and not hop.jump and name not in names_in(caller):
                found.append(f"walks.txt, line {hop.line}: {above[hop.depth - 1].place} does not name {name}")
    return found


# Pictures -----------------------------------------------------------------------------------------


def svg(height: float, title: str, parts: list[str]) -> str:
    size = f'width="{WIDTH}" height="{height:g}" viewBox="0 0 {WIDTH} {height:g}"'
    paper = f'<rect class="paper" x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1:g}" rx="8"/>'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">\n<title>{escape(title)}</title>'
    return "\n".join([head, f"<style>{STYLE}</style>", paper, *parts, "</svg>\n"])


def text(x: float, y: float, words: str, kind: str = "", more: str = "") -> str:
    return f'<text x="{x:g}" y="{y:g}" class="{kind}"{more}>{escape(words)}</text>'


def draw_walk(walk: Walk, row: int = 24, indent: int = 13) -> str:
    """A call tree: what calls what, where it lies, what is handed on."""
    parts, y = [text(20, 30, walk.title, "head")], 44
    for stage, group in groupby(walk.hops, key=lambda hop: hop.stage):
        hops = list(group)
        parts.append(f'<rect class="band" x="10" y="{y}" width="{WIDTH - 20}" height="24" rx="4"/>')
        parts.append(text(20, y + 17, stage, "soft", ' font-weight="600"'))
        y += 28
        rows = {0: y}
        for hop in hops:
            x, middle = 22 + indent * hop.depth, y + row / 2
            if hop.depth:
                start, kind = rows[hop.depth - 1] + row / 2 + 8, "jump" if hop.jump else "line"
                parts.append(f'<path class="{kind}" d="M{x - indent + 3} {start:g} V{middle:g} H{x - 3}"/>')
            parts.append(text(x, middle + 4, hop.place.rpartition(":")[2], "code"))
            parts.append(text(306, middle + 4, hop.place.partition(":")[0], "soft"))
            parts.append(text(560, middle + 4, hop.note or (f"by {hop.jump}" if hop.jump else "")))
            rows[hop.depth] = y
            y += row
        y += 8
    parts.append(f'<path class="line" d="M20 {y + 8} h22"/>' + text(48, y + 12, "named in the text above", "soft"))
    parts.append(f'<path class="jump" d="M220 {y + 8} h22"/>')
    parts.append(text(248, y + 12, "reached by a message, a registry or a parameter", "soft"))
    return svg(y + 26, walk.title, parts)


def draw_floors() -> str:
    """The floors, the highest on top; the federation's own floors are one box with its parts by floor."""
    title = "The floors: a module imports from its own floor or from lower ones"
    parts, y = [text(20, 30, title, "head")], 46
    for number in range(len(FLOORS) - 1, -1, -1):
        inside = [name for name in FLOORS[number] if name != "fcil"]
        shown = [name.removeprefix("fcil.") for name in inside]
        x, top = 60.0, y
        boxes = []
        for name in shown:
            wide = 7.4 * len(name) + 18
            if x + wide > WIDTH - 14:
                x, y = 60.0, y + 28
            boxes.append(f'<rect class="box" x="{x:g}" y="{y + 4}" width="{wide:g}" height="22" rx="4"/>')
            boxes.append(text(x + 9, y + 19, name, "code"))
            x += wide + 6
        y += 32
        parts.append(f'<rect class="band" x="10" y="{top}" width="{WIDTH - 20}" height="{y - top - 2}" rx="4"/>')
        parts += [text(40, top + 19, str(number), "soft", ' text-anchor="end"'), *boxes]
    return svg(y + 10, title, parts)


def draw_imports(cell: float = 13.4) -> str:
    """A matrix: a dot where the room of the row imports from the room of the column."""
    names, title = rooms(), "Who imports whom: the room of a row from the room of a column"
    left, top = 192.0, 160.0
    parts = [text(20, 30, title, "head")]
    middle = {name: (number + 0.5) * cell for number, name in enumerate(names)}
    for number, name in enumerate(names):
        at, shown = middle[name], name.removeprefix("fcil.")
        if number % 2 == 0:
            wide = left + cell * len(names) - 14
            parts.append(f'<rect class="band" x="14" y="{top + at - cell / 2:g}" width="{wide:g}" height="{cell}"/>')
        parts.append(text(left - 8, top + at + 4, shown, "code small", ' text-anchor="end"'))
        parts.append(text(34, top + at + 4, str(floor(name)), "soft small", ' text-anchor="end"'))
        turn = f' transform="rotate(-60 {left + at + 3:g} {top - 8:g})"'
        parts.append(text(left + at + 3, top - 8, shown, "code small", turn))
        parts.append(f'<rect class="box" x="{left + at - 2:g}" y="{top + at - 2:g}" width="4" height="4"/>')
    for (source, target), count in sorted(arrows().items()):
        radius = min(5.2, 1.8 + 0.8 * count**0.5)
        place = f'cx="{left + middle[target]:g}" cy="{top + middle[source]:g}" r="{radius:.2f}"'
        parts.append(f'<circle class="dot" {place}/>')
    height = top + cell * len(names) + 34
    say = "number: the floor; large dot: many modules; all dots are right of the diagonal, or in one floor"
    parts.append(text(20, height - 12, say, "soft"))
    return svg(height, title, parts)


def pictures() -> dict[Path, str]:
    drawn = {"floors": draw_floors(), "imports": draw_imports()}
    drawn |= {f"walk_{walk.name}": draw_walk(walk) for walk in walks()}
    return {HERE / "pictures" / f"{name}.svg": picture for name, picture in drawn.items()}


# The table ----------------------------------------------------------------------------------------


def table() -> str:
    """Every room: its floor, its name and the first sentence of its docstring."""
    lines = ["| floor | room | what is there |", "|--:|---|---|"]
    for name in rooms():
        where = "/".join(name.split("."))
        path = where if (ROOT / where).is_dir() else f"{where}.py"
        about = (ast.get_docstring(modules()[name]) or "").split("\n")[0]
        lines.append(f"| {floor(name)} | [`{path}`](../{path}) | {about} |")
    return "\n".join(lines)


def rooms_in(page: str) -> list[str]:
    """Floor and room of each row of the page's table; what is said of them may be worded anew."""
    part = page.partition(BEGIN)[2].partition(END)[0]
    return [line.rpartition(" | ")[0] for line in part.splitlines() if line.startswith("| ")]


def outdated() -> list[str]:
    """What of the page is not as the code is, a line each."""
    found = broken_hops()
    if rooms_in(PAGE.read_text(encoding="utf-8")) != rooms_in(f"{BEGIN}\n{table()}\n{END}"):
        found.append("architecture.md: its table has other rooms or floors")
    if not found:
        stale = [p for p, drawn in pictures().items() if not p.is_file() or p.read_text(encoding="utf-8") != drawn]
        found += [f"pictures/{path.name} is out of date" for path in stale]
    return found


def write() -> None:
    for path, drawn in pictures().items():
        path.write_text(drawn, encoding="utf-8")
    page = PAGE.read_text(encoding="utf-8")
    before, after = page.partition(BEGIN)[0], page.partition(END)[2]
    PAGE.write_text(f"{before}{BEGIN}\n{table()}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    if "--check" not in sys.argv and not (wrong := broken_hops()):
        write()
    wrong = outdated()
    print("\n".join(wrong) or "docs/architecture.md and its pictures are as the code is")
    sys.exit(bool(wrong))
