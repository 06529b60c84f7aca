#!/usr/bin/env bash
# Plato's non-IID sampler gives all clients the same few images: 100 clients with 500 each hold 2,700 of 50,000.
#
# The sampler `noniid` is "to use a divided partition of the dataset, biased across labels according to the Dirichlet
# distribution". Every client draws shares of the classes (seeded by `random_seed` times its number), and then, on its
# own, images by these weights out of the whole set, without replacement. So it is no partition. And the generator of the
# second draw is seeded by `random_seed` alone, the same for all: an image with a lucky number is lucky at every client.
# (A draw without replacement takes the largest of weight over noise, with the same noise for all.)
#
# The larger the concentration, the fewer images there are: at 0.5, 2,748 of the 50,000 that are handed out, one image at
# 98 of 100 clients; at 100, 633. With a generator of their own, clients with the same counts of each class would hold
# 31,600 to 32,000, none at more than ten. A partition (Hsu et al., arXiv 1909.06335; Yurochkin et al., ICML 2019) has
# all of them, each at one client. So "more clients" adds next to no data, and "less heterogeneous" is less data: a
# comparison over concentrations is one over sizes of the union.
#
# The documentation says of `random_seed` that it makes sampling reproducible, and nothing of images shared; the
# repository's newest code (October 2025) is the same. Without `random_seed` the seed is the process number. The sampler
# `iid` does divide. Labels below are 5,000 of each of ten classes, in random order, as in CIFAR-10.
#
# Plato asks for Python 3.13; the sampler runs from 3.11 on, and is installed here whatever the version is.
#
# Seen with plato-learn 1.41, torch 2.14.1 and numpy 2.4.6 on Linux (2026-11). Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.14.1" "numpy==2.4.6" "munch==4.0.0"
"$folder/venv/bin/pip" install --quiet --no-deps --ignore-requires-python "plato-learn==1.41"
cd "$folder"
cat > config.toml <<'TOML'
[clients]
type = "simple"
total_clients = 100
per_round = 10
do_test = false
[server]
address = "127.0.0.1"
port = 8000
[data]
datasource = "CIFAR10"
sampler = "noniid"
partition_size = 500
concentration = 0.5
random_seed = 1
[trainer]
type = "basic"
rounds = 1
parallelized = false
max_concurrency = 1
target_accuracy = 1.0
epochs = 1
batch_size = 32
optimizer = "SGD"
model_name = "lenet5"
[algorithm]
type = "fedavg"
TOML
"$folder/venv/bin/python" -W ignore - -c config.toml <<'PYTHON'
from importlib.metadata import version

import numpy as np
from plato.config import Config
from plato.samplers.dirichlet import Sampler

print(f"plato-learn {version('plato-learn')}, numpy {np.__version__}")
IMAGES, CLASSES = 50_000, 10
CLIENTS, SIZE = Config().clients.total_clients, Config().data.partition_size
labels = np.random.RandomState(0).permutation(np.arange(IMAGES) % CLASSES)


class Source:
    def targets(self):
        return labels

    def classes(self):
        return list(range(CLASSES))


def clients_per_image(clients):
    return np.bincount(np.concatenate(clients), minlength=IMAGES)


for concentration, most in ((0.1, 6000), (0.5, 4000), (100.0, 1000)):
    Config().data.concentration = concentration
    drawn = [np.array(Sampler(Source(), number, testing=False).get().indices) for number in range(1, CLIENTS + 1)]
    assert all(len(np.unique(client)) == SIZE for client in drawn)
    numbers = np.random.default_rng(0)
    own = []  # as many of each class for each client, but drawn by a generator of its own
    for client in drawn:
        counts = np.bincount(labels[client], minlength=CLASSES)
        parts = [numbers.choice(np.flatnonzero(labels == k), n, replace=False) for k, n in enumerate(counts)]
        own.append(np.concatenate(parts))
    plato, chance = clients_per_image(drawn), clients_per_image(own)
    print(
        f"concentration {concentration}: {CLIENTS} clients of {SIZE} hold {(plato > 0).sum()} images of {IMAGES}, the"
        f" commonest at {plato.max()} clients; independent draws {(chance > 0).sum()}, {chance.max()}"
    )
    assert (plato > 0).sum() < most and plato.max() > CLIENTS / 2
    assert (chance > 0).sum() > 30_000 and chance.max() < 15
PYTHON
