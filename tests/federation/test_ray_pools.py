"""Actors that are shared by the clients and the server's chains; Ray itself is pretended."""

from __future__ import annotations

import pytest

from fcil.errors import ConfigError
from fcil.federation.ray.lean import lean
from fcil.federation.ray.pool import SharedPool, StartedPool


def test_a_lean_ray_leaves_rays_own_names_as_they_were_and_minds_none_that_is_gone(monkeypatch) -> None:
    from ray._private import parameter, services

    before = parameter.RayParams, services.start_api_server
    with lean():
        assert parameter.RayParams().no_monitor is True
        assert parameter.RayParams().include_log_monitor is False
        assert services.start_api_server() == ("", None)
    assert (parameter.RayParams, services.start_api_server) == before
    monkeypatch.delattr(services, "start_api_server")
    with lean():
        assert not hasattr(services, "start_api_server")
    assert not hasattr(services, "start_api_server")


class Pretended(StartedPool):
    """Actors are numbers; each has started after a wait."""

    def __init__(self, size: int, starts: bool = True) -> None:
        self.size, self.made, self.waits, self.starts = size, 0, 0, starts
        self.idle: list[int] = []
        self.ended: list[int] = []
        self.starting: list[int] = []
        for _ in range(size):
            self.replace()

    def replace(self) -> None:
        self.starting.append(self.made)
        self.made += 1

    def take(self) -> int | None:
        return self.idle.pop(0) if self.idle else None

    def wait(self, seconds: float) -> None:
        self.waits += 1
        if not self.starts:
            raise ConfigError("no room")
        self.idle, self.starting = [*self.idle, *self.starting], []

    def give_back(self, actor: int) -> None:
        self.idle.append(actor)

    def drop(self, actor: int) -> None:
        self.ended.append(actor)
        self.replace()


def test_the_first_actor_is_waited_for_and_no_more_are_taken_than_allowed() -> None:
    there = Pretended(3)
    shared = SharedPool(there, 2)
    assert [shared.take() for _ in range(3)] == [0, 1, None]
    assert there.waits == 1
    shared.give_back(0)
    assert there.idle == [2, 0]  # a client may have it
    assert shared.take() == 2


def test_one_that_died_or_was_ended_leaves_room_for_another() -> None:
    there = Pretended(1)
    shared = SharedPool(there, 1)
    assert shared.take() == 0
    shared.replace()
    assert shared.take() == 1  # it was waited for: no other is at work
    shared.drop(1)
    assert there.ended == [1]
    assert shared.take() == 2


def test_while_one_is_at_work_the_next_is_not_waited_for() -> None:
    there = Pretended(2)
    shared = SharedPool(there, 2)
    assert [shared.take(), shared.take()] == [0, 1]
    shared.replace()
    assert shared.take() is None
    assert there.waits == 1


def test_actors_for_which_there_is_no_room_are_one_line() -> None:
    with pytest.raises(ConfigError, match="no room"):
        SharedPool(Pretended(1, starts=False), 1).take()
