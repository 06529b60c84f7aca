"""Ray without the processes that only show what it does, which nobody is to see: a third of what its start costs."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

NICENESS = {"RAY_worker_niceness": "0"}
"""Ray's workers have the priority of their driver: at Ray's own 15 they would wait for every other program."""


@contextmanager
def lean() -> Iterator[None]:
    """Start Ray in this block without dashboard server, log monitor and autoscaler.

    Each is a Python process of 50 to 60 MB and a second to start, and `ray.init` waits for the first. It has no switch
    for them, so this reaches into Ray; a release with other names starts them as it likes.
    """
    with ExitStack() as stack:
        for module, name, other in _replacements():
            stack.callback(setattr, module, name, getattr(module, name))
            setattr(module, name, other)
        yield


def _replacements() -> Iterator[tuple[Any, str, Any]]:
    """Yield module, name and replacement of what this release has of Ray's own."""
    from ray._private import parameter, services

    if hasattr(parameter, "RayParams"):
        known = inspect.signature(parameter.RayParams).parameters
        switches: dict[str, Any] = {"no_monitor": True, "include_log_monitor": False}
        chosen = {name: value for name, value in switches.items() if name in known}
        yield parameter, "RayParams", partial(parameter.RayParams, **chosen)
    if hasattr(services, "start_api_server"):
        yield services, "start_api_server", lambda *_, **__: ("", None)  # its address, its process
