"""Ctrl-C and SIGTERM: what was done is saved, the exit code is 130, and the run that goes on is the same run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from run_processes import Forked
from small_runs import NAYER, checkpoint, play, without_seconds, write_experiment, write_strategy

from fcil.federation.observer import Observer
from fcil.federation.runtime import interrupts
from fcil.federation.runtime.interrupts import Interrupted, Interrupts, OutOfTime, time_limit
from fcil.store import Run

SOON = 60.0
"""Seconds: long for a machine with better things to do, short beside the hundred for which a client would sleep."""
WAITS = '''"""Says when it is at a place, and takes its time there."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

from fcil import Strategy


@dataclass(frozen=True, kw_only=True)
class Waits(Strategy):
    def local_train(self, client):
        client.memory["calls"] = client.memory.get("calls", 0) + 1
        update = super().local_train(client)
        place, _, seconds = os.environ.get("FCIL_TEST_WAIT", "").partition(":")
        if place == f"{client.task.number}/{client.round}/{client.index}":
            Path(os.environ["FCIL_TEST_MARK"]).touch()
            time.sleep(float(seconds))
        return update
'''


@contextmanager
def begun(source: Path, out: Path, mark: Path, wait: str = "") -> Iterator[Forked]:
    """`fcil run` in a process of its own, when it is where it was to wait."""
    env = {"FCIL_TEST_WAIT": wait, "FCIL_TEST_MARK": str(mark)}
    with Forked(mark.parent, "run", source, "--out", out, env=env) as process:
        deadline = time.monotonic() + 120
        while not mark.exists():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        yield process


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An experiment whose checkpoints are those of the ends of tasks: `checkpoint_every` is 0."""
    folder = tmp_path_factory.mktemp("waits")
    own = write_strategy(folder, WAITS, "waits")
    return write_experiment(folder, strategy=str(own), federation={"checkpoint_every": 0, "rounds": 3})


@pytest.fixture(scope="module")
def whole(source: Path) -> Run:
    """Its run, never interrupted."""
    return play(source, out=source.parent / "whole")[0]


def assert_same_as_whole(tmp_path: Path, source: Path, whole: Run, rounds_done: int) -> None:
    """Going on with what was interrupted gives what was never interrupted, to the bit."""
    (resumed,) = play(source, out=tmp_path / "cut")
    assert f"{rounds_done} rounds done before" in (resumed.path / "log.txt").read_text()
    assert_equal(resumed, whole)


def assert_equal(a: Run, b: Run) -> None:
    assert a.folder.accuracy.read_bytes() == b.folder.accuracy.read_bytes()
    assert without_seconds(a) == without_seconds(b)
    assert checkpoint(a)[1] == checkpoint(b)[1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_the_round_end_and_saves_it(
    tmp_path: Path, source: Path, whole: Run, number: signal.Signals
) -> None:
    """Without this the checkpoint would be the one of the first task."""
    with begun(source, tmp_path / "cut", tmp_path / "mark", "2/2/0:1") as process:
        process.send_signal(number)
        began = time.monotonic()
        out, err = process.communicate(timeout=90)
        assert time.monotonic() - began < SOON
    assert process.returncode == 130
    assert "stopping as soon as this step is saved; once more stops at once" in out
    assert err == "interrupted; the same command goes on from the last checkpoint\n"
    assert_same_as_whole(tmp_path, source, whole, rounds_done=5)


def test_a_round_that_takes_too_long_is_dropped_and_what_was_before_it_saved(
    tmp_path: Path, source: Path, whole: Run
) -> None:
    with begun(source, tmp_path / "cut", tmp_path / "mark", "1/3/1:100") as process:
        process.send_signal(signal.SIGINT)
        began = time.monotonic()
        process.communicate(timeout=90)
        assert interrupts.GRACE - 1 < time.monotonic() - began < SOON
    assert process.returncode == 130
    assert_same_as_whole(tmp_path, source, whole, rounds_done=2)


def test_a_second_signal_ends_the_process_at_once(tmp_path: Path, source: Path, whole: Run) -> None:
    with begun(source, tmp_path / "cut", tmp_path / "mark", "2/1/1:100") as process:
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=3)
    assert process.returncode == 130
    assert_same_as_whole(tmp_path, source, whole, rounds_done=3)


def test_a_synthesis_goes_on_from_its_last_episode(tmp_path: Path) -> None:
    """Stopped in the fifth of seven episodes; the four before it are not made again."""
    nayer = {**NAYER, "rounds": 6}
    source = write_experiment(tmp_path, strategy={"lander": {"synthesizer": {"nayer": nayer}}})
    episodes: list[int] = []

    asked = Interrupts()

    class Counts(Observer):
        def synthesis_progress(self, task: int, done: int, total: int, terms: dict[str, float]) -> None:
            episodes.append(done)
            asked.requested = done == 4

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fcil.runs.play.Interrupts", lambda announce: asked)
        with pytest.raises(Interrupted):
            play(source, out=tmp_path / "cut", observer=Counts())
    assert episodes == [1, 2, 3, 4]  # the fifth was made, saved, and then it stopped
    (folder,) = (tmp_path / "cut").glob("tiny/*/seed0")
    assert (folder / "checkpoints/synthesis.json").is_file()

    (resumed,) = play(source, out=tmp_path / "cut", observer=Counts())
    (whole,) = play(source, out=tmp_path / "whole")
    assert episodes == [1, 2, 3, 4, 6, 7]
    assert checkpoint(resumed)[1] == checkpoint(whole)[1]
    assert not (folder / "checkpoints/synthesis.json").exists()


def signal_and_wait(number: signal.Signals, seconds: float = 5.0) -> None:
    os.kill(os.getpid(), number)
    time.sleep(seconds)


def test_signals_do_again_what_they_did_before() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with Interrupts():
        assert signal.getsignal(signal.SIGINT) != before[0]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_where_nothing_can_be_saved_the_first_signal_ends_it() -> None:
    with Interrupts() as asked, pytest.raises(Interrupted):
        signal_and_wait(signal.SIGTERM)
    assert asked.requested


def test_where_something_can_be_saved_it_is_for_the_run_to_say_when() -> None:
    said: list[str] = []
    with Interrupts(said.append) as asked:
        with asked.patience():
            signal_and_wait(signal.SIGINT, 0.05)
            assert asked.requested
            with pytest.raises(Interrupted):
                asked.check()
        assert len(said) == 1


def test_grace_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interrupts, "GRACE", 0.1)
    with Interrupts() as asked, pytest.raises(Interrupted), asked.patience():
        signal_and_wait(signal.SIGINT)


def test_in_another_thread_signals_are_left_alone() -> None:
    found: list[Any] = []

    def inside() -> None:
        with Interrupts() as asked, time_limit(0.01):
            time.sleep(0.05)
            found.append(asked.requested)

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert found == [False]


KEPT = """
import os, signal, time
from fcil.federation.ray.session import uninterrupted
from fcil.federation.runtime.interrupts import Interrupted, Interrupts

with Interrupts():
    try:
        with uninterrupted():
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.1)
    except Interrupted:
        time.sleep(0.5)
        os.write(1, b"left in order")
"""


def test_a_signal_that_waits_until_ray_has_started_does_not_count_as_two() -> None:
    done = subprocess.run([sys.executable, "-c", KEPT], text=True, capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "left in order")
    assert done.stderr == "stopping as soon as Ray has started; once more stops at once\n"


def test_a_time_limit_is_kept_through_code_that_swallows_errors() -> None:
    def stubborn() -> None:
        while True:
            with suppress(Exception):
                time.sleep(1)

    with pytest.raises(OutOfTime), time_limit(0.05):
        stubborn()


def test_a_time_limit_that_is_not_reached_leaves_nothing_behind() -> None:
    with time_limit(0.05):
        value = 1
    time.sleep(0.1)
    assert value == 1
