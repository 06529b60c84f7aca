"""A CIFAR-10 of sixty images, in the files of the large one."""

from __future__ import annotations

import hashlib
import io
import pickle
import tarfile
from functools import cache

import numpy as np
import pytest
from torchvision.datasets import CIFAR10

from fcil.data.remote.origins import ORIGINS, RemoteFile

FOLDER = "cifar-10-batches-py"


@cache
def cifar_files() -> dict[str, bytes]:
    """Five training batches, a test batch and the class names, by name."""
    rng = np.random.default_rng(0)
    files = {}
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
        levels = rng.integers(0, 256, (10, 3072), dtype=np.uint8)
        files[name] = pickle.dumps({"data": levels, "labels": [*range(10)]})
    files["batches.meta"] = pickle.dumps({"label_names": [f"class {number}" for number in range(10)]})
    return files


@cache
def cifar_archive() -> bytes:
    """They, as the archive that is published."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as output:
        for name, data in cifar_files().items():
            member = tarfile.TarInfo(f"{FOLDER}/{name}")
            member.size = len(data)
            output.addfile(member, io.BytesIO(data))
    return packed.getvalue()


def published_as_small(monkeypatch: pytest.MonkeyPatch, archive: bytes, mirrors: tuple[str, ...] = ()) -> None:
    """Have torchvision, and the table of origins, know this CIFAR-10 as the published one."""
    sums = {name: hashlib.md5(data).hexdigest() for name, data in cifar_files().items()}
    monkeypatch.setattr(CIFAR10, "train_list", [[name, sums[name]] for name in sums if name.startswith("data")])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", sums["test_batch"]]])
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": sums["batches.meta"]})
    file = RemoteFile("cifar-10-python.tar.gz", len(archive), hashlib.md5(archive).hexdigest())
    monkeypatch.setitem(ORIGINS, "cifar10", ORIGINS["cifar10"]._replace(files=(file,), mirrors=mirrors))
