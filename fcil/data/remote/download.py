"""Downloads over HTTP that go on where they broke off, and count only when the checksum is right."""

from __future__ import annotations

import hashlib
import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path

from fcil.data.remote.origins import RemoteFile
from fcil.errors import DownloadError
from fcil.io.atomic import writing

Tell = Callable[[str, int, int], None]
"""Is called with a name, the bytes done and the bytes in all."""
PATIENCE = 30.0
"""Seconds without an answer after which a connection is given up."""
MOST_TRIES = 50
"""Connections to one mirror, each of which broke off after it brought something."""
_CHUNK = 2**17
_GONE = http.client.HTTPException, OSError
"""Exceptions of a connection that fails; those of urllib are `OSError` too."""


class _FailedError(Exception):
    """A mirror does not give the file; the message says why, in a few words."""


def download(mirrors: Sequence[str], file: RemoteFile, target: Path, tell: Tell) -> None:
    """Get a file from the first mirror that gives it whole, and put it at `target` when its checksum is right.

    What is there of it lies beside the target, with `.part` after its name, and is gone on with.

    Raises:
        DownloadError: no mirror gives it, or it cannot be written.
    """
    part, reasons = target.with_name(f"{target.name}.part"), []
    with writing(target, DownloadError):
        target.parent.mkdir(parents=True, exist_ok=True)
    for mirror in mirrors:
        try:
            _get(mirror + file.name, file, part, tell)
        except _FailedError as error:
            reasons.append(f"{mirror}{file.name}: {error}")
            continue
        with writing(target, DownloadError):
            os.replace(part, target)
        return
    raise DownloadError("; ".join(reasons))


def md5_of(path: Path) -> str:
    """Return the MD5 of a file, which publishers give against damage on the way."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _get(url: str, file: RemoteFile, part: Path, tell: Tell) -> None:
    """Complete a part; one that was begun earlier and proves wrong is begun anew once."""
    while True:
        resumed = _size(part) > 0
        _complete(url, file, part, tell)
        found = md5_of(part)
        if found == file.md5:
            return
        part.unlink()
        if not resumed:
            raise _FailedError(f"its checksum is {found}, not {file.md5}")


def _complete(url: str, file: RemoteFile, part: Path, tell: Tell) -> None:
    """Append to a part until nothing is missing, over as many connections as it takes while each brings something."""
    for _ in range(MOST_TRIES):
        before, reason = _size(part), "the connection broke off"
        try:
            if _stream(url, file, part, tell):
                return
        except urllib.error.HTTPError as error:
            if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE and before:
                return  # nothing is missing, or the part is wrong, which its checksum tells
            reason = f"{error.code} {error.reason}"
        except _GONE as error:
            reason = str(getattr(error, "reason", error)) or type(error).__name__
        if _size(part) <= before:
            break
    kept = _size(part)
    raise _FailedError(f"{reason} after {kept:,} of {file.bytes:,} bytes" if kept else reason)


def _stream(url: str, file: RemoteFile, part: Path, tell: Tell) -> bool:
    """Add to a part what one connection gives; return whether it gave all that it announced."""
    done = _size(part)
    request = urllib.request.Request(url, headers={"User-Agent": "fcil", "Accept-Encoding": "identity"})
    if done:
        request.add_header("Range", f"bytes={done}-")
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        if answer.status != http.client.PARTIAL_CONTENT:
            done = 0  # the server does not know ranges
        elif not answer.headers.get("Content-Range", "").startswith(f"bytes {done}-"):
            part.unlink()
            raise _FailedError("the server sent another range than asked for")
        total = done + (file.bytes - done if answer.length is None else answer.length)
        if total > 2 * file.bytes + _CHUNK:
            raise _FailedError(f"the server announces {total:,} bytes for a file of {file.bytes:,}")
        with writing(part, DownloadError):
            output = open(part, "ab" if done else "wb")  # noqa: SIM115 (closed below; reading is no writing)
        with output:
            tell(file.name, done, total)
            while chunk := answer.read(_CHUNK):
                done += len(chunk)
                if done > total:
                    raise _FailedError(f"the server sends more than the {total:,} bytes of the file")
                with writing(part, DownloadError):
                    output.write(chunk)
                    output.flush()
                tell(file.name, done, total)
            with writing(part, DownloadError):
                os.fsync(output.fileno())
    return done == total


def _size(part: Path) -> int:
    try:
        return part.stat().st_size
    except OSError:
        return 0
