"""The way in to the command `fcil`: what holds before its verbs, and what they stand on, are imported."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

INTERRUPTED = 130
"""The exit code of a command that was asked to stop."""


def main() -> None:
    """Import the verbs and do what the command line says.

    Ctrl-C ends the process at once until they are there. Should the machine not hold them, that is one line.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # a shell may have asked for it to be ignored
        signal.signal(signal.SIGINT, leave_while_importing)
    from fcil import terminal

    try:
        from fcil import cli
    except (ImportError, MemoryError, OSError, RuntimeError, SystemError) as error:
        line = terminal.exhausted(error)
        if line is None:
            raise
        terminal.complain(line)
        sys.exit(1)
    cli.main()


def leave_while_importing(number: int, frame: FrameType | None) -> None:
    """Do what Ctrl-C does in Python, unless a verb is still importing what it needs: then end at once.

    Nothing is begun at that time, and an exception may get lost in a library that catches whatever its own
    imports raise, or come out of it as another.
    """
    caller = None
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            caller = frame.f_back
        frame = frame.f_back
    if caller is not None and caller.f_globals.get("__name__") in (__name__, "fcil.cli", "fcil.listing"):
        os.write(2, b"interrupted\n")
        os._exit(INTERRUPTED)
    signal.default_int_handler(number, None)
