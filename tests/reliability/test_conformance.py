"""What clients do on the grid of Flower's own simulation is what they do on ours: the cases of `grid_cases`.

    pytest -m slow tests/reliability/test_conformance.py

Flower calls `run_simulation` deprecated; no path of ours needs it, and without it there is nothing to compare with.

Our grids run the same cases in `tests/federation/test_grids.py`, and a grid that imitates Flower's in
`tests/federation/test_flower.py`. Here all run within one simulation, since it takes long to start.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import grid_cases
import pytest
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from grid_cases import CLIENTS, faulty, plan_of

from fcil.federation.flower_app import client

pytestmark = [pytest.mark.slow, pytest.mark.ray]

Case = Callable[[Grid], None]
NAMES = ("clients_train", "clients_remember", "clients_begin_anew", "one_raises", "one_hangs")


def simulation() -> Any:
    """Flower's simulation in this process; the tests are skipped where Flower has none any more."""
    module = pytest.importorskip("flwr.simulation")
    if not hasattr(module, "run_simulation"):
        pytest.skip("this version of Flower has no run_simulation")
    return module


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Exception | None]:
    """What came of each case: nothing, or an error."""
    folder = tmp_path_factory.mktemp("conformance")
    plain, steady, raising = plan_of(folder), faulty(folder), faulty(folder, "raise")
    hanging = faulty(folder, "hang", seconds=15.0, timeout=5.0)
    expected = grid_cases.trained_in_this_process(plain)
    cases: dict[str, Case] = {
        "clients_train": partial(grid_cases.clients_train, plain, expected=expected),
        "clients_remember": partial(grid_cases.clients_remember, steady),
        "clients_begin_anew": partial(grid_cases.clients_begin_anew, steady),
        "one_raises": partial(grid_cases.one_raises, raising),
        "one_hangs": partial(grid_cases.one_hangs, hanging),
    }
    found: dict[str, Exception | None] = {}
    server = ServerApp()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        for name, case in cases.items():
            try:
                case(grid)
            except Exception as error:
                found[name] = error
            else:
                found[name] = None

    # "local": a cluster that happens to run on this machine is not joined.
    run_simulation = simulation().run_simulation
    resources, ray = {"num_cpus": 1, "num_gpus": 0.0}, {"address": "local"}
    run_simulation(server, client, CLIENTS, backend_config={"client_resources": resources, "init_args": ray})
    return found


@pytest.mark.parametrize("name", NAMES)
def test_flowers_simulation_does_what_our_grids_do(outcomes: dict[str, Exception | None], name: str) -> None:
    assert set(outcomes) == set(NAMES)
    error = outcomes[name]
    if error is not None:
        raise error
