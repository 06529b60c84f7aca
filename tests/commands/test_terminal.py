"""Between the command line and the world: streams that break, keys pressed early, a machine that has no more."""

from __future__ import annotations

import errno
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from small_runs import silently, write_experiment

from fcil.cli import main
from fcil.errors import EngineError
from fcil.federation.ray.session import DiedStartingError, alive
from fcil.federation.runtime import address_space as addresses
from fcil.terminal.streams import exhausted, screens

FCIL = [sys.executable, "-m", "fcil"]
FULL = re.escape("standard output: No space left on device; what was printed is not all there\n")


def called(monkeypatch: pytest.MonkeyPatch, *words: str) -> object:
    """Exit code of `fcil ...` in this process."""
    monkeypatch.setattr(sys, "argv", ["fcil", *words])
    with pytest.raises(SystemExit) as stop:
        main()
    return stop.value.code


# Streams ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["--version"],
        ["list"],
        ["list", "nets"],
        ["list", "nets", "--json"],
        ["list", "strategies"],
        ["show", "--schema"],
        ["show", "tiny.yaml"],
        ["show", "tiny.yaml", "--json"],
        ["run", "tiny.yaml", "--dry-run"],
        ["doctor", "--json"],
    ],
    ids=" ".join,
)
def test_a_full_standard_output_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_experiment(tmp_path)
    with open("/dev/full", "w", encoding="utf-8") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert called(monkeypatch, *words) == 1
    assert re.fullmatch(FULL, capsys.readouterr().err)


def test_a_run_whose_standard_output_is_full_is_played_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_experiment(tmp_path)
    with silently(), open("/dev/full", "w", encoding="utf-8") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert called(monkeypatch, "run", "tiny.yaml", "--out", "out") == 1
    assert len(list(Path("out").rglob("summary.json"))) == 1
    assert re.fullmatch(FULL, capsys.readouterr().err)


@pytest.mark.parametrize("words", [["list"], ["list", "--json"], ["--help"]], ids=" ".join)
def test_whoever_has_read_enough_is_no_error(words: list[str]) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([*FCIL, *words], stdout=write, stderr=subprocess.PIPE, timeout=60)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("closed", [1, 2])
@pytest.mark.parametrize("words", [["list", "--json"], ["list", "nothing"]], ids=" ".join)
def test_a_closed_stream_is_no_error(words: list[str], closed: int) -> None:
    done = subprocess.run([*FCIL, *words], capture_output=True, timeout=60, preexec_fn=lambda: os.close(closed))
    assert done.returncode == (2 if words[-1] == "nothing" else 0)
    assert b"Traceback" not in done.stderr


def test_no_file_takes_the_place_of_a_stream_that_was_closed() -> None:
    """What a library prints to descriptor 1 would else end in that file."""
    inside = "os.write(2, b'%d' % os.open('/dev/null', 0))"
    code = f"import os\nfrom fcil.terminal.streams import screens\nwith screens():\n    {inside}"
    done = subprocess.run(
        [sys.executable, "-c", code], stderr=subprocess.PIPE, timeout=60, preexec_fn=lambda: os.close(1)
    )
    assert int(done.stderr) > 2


def test_streams_are_again_what_they_were() -> None:
    before = sys.stdout, sys.stderr
    with screens():
        assert sys.stdout is not before[0]
    assert (sys.stdout, sys.stderr) == before


# Ctrl-C before anything is begun ----------------------------------------------------------------


SLOW = "import pathlib, time\npathlib.Path({mark!r}).touch()\n{wait}\n"


@pytest.mark.parametrize(
    ("module", "wait"),
    [
        ("typer", "time.sleep(30)"),
        ("torch", "time.sleep(30)"),
        ("torch", "try:\n    time.sleep(30)\nexcept BaseException:\n    pass"),
        ("torch", "try:\n    time.sleep(30)\nexcept BaseException:\n    raise ImportError('no device') from None"),
    ],
    ids=["of the verbs", "of a verb", "that swallows it", "that turns it into something else"],
)
def test_ctrl_c_while_something_is_imported_is_one_line(tmp_path: Path, module: str, wait: str) -> None:
    mark = tmp_path / "mark"
    (tmp_path / f"{module}.py").write_text(SLOW.format(mark=str(mark), wait=wait))
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, sys.path)])}
    process = subprocess.Popen(
        [*FCIL, "check", "finetune"], env=env, stderr=subprocess.PIPE, stdout=subprocess.PIPE, preexec_fn=_listening
    )
    deadline = time.monotonic() + 60
    while not mark.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=10) == (b"", b"interrupted\n")
    assert process.returncode == 130


def _listening() -> None:
    """A shell has what it runs in the background ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_ctrl_c_in_a_verb_that_nothing_goes_on_from_promises_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(kind: str) -> list[Any]:
        raise KeyboardInterrupt

    monkeypatch.setattr("fcil.methods.catalogue.rows", interrupted)
    assert called(monkeypatch, "list", "nets") == 130
    assert capsys.readouterr().err == "interrupted\n"


# What runs out ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            ImportError("libtorch.so: failed to map segment from shared object"),
            "memory to load a library (libtorch.so:",
        ),
        (MemoryError(), "out of memory"),
        (RuntimeError("can't start new thread"), "no further thread can be started"),
        (OSError(errno.ENOSPC, "No space left on device", "a/b"), "a/b: No space left on device"),
        (OSError(errno.EMFILE, "Too many open files"), "the system: Too many open files"),
    ],
)
def test_what_ran_out_is_said_in_one_line(error: Exception, said: str) -> None:
    try:
        try:
            raise error
        except Exception as inner:
            raise ImportError("PLEASE READ THIS\nfor advice") from inner
    except ImportError as outer:
        line = exhausted(outer)
    assert line is not None
    assert said in line
    assert "\n" not in line


@pytest.mark.parametrize(
    "error", [ImportError("no module"), RuntimeError("x"), OSError(errno.ENOENT, "no"), KeyError()]
)
def test_what_is_a_mistake_of_ours_keeps_its_traceback(error: Exception) -> None:
    assert exhausted(error) is None


@pytest.mark.parametrize("gibibytes", [0.1, 0.9, 1.2])
@pytest.mark.parametrize("words", [["check", "finetune"], ["run", "tiny.yaml"]], ids=" ".join)
def test_too_little_address_space_for_torch_is_one_line(tmp_path: Path, gibibytes: float, words: list[str]) -> None:
    write_experiment(tmp_path)
    done = limited(gibibytes, words, tmp_path)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "address space (ulimit -v)" in done.stderr
    assert done.stdout == ""


def limited(gibibytes: float, words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (int(gibibytes * 2**30),) * 2)

    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.run(
        [*FCIL, *words], env=env, cwd=folder, capture_output=True, text=True, timeout=50, preexec_fn=limit
    )


@pytest.fixture
def allowed(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Has this process believe that it may have so many bytes of address space beyond those it has."""

    def allow(more: float) -> None:
        limit = resource.RLIM_INFINITY if more == float("inf") else int(2**34 + more)
        monkeypatch.setattr(addresses.resource, "getrlimit", lambda kind: (limit, limit))
        monkeypatch.setattr(addresses.psutil.Process, "memory_info", lambda self: SimpleNamespace(vms=2**34))

    return allow


def test_ray_is_given_a_store_that_its_processes_can_map(allowed: Callable[[float], None]) -> None:
    allowed(float("inf"))
    assert addresses.store_size() is None
    addresses.check_room_for_a_run()
    allowed(addresses.RAY + 2 * addresses.LEAST_STORE)
    size = addresses.store_size()
    assert size is not None
    assert 0 < size <= 2 * addresses.LEAST_STORE


def test_too_little_address_space_for_ray_is_said_before_it_starts(allowed: Callable[[float], None]) -> None:
    allowed(addresses.RAY)
    with pytest.raises(EngineError, match=r"wants 18\.2 GiB of address space and this shell allows 18\.0 .*inprocess"):
        addresses.store_size()
    addresses.check_room_for_a_run()
    allowed(addresses.RUN / 2)
    with pytest.raises(EngineError, match="a run wants 17"):
        addresses.check_room_for_a_run()


def test_a_server_of_ray_that_dies_while_it_starts_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "raylet").symlink_to("/bin/true")
    began = time.monotonic()
    with subprocess.Popen([tmp_path / "raylet"]):
        with pytest.raises(DiedStartingError, match="its raylet ended at once"), alive(pause=0.01):
            time.sleep(20)
        assert time.monotonic() - began < 10
    with alive(pause=0.01):
        time.sleep(0.05)
