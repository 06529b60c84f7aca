"""Rounds of FedAvg in pfl's simulation, for a Python that has pfl, torch and psutil; it needs nothing of ours."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam.base import NNEvalHyperParams, NNTrainHyperParams
from pfl.metrics import Metrics
from pfl.model.pytorch import PyTorchModel
from torch import Tensor, nn
from turns import round_begins


class Cnn(nn.Module):
    """The layers of `fcil.nets`' `cnn` without normalisation, on images of 28 x 28, with a classifier of 10 classes."""

    def __init__(self, width: int) -> None:
        super().__init__()
        second, features = round(width * 16 / 6), round(width * 32 / 6)
        self.layers = nn.Sequential(
            *(nn.Conv2d(1, width, 3, 2, 1), nn.ReLU(inplace=True)),
            *(nn.Conv2d(width, second, 3, 2, 1), nn.ReLU(inplace=True)),
            *(nn.Flatten(), nn.Linear(second * 49, features), nn.Linear(features, 10)),
        )

    def loss(self, x: Tensor, y: Tensor, is_eval: bool = False) -> Tensor:
        """The loss of a training step."""
        self.train(not is_eval)
        return F.cross_entropy(self.layers(x), y)

    def metrics(self, x: Tensor, y: Tensor) -> dict[str, Any]:
        """Nothing: no round is evaluated."""
        return {}


class Turns(TrainingProcessCallback):
    """Waits for its turn between rounds."""

    def after_central_iteration(self, aggregate_metrics: Any, model: Any, *, central_iteration: int) -> Any:
        round_begins()
        return False, Metrics()


def play(width: int, clients: int, rounds: int) -> None:
    """Play so many rounds: each client takes five steps on ten of its fifty images each."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    x, y = torch.randn(clients, 50, 1, 28, 28), torch.randint(10, (clients, 50))
    sampler = get_user_sampler("minimize_reuse", list(range(clients)))
    data = FederatedDataset(lambda user: Dataset((x[user], y[user]), user_id=str(user)), sampler)
    net = Cnn(width)
    model = PyTorchModel(net, torch.optim.SGD, torch.optim.SGD(net.parameters(), lr=1.0))
    FederatedAveraging().run(
        NNAlgorithmParams(
            central_num_iterations=rounds, evaluation_frequency=10**9, train_cohort_size=clients, val_cohort_size=0
        ),
        SimulatedBackend(training_data=data, val_data=data),
        model,
        NNTrainHyperParams(local_batch_size=10, local_num_epochs=1, local_learning_rate=0.01),
        NNEvalHyperParams(local_batch_size=50),
        callbacks=[Turns()],
    )
