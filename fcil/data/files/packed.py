"""Files inside a package of a software archive: a tar, such as that of npm, or the one inside a .deb of Debian."""

from __future__ import annotations

import io
import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from fcil.errors import DataError
from fcil.io.bounded import UnreadableError, open_file

MOST_BYTES = 256 * 2**20
"""Most bytes of a file, packed or unpacked, that is read into memory."""
MOST_MEMBERS = 10_000
_AR, _AR_HEADER = b"!<arch>\n", 60
_DAMAGES = (OSError, EOFError, ValueError, tarfile.TarError, zlib.error, lzma.LZMAError, OverflowError)


def members(path: Path, wanted: Callable[[str], object]) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of the regular files of a package whose names are wanted.

    Raises:
        DataError: it cannot be read, or is no such package.
    """
    try:
        with open_file(path, MOST_BYTES) as file, tarfile.open(fileobj=_tar_in(file)) as tar:
            for count, member in enumerate(tar):
                if count >= MOST_MEMBERS:
                    raise DataError(f"{path}: holds more than {MOST_MEMBERS:,} files")
                if member.isreg() and wanted(member.name) and (content := tar.extractfile(member)):
                    yield member.name, content.read(MOST_BYTES + 1)
    except (UnreadableError, *_DAMAGES) as error:
        said = (str(error) or type(error).__name__).splitlines()[0].rstrip(":")
        raise DataError(f"{path}: no readable tar or .deb ({said})") from None


def _tar_in(file: BinaryIO) -> BinaryIO:
    """Return the tar of files in a .deb, which is an ar (see deb(5)); any other file itself."""
    if file.read(len(_AR)) != _AR:
        file.seek(0)
        return file
    while header := file.read(_AR_HEADER):
        size = int(header[48:58])
        if not 0 <= size <= MOST_BYTES:
            break
        if header.startswith(b"data.tar"):
            return io.BytesIO(file.read(size))
        file.seek(size + size % 2, io.SEEK_CUR)
    raise ValueError("an ar without data.tar")
