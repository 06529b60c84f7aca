"""Whole runs on Ray: each in a process of its own, with its clients, so that one that dies takes no other along."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import sys
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import psutil
import torch

from fcil.errors import ConfigError, printable
from fcil.federation.ray.pool import ActorPool
from fcil.federation.settings import Resources


class Outcome(NamedTuple):
    """Outcome of a run that a process was given.

    `elsewhere`: another process has it; `failed`: `line` says why.
    """

    state: Literal["finished", "failed", "interrupted", "elsewhere"]
    line: str = ""


class Runner:
    """The body of a Ray actor: a process that plays one run after another."""

    def __init__(self, command: list[str], folder: str) -> None:
        sys.argv = command  # a run notes by what command it was begun
        with contextlib.suppress(OSError):  # on another machine
            os.chdir(folder)

    def place(self) -> tuple[str, int]:
        """The node of this process, and its number there."""
        import ray

        return ray.get_runtime_context().get_node_id(), os.getpid()

    def call(self, play: Callable[..., Outcome], *arguments: Any) -> Outcome:
        return play(*arguments)


class _Call(NamedTuple):
    name: Hashable
    runner: Any
    place: Any


class Runners:
    """Up to `at_once` processes on Ray, made when they are needed. Ray has to run."""

    def __init__(self, at_once: int, options: dict[str, Any]) -> None:
        self._pool = ActorPool(Runner, at_once, options, sys.argv, str(Path.cwd()))
        self._running: dict[Any, _Call] = {}

    @property
    def busy(self) -> int:
        return len(self._running)

    @property
    def free(self) -> bool:
        return len(self._running) < self._pool.size

    def start(self, name: Hashable, play: Callable[..., Outcome], *arguments: Any) -> None:
        """Let a process call `play`, which has to be a function of a module."""
        runner = self._pool.take()
        assert runner is not None, "no process is free"
        place = runner.place.remote()  # before the call, which is answered after a long time
        self._running[runner.call.remote(play, *arguments)] = _Call(name, runner, place)

    def wait(self, seconds: float) -> Iterable[tuple[Hashable, Outcome]]:
        """Return what has ended, after at most `seconds`. A process that did not end well is not used again."""
        import ray

        done, _ = ray.wait(list(self._running), num_returns=1, timeout=seconds) if self._running else ([], [])
        for reference in done:
            call = self._running.pop(reference)
            outcome = _outcome(reference)
            if outcome.state in ("finished", "elsewhere"):
                self._pool.give_back(call.runner)
            else:
                self._pool.drop(call.runner)
            yield call.name, outcome

    def stop(self) -> None:
        """Ask every run that is played to save and end, as a first Ctrl-C does; the answers are still to be awaited."""
        import ray

        here = ray.get_runtime_context().get_node_id()
        for call in self._running.values():
            ready, _ = ray.wait([call.place], timeout=0.0)
            if not ready:  # it has not begun
                ray.kill(call.runner)
                continue
            node, number = ray.get(call.place)
            if node == here:
                _ask_to_stop(number)
            else:
                there = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node, soft=False)
                ray.remote(_ask_to_stop).options(num_cpus=0, scheduling_strategy=there).remote(number)

    def close(self) -> None:
        """End the processes, whatever they are at."""
        for call in self._running.values():
            self._pool.drop(call.runner)
        self._running.clear()
        self._pool.close()


def _ask_to_stop(number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(number, signal.SIGTERM)


def _outcome(reference: Any) -> Outcome:
    import ray

    try:
        outcome: Outcome = ray.get(reference)
        return outcome
    except ray.exceptions.RayTaskError as error:  # not even the plan could be read there, say
        return Outcome("failed", printable(f"{type(error.cause).__name__}: {error.cause}"))
    except ray.exceptions.OutOfMemoryError:
        return Outcome("failed", "its process was ended because memory ran out; lower --jobs or batch sizes")
    except ray.exceptions.RayError as error:
        why = next((line.strip() for line in str(error).splitlines()[::-1] if "exit type" in line.lower()), "")
        return Outcome("failed", f"its process died ({why or type(error).__name__})")


# Room ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Machine:
    """Resources to share out, on this machine or on the cluster that was joined."""

    cpus: float
    gpus: int
    memory: float
    """Bytes."""

    @classmethod
    def found(cls) -> Machine:
        import ray

        if not ray.is_initialized():
            cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
            return cls(cpus, torch.cuda.device_count(), psutil.virtual_memory().available)
        total: dict[str, float] = ray.available_resources()  # type: ignore[no-untyped-call]
        return cls(total.get("CPU", 1.0), int(total.get("GPU", 0.0)), total.get("memory", math.inf))

    def room(self, resources: Resources, each: float) -> int:
        """Return how many runs of these settings fit at once, by cores, GPU shares and `each` bytes; at least one."""
        slots = min(self.cpus / resources.threads, self.memory / each)
        if share := gpu_share(resources):
            slots = min(slots, self.gpus * int((1 + 1e-9) / share) if share <= 1 else self.gpus / share)
        return max(1, int(slots))

    def options(self, resources: Resources, at_once: int) -> dict[str, Any]:
        """Return the options of Ray that set aside the resources of each of `at_once` runs."""
        cpus: float = resources.threads
        if at_once * cpus > self.cpus:  # more than fit were asked for; they take turns on the cores
            cpus = int(100 * self.cpus / at_once) / 100 if self.cpus < at_once else 1
        return {"num_cpus": cpus, "num_gpus": gpu_share(resources)}


def gpu_share(resources: Resources) -> float:
    """Return the GPU share of a run whose clients and synthesis take turns in one process."""
    if resources.torch_device().type != "cuda":
        return 0.0
    share = max(resources.client_gpus, resources.synthesis_gpus, 0.01)  # to a process with nothing Ray shows no GPU
    return share if share <= 1 else float(math.ceil(share))


def check_devices(resources: Iterable[Resources]) -> None:
    """Check that no run asks for a GPU by its number, which Ray hands out itself.

    Raises:
        ConfigError: a run does.
    """
    for one in resources:
        if ":" in one.device:
            raise ConfigError(
                f'resources.device: "{one.device}" is not allowed with several runs at once, for Ray hands out GPUs '
                "itself; say cuda and choose GPUs by CUDA_VISIBLE_DEVICES, or --jobs 1"
            )
