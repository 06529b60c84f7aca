"""One torch thread: nets of tests lose time to threads, most of all where cores are shared."""

from __future__ import annotations

import torch

torch.set_num_threads(1)
