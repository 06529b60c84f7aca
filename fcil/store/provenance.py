"""Provenance of the code: the commit of this package, or a digest of its files, and the repository it is used from."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).resolve().parents[1]
"""Folder of the files of this package."""
SECONDS = 10
"""Seconds that git may take for an answer."""


def provenance() -> dict[str, Any]:
    """Return `commit` and `modified` of this package, `sources`, and `user_repository`.

    The first two are null unless a repository tracks the package's own files: one that merely holds an environment
    it is installed in, or a working folder, says nothing of it. `sources` is a digest of its files,
    whether there is git or not. `user_repository` is the repository of the working directory, if it is another one.
    """
    own = dict(_as_loaded(PACKAGE))
    here = repository_of(Path("."))
    own_top, user_top = (found.pop("top", None) for found in (own, here))
    other = user_top is not None and user_top != own_top
    return {**own, "sources": sources_digest(PACKAGE), "user_repository": here if other else None}


@lru_cache(maxsize=4)
def _as_loaded(package: Path) -> Mapping[str, Any]:
    """Return the repository of the package when first asked: what is committed later is not what this process runs."""
    return repository_of(package, tracks="__init__.py")


def repository_of(folder: Path, tracks: str = "") -> dict[str, Any]:
    """Top folder and commit of the repository that a folder is in, and whether its tracked files differ from it.

    Args:
        tracks: a file of the folder that the repository has to know; then only changes of the package count.
    """
    try:
        if tracks:
            _git(folder, "ls-files", "--error-unmatch", tracks)
        top, head = _git(folder, "rev-parse", "--show-toplevel"), _git(folder, "rev-parse", "HEAD")
        below = ("--", ".", "../strategies") if tracks else ()
        changed = _git(folder, "status", "--porcelain", "--untracked-files=no", *below)
    except (OSError, ValueError, subprocess.SubprocessError):
        return {"commit": None, "modified": None}
    return {"top": os.path.realpath(top), "commit": head, "modified": bool(changed)}


@lru_cache(maxsize=4)
def sources_digest(package: Path) -> str | None:
    """Sixteen hex digits that stand for every Python file below a folder; None where there is none to read."""
    total, count = blake2b(digest_size=8), 0
    try:
        for path in sorted(package.rglob("*.py"), key=lambda path: path.relative_to(package).parts):
            content = path.read_bytes()
            total.update(f"{path.relative_to(package).as_posix()}\0{len(content)}\0".encode(errors="surrogateescape"))
            total.update(content)
            count += 1
    except OSError:
        return None
    return total.hexdigest() if count else None


def _git(folder: Path, *arguments: str) -> str:
    """Return git's answer in a folder, whichever repository a hook or a shell has named in its variables."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    command = ["git", "--no-optional-locks", "-c", "core.fsmonitor=false", *arguments]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=SECONDS, check=True)
    return done.stdout.strip()
