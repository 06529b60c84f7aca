"""Tell how much of a finished run's net is alive: channels above zero after each batch norm, on test images.

    python tests/benchmarks/alive.py RUN_DIR...

Of each layer of batch norm, which a rectifier follows in the plain nets, the share of channels that are above zero
anywhere in an image, mean over the first 1,000 test images.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fcil.config import Where
from fcil.evaluation.samples import settings_for, tested_samples
from fcil.store import load_run
from fcil.store.nets import kept_net

IMAGES = 1000


def living(x: Tensor) -> float:
    """Return the share of channels of x (B, channels, H, W) above zero anywhere in an image, mean over images."""
    return float((x.flatten(2).amax(2) > 0).float().mean())


def alive(folder: Path) -> tuple[float, list[float]]:
    """Return the final accuracy of a run, and of each layer of batch norm the share."""
    run, kept = load_run(folder), kept_net(folder)
    where = Where(str(run.folder.config))
    chosen, _, other = settings_for(run.config, [], where)
    shard, _ = tested_samples(kept.facts, chosen, torch.device("cpu"), where, other=other)
    order = torch.randperm(len(shard.labels), generator=torch.Generator().manual_seed(0))[:IMAGES]
    x = torch.cat([batch.x for batch in shard.batches(500, augment=False, shuffle=False)])[order]
    found: list[float] = []

    def keep(_: nn.Module, __: tuple[Tensor, ...], out: Tensor) -> None:
        found.append(living(out))

    for layer in kept.net.modules():
        if isinstance(layer, _BatchNorm):
            layer.register_forward_hook(keep)
    with torch.inference_mode():
        kept.net(x)
    return run.summary["final_accuracy"], found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    torch.set_num_threads(1)
    for folder in parser.parse_args().folders:
        accuracy, shares = alive(folder)
        print(f"{folder.parent.name}/{folder.name}: {100 * accuracy:.1f} %; ", " ".join(f"{s:.3f}" for s in shares))


if __name__ == "__main__":
    main()
