"""Ending a run from outside: politely at the first signal, at once at the second; and time limits.

Ctrl-C and SIGTERM ask a run to stop. It then has `GRACE` seconds to finish the round or episode it
is at and to save; if that takes longer, what was begun is dropped and the last checkpoint stands.
A second signal ends the process there and then.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

GRACE = 4.0
"""Seconds a run is given to come to a point where it can be saved."""
INTERRUPTED = 130
"""The exit code of a run that was asked to stop."""
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """A run was asked to stop. Like KeyboardInterrupt, no `except Exception` swallows it."""


class Interrupts:
    """A context in which signals end runs. Outside the main thread, where Python hands out none, it does nothing."""

    def __init__(self, announce: Callable[[str], None] = lambda line: None) -> None:
        self.requested = False
        self._listening = False
        self._patient = False  # whether a caller looks at `requested`
        self._overdue = False
        self._announce = announce
        self._before: dict[int, Any] = {}
        self._timer: threading.Timer | None = None
        self._ours = 0  # signals that the timer sent
        self._ends: tuple[socket.socket, socket.socket] | None = None
        self._woken = -1

    def __enter__(self) -> Interrupts:
        self._listening = threading.current_thread() is threading.main_thread()
        if self._listening:
            self._before = {number: signal.signal(number, self._handle) for number in SIGNALS}
            self._ends = socket.socketpair()
            self._ends[1].setblocking(False)
            self._woken = signal.set_wakeup_fd(self._ends[1].fileno(), warn_on_full_buffer=False)
            threading.Thread(target=self._count, args=(self._ends[0],), daemon=True).start()
        return self

    def insist(self) -> None:
        """Restore signal handlers that a library has replaced, as Ray does when it starts."""
        if self._listening:
            for number in SIGNALS:
                signal.signal(number, self._handle)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._ends is not None:
            signal.set_wakeup_fd(self._woken)
            for end in reversed(self._ends):  # the thread reads end of file and stops
                end.close()
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._listening = False

    @contextmanager
    def patience(self) -> Iterator[None]:
        """While this lasts, the first signal only sets `requested`, and `check` raises at the next good moment."""
        self._patient = True
        try:
            yield
        finally:
            self._patient = False

    def check(self) -> None:
        """Raise if a stop was requested. To be called where everything is saved."""
        if self.requested:
            raise Interrupted

    def _count(self, arrivals: socket.socket) -> None:
        """Handle the second signal in a thread: the main one may be at something that Python cannot interrupt."""
        presses = 0
        with contextlib.suppress(OSError):
            while numbers := arrivals.recv(16):
                presses += sum(number in SIGNALS for number in numbers)
                if presses - self._ours > 1:
                    os._exit(INTERRUPTED)  # Ray's processes are ended by `runtime.watcher`

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._overdue:
            self._overdue = False  # the timer below, not a second signal
            raise Interrupted
        self.requested = True
        if not self._patient:
            raise Interrupted
        self._announce("stopping as soon as this step is saved; once more stops at once")
        self._timer = threading.Timer(GRACE, self._end, (number,))
        self._timer.daemon = True
        self._timer.start()

    def _end(self, number: int) -> None:
        if self._patient:
            self._overdue, self._ours = True, self._ours + 1
            signal.pthread_kill(threading.main_thread().ident or 0, number)


class OutOfTime(BaseException):
    """A time limit was reached. No `except Exception` of what is limited swallows it."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise `OutOfTime` in the block after so many seconds; only in the main thread, where Python allows it."""
    if math.isinf(seconds) or threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(number: int, frame: FrameType | None) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
