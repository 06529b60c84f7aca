"""Errors that a user can act on.

Everything below `UserError` is the user's input: the command line prints its one line and exits
with code 2. Any other exception is ours and keeps its traceback.

    FCILError
    ├── UserError            the input is wrong (exit code 2)
    │   ├── ConfigError      a key or value of an experiment file or an override
    │   ├── DataError        a data set or class-name file that is missing or malformed
    │   └── StoreError       a results folder that cannot be read or written
    ├── EngineError          the backend of runs, such as Ray, does not start on this machine
    ├── DownloadError        the files of a data set cannot be had
    └── TrainingError        training produced something unusable, e.g. a loss that is not finite
        └── LeakError        a client used images that it may not see, or changed what others read
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
U = TypeVar("U")
LONGEST = 1000
"""Most characters of a message; longer ones lose their middle."""
MOST_ERRORS = 20
"""Most lines of a message with several errors."""


class FCILError(Exception):
    """Base of every error raised on purpose; its message is one printable line, whatever a file put into it.

    A `ConfigError` may hold several errors, a line each.
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(printable(str(message)))


class UserError(FCILError):
    """The user's input is wrong; the message is one line that names the remedy."""


class ConfigError(UserError):
    """A key or value of an experiment file, or several of them: `lines` has one for each, its text at most 20."""

    def __init__(self, *messages: object) -> None:
        super().__init__(messages[0] if messages else "")
        self.lines = tuple(dict.fromkeys(printable(str(message)) for message in messages or [""]))
        self.args = self.lines

    def __str__(self) -> str:
        more = ["and more errors like these"] if len(self.lines) > MOST_ERRORS else []
        return "\n".join([*self.lines[:MOST_ERRORS], *more])


class DataError(UserError):
    """A data set, image folder or class-name file that is missing or malformed."""


class StoreError(UserError):
    """A results folder that cannot be read or written."""


class EngineError(FCILError):
    """The backend of runs does not start on this machine; nothing was run."""


class DownloadError(FCILError):
    """The files of a data set cannot be had; none of them is in its place, though a part may be kept to go on with."""


SHORTER_STEPS = "a smaller optimizer.lr or an optimizer.max_norm often helps"
"""What to try where steps were too long."""


class TrainingError(FCILError):
    """Training produced an unusable value; the message names the place and the term."""


class LeakError(TrainingError):
    """A client used images that it may not see, or changed what others read, or the server kept test images.

    No policy skips it.
    """


def printable(text: str) -> str:
    """Return the text in one line of at most `LONGEST` characters, with control characters escaped."""
    joined = " ".join(text[: 100 * LONGEST].split())
    if len(joined) > LONGEST:
        joined = f"{joined[: LONGEST - 205]} ... {joined[-200:]}"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in joined)


def described(error: BaseException) -> str:
    """Return the kind of an error and its message in one printable line, even if formatting the message fails."""
    kind = type(error).__name__
    try:
        text = str(error)
    except BaseException as another:  # a user's code may raise anything
        return f"{kind}, whose text cannot be had ({type(another).__name__})"
    return printable(f"{kind}: {text}" if text else kind)


def guess(word: object, known: Iterable[object]) -> str | None:
    """Return the known word closest to `word`, if one is close."""
    return next(iter(get_close_matches(str(word), [str(k) for k in known], n=1, cutoff=0.5)), None)


def nearest(word: object, known: Iterable[object]) -> str:
    """Return ` Did you mean "x"?` for the known word closest to `word`, or an empty string."""
    found = guess(word, known)
    return f' Did you mean "{found}"?' if found is not None else ""


def nearest_file(path: Path, pattern: str) -> str:
    """Return ` Did you mean "x"?` for the file beside `path`, of those of the pattern, with the closest name.

    The ending is left out of account: it would make any two files alike.
    """
    there = {found.stem: found.name for found in sorted(path.parent.glob(pattern))}
    found = guess(path.stem, there)
    return f' Did you mean "{there[found]}"?' if found is not None else ""


def collect(build: Callable[[T], U], items: Iterable[T]) -> tuple[list[U], list[ConfigError]]:
    """Return what `build` makes of each item, and the errors it raised; it stops at more than a message can hold."""
    made, errors, told = [], list[ConfigError](), set[str]()
    for item in items:
        try:
            made.append(build(item))
        except ConfigError as error:
            errors += [] if told.issuperset(error.lines) else [error]
            told |= set(error.lines)
            if len(told) > MOST_ERRORS:
                break
    return made, errors


def all_of(errors: list[ConfigError]) -> ConfigError:
    """Return one error that holds all of them."""
    return errors[0] if len(errors) == 1 else ConfigError(*(line for error in errors for line in error.lines))
