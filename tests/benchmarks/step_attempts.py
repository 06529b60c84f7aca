"""Try what could make the bare loop of a LANDER client's step faster on a CPU, each beside the loop as it is.

    python tests/benchmarks/step_attempts.py [--turns 5] [--batch 16] [--only NAME,NAME] [--compile]

ResNet-18 in fp32, one thread; all forms take turns in one process, and a figure is the median over the turns of the
processor seconds of a form divided by those of the loop as it is (`bare_client_loop` of tests/support/
step_workloads.py). Beside it: whether the weights after the same steps are equal to the bit, or how far they are.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from idle_round import processor
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from step_workloads import OLD, SEEN, SHAPE, Place, divergence

from fcil.federation.settings import settled
from fcil.losses import bounding
from fcil.nets import Forwards, Net, frozen, outputs_of
from fcil.types import Output

STEPS = 2


@dataclass(frozen=True)
class Form:
    """How the loop is written."""

    channels_last: bool = False
    fused: bool = False  # one kernel of SGD for each parameter
    foreach: bool | None = None  # None: PyTorch's choice, on a CPU a loop over the parameters
    folded: bool = False  # the old net's batch norm in the weights of its convolutions
    blocked: bool = False  # the old net's pass in oneDNN's own layout
    inference: bool = False  # the old net's pass in `torch.inference_mode`
    one: bool = False  # one forward over real and synthetic images: other statistics of batch norm
    apart: bool = False  # a backward pass of the real images' loss before the synthetic ones' forward
    compiled: bool = False


FORMS = {
    "channels last": Form(channels_last=True),
    "SGD fused": Form(fused=True),
    "SGD over all tensors at once": Form(foreach=True),
    "old net in inference mode": Form(inference=True),
    "old net folded": Form(folded=True),
    "old net folded, blocked": Form(folded=True, blocked=True),
    "one forward": Form(one=True),
    "two backward passes": Form(apart=True),
    "two backward passes and SGD fused": Form(apart=True, fused=True),
    "all equal but for rounding": Form(apart=True, fused=True, folded=True, inference=True),
}


def folded(net: Net, batch: int, blocked: bool) -> Net:
    """Return a frozen ResNet with each batch norm in the weights of the convolution before it."""
    net = copy.deepcopy(net)
    for block in list(net.modules()):
        for conv, norm in (("conv", "bn"), ("conv1", "bn1"), ("conv2", "bn2")):
            if isinstance(getattr(block, conv, None), nn.Conv2d) and hasattr(block, norm):
                setattr(block, conv, fuse_conv_bn_eval(getattr(block, conv), getattr(block, norm)))
                setattr(block, norm, nn.Identity())
    if blocked:
        _block(net, batch)
    return net.requires_grad_(False)


def _block(net: Net, batch: int) -> None:
    """Bring the weights of a folded net into oneDNN's layout, and its images as they come in; features go out plain."""
    sizes: dict[nn.Conv2d, tuple[int, ...]] = {}

    def remember(conv: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        sizes[cast(nn.Conv2d, conv)] = tuple(inputs[0].shape)

    hooks = [m.register_forward_pre_hook(remember) for m in net.modules() if isinstance(m, nn.Conv2d)]
    with torch.no_grad():
        net(torch.zeros(batch, *SHAPE))
    for hook in hooks:
        hook.remove()
    for conv, shape in sizes.items():
        assert conv.bias is not None
        weight = torch._C._nn.mkldnn_reorder_conv2d_weight(
            conv.weight.detach().to_mkldnn(), conv.padding, conv.stride, conv.dilation, conv.groups, shape
        )
        conv.weight = nn.Parameter(weight, requires_grad=False)
        conv.bias = nn.Parameter(conv.bias.detach().to_mkldnn(), requires_grad=False)
    backbone: Any = net.backbone
    backbone.stem.register_forward_pre_hook(lambda _, inputs: inputs[0].to_mkldnn())
    backbone.stages.register_forward_hook(lambda *given: given[-1].to_dense())


class Loop:
    """The steps of a client in its second task, in a form."""

    def __init__(self, place: Place, form: Form) -> None:
        if form.channels_last:
            place = replace(place, net=replace(place.net, memory_format="channels_last"))
        self.form, self.net, old = form, place.build(SEEN, "net").train(), frozen(place.build(OLD, "old"))
        self.old: Any = folded(old, place.batch, form.blocked) if form.folded else old
        rng = torch.Generator().manual_seed(2)
        self.real, self.synthetic = (torch.randn(place.batch, *SHAPE, generator=rng) for _ in range(2))
        self.y, self.anchors = torch.randint(OLD, SEEN, (place.batch,), generator=rng), place.anchors()
        self.optimizer = torch.optim.SGD(
            self.net.parameters(), 0.04, momentum=0.9, weight_decay=5e-4, fused=form.fused or None, foreach=form.foreach
        )
        self.called: Any = self.net
        if form.compiled:
            self.called, self.old = torch.compile(self.net), torch.compile(self.old)

    def __call__(self) -> None:
        for _ in range(STEPS):
            self.optimizer.zero_grad()
            if self.form.apart:
                self.new(self.called(self.real)).backward()
                self.kept(self.called(self.synthetic)).backward()
            else:
                together: Forwards = "one" if self.form.one else "two"
                out, student = outputs_of(self.called, (self.real, self.synthetic), together)
                (self.new(out) + self.kept(student)).backward()
            self.optimizer.step()

    def new(self, out: Output) -> Tensor:
        loss = F.cross_entropy(out.logits[:, OLD:], self.y - OLD)
        return loss + bounding(out.embedding, self.anchors[self.y], 0.015, "batch")

    def kept(self, student: Output) -> Tensor:
        with torch.inference_mode() if self.form.inference else torch.no_grad():
            old = self.old(self.synthetic)
            logits, embedding = old.logits, old.embedding
        if self.form.inference:  # an inference tensor cannot be kept for a backward pass
            logits, embedding = logits.clone(), embedding.clone()
        loss = divergence(student.logits[:, :OLD], logits, 2)
        return loss + F.mse_loss(student.embedding, embedding)

    def weights(self) -> Tensor:
        return torch.cat([t.detach().flatten() for t in self.net.parameters()])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--only", default="", help="names of forms, with commas between; all if empty")
    parser.add_argument("--compile", action="store_true", help="torch.compile alone, which needs a C++ compiler")
    asked = parser.parse_args()
    print(f"# command: python {' '.join(sys.argv)}")
    print(f"# {processor()}, one thread, torch {torch.__version__}; batches of {asked.batch}, {asked.turns} turns")
    forms = {"torch.compile": Form(compiled=True)} if asked.compile else FORMS
    if asked.only:
        forms = {name: forms[name] for name in asked.only.split(",")}
    with settled(1):
        place = Place(batch=asked.batch)
        usual, others = Loop(place, Form()), {name: Loop(place, form) for name, form in forms.items()}
        began = usual.weights()
        first = {name: seconds(loop) for name, loop in {"as it is": usual, **others}.items()}
        moved = usual.weights() - began
        apart = {name: float((loop.weights() - usual.weights()).norm() / moved.norm()) for name, loop in others.items()}
        ratios: dict[str, list[float]] = {name: [] for name in others}
        base, every = [], {"": usual, **others}
        for turn in range(asked.turns):
            order = list(every)[turn % len(every) :] + list(every)[: turn % len(every)]
            times = {name: seconds(every[name]) for name in (order if turn % 2 else reversed(order))}
            base.append(times[""])
            for name in others:
                ratios[name].append(times[name] / base[-1])
    print(f"the loop as it is: {1000 * statistics.median(base):.0f} ms a step")
    print(f"| form | ratio | least to most | apart after {STEPS} steps, of what they moved | first call, s |")
    print("|---|--:|--:|--:|--:|")
    for name, found in ratios.items():
        spread = f"{min(found):.2f} to {max(found):.2f}"
        same = f"{apart[name]:.0e}" if apart[name] else "equal to the bit"
        print(f"| {name} | {statistics.median(found):.3f} | {spread} | {same} | {first[name] * STEPS:.0f} |")


def seconds(loop: Loop) -> float:
    """Processor seconds of a step."""
    began = time.process_time()
    loop()
    return (time.process_time() - began) / STEPS


if __name__ == "__main__":
    main()
