"""The page of the architecture, its pictures and the list of settings say what the code says."""

from __future__ import annotations

import ast
import importlib.util
import re
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "results/README.md"])


def script(name: str) -> ModuleType:
    """A program of `docs/` as a module of its own."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def drawing() -> ModuleType:
    return script("draw_architecture")


def test_every_hop_of_the_walks_is_in_the_code(drawing: ModuleType) -> None:
    assert drawing.broken_hops() == []
    assert [walk.name for walk in drawing.walks()] == ["image", "key", "pool"]
    assert all(len(walk.hops) > 20 for walk in drawing.walks())


def test_pictures_and_rooms_are_up_to_date(drawing: ModuleType) -> None:
    assert drawing.outdated() == [], "run: python docs/draw_architecture.py"


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("fcil.averaging:weighted_median", "there is no fcil.averaging:weighted_median"),
        ("fcil.roles:Client.trane", "there is no fcil.roles:Client.trane"),
        ("fcil.nowhere:f", "there is no fcil.nowhere:f"),
        ("fcil.averaging:weighted_mean\n  fcil.losses:bounding", "weighted_mean does not name bounding"),
    ],
)
def test_a_hop_that_is_gone_is_named(
    drawing: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, complaint: str
) -> None:
    (tmp_path / "walks.txt").write_text(f"# a: b\n== c\n{line}\n")
    with monkeypatch.context() as patch:
        patch.setattr(drawing, "HERE", tmp_path)
        drawing.walks.cache_clear()
        (said,) = drawing.broken_hops()
    drawing.walks.cache_clear()
    assert complaint in said


def test_every_word_of_the_glossary_is_in_the_code(drawing: ModuleType) -> None:
    places = re.findall(r"`(fcil[\w.]*:[\w.]+)` \|$", (ROOT / "docs/glossary.md").read_text(), flags=re.MULTILINE)
    assert len(places) > 10
    assert [place for place in places if drawing.definition(place) is None] == []


def names_in(file: Path) -> set[str]:
    """Return the names that code reads, writes, defines, takes or imports: no word of a string or a comment."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        for attribute in ("id", "attr", "name", "arg", "module"):
            value = getattr(node, attribute, None)
            found |= set(value.split(".")) if isinstance(value, str) else set()
    return found


def test_every_name_of_the_glossary_is_one_in_the_code() -> None:
    _, words = (ROOT / "docs/glossary.md").read_text().split("## Words of the code")
    said = [
        word
        for row in re.findall(r"^\| ([^|]+) \| [^|]+ \| `fcil", words, flags=re.MULTILINE)
        for word in row.split(", ")
    ]
    known = set().union(*(names_in(file) for part in ("fcil", "strategies") for file in (ROOT / part).rglob("*.py")))
    assert len(said) > 25
    assert [word for word in said if word not in known] == []


def test_the_list_of_settings_is_complete() -> None:
    assert script("list_settings").outdated() == [], "run: python docs/list_settings.py"


def test_the_reference_is_what_the_code_says() -> None:
    assert script("list_reference").outdated() == [], "run: python docs/list_reference.py"


def test_the_citation_file_has_the_version_of_the_package() -> None:
    cited = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert f"version: {project['version']}\n" in cited
    assert "doi" not in cited


def anchors_of(page: Path) -> set[str]:
    """What a link into a page may end in: its headings, as GitHub names them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    for link in (link for link in links if "://" not in link):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors_of(target), link
