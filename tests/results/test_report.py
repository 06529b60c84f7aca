"""`fcil report`: one page that holds everything, needs no network, and believes nothing that a folder says."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from command_line import Command, assert_refused
from run_folders import make_record, make_results, make_run

from fcil.errors import ConfigError, StoreError
from fcil.plots.look.colours import CYCLE, HOUSE
from fcil.report import report, write_report
from fcil.report.figures import MOST_POINTS, STEPS, Heat, Line, Lines, thinned
from fcil.report.watch import Watch, server

HOSTILE = "<script>alert(1)</script>"


class Page(HTMLParser):
    """What a browser would find: tags with their attributes, text by the tag around it, data of figures by id."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self._open = [""]
        self.feed(html.replace("<wbr>", ""))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self._open:
            while self._open.pop() != tag:
                pass

    def handle_data(self, data: str) -> None:
        self.texts.append((self._open[-1], data))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def text(self, *tags: str) -> list[str]:
        return [" ".join(text.split()) for tag, text in self.texts if tag in tags and text.strip()]

    @property
    def figures(self) -> dict[str, list[dict[str, Any]]]:
        """The data of figures by title."""
        data = [json.loads(t) for tag, t in self.texts if tag == "script" and t.startswith("{")]
        titles = [title for title in self.text("h4") if title != "Synthetic samples"]
        found: dict[str, list[dict[str, Any]]] = {}
        for title, one in zip(titles, data, strict=True):
            found.setdefault(title, []).append(one)
        return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two strategies, two seeds; one more run that goes on, one that is damaged, one with a single seed."""
    folder = tmp_path_factory.mktemp("runs")
    make_results(folder)
    make_run(folder, "lander", 7, variant="00000001", stop_after=1)
    make_run(folder, "fedewc", 0, variant="00000005")
    damaged = make_run(folder, "fot", 0, variant="00000006")
    damaged.accuracy.write_text("trained_task\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def page(folder: Path) -> Page:
    return Page(report([folder]))


# The whole page -----------------------------------------------------------------------------------


def test_the_page_loads_nothing_from_anywhere(page: Page, folder: Path) -> None:
    addresses = [v for _, a in page.tags for k, v in a.items() if k in ("src", "href", "srcset", "action", "data")]
    assert addresses
    assert [a for a in addresses if not (a or "").startswith(("#", "data:"))] == []
    assert {name for name, _ in page.tags} & {"iframe", "object", "embed", "base", "form"} == set()
    styles, scripts = "".join(page.text("style")), "".join(t for _, t in page.texts)
    assert "url(" not in styles
    assert "@import" not in styles
    assert "http://" not in scripts
    assert "https://" not in scripts
    (policy,) = [a["content"] for a in page.all("meta") if a.get("http-equiv")]
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "connect-src 'none'" in policy


def test_every_table_and_figure_is_there_and_says_unit_and_n(page: Page) -> None:
    assert {"Accuracy after each task", "Forgetting", "Accuracy by round", "Bytes sent so far", "Accuracy on each task",
            "Accuracy matrix", "Terms of the loss", "Synthetic samples"} <= set(page.text("h4"))  # fmt: skip
    assert any(title.startswith("Examples by client and class") for title in page.text("h4"))
    captions = page.text("caption", "span")
    for part in ("Percent; forgetting", "Points; plasticity", "Of a whole run", "Where the time went", "One run a line",
                 "Wilcoxon", "How far runs have come"):  # fmt: skip
        assert any(part in caption for caption in captions), part
    heads = page.text("th")
    for name in ("chaudhry_including_last", "first", "first_over_T", "lander", "libcontinual"):
        assert f"forgetting ({name})" in heads
    figures = [a for a in page.all("figure") if "figure" in (a["class"] or "")]
    assert len(figures) == sum(map(len, page.figures.values()))
    assert len({a["id"] for a in figures}) == len(figures)
    assert page.tags.count(("figcaption", {})) == len(page.all("figure"))
    assert all(a.get("alt") for a in page.all("img"))
    assert all(a.get("aria-label") for a in page.all("div") if a.get("tabindex"))


def test_numbers_are_those_of_the_comparison(page: Page, folder: Path) -> None:
    from fcil.compare import compare
    from fcil.compare.write import METRICS, cell
    from fcil.store import find_runs

    (split,) = compare(find_runs([folder])).splits
    for entry in split.entries:
        for name in ("final_accuracy", "forgetting", "forgetting_lander"):
            mean, _, interval = cell(entry.spreads[name], METRICS[name], bounds=True).partition(" ")
            interval = interval.partition("[")[2]
            assert any(text.startswith(f"{mean} ") or text == mean for text in page.text("td"))
            assert not interval or f"[{interval}" in page.text("small")
    assert "strong" not in {name for name, _ in page.tags}  # two seeds are no reason to call anything the best
    assert any("below 5 nothing is called the best" in line for line in page.text("li"))


def test_the_best_is_in_bold_only_where_the_comparison_says_so(tmp_path: Path) -> None:
    make_results(tmp_path, ("finetune", "fedewc"), seeds=range(5))
    assert any("±" in text for text in Page(report([tmp_path])).text("strong"))


def test_a_band_reaches_from_the_least_to_the_greatest_seed(page: Page, folder: Path) -> None:
    from fcil.plots.comparison import accuracy_curve
    from fcil.store import find_runs

    lines = {line["name"]: line for line in page.figures["Accuracy after each task"][0]["lines"]}
    curves = np.stack([accuracy_curve(r) for r in find_runs([folder]) if r.strategy == "lander"])
    assert lines["lander"]["y"] == pytest.approx(curves.mean(axis=0), rel=1e-3)
    assert lines["lander"]["low"] == pytest.approx(curves.min(axis=0), rel=1e-3)
    assert lines["lander"]["high"] == pytest.approx(curves.max(axis=0), rel=1e-3)
    assert "low" not in lines["fedewc"]  # one seed has no range
    assert any("n from 1 to 2" in text for text in page.text("p"))


def test_what_is_left_out_is_named_and_what_goes_on_is_shown(page: Page) -> None:
    assert any("fot-00000006" in line and "accuracy.csv" in line for line in page.text("li"))
    rows = page.text("th", "td")
    at = rows.index("last wrote")
    assert rows[at + 1 : at + 5] == ["lander", "7", "1 of 3", "4 of 4"]
    assert "33 %" in rows
    assert any("seed7" in text for text in page.text("summary"))


def test_colours_are_those_of_the_other_figures(page: Page) -> None:
    style = "".join(t for tag, t in page.texts if tag == "style")
    assert all(f"--c{i}:{colour};" in style for i, colour in enumerate(CYCLE))
    assert "prefers-color-scheme: dark" in style


# Strangers ----------------------------------------------------------------------------------------


def test_nothing_that_a_folder_says_becomes_a_part_of_the_page(tmp_path: Path) -> None:
    run = make_run(tmp_path, "lander", 0)
    config = yaml.safe_load(run.config.read_text())
    config["name"], config["data"]["dataset"], config["strategy"]["lander"] = HOSTILE, HOSTILE, {HOSTILE: HOSTILE}
    run.write_config(config)
    partition = json.loads(run.partition.read_text())
    partition["class_names"] = [f"{HOSTILE}{i}" for i in range(len(partition["class_names"]))]
    run.partition.write_text(json.dumps(partition))
    failed = {"client": HOSTILE, "kind": HOSTILE, "outcome": HOSTILE, "reason": f"</script>{HOSTILE}"}
    records = [make_record(t, r) | {"failures": [failed], "terms": {HOSTILE: 1.0}} for t in (1, 2, 3) for r in (1, 2)]
    run.rounds.write_text("".join(json.dumps(r) + "\n" for r in records))
    other = make_run(tmp_path, "finetune", 0, stop_after=1)
    other.log.write_text(f"{HOSTILE}\n</pre>{HOSTILE}\n\x1b[31m")
    (other.path / "failure.json").write_text(json.dumps({"error": HOSTILE, HOSTILE: [HOSTILE]}))
    bad = make_run(tmp_path, "fot", 0)
    bad.summary.write_text(f"{HOSTILE}")
    html = report([tmp_path])
    page = Page(html)
    assert HOSTILE not in html
    assert len([a for a in page.all("script") if a.get("type") != "application/json"]) == 1
    shown = [(tag, text[:90]) for tag, text in page.texts if HOSTILE in text]
    assert len(shown) > 10, shown  # as text
    assert HOSTILE in page.figures["Terms of the loss"][0]["lines"][0]["name"]


def test_a_picture_that_is_none_is_named_and_left_out(tmp_path: Path) -> None:
    run = make_run(tmp_path, "lander", 0)
    assert len(Page(report([tmp_path])).all("img")) == 2
    last = max(run.synthetic.glob("*.png"))
    last.write_bytes(b"<svg onload=alert(1)>")
    page = Page(report([tmp_path]))
    assert len(page.all("img")) == 1
    assert any(f"{last}: left out (not a PNG" in line for line in page.text("li"))


# Other folders ------------------------------------------------------------------------------------


def test_settings_that_differ_have_a_column_for_each_group(tmp_path: Path) -> None:
    make_run(tmp_path, "lander", 0, variant="00000001", radius=0.1, same=1)
    make_run(tmp_path, "lander", 0, variant="00000002", radius=0.2, same=1)
    other = make_run(tmp_path, "finetune", 0, variant="00000003")
    config = yaml.safe_load(other.config.read_text())
    config["federation"]["rounds"] = 9
    other.write_config(config)
    rows = Page(report([tmp_path])).text("th", "td")
    at = rows.index("setting")
    assert rows[at : at + 4] == ["setting", "finetune", "lander (radius 0.1)", "lander (radius 0.2)"]
    assert rows[at + 4 : at + 8] == ["federation.rounds", "9", "4", "4"]
    assert "strategy.lander.radius" in rows
    assert "strategy.lander.same" not in rows


def test_a_distillation_has_no_forgetting_and_is_drawn_by_round(tmp_path: Path) -> None:
    for seed in (0, 1):
        make_run(tmp_path, "distill", seed, tasks=1, clients=1)
    figures = Page(report([tmp_path])).figures
    assert {"Accuracy by round", "Terms of the loss"} <= figures.keys()
    assert not {"Accuracy after each task", "Forgetting", "Accuracy matrix"} & figures.keys()


def test_what_so_few_tasks_do_not_define_has_a_column_that_says_so(tmp_path: Path) -> None:
    make_results(tmp_path, tasks=2)
    page = Page(report([tmp_path]))
    assert "forgetting (libcontinual)" in page.text("th")
    assert page.text("td").count("n/a") == 2


def test_activity_and_failure_cards_are_told_where_there_are_some(tmp_path: Path) -> None:
    run = make_run(tmp_path, "lander", 0)
    summary = json.loads(run.summary.read_text())
    told = {"terms": {"kd": [None, 0.25, 0.5]}, "samples": [640, HOSTILE, 0]}
    run.summary.write_text(json.dumps(summary | {"activity": told, "inert": ["nothing was drawn"]}))
    dead = make_run(tmp_path, "lander", 1, stop_after=1)
    (dead.path / "failure.json").write_text(json.dumps({"error": "TrainingError: it broke", "log": ["a"]}))
    page = Page(report([tmp_path]))
    rows = page.text("th", "td")
    assert rows[rows.index("share of the loss: kd") + 1 :][:3] == ["–", "25.0 %", "50.0 %"]
    assert rows[rows.index("synthetic samples") + 1 :][:3] == ["640", "–", "0"]
    assert "nothing was drawn (seed 0)" in page.text("li")
    assert rows[rows.index("error") + 1] == "TrainingError: it broke"


def test_the_marks_after_names_are_explained_below_the_table(tmp_path: Path) -> None:
    run = make_run(tmp_path, "lander", 0)
    summary = json.loads(run.summary.read_text())
    run.summary.write_text(json.dumps(summary | {"mixed": {"threads": [1, 2]}, "inert": ["nothing was drawn"]}))
    page = Page(report([tmp_path]))
    assert "lander ‡ §" in page.text("td", "th")
    assert any("‡ an ingredient did nothing" in text and "§ went on" in text for text in page.text("span"))
    assert any("lander went on in another environment: threads 1 and 2" in text for text in page.text("li"))


def test_a_long_run_is_thinned_and_says_so(tmp_path: Path) -> None:
    make_run(tmp_path, "lander", 0, rounds=400)
    html = report([tmp_path])
    page = Page(html)
    (terms,) = page.figures["Terms of the loss"]
    assert len(terms["x"]) < MOST_POINTS + 10
    assert {1, 401, 801, 1200} <= {*terms["x"]}
    assert any(re.search(r"\d+ of 1200 rounds are drawn", text) for text in page.text("p"))
    assert len(html) < 500_000


def test_a_page_without_runs_is_refused_in_a_line(command: Command, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert_refused(command("report", "empty"), "empty: no run there")
    assert_refused(command("report", "nowhere"), "nowhere: no such folder")
    make_run(tmp_path / "runs", "finetune", 0)
    assert_refused(command("report", "runs", "--out", "empty"), "empty: is a folder; --out names a file")
    assert_refused(
        command("report", "runs", "--out", "x.html", "--watch"), "--watch serves the page and --out writes it"
    )
    assert list((tmp_path / "empty").iterdir()) == []
    said = command("report", "runs")
    assert (said.code, said.out, said.err) == (0, "runs/report.html\n", "")
    assert (tmp_path / "runs" / "report.html").read_text().startswith("<!DOCTYPE html>")


def test_the_page_is_the_same_when_it_is_made_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.strftime", lambda *_: "now")
    first = write_report([folder], tmp_path / "a.html").read_bytes()
    assert write_report([folder], tmp_path / "b.html").read_bytes() == first


# Geometry -----------------------------------------------------------------------------------------


def lines(*y: Any, **more: Any) -> Lines:
    known: dict[str, Any] = {"key": "k", "title": "t", "caption": "c", "x_label": "x", "y_label": "y"}
    x = more.pop("x", range(1, len(y[0]) + 1))
    return Lines(**known, x=x, lines=[Line(name=str(i), y=v) for i, v in enumerate(y)], **more)


def test_a_line_pauses_where_a_task_begins_and_where_a_value_is_missing() -> None:
    assert lines([1, 2, 3, 4]).path(Line(name="", y=[1, 2, 3, 4])).count("M") == 1
    apart = lines([1, 2, 3, 4], starts=[1, 3])
    assert apart.path(apart.lines[0]).count("M") == 2
    holed = lines([1, 2, None, 3, 4])
    assert holed.path(holed.lines[0]).count("M") == 2
    assert lines([1, None, 3], joined=True).path(Line(name="", y=[1, None, 3])).count("M") == 1
    alone = lines([None, 5.0, None], x=range(1, 4))
    assert alone.path(alone.lines[0]) == ""
    assert alone.dots(alone.lines[0]).count("M") == 1


def test_a_plot_holds_its_lines_and_zero() -> None:
    left, right, bottom, top = lines([20.0, 80.0]).span
    assert (bottom, top) == (0.0, pytest.approx(84.0))
    assert left < 1 < 2 < right
    assert lines([-5.0, 5.0]).span[2] < -5
    assert [t.text for t in lines([20.0, 80.0]).y_ticks] == ["0", "20", "40", "60", "80"]
    assert lines([None, None]).y_ticks[0].text == "0"
    assert all(0 <= t.place <= 100 for t in lines([-5.0, 1e9]).y_ticks)


def test_terms_two_decades_apart_are_drawn_on_a_log_scale() -> None:
    wide = lines([0.001, 1.0], starts=[1])
    assert wide.log
    assert [t.text for t in wide.y_ticks] == ["1", "0.1", "0.01", "0.001"][::-1]
    assert not lines([0.0, 1.0], starts=[1]).log
    assert not lines([0.001, 1.0]).log


def test_a_heat_map_is_dark_where_there_is_much_and_empty_where_there_is_nothing() -> None:
    heat = Heat(key="k", title="t", caption="c", x_label="class", y_label="client", x_names=["a", "b"], y_names=["0"],
                values=np.array([[10.0, np.nan]]))  # fmt: skip
    assert heat.shades == [(STEPS - 1, "M0,0h1v1h-1z")]
    assert heat.data["values"] == [[10, None]]
    assert [n["text"] for n in heat.numbers] == ["10"]


@pytest.mark.parametrize("count", [1, 2, MOST_POINTS, MOST_POINTS + 1, 10_000])
def test_thinning_keeps_the_ends(count: int) -> None:
    found = thinned(count, [1])
    assert found[0] == 0
    assert found[-1] == count - 1
    assert len(found) <= MOST_POINTS + 1
    assert found == sorted(set(found))


# Watching -----------------------------------------------------------------------------------------


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, int]]:
    monkeypatch.setattr("fcil.report.watch.SHARE", 1e9)  # nobody is slowed down here
    make_run(tmp_path, "finetune", 0)
    with server([tmp_path]) as found:
        thread = threading.Thread(target=found.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield tmp_path, found.server_address[1]
        found.shutdown()
        thread.join()


def ask(port: int, path: str = "/", method: str = "GET", **headers: str) -> tuple[int, http.client.HTTPMessage, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
    answer = connection.getresponse()
    return answer.status, answer.headers, answer.read().decode()


def test_the_watched_page_is_for_this_machine_alone(watched: tuple[Path, int]) -> None:
    _, port = watched
    status, headers, body = ask(port)
    assert status == 200
    assert headers["X-Frame-Options"] == "DENY"
    assert any("connect-src 'self'" in (a.get("content") or "") for a in Page(body).all("meta"))
    assert ask(port, Host=f"localhost:{port}")[0] == 200
    for name in ("evil.example", f"evil.example:{port}", "127.0.0.1", f"127.0.0.1:{port + 1}"):
        assert ask(port, Host=name)[0] == 421
    assert ask(port, "/../etc/passwd")[0] == 404
    assert ask(port, method="HEAD")[2] == ""
    assert ask(port, method="POST")[0] == 501
    assert ask(port, If_None_Match=headers["ETag"])[0] == 304


def test_the_server_listens_on_the_loopback_address_alone(tmp_path: Path) -> None:
    with server([tmp_path]) as found:
        assert found.server_address[0] == "127.0.0.1"
        port = found.server_address[1]
        with pytest.raises(ConfigError, match=rf"--port {port} cannot be had \(Address already in use\)"):
            server([tmp_path], port)


def test_a_page_is_made_again_only_when_a_run_has_written_something(tmp_path: Path) -> None:
    now = [0.0]
    make_run(tmp_path, "finetune", 0)
    watch = Watch([tmp_path], clock=lambda: now[0])
    first = watch.page()
    assert b'id="running"' not in first[0]
    now[0] += 100
    assert watch.page() is not first
    assert watch.page() == first
    make_run(tmp_path, "lander", 3, stop_after=2)
    now[0] += 100
    page, tag = watch.page()
    assert tag != first[1]
    assert b"2 of 3" in page


def test_a_folder_that_is_still_empty_can_be_watched_and_one_that_is_not_there_cannot(tmp_path: Path) -> None:
    assert b"There is no run in these folders yet" in Watch([tmp_path]).page()[0]
    with pytest.raises(StoreError, match="no such folder"):
        server([tmp_path / "nowhere"])


def test_a_folder_that_vanishes_is_said_to_the_browser(watched: tuple[Path, int]) -> None:
    folder, port = watched
    assert ask(port)[0] == 200
    shutil.rmtree(folder)
    status, _, said = ask(port)
    folder.mkdir()
    assert (status, said) == (503, f"{folder}: no such folder\n")


def test_a_busy_port_is_one_line(command: Command, tmp_path: Path) -> None:
    make_run(tmp_path / "runs", "finetune", 0)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert_refused(command("report", "runs", "--watch", "--port", port), f"--port {port} cannot be had")


def test_ctrl_c_ends_watching_without_a_word(
    command: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("fcil.report.watch.ThreadingHTTPServer.serve_forever", interrupted)
    make_run(tmp_path / "runs", "finetune", 0)
    said = command("report", "runs", "--watch")
    assert (said.code, said.err) == (130, "")
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/ \(Ctrl-C ends it\)\n", said.out)


# As wide as a screen ------------------------------------------------------------------------------

SCREEN = 1310
"""Pixels of a table in a window of 1400."""


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A page of fourteen strategies with settings that differ, one with a long name, and of one with many tasks."""
    top = tmp_path_factory.mktemp("wide")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("run_folders.RunRecorder.synthesis_done", lambda self, task, samples: None)
        for number in range(14):
            name = f"strategy{number}" if number else "a_strategy_with_a_very_long_name_of_its_own_1"
            for seed in (0, 1):
                folder = make_run(top, name, seed, tasks=6, rounds=1, variant=f"{number:08x}")
                config = yaml.safe_load(folder.config.read_text())
                config["optimizer"] = {"lr": 0.1 * (number + 1), "name": "sgd" if number % 2 else "adamw"}
                config["anchors"] = {"encoder": f"sentence-transformers/all-MiniLM-L{number}-v2"}
                folder.write_config(config)
        make_run(top, "strategy1", 0, tasks=30, rounds=1, variant="000000aa")
    return report([top])


def test_tables_are_no_wider_than_a_screen(wide: str) -> None:
    tables = re.findall(r"<table.*?</table>", wide, re.DOTALL)
    assert len(tables) > 20
    for table in tables:
        lines = re.findall(r"<tr>.*?</tr>", table, re.DOTALL)
        rows = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", line, re.DOTALL) for line in lines]
        cells = [[re.sub(r"<wbr>|<br>|<small>", "\n", re.sub(r"</[^>]*>", "", cell)) for cell in row] for row in rows]
        numbers = [set(column[1:]) for column in zip(*cells, strict=True)]
        assert len({len(row) for row in cells}) == 1
        least = 0.0
        for head, column in zip(cells[0], numbers, strict=True):
            told = [line for cell in column for line in cell.split("\n") if re.match(r"[\d\[–-]|n/a", line)]
            least += 23 + 7.6 * max(map(len, [*head.split(), *told]))
        assert least <= SCREEN, re.findall(r"<caption>.*?</caption>", table)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs a browser")
def test_no_table_scrolls_sideways_in_a_window_of_1400_pixels(wide: str, tmp_path: Path) -> None:
    measure = """<script>addEventListener("load", () => {
      for (const one of document.querySelectorAll("details")) one.open = true;
      const wide = [...document.querySelectorAll(".scroll")].filter((one) => one.scrollWidth > one.clientWidth);
      document.title = `wide: ${wide.length} of ${document.querySelectorAll(".scroll").length}`;
    })</script></body>"""
    page = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", wide).replace("</body>", measure)
    (tmp_path / "page.html").write_text(page)
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1400,1000", "--virtual-time-budget=3000"]
    address = (tmp_path / "page.html").as_uri()
    done = subprocess.run(["chromium", *flags, "--dump-dom", address], capture_output=True, text=True, timeout=120)
    (found,) = re.findall(r"<title>wide: (\d+) of (\d+)</title>", done.stdout)
    assert (found[0], int(found[1]) > 20) == ("0", True)


def test_a_table_of_many_columns_goes_on_below(wide: str) -> None:
    page = Page(wide)
    heads = page.text("th")
    assert [f"task {t}" in heads for t in (1, 12, 13, 30)] == [True] * 4
    captions = [c for c in page.text("span") if c.startswith("How active")]
    assert sum(c.endswith("(goes on)") for c in captions) == 2  # thirty tasks are three tables
    (settings,) = (t for t in re.findall(r"<table.*?</table>", wide, re.DOTALL) if "Settings that are not" in t)
    assert Page(settings).text("thead", "th")[:3] == ["strategy", "data.tasks", "optimizer.lr"]  # a line a strategy


def test_a_strategy_has_the_colour_and_dashes_of_the_other_figures(tmp_path: Path) -> None:
    drawn = {}
    for names in (["lander"], ["finetune", "glfc", "lander", "mine"]):
        folder = make_results(tmp_path / str(len(names)), names, seeds=(0,))
        (figure,) = Page(report([folder])).figures["Accuracy after each task"]
        drawn[len(names)] = {line["name"]: (line["style"], line["dash"]) for line in figure["lines"]}
    places_ = {name: (HOUSE[name] % len(CYCLE), HOUSE[name] // len(CYCLE)) for name in ("finetune", "glfc", "lander")}
    assert drawn[1] == {"lander": places_["lander"]}
    assert drawn[4] == {**places_, "mine": drawn[4]["mine"]}
    assert drawn[4]["lander"][0] == drawn[4]["glfc"][0]
    assert len(set(drawn[4].values())) == 4
