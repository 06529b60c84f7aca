"""Tell in which rounds of the first task a small net's channels close, in clients' training or in the average.

    FCIL_DATA=FOLDER python tests/benchmarks/dying.py [--lr 0.01] [--max-norm 1] [--partition iid] [--seeds 0 1]

Plays `joint` on Split-MNIST (in the first task the same as `finetune`), with three things measured by every client on
the first 256 of its images, in eval mode: the cross-entropy of the net that it is sent, and of the second batch norm
the share of channels that are above zero anywhere in an image, before and after its local training. Means over clients.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from alive import living
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

import fcil
from fcil import Client, Update
from fcil.nets import Net
from strategies.joint import Joint

IMAGES = 256


@dataclass(frozen=True, kw_only=True)
class Watched(Joint):
    """`joint` whose clients tell how much of the net lives."""

    def local_train(self, client: Client) -> Update:
        if not len(client.shard):
            return super().local_train(client)
        batches = list(client.shard.batches(64, augment=False, shuffle=False))
        x, y = (torch.cat(parts)[:IMAGES] for parts in zip(*((b.x, b.y) for b in batches), strict=True))
        before, loss = looked_at(client.net, x, y)
        update = super().local_train(client)
        after, _ = looked_at(client.net, x, y)
        told = {"terms/before": before, "terms/after": after, "terms/sent": loss}
        return replace(update, metrics=update.metrics | told)


def looked_at(net: Net, x: Tensor, y: Tensor) -> tuple[float, float]:
    """Return the share of living channels behind the last batch norm, and the cross-entropy, for images x (B, ...)."""
    shares: list[float] = []
    layer = [m for m in net.modules() if isinstance(m, _BatchNorm)][-1]
    hook = layer.register_forward_hook(lambda _, __, out: shares.append(living(out)))
    net.eval()
    with torch.no_grad():
        loss = F.cross_entropy(net(x).logits, y)
    net.train()
    hook.remove()
    return shares[0], float(loss)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lr", type=float, default=0.03)
    parser.add_argument("--max-norm", type=float)
    parser.add_argument("--partition", default="{dirichlet: 0.1}")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as out:
        fcil.run(
            "experiments/tables/split_mnist.yaml",
            f"data.partition={chosen.partition}",
            "matrix=null",
            "federation.stop_after=1",
            f"strategy={Path(__file__).resolve()}",
            f"seeds={chosen.seeds}",
            f"optimizer.lr={chosen.lr}",
            f"optimizer.max_norm={'null' if chosen.max_norm is None else chosen.max_norm}",
            out=out,
            jobs=1,
        )
        for rounds in sorted(Path(out).rglob("rounds.jsonl")):
            print(rounds.parent.name)
            for record in map(json.loads, rounds.read_text().splitlines()):
                t = record["terms"]
                print(
                    f"  round {record['round']:2}: cross-entropy of the net sent {t['sent']:.2f}; "
                    f"living {t['before']:.2f} before training, {t['after']:.2f} after"
                )


if __name__ == "__main__":
    main()
