#!/usr/bin/env bash
# Small Dirichlet concentrations: PyTorch draws exactly even shares, NumPy's legacy generator NaN.
#
# Federated learning shares classes out among clients by Dirichlet(beta), and a smaller beta is meant to
# be more skewed: in the limit all of a class goes to one client. With ten clients:
#
#   beta     torch.distributions.Dirichlet    numpy RandomState.dirichlet    numpy Generator.dirichlet
#   1e-2     skewed                           skewed                         skewed
#   1e-3     0.1 % of draws exactly even      0.1 % of draws NaN             skewed
#   1e-4     49 % of draws exactly even       49 % of draws NaN              skewed
#   1e-6     99 % of draws exactly even       99 % of draws NaN              skewed
#
# (even: each share is 0.1, the opposite of what beta asks for; float64 in PyTorch does not help.) All
# ten gamma variates underflow; PyTorch then divides equal least numbers, NumPy's legacy generator
# zero by zero, and only NumPy's new generator breaks a stick instead. None of them warns by name.
#
# Seen with torch 2.14.1 and NumPy 2.4.6 on Linux (2026-11). Fails if the shares of draws differ by more
# than a point. Downloads PyTorch.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.14.1" "numpy==2.4.6"
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import numpy as np
import torch

DRAWS = 20_000
print(f"torch {torch.__version__.partition('+')[0]}, numpy {np.__version__}; {DRAWS:,} draws of 10 shares")
for beta, expected in ((1e-2, 0.0), (1e-3, 0.1), (1e-4, 49.2), (1e-6, 99.3)):
    torch.manual_seed(0)
    concentration = torch.full((10,), beta, dtype=torch.float64)
    of_torch = torch.distributions.Dirichlet(concentration).sample((DRAWS,)).numpy()
    legacy = np.random.RandomState(0).dirichlet([beta] * 10, DRAWS)
    new = np.random.default_rng(0).dirichlet([beta] * 10, DRAWS)
    even = 100 * (np.ptp(of_torch, axis=1) < 1e-9).mean()
    lost = 100 * np.isnan(legacy).any(axis=1).mean()
    skewed = new.max(axis=1).mean()
    print(f"beta {beta:g}: torch exactly even {even:.1f} %, legacy NaN {lost:.1f} %, new generator's largest share {skewed:.3f}")
    assert abs(even - expected) < 1, even
    assert abs(lost - expected) < 1, lost
    assert not np.isnan(new).any()
    assert skewed > 0.9, skewed
PYTHON
echo "as described: the smaller the concentration, the more even PyTorch's shares"
