"""The folder that Ray has while it is ours: apart from everybody else's, and gone afterwards, however that comes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from fcil.federation.ray import session as ray_session
from fcil.federation.ray.folder import PREFIX, RayFolder, sweep

HOLDS = (
    "import time\nfrom fcil.federation.ray.folder import RayFolder\nprint(RayFolder().path, flush=True)\ntime.sleep(60)"
)
STARTS = """
import ray, sys, time
from fcil.federation.ray.session import RaySession
with RaySession(None):
    assert ray.is_initialized()
    print("started", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A temporary folder for Ray, of a name short enough."""
    home = Path(tempfile.mkdtemp(prefix="r", dir="/tmp"))
    monkeypatch.setenv("RAY_TMPDIR", str(home))
    yield home
    shutil.rmtree(home, ignore_errors=True)


def begun(code: str, home: Path) -> subprocess.Popen[str]:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "RAY_TMPDIR": str(home)}
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-W", "ignore", "-c", code], env=env, stdin=pipe, stdout=pipe, text=True)


def test_a_folder_goes_when_its_owner_removes_it(home: Path) -> None:
    mine = RayFolder()
    assert mine.path is not None
    assert mine.path.parent == home
    assert mine.path.stat().st_mode & 0o077 == 0
    (mine.path / "session_1" / "logs").mkdir(parents=True)
    mine.remove()
    assert list(home.iterdir()) == []


def test_the_folder_of_a_process_that_was_killed_goes_with_the_next_one(home: Path) -> None:
    with begun(HOLDS, home) as other:
        assert other.stdout is not None
        theirs = Path(other.stdout.readline().strip())
        mine = RayFolder()
        assert theirs.is_dir()
        assert mine.path != theirs
        other.send_signal(signal.SIGKILL)
        other.wait()
    sweep(home)
    assert list(home.iterdir()) == [mine.path]
    mine.remove()


def test_what_is_kept_to_look_into_goes_with_the_next_one(home: Path) -> None:
    kept = RayFolder()
    path = kept.path
    assert path is not None
    kept.leave()
    assert path.is_dir()
    RayFolder().remove()
    assert not path.exists()


def test_what_is_somebody_elses_stays(home: Path) -> None:
    (home / "ray" / "session_2026-01-01_00-00-00_000000_1").mkdir(parents=True)
    (home / f"{PREFIX}longer-than-ours").mkdir()
    (home / f"{PREFIX}links").symlink_to(home / "ray")
    (home / f"{PREFIX}files").touch()
    before = sorted(home.rglob("*"))
    RayFolder().remove()
    assert sorted(home.rglob("*")) == before


def test_a_temporary_folder_of_a_long_name_is_not_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A socket's name may have 107 bytes."""
    long = tmp_path / ("x" * 60)
    long.mkdir()
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", str(long))
    mine = RayFolder()
    assert mine.path is not None
    assert mine.path.parent == Path("/tmp")
    socket = mine.path / "session_2026-11-28_05-21-43_564101_4194304/sockets/plasma_store"
    assert len(os.fsencode(socket)) <= 107
    mine.remove()


def test_where_no_folder_can_be_made_ray_uses_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fcil.federation.ray.folder._homes", lambda: iter([Path("/proc/nowhere")]))
    none = RayFolder()
    assert none.path is None
    none.remove()


def processes_of(folder: Path) -> list[list[str]]:
    """The commands of those that use a folder of Ray's."""
    every = [process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])]
    return [command for command in every if any(str(folder) in word for word in command)]


@pytest.mark.ray
@pytest.mark.parametrize("end", ["ends", "is killed"])
def test_ray_leaves_nothing_behind(home: Path, end: str) -> None:
    with begun(STARTS, home) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        (folder,) = home.iterdir()
        assert (folder / "session_latest").is_symlink()
        assert len(processes_of(folder)) > 2
        if end == "ends":
            process.communicate("\n", timeout=60)
            assert process.returncode == 0
        else:
            process.kill()
    deadline = time.monotonic() + (0 if end == "ends" else 20)
    while (any(home.iterdir()) or processes_of(folder)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert list(home.iterdir()) == []
    assert processes_of(folder) == []


def test_the_logs_of_a_ray_that_does_not_start_are_kept(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    def fails(**_: object) -> None:
        raise Exception("The current node timed out during startup.\nThis could happen")

    monkeypatch.setattr("ray.init", fails)
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    with pytest.raises(ray_session.EngineError) as caught, ray_session.RaySession(None):
        pass
    (folder,) = home.iterdir()
    assert str(caught.value) == (
        "Ray does not start here (The current node timed out during startup.); "
        f"its logs stay in {folder} until the next start; federation.backend=inprocess needs none"
    )
