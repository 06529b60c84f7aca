"""Steps captured in a CUDA graph are the steps that are not: never run on a GPU.

What can be shown without one is in tests/federation/test_graphs.py.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from scripted_roles import client_of, shard_of

from fcil.federation.runtime.graphs import CapturedSteps
from fcil.federation.settings import settled
from fcil.nets import NetSettings, build_net
from fcil.optimizer import OptimizerSettings
from fcil.types import Update
from strategies.finetune import Finetune

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch sees no GPU, and CUDA graphs are of a GPU"),
]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_captured_steps_train_the_same_net(precision: str) -> None:
    """Never run on a GPU. The same kernels in the same order: the same weights, to the bit."""
    device = torch.device("cuda:0")

    def trained(captured: CapturedSteps | None) -> Update:
        net = build_net(
            NetSettings(name="resnet8", width=4), shape=(3, 6, 6), num_classes=5, text_width=None, key=("net",)
        ).to(device)
        shard = shard_of([0, 1, 2, 3, 4] * 6)
        placed = {name: getattr(shard, name).to(device) for name in ("images", "indices", "labels", "tasks")}
        shard = replace(shard, **placed, device=device)
        client = client_of(net, shard, optimizer=OptimizerSettings(precision=precision))
        client.device, client.local_epochs = device, 4
        client.capture = None if captured is None else captured.of
        return Finetune().local_train(client)

    with settled(1):
        captured = CapturedSteps(device)
        expected, got = trained(None), trained(captured)
    assert captured.problem == ""
    assert captured._replay is not None
    assert got.metrics == expected.metrics
    assert all(torch.equal(got.weights[name], weights) for name, weights in expected.weights.items())
