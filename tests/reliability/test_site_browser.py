"""The site of the pages in a real browser: each page at the width of a phone and of a desk, and every link of it.

    pytest -m slow tests/reliability/test_site_browser.py

Needs Chromium or Chrome and the extra `docs`. `FCIL_SCREENSHOTS` names a folder that gets a picture of each page.
"""

from __future__ import annotations

import importlib.util
import json
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest
from browser import BROWSER, Tab, started

ROOT = Path(__file__).parents[2]
WIDTHS = (400, 1400)
LINKS = "[...document.querySelectorAll('a[href], img[src], script[src], link[href]')].map((e) => e.href || e.src)"
WIDE = """[...document.querySelectorAll('article *, header *, footer *')].filter((e) => {
    const box = e.getBoundingClientRect();
    return box.width && box.right > innerWidth + 1 && !e.closest('pre, .md-typeset__scrollwrap, .md-tabs, .md-search');
}).map((e) => e.outerHTML.slice(0, 120))"""
"""What sticks out of the page and cannot be scrolled to on its own."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome is installed"),
    pytest.mark.skipif(importlib.util.find_spec("material") is None, reason="needs the extra docs"),
]


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Tab]]:
    with started(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site as it is built."""
    spec = importlib.util.spec_from_file_location("build_site", ROOT / "docs/build_site.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    folder = tmp_path_factory.mktemp("site")
    assert module.build(folder) == 0
    return folder / "site"


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(site))) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{served.server_address[1]}/"
        served.shutdown()


def pages(site: Path) -> list[str]:
    """Addresses of the pages that a menu has; those that show a file of code are as many again."""
    every = sorted(str(path.parent.relative_to(site)) for path in site.rglob("index.html"))
    return [page for page in every if not page.startswith("source")]


@pytest.mark.parametrize("width", WIDTHS)
def test_every_page_fits_and_complains_of_nothing(
    browser: Callable[[], Tab], site: Path, address: str, width: int
) -> None:
    tab, wrong = browser(), {}
    for page in pages(site):
        tab.open(f"{address}{'' if page == '.' else f'{page}/'}", width)
        tab.until("document.querySelector('.md-header') !== null")
        found = [f"wide: {part}" for part in tab.ask(WIDE)]
        if tab.ask("document.documentElement.scrollWidth") > width:
            found.append("the page scrolls sideways")
        if tab.ask("[...document.images].some((i) => i.loading !== 'lazy' && !i.naturalWidth)"):
            found.append("a picture is missing")
        if found or tab.complaints:
            wrong[page] = [*found, *tab.complaints]
        tab.shoot(f"site-{page.replace('/', '-')}-{width}")
        tab.complaints.clear()
    assert wrong == {}
    assert [url for url in tab.requests if not url.startswith((address, "data:"))] == []


def test_every_link_leads_somewhere(browser: Callable[[], Tab], site: Path, address: str) -> None:
    tab, dead = browser(), []
    anchors: dict[Path, str] = {}
    for page in pages(site):
        url = f"{address}{'' if page == '.' else f'{page}/'}"
        tab.open(url)
        for link in sorted(set(tab.ask(LINKS))):
            target, anchor = urldefrag(link)
            if not target.startswith(address):
                continue
            path = site / unquote(target.removeprefix(address))
            path = path / "index.html" if path.is_dir() else path
            if not path.is_file():
                dead.append(f"{page}: {link}")
            elif anchor and path.suffix == ".html":
                text = anchors.setdefault(path, path.read_text(encoding="utf-8"))
                if f'id="{unquote(anchor)}"' not in text and f"id={json.dumps(unquote(anchor))}" not in text:
                    dead.append(f"{page}: {link}")
    assert dead == []
