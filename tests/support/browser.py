"""A real browser, Chromium or Chrome, driven over its DevTools protocol."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
"""Path of the program, where there is one."""
QUIET = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
         "--disable-background-networking", "--disable-component-update", "--disable-sync")  # fmt: skip
FIGURES = "[...document.querySelectorAll('figure.figure')]"
"""The figures of a report, as an expression."""


class Tab:
    """A page of a browser, and what it complained of."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._number = 0
        self._session: str | None = None
        self.complaints: list[str] = []
        self.requests: list[str] = []
        target = self.do("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.do("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for room in ("Page", "Runtime", "Log", "Network"):
            self.do(f"{room}.enable")

    def do(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        self._connection.send(json.dumps(message))
        while True:
            answer = json.loads(self._connection.recv(timeout=120))
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]
            self._hear(answer.get("method"), answer.get("params", {}))

    def _hear(self, method: str | None, params: dict[str, Any]) -> None:
        if method == "Runtime.exceptionThrown":
            self.complaints.append(str(params["exceptionDetails"].get("exception", {}).get("description")))
        elif method == "Log.entryAdded" or (method == "Runtime.consoleAPICalled" and params["type"] == "error"):
            self.complaints.append(json.dumps(params))
        elif method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])

    def ask(self, script: str) -> Any:
        """The value of an expression in the page."""
        found = self.do("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def until(self, script: str, seconds: float = 60) -> None:
        """Wait for an expression to be true."""
        end = time.monotonic() + seconds
        while not self.ask(script):
            assert time.monotonic() < end, script
            time.sleep(0.05)

    def open(self, url: str, width: int = 1400, height: int = 900, scheme: str = "light") -> None:
        self.do("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.do("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.do("Page.navigate", url=url)
        self.until(f"location.href.startsWith({json.dumps(url)}) && document.readyState === 'complete'")
        self.ask("document.querySelectorAll('details').forEach((d) => { d.open = true; })")

    def mouse(self, kind: str, x: float, y: float, **more: Any) -> None:
        self.do("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def plot(self, number: int) -> dict[str, float]:
        """Where the plot of a figure lies, after it was brought into view."""
        script = f"""(() => {{
            const plot = {FIGURES}[{number}].querySelector('.plot');
            plot.scrollIntoView({{block: 'center', behavior: 'instant'}});
            const {{left, top, width, height}} = plot.getBoundingClientRect();
            return {{left, top, width, height}};
        }})()"""
        box = self.ask(script)
        self.until(f"!{FIGURES}[{number}].querySelector('.tools').hidden")
        return box

    def shoot(self, name: str) -> None:
        if folder := os.environ.get("FCIL_SCREENSHOTS"):
            picture = self.do("Page.captureScreenshot", captureBeyondViewport=True)["data"]
            Path(folder, f"{name}.png").write_bytes(base64.b64decode(picture))


@contextmanager
def started(profile: Path) -> Iterator[Callable[[], Tab]]:
    """Start the browser with a profile in a folder; what is yielded opens a page in it."""
    assert BROWSER is not None
    command = [BROWSER, *QUIET, f"--user-data-dir={profile}", "--remote-debugging-port=0", "about:blank"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        address = next(m[1] for line in process.stderr if (m := re.search(r"DevTools listening on (\S+)", line)))
        threading.Thread(target=process.stderr.read, daemon=True).start()
        with connect(address, max_size=None, open_timeout=60) as connection:
            yield lambda: Tab(connection)
        process.terminate()
