"""Ray, started for as long as a caller needs it."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from types import FrameType
from typing import Any

import psutil

from fcil.errors import ConfigError, EngineError
from fcil.federation.ray.folder import RayFolder
from fcil.federation.ray.lean import NICENESS, lean
from fcil.federation.runtime.address_space import store_size
from fcil.federation.runtime.interrupts import INTERRUPTED, SIGNALS
from fcil.federation.runtime.watcher import Watcher


class RaySession:
    """A context in which Ray runs: started or joined, and ended again, unless it ran before.

    Args:
        address: a running cluster to join; None starts Ray on this machine.
    Raises:
        ConfigError: there is no cluster at this address.
        EngineError: Ray does not start on this machine.
    """

    def __init__(self, address: str | None) -> None:
        self._address = address
        self._ours = False
        self._watcher: Watcher | None = None
        self._folder: RayFolder | None = None

    def __enter__(self) -> RaySession:
        import ray

        if ray.is_initialized():
            return self
        store = None if self._address else store_size()
        self._ours, self._folder = True, None if self._address else RayFolder()
        path = self._folder.path if self._folder else None
        self._watcher = Watcher(path)
        self._watcher.start()
        try:
            ours = nullcontext() if self._address else lean()
            wanted = {k: v for k, v in NICENESS.items() if k not in os.environ}
            with uninterrupted(), alive(), quiet(), variables(self._watcher.environment | wanted), ours:
                # "local" and not None: a cluster that happens to run on this machine is not joined unasked.
                ray.init(
                    address=self._address or "local",
                    include_dashboard=None if self._address else False,
                    configure_logging=True,
                    logging_level=logging.ERROR,
                    log_to_driver=False,
                    _temp_dir=str(path) if path else None,
                    object_store_memory=store,
                )
        except BaseException as error:
            failed = not self._address and isinstance(error, Exception)
            self._end(keep=failed)
            if isinstance(error, ConnectionError) and self._address:
                raise ConfigError(f"resources.ray_address: no Ray cluster at {self._address} ({error})") from None
            if failed:
                logs = f"; its logs stay in {path} until the next start" if path else ""
                raise EngineError(
                    f"Ray does not start here ({_first_line(error)}){logs}; federation.backend=inprocess needs none"
                ) from error
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def _end(self, keep: bool = False) -> None:
        import ray

        if self._ours:
            ray.shutdown()
        if self._folder is not None:
            self._folder.leave() if keep else self._folder.remove()
        if self._watcher is not None:
            self._watcher.dismiss()
        self._ours, self._watcher, self._folder = False, None, None


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress log lines in this block: Ray prints the logs of processes that fail, whose error is told afterwards."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


@contextmanager
def variables(values: Mapping[str, str]) -> Iterator[None]:
    """Set these variables in the environment of processes that are started in this block."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


# Starting -----------------------------------------------------------------------------------------


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Keep a signal until this block is over: Ray, told to stop while it starts, may end in a segmentation fault.

    A second one ends the process at once. Only in the main thread, which alone is interrupted.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if came:
            os._exit(INTERRUPTED)  # Ray's processes are ended by the watcher
        came.append(number)
        with suppress(OSError):
            os.write(2, b"stopping as soon as Ray has started; once more stops at once\n")

    before: dict[int, Any] = {number: signal.signal(number, note) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if came:
        handler = before[came[0]]
        if callable(handler):  # not raised anew: `Interrupts` would count it as a second signal, which ends at once
            handler(came[0], None)
        else:
            signal.raise_signal(came[0])


class DiedStartingError(Exception):
    """End of a process of Ray's while Ray was starting."""


@contextmanager
def alive(pause: float = 0.2) -> Iterator[None]:
    """While Ray starts in this block: if one of its two servers ends, do not wait the half minute that Ray would.

    Only in the main thread, where Python lets a signal raise.

    Raises:
        DiedStartingError: one ended.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    over, main = threading.Event(), threading.main_thread().ident or 0
    dead: list[str] = []

    def watch() -> None:
        while not over.wait(pause):
            dead.extend(_dead_servers())
            if dead:
                signal.pthread_kill(main, signal.SIGALRM)
                return

    def ring(number: int, frame: FrameType | None) -> None:
        if not over.is_set():
            raise DiedStartingError(f"its {dead[0]} ended at once")

    before: Any = signal.signal(signal.SIGALRM, ring)
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        try:
            yield
        finally:
            over.set()
    finally:  # the signal may have come within the line above
        watcher.join()
        signal.signal(signal.SIGALRM, before)


def _dead_servers() -> list[str]:
    """Names of those among Ray's servers that this process started and that have ended."""
    found = []
    for child in psutil.Process().children():
        try:
            name, state = child.name(), child.status()
        except psutil.Error:
            continue
        if name in ("raylet", "gcs_server") and state == psutil.STATUS_ZOMBIE:
            found.append(name)
    return found
