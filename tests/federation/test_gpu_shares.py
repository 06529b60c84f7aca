"""Ray that is told of two GPUs: clients and syntheses are placed on them by the shares of the settings.

Ray takes the number of GPUs on trust, so none need be there; what a worker would see of them is what is looked at.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from fcil.federation.engine import Engine
from fcil.federation.settings import FederationSettings, Resources

pytestmark = [pytest.mark.ray, pytest.mark.slow]
GPUS, CPUS = 2, 16


@pytest.fixture
def ray_of_two_gpus() -> Iterator[Any]:
    ray = pytest.importorskip("ray")
    ray.init(
        address="local",
        num_gpus=GPUS,
        num_cpus=CPUS,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
    )
    yield ray
    ray.shutdown()


def seen_by(ray: Any, actors: list[Any]) -> list[tuple[list[int], str]]:
    """The GPUs that Ray gave to each actor, and what CUDA would show it."""

    def look(_: object) -> tuple[list[int], str]:
        import ray

        return [int(gpu) for gpu in ray.get_gpu_ids()], os.environ.get("CUDA_VISIBLE_DEVICES", "")

    return ray.get([actor.__ray_call__.remote(look) for actor in actors])


def test_clients_and_syntheses_share_the_gpus_as_the_settings_say(ray_of_two_gpus, monkeypatch):
    ray = ray_of_two_gpus
    resources = Resources(device="cuda", client_gpus=0.2, synthesis_gpus=0.3, synthesis_workers=2)
    monkeypatch.setattr(Resources, "torch_device", lambda self: torch.device("cuda"))  # none is here
    with Engine(FederationSettings(clients=20), resources) as engine:
        clients = []
        while len(clients) < engine._pool.size:
            engine._pool.wait(60.0)
            clients.append(engine._pool.take())
            assert clients[-1] is not None
        syntheses = [engine._executor._pool.take() for _ in range(resources.synthesis_workers)]
        places = {"client": seen_by(ray, clients), "synthesis": seen_by(ray, syntheses)}
        left = ray.available_resources().get("GPU", 0.0)
    for gpus, visible in [place for kind in places.values() for place in kind]:
        assert len(gpus) == 1  # a share of a GPU is never spread over two
        assert visible == str(gpus[0])  # and there is no other for its CUDA, which calls it 0
    on = {kind: Counter(gpus[0] for gpus, _ in found) for kind, found in places.items()}
    assert sum(on["synthesis"].values()) == 2
    used = {gpu: 0.2 * on["client"][gpu] + 0.3 * on["synthesis"][gpu] for gpu in range(GPUS)}
    assert all(0 < share <= 1.0 + 1e-9 for share in used.values()), used
    assert all(share + 0.2 > 1.0 - 1e-9 for share in used.values()), used  # there is room for no further client
    assert left == pytest.approx(GPUS - sum(used.values()), abs=1e-3)
