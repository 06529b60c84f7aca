"""The site of the pages: whole, strictly built, and every page in its menu."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest
from test_architecture import ROOT, script

NEEDED = pytest.mark.skipif(
    importlib.util.find_spec("material") is None, reason="needs the extra docs: pip install -e '.[docs]'"
)


@pytest.fixture(scope="module")
def site() -> ModuleType:
    return script("build_site")


def test_a_page_links_to_pages_code_and_folders_of_the_site(site: ModuleType, tmp_path: Path) -> None:
    assert site.stage(out=tmp_path) == []
    pages = tmp_path / "pages"
    methods = (pages / "methods.md").read_text(encoding="utf-8")
    assert "](source/fcil/strategy.py.md)" in methods
    assert "](measured/index.md#distillation-without-data)" in methods
    assert (ROOT / "fcil/strategy.py").read_text(encoding="utf-8") in (pages / "source/fcil/strategy.py.md").read_text()
    assert "](settings.md)" in (pages / "index.md").read_text(encoding="utf-8")
    for page in pages.rglob("*.md"):
        prose = re.sub(r"^(`{3,}).*?^\1$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
        for link in re.findall(r"\]\(([^)#\s]+)", prose):
            assert "://" in link or (page.parent / link).is_file(), f"{page}: {link}"


def test_a_dead_link_is_named(site: ModuleType, tmp_path: Path) -> None:
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "glossary.md").write_text("[gone](gone.md), [outside](../../x.md), [well](https://flower.ai)\n")
    found = site.Site(tmp_path, tmp_path / "pages")
    found.place("docs/glossary.md")
    assert found.dead == ["docs/glossary.md: gone.md", "docs/glossary.md: ../../x.md"]


def test_every_page_is_in_the_menu_and_one_that_is_not_is_named(site: ModuleType) -> None:
    config = (ROOT / "docs/mkdocs.yml").read_text(encoding="utf-8")
    assert site.outside_nav(config, set(site.PAGES.values())) == []
    assert site.outside_nav(config, {"stray.md", "source/fcil/roles.py.md"}) == ["stray.md"]


def test_no_page_hides_another(site: ModuleType) -> None:
    assert site.same_address(set(site.PAGES.values())) == []
    assert site.same_address({"a.md", "a/index.md", "b/index.md"}) == ["a.md"]


@NEEDED
def test_the_site_is_built_strictly(site: ModuleType, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert site.build(tmp_path) == 0, capfd.readouterr().out
    assert (tmp_path / "site/tutorial/index.html").is_file()
    (tmp_path / "pages/methods.md").write_text("[gone](gone.md)\n")
    assert site.built(tmp_path) == 1
    assert "gone.md" in capfd.readouterr().out
