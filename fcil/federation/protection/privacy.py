"""Central differential privacy for clients: the mean of clipped updates, with noise.

McMahan, Ramage, Talwar and Zhang, "Learning Differentially Private Recurrent Language Models",
ICLR 2018: with g the global net, w_k what client k made of it and m clients to a round,

    d_k = (w_k - g) min(1, clip / |w_k - g|)
    g'  = g + (sum_k d_k + N(0, (noise clip)^2)) / m

- Clients count alike, whatever the strategy's weighting: with weights of their own, one client could
  move the sum by more than `clip`.
- m is the number of scheduled clients: one that fails or holds nothing adds zero. Dividing by the number
  that answered would leak who took part.
- The norm goes over every real tensor that clients send, batch-norm means and variances included, for
  they are statistics of images; they take their share of `clip` and get their share of the noise. Whole
  numbers (batch counters, which tell how much data a client has) are not taken from clients at all.
- A variance that noise takes below a tenth of what it was is put there, which needs no client's data.
- A strategy is given neither single updates nor metrics nor numbers of examples, only g'.

Epsilon
-------
Two federations are neighbours if they differ in one client, which in one of them holds no data (of
any task). A round is a Gaussian mechanism of sensitivity `clip`; rounds of all tasks compose by Renyi
differential privacy (Mironov, CSF 2017), which Flower's accountant does. That clients are drawn at
random is NOT counted in their favour: who took part is in `rounds.jsonl` and follows from the seed, so
it is no secret, and amplification by sampling needs it to be one. For `fraction` below 1 this epsilon
is therefore larger than one that trusts in a secret draw. It holds however a strategy draws clients.

What is made from the global nets alone costs nothing more: synthesis, teachers, evaluation.

Not covered
-----------
- The run folder. Loss terms, bytes, failures and clients without examples in `rounds.jsonl`, and the
  shares in `partition.json`, are told without noise; only nets and what is made of them are private.
- A reader who knows the seed, which is in the run folder too, can draw the noise again and subtract it.
  This is a simulation; what it measures is what privacy costs.
- Floating-point noise is not exactly Gaussian (Mironov, CCS 2012).
- The server and the way to it: it sees every update as it is. For that there is the mod `local_dp`.
- Class names, the number of classes, the data set's means and deviations, and who holds which classes
  of a task are taken to be known.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated

import torch
from pydantic import Field

from fcil.errors import ConfigError, TrainingError
from fcil.federation.protection.bn_variance import with_variance_floor
from fcil.federation.protection.clipping import clip_factor
from fcil.rng import Key, generator
from fcil.types import Positive, Tensors, Update

Probability = Annotated[float, Field(gt=0, lt=1)]


@dataclass(frozen=True, kw_only=True)
class Privacy:
    """Central differential privacy of clients; epsilon is reported, not chosen."""

    clip: Positive = 1.0
    """Longest step, in the L2 norm over all it trains, that one client can make the global net take in a round."""
    noise: Positive = 1.0
    """Standard deviation of the noise on the sum of the steps, as a multiple of `clip`."""
    delta: Probability = 1e-5
    """The delta that epsilon is reported at; it should lie well below one over the number of clients."""


class Withheld(dict[str, float]):
    """Placeholder for withheld metrics, which raises an error that says why when it is read."""

    def __missing__(self, name: str) -> float:
        raise TrainingError(f'federation.privacy: the strategy asks for the metric "{name}", which is not private')


def private_mean(
    privacy: Privacy, updates: Iterable[Update], start: Tensors, per_round: int, key: tuple[Key, ...]
) -> Update:
    """The next global tensors g' of the equations above, for the names that clients sent.

    Args:
        start: the global net that the clients began from.
        per_round: m.
        key: names the stream of the noise, which is drawn on the CPU so that every device has the same.
    Raises:
        TrainingError: a client sent a tensor that the net does not have, or more clients than m answered.
    """
    sums: Tensors = {name: torch.zeros_like(t) for name, t in start.items() if t.is_floating_point()}
    sent: set[str] = set()
    for count, update in enumerate(updates, start=1):
        unknown = update.weights.keys() - start.keys()
        if unknown or count > per_round:
            what = (
                f'tensor "{min(unknown)}" is not the net\'s' if unknown else f"more than {per_round} clients answered"
            )
            raise TrainingError(f"federation.privacy: {what}; the noise is not made for that")
        steps = {name: t - start[name] for name, t in update.weights.items() if name in sums}
        factor = clip_factor(steps, privacy.clip)
        for name, step in steps.items():
            sums[name].add_(step, alpha=factor)
        sent |= update.weights.keys()
    stream, std = generator(*key), privacy.noise * privacy.clip
    mean = {name: t.clone() for name, t in start.items() if name in sent}
    for name in (name for name in mean if name in sums):
        noise = std * torch.randn(mean[name].shape, generator=stream, dtype=torch.float64)
        mean[name] += (sums[name] + noise.to(sums[name])) / per_round
    return Update(with_variance_floor(mean, start), 0, Withheld())


@lru_cache(maxsize=4096)
def epsilon(privacy: Privacy, clients: int, per_round: int, rounds: int) -> float:
    """Return the epsilon of `rounds` rounds of all tasks together; see above for its meaning.

    Raises:
        ConfigError: the accountant is not installed.
    """
    from flwr.supercore import privacy_accounting as accounting  # not above: settings are read without Flower
    from flwr.supercore.privacy_accounting.rdp_accountant import RdpAccountant

    if not rounds:
        return 0.0
    config = accounting.PrivacyConfig(
        target_delta=privacy.delta,
        population_size=clients,
        neighboring_relation=accounting.NeighboringRelation.ADD_OR_REMOVE_ONE,
        sampling_method=accounting.SamplingMethod.NO_AMPLIFICATION,
    )
    try:
        accountant = RdpAccountant(config)
    except ImportError:
        raise ConfigError("federation.privacy: epsilon needs a package more; pip install 'fcil[privacy]'") from None
    accountant.compose(accounting.GaussianPrivacyEvent(privacy.noise, per_round, clients), rounds)
    return accountant.get_epsilon(privacy.delta)
