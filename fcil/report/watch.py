"""`fcil report --watch`: the page while runs go on, for a browser on this machine alone.

The server listens on 127.0.0.1, answers `GET /` and `HEAD /`, and only to requests that call it by that
name: an untrusted page whose name was made to point here (DNS rebinding) sends its own name along.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from fcil.errors import ConfigError, FCILError
from fcil.report.page import report

HOST = "127.0.0.1"
PATIENCE = 10.0
"""Seconds a browser is waited for."""
SHARE = 0.1
"""Share of the time in which the page may be in the making: runs beside it need the machine."""
WATCHED = ("config.yaml", "rounds.jsonl", "accuracy.csv", "summary.json")


class Watch:
    """The page of some folders, made again when a file in them has changed."""

    def __init__(self, dirs: Sequence[Path], clock: Callable[[], float] = time.monotonic) -> None:
        self._dirs = list(dirs)
        self._clock = clock
        self._lock = threading.Lock()
        self._state = ""
        self._page = b""
        self._next = 0.0

    def page(self) -> tuple[bytes, str]:
        """The page and a tag that changes with it.

        Raises:
            StoreError: a folder is gone.
        """
        with self._lock:
            began = self._clock()
            if not self._page or began >= self._next:
                state = fingerprint(self._dirs)
                if state != self._state or not self._page:
                    self._page = report(self._dirs, watch=True).encode("utf-8", "replace")
                    self._state = state
                self._next = began + (self._clock() - began) / SHARE
            return self._page, f'"{hashlib.sha256(self._page).hexdigest()[:32]}"'


def fingerprint(dirs: Sequence[Path]) -> str:
    """Return a stamp that changes when a run has written something."""
    seen = []
    for top in dirs:
        for place, _, names in os.walk(top):
            for name in sorted(set(names) & {*WATCHED}):
                try:
                    found = os.stat(os.path.join(place, name))
                except OSError:
                    continue
                seen.append((place, name, found.st_size, found.st_mtime_ns))
    return hashlib.sha256(repr(sorted(seen)).encode("utf-8", "surrogatepass")).hexdigest()


def server(dirs: Sequence[Path], port: int = 0) -> ThreadingHTTPServer:
    """A server that is bound and not yet serving; port 0 takes a free one.

    Raises:
        ConfigError: the port cannot be had.
        StoreError: a folder does not exist.
    """
    watch = Watch(dirs)
    watch.page()  # what is wrong with the folders is said now, and not to a browser

    class Handler(_Handler):
        page = staticmethod(watch.page)

    try:
        found = _Server((HOST, port), Handler)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"report: --port {port} cannot be had ({reason}); leave it out to take a free one") from None
    return found


def serve(dirs: Sequence[Path], port: int = 0, say: Callable[[str], None] = lambda line: None) -> None:
    """Serve the page until Ctrl-C; `say` is told where."""
    with server(dirs, port) as found:
        try:
            say(f"http://{HOST}:{found.server_address[1]}/ (Ctrl-C ends it)")
            found.serve_forever(poll_interval=0.2)
        except KeyboardInterrupt:
            return


class _Server(ThreadingHTTPServer):
    allow_reuse_address = os.name == "posix"  # elsewhere it would share a port that is taken
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore a browser that leaves in the middle."""


class _Handler(BaseHTTPRequestHandler):
    page: Callable[[], tuple[bytes, str]]
    timeout = PATIENCE
    server_version = "fcil"
    sys_version = ""

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def _answer(self, body: bool) -> None:
        port = self.server.server_address[1]  # type: ignore[index]
        if self.headers.get_all("Host") not in [[f"{name}:{port}"] for name in (HOST, "localhost")]:
            self._send(HTTPStatus.MISDIRECTED_REQUEST, b"This page is for this machine alone.\n", body)
        elif self.path.partition("?")[0] != "/":
            self._send(HTTPStatus.NOT_FOUND, b"There is one page: /\n", body)
        else:
            self._page(body)

    def _page(self, body: bool) -> None:
        try:
            page, tag = self.page()
        except FCILError as error:
            self._send(HTTPStatus.SERVICE_UNAVAILABLE, f"{error}\n".encode(), body)
            return
        if self.headers.get("If-None-Match") == tag:
            self._send(HTTPStatus.NOT_MODIFIED, b"", False, tag)
        else:
            self._send(HTTPStatus.OK, page, body, tag, "text/html")

    def _send(
        self, status: HTTPStatus, content: bytes, body: bool, tag: str | None = None, kind: str = "text/plain"
    ) -> None:
        self.send_response(status)
        if status is not HTTPStatus.NOT_MODIFIED:
            self.send_header("Content-Type", f"{kind}; charset=utf-8")
            self.send_header("Content-Length", str(len(content)))
        if tag:
            self.send_header("ETag", tag)
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("X-Frame-Options", "DENY")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Log nothing of requests."""
