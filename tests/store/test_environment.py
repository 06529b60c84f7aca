"""What `env.json` tells: which code, on what, and whether numbers of one run can be those of one machine."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fcil.federation.settings import settle_arithmetic
from fcil.store import provenance as provenance_module
from fcil.store.environment import READERS, changes, environment, facts, mixed
from fcil.store.provenance import provenance, repository_of, sources_digest


def git(folder: Path, *arguments: str) -> str:
    own = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", *own, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def repository(folder: Path) -> str:
    """Make a repository of what is in a folder; the commit."""
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "--allow-empty", "-m", "x")
    return git(folder, "rev-parse", "HEAD")


def package(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("x = 1\n")
    return folder


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path, Path], dict[str, Any]]:
    """What is recorded of a package in one folder that is used in another."""

    def look(own: Path, here: Path) -> dict[str, Any]:
        monkeypatch.setattr(provenance_module, "PACKAGE", own)
        monkeypatch.chdir(here)
        sources_digest.cache_clear()
        provenance_module._as_loaded.cache_clear()
        return provenance()

    return look


At = Callable[[Path, Path], dict[str, Any]]


def test_the_repository_that_one_works_in_is_not_taken_for_that_of_the_package(tmp_path: Path, at: At) -> None:
    own, user = package(tmp_path / "site-packages" / "fcil"), tmp_path / "work"
    user.mkdir()
    theirs = repository(user)
    found = at(own, user)
    assert (found["commit"], found["modified"]) == (None, None)
    assert found["user_repository"] == {"commit": theirs, "modified": False}
    assert len(found["sources"]) == 16


def test_an_environment_within_ones_repository_does_not_make_its_packages_part_of_it(tmp_path: Path, at: At) -> None:
    user = tmp_path / "work"
    user.mkdir()
    (user / ".gitignore").write_text("venv\n")
    theirs = repository(user)
    found = at(package(user / "venv" / "lib" / "fcil"), user)
    assert (found["commit"], found["user_repository"]["commit"]) == (None, theirs)


def test_a_package_that_a_repository_tracks_has_its_commit(tmp_path: Path, at: At) -> None:
    own = package(tmp_path / "house" / "fcil")
    (tmp_path / "house" / "notes.txt").write_text("a")
    ours = repository(tmp_path / "house")
    elsewhere = tmp_path / "work"
    elsewhere.mkdir()
    theirs = repository(elsewhere)
    found = at(own, elsewhere)
    assert (found["commit"], found["modified"]) == (ours, False)
    assert found["user_repository"]["commit"] == theirs
    assert at(own, tmp_path / "house")["user_repository"] is None
    (tmp_path / "house" / "notes.txt").write_text("b")  # is none of the package's files
    assert at(own, elsewhere)["modified"] is False
    (own / "__init__.py").write_text("x = 2\n")
    again = at(own, elsewhere)
    assert (again["commit"], again["modified"]) == (ours, True)
    assert again["sources"] != found["sources"]


def test_variables_of_a_hook_do_not_name_the_repository(
    tmp_path: Path, at: At, monkeypatch: pytest.MonkeyPatch
) -> None:
    hooked = tmp_path / "hooked"
    hooked.mkdir()
    repository(hooked)
    own, empty = package(tmp_path / "own"), tmp_path / "empty"
    empty.mkdir()
    monkeypatch.setenv("GIT_DIR", str(hooked / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(hooked))
    found = at(own, empty)
    assert (found["commit"], found["user_repository"]) == (None, None)


def test_without_git_there_is_a_digest(tmp_path: Path, at: At, monkeypatch: pytest.MonkeyPatch) -> None:
    own = package(tmp_path / "fcil")
    repository(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = at(own, tmp_path)
    assert (found["commit"], found["user_repository"]) == (None, None)
    assert found["sources"]


def test_the_working_directory_may_be_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    os.rmdir(tmp_path / "gone")
    assert provenance()["user_repository"] is None
    assert repository_of(Path("."))["commit"] is None


def test_a_digest_sees_every_file_and_its_name(tmp_path: Path) -> None:
    def digest() -> str | None:
        sources_digest.cache_clear()
        provenance_module._as_loaded.cache_clear()
        return sources_digest(tmp_path / "p")

    assert digest() is None
    package(tmp_path / "p")
    first = digest()
    (tmp_path / "p" / "more.py").write_text("")
    second = digest()
    (tmp_path / "p" / "more.py").rename(tmp_path / "p" / "other.py")
    third = digest()
    (tmp_path / "p" / "notes.txt").write_text("is no source")
    assert len({first, second, third}) == 3
    assert digest() == third


def test_the_versions_that_matter_are_told() -> None:
    versions = environment(["cpu"], 1)["versions"]
    assert all(versions[name] for name in ("fcil", "torch", "torchvision", "numpy", "flwr", "ray", *READERS))
    assert all(versions[name] for name in ("scipy", "scikit-learn", "transformers"))


# What has changed ---------------------------------------------------------------------------------


def test_what_numbers_depend_on_is_compared_and_nothing_else() -> None:
    here = environment(["cpu"], 1, {"images": "a"})
    assert facts(here)["device"] == "cpu"
    assert changes(here, {**here, "started": "later", "command": [], "cpus": 7, "python": "4"}) == {}
    there = {**here, "threads": 2, "devices": ["cuda:1"], "inputs": {"images": "b"}, "switches": {"MKL_CBWR": "AVX"}}
    there |= {"versions": {**here["versions"], "ray": "0", "torch": "0", "scipy": None}}
    changed = changes(there, here)
    assert set(changed) == {"threads", "device", "images", "MKL_CBWR", "torch"}
    assert changed["MKL_CBWR"] == ("AVX", "unset")


@pytest.mark.parametrize(
    "env", [{}, {"devices": 3, "versions": [], "inputs": "x"}, {"resumed": [3, {}]}, {"resumed": 1}, {"devices": [{}]}]
)
def test_an_environment_of_strangers_is_no_trouble(env: dict[str, Any]) -> None:
    assert mixed(env) == {}
    assert changes(env, environment(["cpu"], 1)) == {}


def test_a_run_that_was_made_alike_is_not_mixed() -> None:
    first, other = ({"threads": 1, "devices": ["cpu"], "versions": {"torch": v}} for v in ("1", "2"))
    assert mixed({**first, "resumed": [first, first]}) == {}
    assert mixed({**first, "resumed": [other, first]}) == {"torch": ["1", "2"]}


# Arithmetic ---------------------------------------------------------------------------------------


@pytest.fixture
def _as_before() -> Any:
    yield
    torch.set_float32_matmul_precision("highest")
    for name in ("conv", "rnn"):
        part: Any = getattr(torch.backends.mkldnn, name, SimpleNamespace())
        part.fp32_precision = "ieee"


@pytest.mark.usefixtures("_as_before")
@pytest.mark.parametrize("how", ["matmul", "everything"])
def test_a_precision_that_was_set_before_does_not_count(how: str) -> None:
    """Workers on Ray would not know it, and give other numbers than this process."""
    rng = torch.Generator().manual_seed(0)
    a, b = torch.randn(256, 256, generator=rng), torch.randn(256, 256, generator=rng)
    image, kernel = torch.randn(8, 16, 32, 32, generator=rng), torch.randn(16, 16, 3, 3, generator=rng)
    settle_arithmetic(1)
    product, filtered = a @ b, torch.conv2d(image, kernel)
    if how == "matmul":
        torch.set_float32_matmul_precision("medium")
    elif hasattr(torch.backends.mkldnn, "fp32_precision"):
        torch.backends.mkldnn.fp32_precision = "bf16"
    settle_arithmetic(1)
    assert torch.get_float32_matmul_precision() == "highest"
    assert torch.equal(a @ b, product)
    assert torch.equal(torch.conv2d(image, kernel), filtered)


def test_a_commit_made_while_a_process_runs_is_not_taken_for_what_it_runs(tmp_path: Path, at: At) -> None:
    own = package(tmp_path / "fcil")
    loaded = repository(tmp_path)
    assert at(own, tmp_path)["commit"] == loaded
    (own / "__init__.py").write_text("x = 2\n")
    later = repository(tmp_path)
    assert later != loaded
    assert (provenance()["commit"], provenance()["modified"]) == (loaded, False)
    assert at(own, tmp_path)["commit"] == later  # another process
