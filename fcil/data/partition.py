"""Partition of a task's samples among the clients, and samples that are held out.

Four rules, all of which use every sample exactly once and leave no client empty-handed:

- `iid`: a random permutation, cut into equal parts.
- `dirichlet: beta`: of every class, client j receives the share p_j, p ~ Dirichlet(beta, ..., beta).
  The smaller beta, the fewer classes a client holds; in the limit a class belongs to one client, drawn at random.
  Capped (the default), a client that already holds 1/n of the task takes no part in further classes.
- `classes: k`: every client holds k of the task's classes; a class is shared equally by its holders.
- `shards: k`: the samples sorted by class are cut into k n slices, of which every client receives k.

Sources: `partition_data` of github.com/tmtuan1307/lander @ 44d7acc (iid, dirichlet); McMahan et al.,
AISTATS 2017, arXiv:1602.05629, section 3 (shards).
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fcil.data.settings import PartitionSettings
from fcil.errors import ConfigError, DataError
from fcil.rng import numpy_generator

Indices: TypeAlias = NDArray[np.int64]
Random: TypeAlias = np.random.Generator | np.random.RandomState

MAX_DRAWS = 1000
"""Dirichlet draws before samples are moved to the clients that would hold none."""
SMALL = 0.01
"""A beta below it leaves so little to most clients that a participating client may get nothing, or rounding errors."""


def partition(labels: Indices, clients: int, settings: PartitionSettings, rng: Random) -> list[Indices]:
    """Return the positions in `labels` (N,) that each client holds: disjoint, none empty, together all of them.

    A `np.random.RandomState` is consumed exactly as the reference consumes it. From a `Generator` two
    streams are taken, one for the proportions and one for the shuffling, so that equal generators give
    equal proportions to tasks of different size.

    Differs: the reference repeats the Dirichlet draw until no client is empty, which never ends with
    many clients and few samples. After `MAX_DRAWS` draws the last one is kept and every empty client
    receives one sample of the client that holds most; if beta is below `SMALL`, a class of a client that
    holds several, as long as there is one.

    Raises:
        ConfigError: there are fewer samples than clients, far fewer than shards, or `classes: k` cannot be met.
    """
    labels = np.asarray(labels)
    if clients > len(labels):
        raise ConfigError(
            f"more clients than samples: {clients} clients (federation.clients) cannot share {len(labels)} samples"
        )
    if settings.own is not None:
        assert isinstance(rng, np.random.Generator), "a RandomState is for `draw: reference`"
        return _fill_empty(settings.own.dealt(labels, clients, rng))
    choose, shuffle = rng.spawn(2) if isinstance(rng, np.random.Generator) else (rng, rng)
    value = settings.value or 0
    if settings.kind == "iid":
        parts = np.array_split(shuffle.permutation(len(labels)), clients)
    elif settings.kind == "dirichlet":
        parts = _dirichlet(labels, clients, value, settings.capped, choose, shuffle)
    elif settings.kind == "classes":
        parts = _classes(labels, clients, int(value), choose, shuffle)
    else:
        parts = _shards(labels, clients, int(value), choose, shuffle)
    return _fill_empty([np.asarray(part, dtype=np.int64) for part in parts])


def _dirichlet(
    labels: Indices, clients: int, beta: float, capped: bool, choose: Random, shuffle: Random
) -> list[Indices]:
    share = len(labels) / clients
    for _ in range(MAX_DRAWS):
        held = np.zeros(clients, dtype=np.int64)
        cuts: list[tuple[Indices, Indices]] = []
        for label in np.unique(labels):
            members = np.flatnonzero(labels == label)
            shuffle.shuffle(members)
            shares = _proportions(choose, beta, clients, held < share if capped else np.ones(clients, dtype=bool))
            ends = (np.cumsum(shares) * len(members)).astype(np.int64)[:-1]
            held += np.diff(ends, prepend=0, append=len(members))
            cuts.append((members, ends))
        if held.min() > 0:
            break
    pieces = [np.split(members, ends) for members, ends in cuts]
    if beta < SMALL:
        _pass_classes_on(pieces)
    parts = [np.concatenate([piece[client] for piece in pieces]) for client in range(clients)]
    for part in parts:
        shuffle.shuffle(part)
    return parts


def _pass_classes_on(pieces: list[list[Indices]]) -> None:
    """Give every empty client another client's samples of one class.

    The smallest class of the client with most classes; a single sample of a class that another client holds, as empty
    clients get otherwise, would add a class. In `pieces`, by class and client, an empty one takes the other's place.
    """
    sizes = np.array([[len(piece) for piece in row] for row in pieces])
    for client in np.flatnonzero(sizes.sum(axis=0) == 0):
        donor = int(np.argmax((sizes > 0).sum(axis=0)))
        held = np.flatnonzero(sizes[:, donor])
        if len(held) < 2:
            return
        row = int(held[np.argmin(sizes[held, donor])])
        pieces[row][client], pieces[row][donor] = pieces[row][donor], pieces[row][client]
        sizes[row, client], sizes[row, donor] = sizes[row, donor], sizes[row, client]


def _proportions(choose: Random, beta: float, clients: int, taking_part: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return one Dirichlet draw, restricted to the participating clients; at least one participates."""
    with np.errstate(all="ignore"):  # for a tiny beta NumPy's legacy generator makes NaN, or infinities
        shares = choose.dirichlet(np.full(clients, beta)) * taking_part
        total = shares.sum()
    # In a `Generator` a share that rounds to 1 leaves none to the clients numbered after it.
    lopsided = beta < SMALL and isinstance(choose, np.random.Generator) and not taking_part.all()
    if lopsided or not 0 < total < np.inf:
        shares = _proportions_of_a_small_beta(choose, beta, taking_part)
        total = shares.sum()
    return np.asarray(shares / total, dtype=np.float64)


def _proportions_of_a_small_beta(choose: Random, beta: float, taking_part: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return Dirichlet(beta) among the participants, up to a factor: where numbers underflow, one of them has it all.

    Some entries of a Dirichlet vector, scaled to sum 1, are a Dirichlet vector themselves. Its
    gamma variates are drawn as logarithms, times beta: log G(beta) = log G(beta + 1) - E / beta, E exponential.
    """
    if isinstance(choose, np.random.Generator):
        choose = choose.spawn(1)[0]  # later draws do not depend on whether this was needed
    count = int(taking_part.sum())
    logs = beta * np.log(choose.standard_gamma(beta + 1, count)) - choose.standard_exponential(count)
    shares = np.zeros(len(taking_part))
    with np.errstate(over="ignore", under="ignore"):
        shares[taking_part] = np.exp((logs - logs.max()) / beta)
    return shares


def _classes(labels: Indices, clients: int, each: int, choose: Random, shuffle: Random) -> list[Indices]:
    present = np.unique(labels)
    if each > len(present):
        raise ConfigError(f"partition gives every client {each} classes, but a task has only {len(present)}")
    if each * clients < len(present):
        raise ConfigError(
            f"partition gives {clients} clients {each} classes each, too few for the {len(present)} classes of a task;"
            f" give each client at least {-(-len(present) // clients)}"
        )
    holders: list[list[int]] = [[] for _ in present]
    for client in choose.permutation(clients):
        # The classes with fewest holders, ties at random, so that every class finds one.
        ranked = sorted(choose.permutation(len(present)), key=lambda c: len(holders[c]))
        for index in ranked[:each]:
            holders[index].append(int(client))
    parts: list[list[Indices]] = [[] for _ in range(clients)]
    for label, group in zip(present, holders, strict=True):
        members = shuffle.permutation(np.flatnonzero(labels == label))
        for client, piece in zip(sorted(group), np.array_split(members, len(group)), strict=True):
            parts[client].append(piece)
    return [np.concatenate(pieces) for pieces in parts]


def _shards(labels: Indices, clients: int, each: int, choose: Random, shuffle: Random) -> list[Indices]:
    if clients * each > 2 * len(labels):
        raise ConfigError(
            f"partition gives {clients} clients {each} shards each, most of which would be empty:"
            f" a task has {len(labels)} samples"
        )
    mixed = shuffle.permutation(len(labels))
    slices = np.array_split(mixed[np.argsort(labels[mixed], kind="stable")], clients * each)
    dealt = choose.permutation(len(slices)).reshape(clients, each)
    return [np.concatenate([slices[index] for index in hand]) for hand in dealt]


def _fill_empty(parts: list[Indices]) -> list[Indices]:
    """Give every empty client one sample of the client that holds most at that moment."""
    sizes = np.array([len(part) for part in parts])
    for client in np.flatnonzero(sizes == 0):
        donor = int(np.argmax(sizes))
        parts[client], parts[donor] = parts[donor][-1:], parts[donor][:-1]
        sizes[client], sizes[donor] = 1, sizes[donor] - 1
    return parts


def hold_out(y: Tensor, fraction: float, purpose: str) -> tuple[Tensor, Tensor]:
    """Return indices (kept, held out) of labels `y` (N,), `fraction` of every class held out; both sorted.

    At least one sample of every class is held out and at least one is kept. The draw depends only on
    `purpose`, so that every run holds out the same samples.

    Raises:
        DataError: a class has a single sample.
    """
    labels = y.numpy()
    held: list[NDArray[np.int64]] = []
    for label in np.unique(labels).tolist():
        members = np.flatnonzero(labels == label)
        if len(members) < 2:
            raise DataError(f"class {label} has a single training sample; none can be held out")
        count = min(max(1, round(fraction * len(members))), len(members) - 1)
        held.append(numpy_generator(purpose, label).permutation(members)[:count])
    out = np.zeros(len(labels), dtype=bool)
    out[np.concatenate(held)] = True
    return torch.from_numpy(np.flatnonzero(~out)), torch.from_numpy(np.flatnonzero(out))


def a_few(y: Tensor, count: int) -> Tensor:
    """Return sorted indices of at most `count` samples of every class of labels `y` (N,), the same in every run."""
    labels = y.numpy()
    chosen = [
        numpy_generator("a few", label).permutation(np.flatnonzero(labels == label))[:count]
        for label in np.unique(labels).tolist()
    ]
    return torch.from_numpy(np.sort(np.concatenate(chosen)))
