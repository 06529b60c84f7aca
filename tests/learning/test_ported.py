"""torchvision's nets as ours: the same weights give the same answers."""

from __future__ import annotations

import pytest
import torch
import torchvision

from fcil.errors import ConfigError
from fcil.nets import NetSettings, build_net
from fcil.nets.pretrained.ported import from_torchvision, torchvision_weights
from fcil.rng import seeded


@pytest.mark.parametrize("name", ["resnet18", "resnet34"])
def test_the_weights_of_torchvision_give_its_answers(name: str) -> None:
    with seeded("torchvision"):
        theirs = torchvision.models.get_model(name, weights=None, num_classes=7).eval()
        for buffer in theirs.buffers():  # as after some training
            if buffer.is_floating_point():
                buffer.add_(torch.rand_like(buffer) / 4)
        x = torch.rand(2, 3, 64, 64)
    settings = NetSettings(name=name, stem="imagenet")
    ours = build_net(settings, shape=(3, 64, 64), num_classes=7, text_width=None, key=("ported",)).eval()
    ours.load(from_torchvision(theirs.state_dict()))
    with torch.no_grad():
        assert torch.allclose(ours(x).logits, theirs(x), rtol=1e-4, atol=1e-5)


def test_a_net_that_torchvision_lacks_is_one_line() -> None:
    with pytest.raises(ConfigError, match=r'torchvision has no "resnet8" of ours \(have: resnet18, resnet34\)'):
        torchvision_weights("resnet8")


def test_weights_that_cannot_be_had_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr("torchvision.models.get_model", refuse)
    with pytest.raises(ConfigError, match=r"torchvision's weights of resnet18 cannot be had \(OSError: no network\)"):
        torchvision_weights("resnet18")
