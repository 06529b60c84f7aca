"""Address space: what `ulimit -v` allows a process to map, whether it uses it or not."""

from __future__ import annotations

import resource

import psutil

from fcil.errors import EngineError

RUN = 2**30
"""Bytes that a run maps beyond the libraries it has loaded, a small one in this process."""
RAY = 2 * 2**30
"""Bytes that Ray's threads map in each process, with what a run still loads."""
LEAST_STORE = 2**28
"""Bytes of Ray's object store, which each of its processes maps as a whole."""


def check_room_for_a_run() -> None:
    """Check that a run in this process may map what it needs: some libraries end a process that cannot.

    Raises:
        EngineError: it may not.
    """
    _room(RUN, "a run wants", "raise the limit")


def store_size() -> int | None:
    """Bytes for Ray's object store where address space is limited; None: Ray's own choice.

    Ray reckons with memory alone, and ends a process, with its stack, that cannot map the store.

    Raises:
        EngineError: there is no room for any.
    """
    instead = "raise the limit, or set federation.backend=inprocess with --jobs 1"
    room = _room(RAY + LEAST_STORE, "Ray does not start here: it wants", instead)
    if room is None:
        return None
    shared = psutil.disk_usage("/dev/shm").free if psutil.LINUX else room
    return int(min(room + LEAST_STORE, 0.3 * psutil.virtual_memory().available, 0.9 * shared))


def _room(wanted: int, who: str, remedy: str) -> int | None:
    """Bytes that are left when so many are taken; None: no limit."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return None
    taken = psutil.Process().memory_info().vms + wanted
    if taken > limit:
        allowed = f"this shell allows {limit / 2**30:.1f} (ulimit -v)"
        raise EngineError(f"{who} {taken / 2**30:.1f} GiB of address space and {allowed}; {remedy}")
    return int(limit - taken)
