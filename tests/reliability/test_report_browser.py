"""The page of `fcil report` in a real browser: nothing is complained of, nothing overflows, figures answer.

    pytest -m slow tests/reliability/test_report_browser.py

Needs Chromium or Chrome, driven over its DevTools protocol. `FCIL_SCREENSHOTS` names a folder that
gets a picture of each page, for people to look at.
"""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from browser import BROWSER, FIGURES, Tab, started
from run_folders import make_results, make_run, tell_below

from fcil.profiling.flame import flame_page
from fcil.profiling.phases import MEANING, frame_of
from fcil.profiling.profile import Key, Profile, Spent
from fcil.report import write_report
from fcil.report.watch import server
from fcil.store import RunFolder

WIDTHS = (400, 1400)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome is installed"),
]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Tab]]:
    with started(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two strategies, two seeds, all that lies below the task, a run that goes on, and samples of another seed."""
    folder = tmp_path_factory.mktemp("runs")
    make_results(folder)
    for run in folder.rglob("seed*"):
        tell_below(RunFolder(run), int(run.name[4:]))
    make_run(folder, "lander", 7, variant="00000001", stop_after=1)
    return write_report([folder], folder / "page.html").as_uri()


@contextmanager
def served(folder: Path) -> Iterator[str]:
    with server([folder]) as found:
        thread = threading.Thread(target=found.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{found.server_address[1]}/"
        found.shutdown()
        thread.join()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_overflows_and_nothing_is_complained_of(
    browser: Callable[[], Tab], page: str, width: int, scheme: str
) -> None:
    tab = browser()
    tab.open(page, width, scheme=scheme)
    assert tab.ask("document.documentElement.scrollWidth") <= width
    count = tab.ask(f"{FIGURES}.length")
    assert count >= 10
    for number in range(count):
        tab.plot(number)
    drawn = f"{FIGURES}.filter((f) => f.querySelector('path.line[d^=M], path.cells[d^=M]')).length"
    assert tab.ask(drawn) == count
    outside = """[...document.querySelectorAll('main *')].filter((e) => e.getBoundingClientRect().right > innerWidth + 1
        && !e.closest('.scroll, nav ul, svg')).map((e) => e.outerHTML.slice(0, 120))"""
    assert tab.ask(outside) == []
    tab.ask("scrollTo({top: 0, behavior: 'instant'})")
    tab.shoot(f"tiny-{width}-{scheme}")
    assert tab.complaints == []
    assert [url for url in tab.requests if not url.startswith(("file:", "data:"))] == []


def test_the_page_of_a_profile_shows_its_phases_and_loads_nothing(browser: Callable[[], Tab], tmp_path: Path) -> None:
    profile = Profile()
    for number, phase in enumerate(MEANING):
        frames = tuple(frame_of(name, f"/x/{name}.py") for name in ("outer", "inner"))
        profile.add(Key(1, None, phase), Spent(number + 1.0, 1.0), frames)
    path = tmp_path / "profile.html"
    path.write_text(flame_page(profile, "tiny"), encoding="utf-8")
    tab = browser()
    tab.open(path.as_uri())
    tab.until("document.querySelectorAll('input[type=radio]').length === 2")
    text = tab.ask("document.body.innerText")
    assert [phase for phase in MEANING if phase not in text] == []
    tab.ask("document.querySelectorAll('input[type=radio]')[1].click()")  # the timeline, which is the flame graph
    tab.until("document.querySelector('canvas') !== null")
    tab.shoot("profile")
    assert tab.complaints == []
    assert [url for url in tab.requests if not url.startswith(("file:", "data:"))] == []


def test_a_figure_tells_values_zooms_and_hides_lines(browser: Callable[[], Tab], page: str) -> None:
    tab = browser()
    tab.open(page)
    titles = tab.ask(f"{FIGURES}.map((f) => f.querySelector('h4').textContent)")
    number = titles.index("Accuracy after each task")
    figure = f"{FIGURES}[{number}]"
    box = tab.plot(number)
    left, right, middle = box["left"], box["left"] + box["width"], box["top"] + box["height"] / 2
    tab.mouse("mouseMoved", right - 20, middle)
    told = tab.ask("document.getElementById('tip').innerText")
    assert "tasks learnt: 3" in told
    assert "finetune" in told
    assert "lander" in told
    tab.mouse("mousePressed", left + 5, middle, button="left", clickCount=1)
    tab.mouse("mouseMoved", left + box["width"] / 2, middle, button="left", buttons=1)
    tab.mouse("mouseReleased", left + box["width"] / 2, middle, button="left", clickCount=1)
    assert tab.ask(f"{figure}.classList.contains('zoomed')")
    assert float(tab.ask(f"{figure}.querySelector('.plot svg').getAttribute('viewBox')").split()[2]) < 600
    tab.ask(f"{figure}.querySelector('[data-do=whole]').click()")
    assert tab.ask(f"{figure}.querySelector('.plot svg').getAttribute('viewBox')") == "0 0 1000 1000"
    tab.ask(f"{figure}.querySelector('.legend button').click()")
    assert tab.ask(f"getComputedStyle({figure}.querySelector('g[data-line]')).display") == "none"
    tab.ask(f"{figure}.querySelector('.plot').focus()")
    tab.do("Input.dispatchKeyEvent", type="keyDown", key="ArrowRight")
    told = tab.ask("document.getElementById('tip').innerText")
    assert "tasks learnt: 3" in told
    assert told.count("lander") + told.count("finetune") == 1
    assert tab.complaints == []


def test_a_heat_map_tells_its_cells(browser: Callable[[], Tab], page: str) -> None:
    tab = browser()
    tab.open(page)
    number = tab.ask(f"{FIGURES}.findIndex((f) => f.classList.contains('heat'))")
    box = tab.plot(number)
    tab.mouse("mouseMoved", box["left"] + 4, box["top"] + 4)
    told = tab.ask("document.getElementById('tip').innerText")
    assert "tasks learnt 1, task tested 1" in told
    assert "seed 0" in told
    tab.ask(f"{FIGURES}[{number}].querySelector('[data-do=in]').click()")
    assert tab.ask(f"{FIGURES}[{number}].classList.contains('zoomed')")
    assert tab.complaints == []


def test_a_watched_page_takes_in_what_is_new_and_stays_where_it_was(browser: Callable[[], Tab], tmp_path: Path) -> None:
    make_results(tmp_path, seeds=(0,))
    tab = browser()
    with served(tmp_path) as url:
        tab.open(url, height=500)
        number = 0
        tab.plot(number)
        tab.ask(f"{FIGURES}[{number}].querySelector('[data-do=in]').click()")
        tab.until("document.querySelector('.pulse').textContent === 'Watching'")
        place = tab.ask("scrollY")
        assert place > 0
        make_run(tmp_path, "lander", 5, variant="00000001", stop_after=2)
        tab.until("document.getElementById('running') !== null")
        assert "lander" in tab.ask("document.getElementById('running').innerText")
        tab.until(f"{FIGURES}.some((f) => f.classList.contains('zoomed'))")
        assert tab.complaints == []
    tab.until("document.body.classList.contains('ended')")


def test_ctrl_c_ends_watching_without_a_word(tmp_path: Path) -> None:
    make_run(tmp_path, "finetune", 0)
    command = [sys.executable, "-m", "fcil", "report", str(tmp_path), "--watch"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert re.match(r"http://127\.0\.0\.1:\d+/ ", process.stdout.readline())
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    assert (process.returncode, out, err) == (130, "", "")
