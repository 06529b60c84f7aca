#!/usr/bin/env bash
# FedArtML's Earth Mover's distance of clients is 0 if each of them has one class of its own, and no measure of skew.
#
# It is documented as the "Earth Mover's distance for multiple probability distributions" of the clients' labels, beside
# the Jensen-Shannon and Hellinger distances, to quantify how non-IID a split is. It gives the shares to SciPy's
# wasserstein_distance(u_values, v_values), which takes them as observations of a number: the order of the classes is
# lost, only the sorted shares are compared. Clients with class 0 alone and class 1 alone have the same sorted shares, 1
# and many 0, so that they are at a distance of 0; a client with all classes and one with a single class are far apart. (A
# square root is taken of the mean as well.)
#
# In Dirichlet splits, the library's own, the distance stays near 0.2 from a concentration of 1 down to 0.03, while the
# share of the labels that differ between two clients goes from 0.55 to 0.94: a study of accuracy over heterogeneity that
# uses it has an axis that does not order its splits. A worst case, one class a client, reads as perfectly IID.
#
# Seen with FedArtML 0.1.34 and scipy 1.17.1 on Linux (2026-11). Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "numpy==2.4.6" "scipy==1.17.1" "pandas==3.1.1" "matplotlib==3.11.2" "ipywidgets==8.1.9" "scikit-learn==1.9.1"
"$folder/venv/bin/pip" install --quiet --no-deps "FedArtML==0.1.34"
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
from importlib.metadata import version

import numpy as np
from fedartml import SplitAsFederatedData
from fedartml.function_base import earth_movers_distance, hellinger_distance, jensen_shannon_distance

print(f"FedArtML {version('FedArtML')}")


def apart(shares):
    """Mean over pairs of the share of labels to move: the Earth Mover's distance if any two classes are 1 apart."""
    shares = np.asarray(shares)
    pairs = [np.abs(a - b).sum() / 2 for i, a in enumerate(shares) for b in shares[:i]]
    return float(np.mean(pairs))


def along_the_labels(shares):
    """Mean over pairs of the Earth Mover's distance if classes k and m are |k - m| apart."""
    shares = np.cumsum(shares, axis=1)
    return float(np.mean([np.abs(a - b).sum() for i, a in enumerate(shares) for b in shares[:i]]))


def line(name, shares):
    values = earth_movers_distance(shares), hellinger_distance(shares), jensen_shannon_distance(shares), apart(shares)
    emd, hellinger, shannon, move = values
    print(f"{name:34} Earth Mover's {emd:.2f}; Hellinger {hellinger:.2f}, Jensen-Shannon {shannon:.2f}; to move {move:.2f}")
    return values


own_class = np.eye(10)
values = line("ten clients, one class each", own_class)
assert values[0] == 0 and values[1] > 0.99 and values[2] > 0.99 and values[3] == 1 and along_the_labels(own_class) > 3
assert line("ten clients, all alike", np.full((10, 10), 0.1))[0] == 0
assert line("half with all, half with one class", np.r_[np.full((5, 10), 0.1), own_class[:5]])[0] > 0.2

# the same through the library's front door: sixty images of ten classes, sorted, "100 % non-IID"
labels = np.repeat(np.arange(10), 60)
*_, distances = SplitAsFederatedData(random_state=0).create_clients(
    [[float(k)] for k in labels], labels.tolist(), num_clients=10, method="percent_noniid", percent_noniid=100
)
distances = distances["without_class_completion"]
print("create_clients, percent_noniid 100:", {name: round(float(value), 2) for name, value in distances.items()})
assert distances["earth-movers"] == 0 and distances["hellinger"] > 0.99

labels = np.repeat(np.arange(10), 600)
seen = {}
for concentration in (1.0, 0.3, 0.1, 0.03):
    splits = [SplitAsFederatedData.dirichlet_method(labels, 10, concentration, seed)[0] for seed in range(5)]
    seen[concentration] = np.mean([(earth_movers_distance(shares), apart(shares)) for shares in splits], axis=0)
    print(f"Dirichlet {concentration}: Earth Mover's {seen[concentration][0]:.2f}, to move {seen[concentration][1]:.2f}")
moved = [float(value[0]) for value in seen.values()]
assert max(moved) - min(moved) < 0.1 and moved[-1] < max(moved)
assert seen[0.03][1] - seen[1.0][1] > 0.3
PYTHON
