"""Handling of Ctrl-C before work begins, and after it has ended."""

from __future__ import annotations

import os
import signal
from types import FrameType

INTERRUPTED = 130
"""The exit code of a command that was asked to stop."""
_at_work = False  # whether a verb has begun, and has not ended


def at_work(yes: bool) -> None:
    """Say that a verb begins, or is over: what Ctrl-C ends at once, and what it has to leave in order."""
    global _at_work
    _at_work = yes


def leave(number: int, frame: FrameType | None) -> None:
    """Do what Ctrl-C does in Python where a verb is at work, unless it still imports what it needs; else end at once.

    Nothing is begun at that time, and an exception may get lost in a library that catches whatever its own
    imports raise, or come out of it as another.
    """
    caller = None
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            caller = frame.f_back
        frame = frame.f_back
    importer = "" if caller is None else str(caller.f_globals.get("__name__"))
    if not _at_work or importer.startswith(("fcil.cli", "fcil.terminal.", "fcil.methods.catalogue")):
        os.write(2, b"interrupted\n")
        os._exit(INTERRUPTED)
    signal.default_int_handler(number, None)
