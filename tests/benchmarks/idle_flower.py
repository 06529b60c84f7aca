"""The same round on Flower's own simulation: FedAvg, and clients that answer with what they were sent."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any, cast

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from turns import round_begins

from fcil.nets import NetSettings, build_net

client_app = ClientApp()


def net_of(name: str) -> torch.nn.Module:
    """The net of the round that this is compared with: of digits, and of the classes of its first task."""
    return build_net(NetSettings(name=name), shape=(1, 8, 8), num_classes=2, text_width=None, key=(0, "net"))


@client_app.train()
def train(message: Message, context: Context) -> Message:
    """Read the weights, and send them back."""
    torch.set_num_threads(1)
    weights = cast(ArrayRecord, message.content["arrays"]).to_torch_state_dict()
    config = cast(ConfigRecord, message.content["config"])
    if config["net"]:  # what a client that trains does, too: into a net, and out of it
        net = net_of(str(config["net"]))
        net.load_state_dict(weights)
        weights = cast(Any, net.state_dict())
    content = {"arrays": ArrayRecord(weights), "metrics": MetricRecord({"num-examples": 100})}
    return Message(RecordDict(cast(Any, content)), reply_to=message)


class Timed(FedAvg):
    """FedAvg that notes when its rounds begin."""

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        round_begins()
        return super().configure_train(server_round, arrays, config, grid)


def play(name: str, clients: int, rounds: int) -> None:
    """Play so many rounds in a simulation with a process for each core."""
    from flwr.simulation import run_simulation

    torch.set_num_threads(1)
    logging.disable(logging.CRITICAL)
    server_app = ServerApp()

    @server_app.main()
    def main(grid: Grid, context: Context) -> None:
        strategy = Timed(fraction_evaluate=0.0, min_train_nodes=clients, min_available_nodes=clients)
        strategy.start(
            grid=grid,
            initial_arrays=ArrayRecord(cast(Any, net_of(name).state_dict())),
            num_rounds=rounds,
            train_config=ConfigRecord({"net": ""}),
        )

    run_simulation(
        server_app,
        client_app,
        clients,
        backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
    )
