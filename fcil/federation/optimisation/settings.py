"""Server optimisers by name: how the mean of a round's updates becomes the next global net.

| name         | paper                                                        | state                            |
|--------------|--------------------------------------------------------------|----------------------------------|
| `fedavg`     | McMahan et al., AISTATS 2017, arXiv:1602.05629               | none                             |
| `fedavgm`    | Hsu et al., 2019, arXiv:1909.06335                           | momentum                         |
| `fedadagrad` | Reddi et al., ICLR 2021, arXiv:2003.00295, Algorithm 2       | both moments                     |
| `fedadam`    | the same                                                     | both moments                     |
| `fedyogi`    | the same                                                     | both moments                     |
| `fednova`    | Wang et al., NeurIPS 2020, arXiv:2007.07481                  | none                             |
| `scaffold`   | Karimireddy et al., ICML 2020, arXiv:1910.06378, Algorithm 1 | control variates, of clients too |

Only parameters of the net are stepped; its buffers (running statistics, batch counters) are averaged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from fcil.config import Where
from fcil.config.json_schema import Schema, Schemas
from fcil.federation.protection.tagged_choice import read_tagged, short_form
from fcil.types import Positive

Decay = Annotated[float, Field(ge=0, lt=1)]


@dataclass(frozen=True, kw_only=True)
class ServerOptimizer:
    """A server optimiser by name: `fedavg`, or `{fedadam: {eta: 0.01}}`."""

    name: ClassVar[str] = ""

    @classmethod
    def from_yaml(cls, raw: Any, where: Where) -> ServerOptimizer:
        return read_tagged(OPTIMIZERS, "server optimizer", raw, where)

    @classmethod
    def to_json_schema(cls, schemas: Schemas) -> Schema:
        return schemas.of_choice("server optimizer", OPTIMIZERS)

    def to_yaml(self) -> Any:
        return short_form(self)


@dataclass(frozen=True, kw_only=True)
class FedAvg(ServerOptimizer):
    """The mean is the next net."""

    name = "fedavg"


@dataclass(frozen=True, kw_only=True)
class Lasting(ServerOptimizer):
    """A server optimiser with a state."""

    lasts: Literal["task", "run"] = "run"
    """Whether its state begins anew in each task, or is kept for the run, with zeros for the rows of new classes."""


@dataclass(frozen=True, kw_only=True)
class FedAvgM(Lasting):
    """Momentum on the server: v' = beta v + Delta, x' = x + eta v'."""

    name = "fedavgm"

    eta: Positive = 1.0
    """Learning rate of the server; 1 in the paper."""
    beta: Decay = 0.9
    """Share of the momentum that is kept; 0.9 in most of the paper's runs."""


@dataclass(frozen=True, kw_only=True)
class Adaptive(Lasting):
    """A step of Algorithm 2: x' = x + eta m' / (sqrt(v') + tau), m' = beta_1 m + (1 - beta_1) Delta."""

    eta: Positive = 0.1
    """Learning rate of the server; the paper tunes it, and this is Flower's."""
    beta_1: Decay = 0.9
    """Share of the first moment that is kept; section 5 of the paper."""
    tau: Positive = 1e-3
    """Degree of adaptivity, which keeps the divisor above zero; section 5 of the paper."""


@dataclass(frozen=True, kw_only=True)
class FedAdagrad(Adaptive):
    """v' = v + Delta^2."""

    name = "fedadagrad"

    beta_1: Decay = 0.0
    """Share of the first moment that is kept; none in the paper's runs."""


@dataclass(frozen=True, kw_only=True)
class FedAdam(Adaptive):
    """v' = beta_2 v + (1 - beta_2) Delta^2."""

    name = "fedadam"

    beta_2: Decay = 0.99
    """Share of the second moment that is kept; section 5 of the paper."""


@dataclass(frozen=True, kw_only=True)
class FedYogi(Adaptive):
    """v' = v - (1 - beta_2) Delta^2 sign(v - Delta^2)."""

    name = "fedyogi"

    eta: Positive = 0.01
    """Learning rate of the server; the paper tunes it, and this is Flower's."""
    beta_2: Decay = 0.99
    """One less the share of Delta^2 that the second moment moves by; section 5 of the paper."""


@dataclass(frozen=True, kw_only=True)
class FedNova(ServerOptimizer):
    """Normalised averaging: x' = x + tau_eff sum_k p_k (x_k - x) / |a_k|, a_k what the steps of client k weigh."""

    name = "fednova"

    tau_eff: Positive | None = None
    """Effective number of steps; null: the clients' mean sum_k p_k |a_k|, as in the paper's runs."""


@dataclass(frozen=True, kw_only=True)
class Scaffold(Lasting):
    """Control variates against client drift, with option II of Algorithm 1."""

    name = "scaffold"

    eta_g: Positive = 1.0
    """Learning rate of the server; 1 in the paper's runs."""


OPTIMIZERS: dict[str, type[ServerOptimizer]] = {
    c.name: c for c in (FedAvg, FedAvgM, FedAdagrad, FedAdam, FedYogi, FedNova, Scaffold)
}
