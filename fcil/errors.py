"""What can go wrong in a way a user can act on.

Everything below `UserError` is the user's input: the command line prints its one line and exits
with code 2. Any other exception is ours and keeps its traceback.

    FCILError
    ├── UserError            the input is wrong (exit code 2)
    │   ├── ConfigError      a key or value of an experiment file or an override
    │   ├── DataError        a data set or class-name file that is missing or malformed
    │   └── StoreError       a results folder that cannot be read or written
    ├── EngineError          what runs are played on, Ray say, does not start on this machine
    └── TrainingError        training produced something unusable, e.g. a loss that is not finite
        └── LeakError        a client used images that it may not see, or changed what others read
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from difflib import get_close_matches
from typing import TypeVar

T = TypeVar("T")
U = TypeVar("U")
LONGEST = 1000
"""Characters of a message; what is longer loses its middle."""
MOST_ERRORS = 20
"""Lines of a message that tells several errors at once."""


class FCILError(Exception):
    """Base of every error raised on purpose. Its message is one printable line, whatever a file put into it.

    A `ConfigError` may tell several errors, a line each.
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(printable(str(message)))


class UserError(FCILError):
    """The user's input is wrong; the message is one line that says how to mend it."""


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
    """What runs are played on does not start on this machine; nothing was played."""


class TrainingError(FCILError):
    """Training produced something unusable: where, and which term."""


class LeakError(TrainingError):
    """A client used images that it may not see, or changed what others read, or the server kept test images.

    No policy skips it.
    """


def printable(text: str) -> str:
    """The text in one line of at most `LONGEST` characters; what a terminal would obey is written out."""
    joined = " ".join(text[: 100 * LONGEST].split())
    if len(joined) > LONGEST:
        joined = f"{joined[: LONGEST - 205]} ... {joined[-200:]}"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in joined)


def described(error: BaseException) -> str:
    """The kind of an error and what it says in one printable line, even where it cannot say it."""
    kind = type(error).__name__
    try:
        text = str(error)
    except BaseException as another:  # a user's code, too
        return f"{kind}, whose text cannot be had ({type(another).__name__})"
    return printable(f"{kind}: {text}" if text else kind)


def guess(word: object, known: Iterable[object]) -> str | None:
    """The known word closest to `word`, if one is close."""
    return next(iter(get_close_matches(str(word), [str(k) for k in known], n=1, cutoff=0.5)), None)


def nearest(word: object, known: Iterable[object]) -> str:
    """` Did you mean "x"?` for the known word closest to `word`, or an empty string."""
    found = guess(word, known)
    return f' Did you mean "{found}"?' if found is not None else ""


def collect(build: Callable[[T], U], items: Iterable[T]) -> tuple[list[U], list[ConfigError]]:
    """What `build` makes of each item, and the errors it raised; it stops when they are more than can be told."""
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
    """One error that tells all of them."""
    return errors[0] if len(errors) == 1 else ConfigError(*(line for error in errors for line in error.lines))
