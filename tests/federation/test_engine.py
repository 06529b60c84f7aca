"""How many workers fit, and how far ahead of the one whose turn it is clients are asked."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
from flwr.app import Message
from small_runs import play, write_experiment

from fcil.errors import ConfigError
from fcil.federation.engine import gpu_slots
from fcil.federation.grids import InProcessGrid
from fcil.federation.settings import Resources


@pytest.mark.parametrize(
    ("gpus", "client", "synthesis", "workers", "slots"),
    [
        (1, 0.2, 0.3, 1, 3),  # 0.7 of a GPU is left for clients
        (1, 0.2, 0.0, 1, 5),
        (2, 0.4, 0.3, 1, 3),  # one beside the synthesis worker, two on the other; none across both
        (2, 0.5, 0.3, 2, 2),  # both synthesis workers share the first GPU, which has no room for a client then
        (4, 1.0, 0.3, 1, 3),
    ],
)
def test_no_client_is_laid_across_two_gpus(
    gpus: int, client: float, synthesis: float, workers: int, slots: int
) -> None:
    resources = Resources(client_gpus=client, synthesis_gpus=synthesis, synthesis_workers=workers)
    assert gpu_slots(gpus, resources) == slots


def test_a_gpu_too_small_for_any_client_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"1 GPUs do not hold .* = 1 x 0.5 and one client of 0.6; lower one of them"):
        gpu_slots(1, Resources(client_gpus=0.6, synthesis_gpus=0.5))


@pytest.mark.parametrize("window", [1, 3])
def test_clients_are_asked_a_window_ahead_and_no_further(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, window: int
) -> None:
    ahead: list[int] = []
    push = InProcessGrid.push_messages

    def counted(grid: InProcessGrid, messages: Iterable[Message]) -> Iterable[str]:
        numbers = push(grid, messages)
        ahead.append(len(grid._waiting))
        return numbers

    monkeypatch.setattr(InProcessGrid, "push_messages", counted)
    monkeypatch.setattr(InProcessGrid, "window", window)
    (run,) = play(write_experiment(tmp_path, federation={"clients": 12, "rounds": 1}), out=tmp_path)
    assert run.rounds[0]["clients"] == list(range(12))
    assert max(ahead) == window
