"""What can go wrong in a way a user can act on.

Everything below `UserError` is the user's input: the command line prints its one line and exits
with code 2. Any other exception is ours and keeps its traceback.

    FCILError
    ├── UserError            the input is wrong (exit code 2)
    │   ├── ConfigError      a key or value of an experiment file or an override
    │   ├── DataError        a data set or class-name file that is missing or malformed
    │   └── StoreError       a results folder that cannot be read or written
    └── TrainingError        training produced something unusable, e.g. a loss that is not finite
        └── LeakError        a client used images that it may not see, or changed what others read
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

LONGEST = 1000
"""Characters of a message; what is longer loses its middle."""


class FCILError(Exception):
    """Base of every error raised on purpose. Its message is one printable line, whatever a file put into it."""

    def __init__(self, message: object = "") -> None:
        super().__init__(printable(str(message)))


class UserError(FCILError):
    """The user's input is wrong; the message is one line that says how to mend it."""


class ConfigError(UserError):
    """A key or value of an experiment file."""


class DataError(UserError):
    """A data set, image folder or class-name file that is missing or malformed."""


class StoreError(UserError):
    """A results folder that cannot be read or written."""


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


def nearest(word: object, known: Iterable[object]) -> str:
    """` Did you mean "x"?` for the known word closest to `word`, or an empty string."""
    guess = get_close_matches(str(word), [str(k) for k in known], n=1, cutoff=0.5)
    return f' Did you mean "{guess[0]}"?' if guess else ""
