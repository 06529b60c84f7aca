"""One torch thread: nets of tests lose time to threads, most of all where cores are shared. And fixtures of many."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import torch
from command_line import Command, Said

from fcil.cli import main
from fcil.data import sources
from fcil.federation.persistence import manifest

torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"  # and so in processes that tests start
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # which would have each of them compile the package anew


def pytest_configure(config: pytest.Config) -> None:
    """Leave slow tests out wherever `-m` does not speak of them: `-m "not ray"` adds to that and does not end it."""
    asked = config.option.markexpr
    if "slow" not in asked:
        config.option.markexpr = f"not slow and ({asked})" if asked else "not slow"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let slow tests take as long as they do."""
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.timeout(0))


_spared = 0
"""Modules that the garbage collector is spared."""


def pytest_collection_finish() -> None:
    """Spare the garbage collector what lives as long as the tests do, some 600,000 objects of modules.

    A run collects garbage twice when it ends, which took two thirds of the time of a tiny one.
    """
    global _spared
    gc.collect()
    gc.freeze()
    _spared = len(sys.modules)


def pytest_runtest_logfinish() -> None:
    """Spare it those too that tests have imported."""
    if len(sys.modules) > _spared + 100:
        pytest_collection_finish()


@pytest.fixture(scope="session", autouse=True)
def _disk_in_no_hurry() -> Iterator[None]:
    """What is written need not reach the disk before a test goes on, since none cuts the power."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda handle: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def _what_does_not_change_is_read_once() -> Iterator[None]:
    """The digits, of which every run has the same, and the version of the package, which each checkpoint names."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "_digits", cache(sources._digits))
        patch.setattr(manifest, "version", cache(manifest.version))
        yield


@pytest.fixture
def _double() -> Iterator[None]:
    """Double precision wherever none is named."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs `fcil ...` in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: object) -> Said:
        monkeypatch.setattr(sys, "argv", ["fcil", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        captured = capsys.readouterr()
        return Said(stop.value.code, captured.out, captured.err)  # type: ignore[arg-type]

    return run
