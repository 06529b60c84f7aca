"""Ray actors that outlive what they are given to do, so that what comes next finds torch imported and data loaded.

An actor is at one thing at a time. One that dies, or is stuck and ended, is replaced.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from fcil.errors import ConfigError


class ActorPool:
    """Up to `size` actors of one class, each made when it is first needed.

    Args:
        options: what Ray is to set aside for each.
        arguments: of the class.
        at_once: make all of them now.
    """

    def __init__(self, body: type, size: int, options: dict[str, Any], *arguments: Any, at_once: bool = False) -> None:
        import ray

        actor: Any = ray.remote(body).options(**options)
        self.size, self.options = size, options
        self._make: Callable[[], Any] = lambda: actor.remote(*arguments)
        self._idle = deque([self._make() for _ in range(size)] if at_once else [])
        self._unmade = size - len(self._idle)

    def take(self) -> Any | None:
        """Return an actor that has nothing to do, or a new one if there may be one more."""
        if self._idle:
            return self._idle.popleft()
        if not self._unmade:
            return None
        self._unmade -= 1
        return self._make()

    def give_back(self, actor: Any) -> None:
        self._idle.append(actor)

    def replace(self) -> None:
        """Make room for another actor after one has died."""
        self._unmade += 1

    def drop(self, actor: Any) -> None:
        """End an actor, whatever it is at; another may be made."""
        import ray

        ray.kill(actor)
        self.replace()

    def close(self) -> None:
        """End the actors that have nothing to do."""
        while self._idle:
            self.drop(self._idle.popleft())


class StartedPool(ActorPool):
    """Pool of actors that are made at once and handed out when they have started; their class has `ready`."""

    PATIENCE = 300.0
    """Seconds within which an actor must have started when there is none."""

    def __init__(self, body: type, size: int, options: dict[str, Any]) -> None:
        super().__init__(body, size, options)
        self._began = math.inf
        self._starting: dict[Any, Any] = {}  # reference to its first answer -> actor
        for _ in range(size):
            self.replace()

    def replace(self) -> None:
        actor = self._make()
        self._starting[actor.ready.remote()] = actor
        if len(self._starting) == self.size:
            self._began = time.monotonic()  # none is left: from now on one has to start

    def take(self) -> Any | None:
        """Return an actor that is free, if there is one. An actor Ray has no room for is never handed out."""
        self.wait(0.0)
        return self._idle.popleft() if self._idle else None

    def wait(self, seconds: float) -> None:
        """Let actors finish starting.

        Raises:
            ConfigError: there is none, and none starts.
        """
        import ray

        if not self._starting:
            return
        done, _ = ray.wait(list(self._starting), num_returns=len(self._starting), timeout=seconds)
        for reference in done:
            actor = self._starting.pop(reference)
            try:
                ray.get(reference)
            except ray.exceptions.RayActorError:
                actor = self._make()  # it died while it started
                self._starting[actor.ready.remote()] = actor
            else:
                self._idle.append(actor)
        if len(self._starting) == self.size and time.monotonic() > self._began + self.PATIENCE:
            raise ConfigError(
                f"resources: no Ray worker of {self.options} started within {self.PATIENCE:g} seconds; "
                "the machine or cluster has no room for it"
            )


class SharedPool:
    """Up to `size` actors of a started pool, for work in a time when they have no other."""

    def __init__(self, pool: StartedPool, size: int) -> None:
        self.size = size
        self._pool = pool
        self._lent = 0

    def take(self) -> Any | None:
        """Return an actor; None if all that may be taken are. The first is waited for.

        Raises:
            ConfigError: none starts.
        """
        if self._lent == self.size:
            return None
        actor = self._pool.take()
        while actor is None and not self._lent:
            self._pool.wait(0.5)
            actor = self._pool.take()
        self._lent += actor is not None
        return actor

    def give_back(self, actor: Any) -> None:
        self._lent -= 1
        self._pool.give_back(actor)

    def replace(self) -> None:
        """Make another actor after one has died."""
        self._lent -= 1
        self._pool.replace()

    def drop(self, actor: Any) -> None:
        """End an actor, whatever it is at; another is made."""
        self._lent -= 1
        self._pool.drop(actor)


def death(error: Exception) -> str:
    """Return what an error of Ray's says of an actor that died, in a line."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"
