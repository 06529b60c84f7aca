"""Streams of the command line whose reader may be gone, and errors of a machine without resources left.

The output of a verb may be cut short, by `| head -1` or a full disk; its work is done to the end all the same.
"""

from __future__ import annotations

import errno
import importlib
import io
import os
import re
import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO, cast

from fcil.errors import EngineError, FCILError, UserError, printable
from fcil.terminal.interruption import INTERRUPTED, at_work

SPENT = {errno.ENOMEM, errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}
"""Numbers of an `OSError` when there is no memory, process, open file or room on a disk left."""
LEAST_ADDRESSES = 2**30
"""Bytes of address space below which no torch loads."""
_ALLOWED = "this shell allows {:.1f} GiB of address space (ulimit -v)"
_UNMAPPED = re.compile(r"[^\s:]+\.so[^\s:]*: (?:failed to map segment|cannot allocate memory)[^\n]*", re.IGNORECASE)


class Screen:
    """Standard output or error as it is, until it breaks; from then on what is written goes nowhere."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.broken: OSError | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError as error:
            self._give_up(error)
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        self.broken = self.broken or error
        with suppress(OSError, io.UnsupportedOperation):  # what is still buffered would break again at the very end
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())


@contextmanager
def screens() -> Iterator[Callable[[], str | None]]:
    """Give standard output and error that cannot end a command. The value tells, when all is done, what was lost.

    A pipe that was closed is no loss: its reader had enough.
    """
    _open_standard_streams()
    before = sys.stdout, sys.stderr
    for stream in before:
        if isinstance(stream, io.TextIOWrapper):  # a name of a file need not be text in any encoding
            stream.reconfigure(errors="backslashreplace")
    out, err = Screen(before[0]), Screen(before[1])
    sys.stdout, sys.stderr = cast(TextIO, out), cast(TextIO, err)

    def lost() -> str | None:
        out.flush()
        if out.broken is None or out.broken.errno in (errno.EPIPE, errno.ECONNRESET):
            return None
        return f"standard output: {out.broken.strerror}; what was printed is not all there"

    try:
        yield lost
    finally:
        sys.stdout, sys.stderr = before


def outcome(command: Callable[[], object]) -> int | str | None:
    """Exit code of a command; why it is not 0 is on standard error, in a line for each error."""
    with screens() as lost:
        code = _outcome(command)
        at_work(False)
        if (line := lost()) is not None:
            complain(line)
            code = code or 1
    return code


def _outcome(command: Callable[[], object]) -> int | str | None:
    try:
        command()
    except UserError as error:
        complain(str(error))
        return 2
    except FCILError as error:
        complain(str(error))
        return 1
    except KeyboardInterrupt:
        complain("interrupted")
        return INTERRUPTED
    except SystemExit as stop:
        if stop.code == INTERRUPTED and stop.__context__:  # what typer makes of a KeyboardInterrupt
            resumable = {"run", "resume", "distill", "simulate", "deploy"} & set(sys.argv[1:2])
            complain("interrupted" + ("; the same command goes on from the last checkpoint" if resumable else ""))
        return stop.code
    except (ImportError, MemoryError, OSError, RuntimeError, SystemError) as error:
        line = exhausted(error)
        if line is None:
            raise
        complain(line)
        return 1
    return 0


def _open_standard_streams() -> None:
    """Give what was closed a place that takes everything: the next file opened would else be in its place."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDONLY if number == 0 else os.O_WRONLY)  # the lowest number that is free
            os.set_inheritable(number, True)
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w" if number else "r", encoding="utf-8"))  # noqa: SIM115


def complain(text: str) -> None:
    """Print on standard error what is wrong, a line for each error, if it is open."""
    with suppress(OSError, ValueError, AttributeError):
        sys.stderr.write("".join(f"{' '.join(line.split())}\n" for line in text.splitlines() or [""]))
        sys.stderr.flush()


def exhausted(error: BaseException) -> str | None:
    """A line that says what ran out, if an error means that the machine, or what a shell allows, has no more."""
    seen: BaseException | None = error
    while seen is not None:
        if problem := _spent(seen):
            return printable(f"{problem}{_limits()}")
        seen = seen.__cause__ or seen.__context__
    return None


def _spent(error: BaseException) -> str | None:
    text = str(error)
    if isinstance(error, ImportError) and (found := _UNMAPPED.search(text)):
        return f"not enough memory to load a library ({found[0].strip()})"
    if isinstance(error, MemoryError):
        return f"out of memory{f' ({text})' if text else ''}"
    if isinstance(error, SystemError) and address_space() is not None:  # an extension module without memory
        return f"a library failed ({text})"
    if isinstance(error, RuntimeError) and "can't start new thread" in text:
        return "no further thread can be started"
    if isinstance(error, OSError) and error.errno in SPENT:
        return f"{error.filename or 'the system'}: {error.strerror}"
    return None


def _limits() -> str:
    """Return a note on the memory limit of this shell; empty if there is none."""
    limit = address_space()
    return "" if limit is None else f"; {_ALLOWED.format(limit / 2**30)}, torch and Ray want more"


def address_space() -> int | None:
    """Bytes of address space that a process of this shell may have; None: no limit."""
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if soft == resource.RLIM_INFINITY else soft


def begin() -> None:
    """Begin a verb: where address space is limited, load what could not be loaded later, or refuse the rest.

    SciPy's OpenBLAS tries for ever to set aside its buffers. So it has to come before torch, which takes the most.

    Raises:
        EngineError: there is not enough for torch, whatever its version.
    """
    at_work(True)
    limit = address_space()
    if limit is None:
        return
    if limit < LEAST_ADDRESSES:
        raise EngineError(f"{_ALLOWED.format(limit / 2**30)}; torch wants at least {LEAST_ADDRESSES / 2**30:g} GiB")
    importlib.import_module("scipy.linalg")


def say(line: object) -> None:
    """Print a line on standard output as it is: without markup, colours or breaks."""
    from rich.console import Console

    Console().print(printable(str(line)), markup=False, soft_wrap=True, highlight=False)
