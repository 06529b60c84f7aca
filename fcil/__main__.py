"""The command `fcil`, and `python -m fcil`: what holds before its verbs, and what they stand on, are imported."""

from __future__ import annotations

import signal
import sys

from fcil.terminal.interruption import leave


def main() -> None:
    """Import the verbs and do what the command line says.

    Ctrl-C ends the process at once until they are there. Should the machine not hold them, that is one line.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # a shell may have asked for it to be ignored
        signal.signal(signal.SIGINT, leave)
    from fcil.terminal import streams

    try:
        from fcil import cli
    except (ImportError, MemoryError, OSError, RuntimeError, SystemError) as error:
        line = streams.exhausted(error)
        if line is None:
            raise
        streams.complain(line)
        sys.exit(1)
    cli.main()


if __name__ == "__main__":
    main()
