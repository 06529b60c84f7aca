"""Data sets by name: the embedded digits, torchvision's files, held-out validation images."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from fcil.data import DataSettings, load_dataset
from fcil.data.partition import a_few, hold_out
from fcil.errors import DataError, DownloadError


def test_digits_are_what_they_should_be() -> None:
    data = load_dataset(DataSettings(dataset="digits", tasks=5))
    assert (len(data.train), len(data.test)) == (1438, 359)
    assert data.shape == (1, 8, 8)
    assert data.class_names[0] == "zero"
    assert data.class_names[9] == "nine"
    together = torch.bincount(data.train.y) + torch.bincount(data.test.y)
    assert together.tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    share = torch.bincount(data.test.y) / together
    assert (share - 0.2).abs().max() < 0.01
    x = data.train.take(torch.arange(len(data.train)))
    assert x.dtype == torch.uint8
    assert (x.min(), x.max()) == (0, 255)
    assert len(x.unique()) == 17
    assert data.mean[0] == pytest.approx((x.double() / 255).mean().item())
    assert data.std[0] == pytest.approx((x.double() / 255).std(correction=0).item())


def test_digits_can_be_told_apart() -> None:
    """Nearest class mean; guards against labels that do not belong to the images."""
    data = load_dataset(DataSettings(dataset="digits", tasks=5))
    train = data.train.take(torch.arange(len(data.train))).flatten(1).float()
    test = data.test.take(torch.arange(len(data.test))).flatten(1).float()
    means = torch.stack([train[data.train.y == c].mean(0) for c in range(10)])
    assert (torch.cdist(test, means).argmin(1) == data.test.y).double().mean() > 0.85


def test_loading_twice_gives_the_same_split() -> None:
    first, second = (load_dataset(DataSettings(dataset="digits", tasks=5)) for _ in range(2))
    rows = torch.arange(359)
    assert torch.equal(first.test.take(rows), second.test.take(rows))


def test_a_few_of_each_class_are_the_same_few_in_every_run_and_the_test_stays_whole() -> None:
    whole = load_dataset(DataSettings(dataset="digits", tasks=5))
    few, again = (load_dataset(DataSettings(dataset="digits", tasks=5, per_class=7)) for _ in range(2))
    assert torch.bincount(few.train.y).tolist() == [7] * 10
    assert torch.equal(few.train.take(torch.arange(70)), again.train.take(torch.arange(70)))
    assert torch.equal(few.test.y, whole.test.y)
    rows = a_few(whole.train.y, 7)
    assert torch.equal(few.train.take(torch.arange(70)), whole.train.take(rows))
    most = load_dataset(DataSettings(dataset="digits", tasks=5, per_class=10_000))
    assert torch.equal(most.train.y, whole.train.y)
    held = load_dataset(DataSettings(dataset="digits", tasks=5, per_class=7, validation=0.25))
    assert torch.bincount(held.train.y).tolist() == [7] * 10


def test_validation_images_come_from_training_and_leave_the_test_alone() -> None:
    whole = load_dataset(DataSettings(dataset="digits", tasks=5))
    data = load_dataset(DataSettings(dataset="digits", tasks=5, validation=0.25))
    assert len(data.train) + len(data.test) == len(whole.train)
    kept, held = hold_out(whole.train.y, 0.25, "validation")
    assert not set(kept.tolist()) & set(held.tolist())
    assert torch.equal(data.train.take(torch.arange(len(kept))), whole.train.take(kept))
    assert torch.equal(data.test.take(torch.arange(len(held))), whole.train.take(held))
    assert torch.equal(data.test.y, whole.train.y[held])
    share = torch.bincount(data.test.y) / torch.bincount(whole.train.y)
    assert (share - 0.25).abs().max() < 0.01


def test_holding_out_leaves_every_class_on_both_sides() -> None:
    kept, held = hold_out(torch.tensor([0, 0, 1, 1, 1, 1]), 0.01, "x")
    assert len(held) == 2
    kept, held = hold_out(torch.tensor([0, 0, 1, 1, 1, 1]), 0.99, "x")
    assert len(kept) == 2
    with pytest.raises(DataError, match="class 1 has a single training sample"):
        hold_out(torch.tensor([0, 0, 1]), 0.5, "x")


def fake_torchvision(monkeypatch: pytest.MonkeyPatch, loader: Any) -> None:
    names = ("MNIST", "FashionMNIST", "CIFAR10", "CIFAR100")
    module = SimpleNamespace(**dict.fromkeys(names, loader))
    monkeypatch.setitem(sys.modules, "torchvision.datasets", module)  # type: ignore[arg-type]


def test_data_that_cannot_be_fetched_is_one_line_and_no_noise(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def loader(root: str, *, train: bool, download: bool) -> None:
        print("chatter")
        print("bar", file=sys.stderr)
        assert not download
        raise RuntimeError("Dataset not found")

    def obtain(*_: object) -> None:
        raise DownloadError("no route to host")

    fake_torchvision(monkeypatch, loader)
    monkeypatch.setattr("fcil.data.sources.obtain", obtain)
    monkeypatch.setenv("FCIL_DATA", str(tmp_path))
    with pytest.raises(DataError) as caught:
        load_dataset(DataSettings(dataset="cifar100", tasks=5))
    assert str(caught.value) == (
        f"cifar100: not found in {tmp_path}, and the download failed (no route to host);"
        " put cifar-100-python.tar.gz there, or set data.root or FCIL_DATA to where it is"
    )
    assert capfd.readouterr() == ("", "")


def test_torchvision_arrays_become_channels_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[tuple[str, bool]] = []

    def loader(root: str, *, train: bool, download: bool) -> Any:
        asked.append((root, download))
        n, rng = (6 if train else 4), np.random.default_rng(0)
        data = rng.integers(0, 256, (n, 5, 4, 3), dtype=np.uint8)
        return SimpleNamespace(data=data, targets=[0, 1] * (n // 2), classes=["cat", "dog"])

    fake_torchvision(monkeypatch, loader)
    data = load_dataset(DataSettings(dataset="cifar10", root=str(tmp_path), tasks=2))
    assert data.shape == (3, 5, 4)
    assert (len(data.train), len(data.test)) == (6, 4)
    assert data.class_names == ("cat", "dog")
    assert asked == [(str(tmp_path), False)] * 2
    levels = np.random.default_rng(0).integers(0, 256, (6, 5, 4, 3), dtype=np.uint8)
    first = data.train.take(torch.tensor([2]))[0, 0].numpy()
    assert np.array_equal(first, levels[2, :, :, 0])
