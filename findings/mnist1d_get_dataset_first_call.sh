#!/usr/bin/env bash
# mnist1d's get_dataset gives what was asked for first, whatever is asked for, and only the first call sets the seed.
#
# The first call makes the set and writes ./mnist1d_data.pkl; every later call, of other programs in that folder too,
# reads this file and looks at none of its arguments. Asked for other numbers of samples, noise or seed it returns the
# first set. Shuffled series (`shuffle_seq`) were to have a file of their own, but its name is chosen by looking for
# `args` among the further keyword arguments, where a parameter of that name can never be: so beside an ordered set the
# control experiment of the paper (Greydanus and Kobak, arXiv:2011.14439: the same data with the order of the steps
# lost) runs on the ordered series. And the call that makes the set seeds Python's and NumPy's global generators with 42, those that read it do
# not: the first run of a program draws other clients, batches or noise than each run after it, and the first runs for
# seeds 0, 1 and 2 draw the same if each is in a folder of its own.
#
# Seen with mnist1d 0.0.2.post1 and NumPy 2.4.6 on Linux (2026-11), `download=False`. Fails if a later call heeds its
# settings or draws alike.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "mnist1d==0.0.2.post1" "numpy==2.4.6"
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import os
from importlib.metadata import version

import numpy as np
from mnist1d.data import get_dataset, get_dataset_args


def asked(own_seed, folder, **settings):
    """The set that a program gets in a folder, after it has set NumPy's seed, and what it draws next."""
    os.makedirs(folder, exist_ok=True)
    os.chdir(folder)
    args = get_dataset_args()
    for name, value in settings.items():
        assert hasattr(args, name)
        setattr(args, name, value)
    np.random.seed(own_seed)
    found = get_dataset(args, download=False, verbose=False)
    drawn = np.random.rand(3).round(3).tolist()
    os.chdir("..")
    return found, drawn


print(f"mnist1d {version('mnist1d')}, numpy {np.__version__}")
first, drawn_first = asked(0, "one")
again, drawn_again = asked(0, "one")
print(f"seed 0, what is drawn after the first call {drawn_first}, and after the same call again {drawn_again}")
assert np.array_equal(first["x"], again["x"]) and drawn_first != drawn_again
_, elsewhere = asked(1, "two")
print(f"seed 1, after the first call in another folder {elsewhere}")
assert elsewhere == drawn_first
for name, value in (("num_samples", 400), ("iid_noise_scale", 0.5), ("seed", 7), ("shuffle_seq", True)):
    other, _ = asked(0, "one", **{name: value})
    fresh, _ = asked(0, f"fresh_{name}", **{name: value})
    same, differs = np.array_equal(other["x"], first["x"]), not np.array_equal(fresh["x"], first["x"])
    print(f"{name}={value}: the first set again: {same}; in an empty folder other data: {differs}; {os.listdir(f'fresh_{name}')}")
    assert same and differs and os.listdir(f"fresh_{name}") == ["mnist1d_data.pkl"]
PYTHON
echo "as described: later calls return the first set, and only the first sets the seed"
