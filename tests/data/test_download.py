"""Downloads that break off, go on, prove wrong or cannot be had."""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torchvision.datasets as theirs
from file_server import Served, serving

from fcil.data.remote import download as module
from fcil.data.remote.download import download
from fcil.data.remote.origins import ORIGINS, RemoteFile
from fcil.errors import DownloadError

CONTENT = bytes(range(256)) * 2000


def remote(content: bytes = CONTENT) -> RemoteFile:
    return RemoteFile("set.zip", len(content), hashlib.md5(content).hexdigest())


@pytest.fixture
def served() -> Iterator[Served]:
    with serving({"set.zip": CONTENT}) as server:
        yield server


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "data" / "set.zip"


def silent(name: str, done: int, total: int) -> None:
    """Show nothing."""


def test_a_file_is_put_in_its_place_whole_and_its_progress_told(served: Served, target: Path) -> None:
    steps: list[tuple[str, int, int]] = []
    download([served.address], remote(), target, lambda *step: steps.append(step))
    assert target.read_bytes() == CONTENT
    assert [path.name for path in target.parent.iterdir()] == ["set.zip"]
    assert served.asked == [("set.zip", None)]
    assert steps[0] == ("set.zip", 0, len(CONTENT))
    assert steps[-1] == ("set.zip", len(CONTENT), len(CONTENT))
    assert [done for _, done, _ in steps] == sorted(done for _, done, _ in steps)
    assert len(steps) > 3


def test_a_connection_that_breaks_off_is_gone_on_with(served: Served, target: Path) -> None:
    served.breaks_after = [100_000, 50_000]
    download([served.address], remote(), target, silent)
    assert target.read_bytes() == CONTENT
    assert [wanted for _, wanted in served.asked] == [None, "bytes=100000-", "bytes=150000-"]


def test_the_next_command_goes_on_where_the_last_one_ended(served: Served, target: Path) -> None:
    served.breaks_after = [100_000, 0]
    with pytest.raises(DownloadError, match=r"broke off after 100,000 of 512,000 bytes"):
        download([served.address], remote(), target, silent)
    assert [path.name for path in target.parent.iterdir()] == ["set.zip.part"]
    steps: list[int] = []
    download([served.address], remote(), target, lambda _, done, total: steps.append(done))
    assert steps[0] == 100_000
    assert target.read_bytes() == CONTENT
    assert served.asked[-1] == ("set.zip", "bytes=100000-")


def test_a_server_without_ranges_is_asked_for_all_of_it(served: Served, target: Path) -> None:
    target.parent.mkdir()
    target.with_name("set.zip.part").write_bytes(CONTENT[:1000])
    served.ranges = False
    download([served.address], remote(), target, silent)
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize("begun", [b"other", b"x" * len(CONTENT), b"x" * (len(CONTENT) + 9)])
def test_a_part_of_something_else_is_begun_anew(served: Served, target: Path, begun: bytes) -> None:
    target.parent.mkdir()
    target.with_name("set.zip.part").write_bytes(begun)
    download([served.address], remote(), target, silent)
    assert target.read_bytes() == CONTENT
    assert [wanted is None for _, wanted in served.asked] == [False, True]


def test_a_part_that_was_whole_is_only_checked(served: Served, target: Path) -> None:
    target.parent.mkdir()
    target.with_name("set.zip.part").write_bytes(CONTENT)
    download([served.address], remote(), target, silent)
    assert target.read_bytes() == CONTENT
    assert served.asked == [("set.zip", f"bytes={len(CONTENT)}-")]


def test_a_wrong_checksum_leaves_nothing(served: Served, target: Path) -> None:
    served.files["set.zip"] = CONTENT[::-1]
    with pytest.raises(DownloadError) as caught:
        download([served.address], remote(), target, silent)
    found = hashlib.md5(CONTENT[::-1]).hexdigest()
    assert str(caught.value) == f"{served.address}set.zip: its checksum is {found}, not {remote().md5}"
    assert list(target.parent.iterdir()) == []
    assert len(served.asked) == 1


def test_the_next_mirror_serves_where_one_does_not(served: Served, target: Path) -> None:
    download([f"{served.address}gone/", served.address], remote(), target, silent)
    assert target.read_bytes() == CONTENT
    with pytest.raises(DownloadError) as caught:
        download([f"{served.address}a/", f"{served.address}b/"], remote(), target.with_name("other"), silent)
    assert str(caught.value) == f"{served.address}a/set.zip: 404 Not Found; {served.address}b/set.zip: 404 Not Found"


def test_a_server_that_gives_another_range_or_far_too_much_is_left(served: Served, target: Path) -> None:
    served.breaks_after, served.shift = [100_000], 7
    with pytest.raises(DownloadError, match="the server sent another range than asked for"):
        download([served.address], remote(), target, silent)
    with pytest.raises(DownloadError, match="announces 512,000 bytes for a file of 3"):
        download([served.address], remote(b"abc"), target, silent)
    assert not target.exists()


def test_a_machine_without_a_network_is_told_so(target: Path, served: Served) -> None:
    with serving({}) as other:
        gone = other.address
    with pytest.raises(DownloadError, match="Connection refused"):
        download([gone], remote(), target, silent)
    download([gone, served.address], remote(), target, silent)
    assert target.read_bytes() == CONTENT


def test_a_connection_that_falls_silent_is_given_up(
    served: Served, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def silence(*_: object, **__: object) -> None:
        raise TimeoutError("timed out")

    monkeypatch.setattr(module.urllib.request, "urlopen", silence)
    with pytest.raises(DownloadError, match=r"set\.zip: timed out"):
        download([served.address], remote(), target, silent)


def test_a_full_disk_is_one_line_and_what_came_is_kept(
    served: Served, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module.os, "fsync", full)
    with pytest.raises(DownloadError) as caught:
        download([served.address], remote(), target, silent)
    assert str(caught.value) == f"{target}.part: cannot be written (No space left on device)"
    assert [path.name for path in target.parent.iterdir()] == ["set.zip.part"]
    target.parent.joinpath("file").touch()
    with pytest.raises(DownloadError, match=r"file/set\.zip: cannot be written"):
        download([served.address], remote(), target.parent / "file" / "set.zip", silent)


def test_the_table_is_that_of_torchvision() -> None:
    for name, kind in {"mnist": theirs.MNIST, "fashion_mnist": theirs.FashionMNIST}.items():
        origin = ORIGINS[name]
        assert list(origin.mirrors) == kind.mirrors
        assert [(file.name, file.md5) for file in origin.files] == kind.resources
        assert origin.folder == f"{kind.__name__}/raw"
    for name, cifar in {"cifar10": theirs.CIFAR10, "cifar100": theirs.CIFAR100}.items():
        (file,) = ORIGINS[name].files
        assert (ORIGINS[name].mirrors[0] + file.name, file.md5) == (cifar.url, cifar.tgz_md5)
        assert ORIGINS[name].unpacks_to == cifar.base_folder
