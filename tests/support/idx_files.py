"""Small data sets in idx files, laid out and packed as the large ones are."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def idx(array: NDArray[np.uint8]) -> bytes:
    """The idx file of an array of bytes."""
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


def small(seed: int = 0) -> dict[str, bytes]:
    """The four files of 30 training and 20 test images, by their published names."""
    rng = np.random.default_rng(seed)
    files = {}
    for part, count in (("train", 30), ("t10k", 20)):
        files[f"{part}-images-idx3-ubyte"] = idx(rng.integers(0, 256, (count, 28, 28), dtype=np.uint8))
        files[f"{part}-labels-idx1-ubyte"] = idx(rng.permutation(np.arange(count) % 10).astype(np.uint8))
    return files


def laid(folder: Path, files: Mapping[str, bytes], spelling: Callable[[str], str] = str) -> Path:
    """Write files into a folder; those whose name then ends on .gz are packed."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        path = folder / spelling(name)
        path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return folder


def tar(files: Mapping[str, bytes], mode: str = "gz", prefix: str = "package/data/") -> bytes:
    """A tar of files below a folder; those whose name ends on .gz are packed."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode=f"w:{mode}") as output:
        for name, data in files.items():
            content = gzip.compress(data) if name.endswith(".gz") else data
            member = tarfile.TarInfo(prefix + name)
            member.size = len(content)
            output.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def deb(files: Mapping[str, bytes]) -> bytes:
    """A Debian package of files, packed as Debian packs them."""
    gz = {f"{name}.gz": data for name, data in files.items()}
    inner = {
        "debian-binary": b"2.0\n",
        "control.tar.xz": b"odd",  # so that the next one begins after a byte of padding
        "data.tar.xz": tar(gz, "xz", "./usr/share/datasets/fashion-mnist/"),
    }
    whole = b"!<arch>\n"
    for name, data in inner.items():
        whole += f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(data):<10}`\n".encode() + data + b"\n" * (len(data) % 2)
    return whole
