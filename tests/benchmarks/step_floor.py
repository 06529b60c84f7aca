"""Say what of a step is convolutions, and what they would take by themselves: the floor under any program of the step.

    python tests/benchmarks/step_floor.py [--turns 5] [--batch 16] [--work client,synthesis] [--precision fp32,bf16]

The convolutions of a LANDER client's step and of a step each of NAYER's generator and student are written down while
they are computed: shapes, and for which tensors a gradient is asked. Each is then repeated alone, on tensors made
ready in each layout: as they are (NCHW), channels last, and oneDNN's own (blocked). The loops are those of
`steps.py`. All take turns in one process on one thread; processor time, medians over the turns.

Printed for each work: shares of the step and of the usual loop under PyTorch's profiler; then, divided by the usual
loop of fp32, the step, its convolutions in each layout, in the best layout of each convolution, and their operations
at the rate of a matrix product of 1,024 x 1,024.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from arithmetic import SIDE, rate
from idle_round import processor
from torch import Tensor
from torch.profiler import profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from step_workloads import (
    STEPS,
    Place,
    Steps,
    bare_client_loop,
    client_step,
    of_form,
    synthesis_step,
    usual_synthesis_loop,
)

from fcil.federation.settings import settled
from fcil.nets import NetSettings

aten = torch.ops.aten
LAYOUTS = ("NCHW", "channels last", "blocked")
KINDS = {
    "convolution, forward": ("aten::mkldnn_convolution", "aten::_slow_conv2d_forward", "aten::convolution"),
    "convolution, backward": ("aten::mkldnn_convolution_backward", "aten::convolution_backward"),
    "batch norm": ("aten::native_batch_norm", "aten::native_batch_norm_backward"),
    "statistics of batches": ("aten::var_mean", "aten::var", "aten::mean", "aten::std", "aten::linalg_vector_norm"),
    "ReLU": ("aten::relu_", "aten::threshold_backward", "aten::leaky_relu", "aten::leaky_relu_backward"),
    "sums and products by element": ("aten::add", "aten::add_", "aten::sub", "aten::mul", "aten::div", "aten::mul_"),
    "products of matrices": ("aten::addmm", "aten::mm"),
    "copies and fills": ("aten::copy_", "aten::fill_", "aten::zero_", "aten::cat"),
    "optimizer": ("aten::_fused_sgd_", "aten::_fused_adam_", "aten::_foreach_add_", "aten::_foreach_mul_"),
}


class Convolution(NamedTuple):
    """A convolution, or its backward pass."""

    x: tuple[int, ...]
    w: tuple[int, ...]
    y: tuple[int, ...]
    dtype: torch.dtype
    how: tuple[Any, ...]  # stride, padding, dilation, transposed, output padding, groups
    wanted: tuple[bool, ...]  # gradients of input, weight and bias; none: forward
    bias: bool

    def alone(self, layout: str) -> Callable[[], object]:
        """Return a function that computes it on noise in a layout."""
        x, w, y = (torch.randn(shape).to(self.dtype) for shape in (self.x, self.w, self.y))
        bias = torch.randn(self.w[0]).to(self.dtype) if self.bias else None
        if layout == "channels last":
            x, w, y = (t.contiguous(memory_format=torch.channels_last) for t in (x, w, y))
        elif layout == "blocked":
            x, y = blocked(x, self.dtype), blocked(y, self.dtype)
            stride, padding, dilation, _, _, groups = self.how
            if not self.wanted:
                w = torch._C._nn.mkldnn_reorder_conv2d_weight(
                    blocked(w, self.dtype), padding, stride, dilation, groups, self.x
                )
        if not self.wanted:
            return lambda: aten.convolution(x, w, bias, *self.how)
        biases = [self.w[0]] if self.bias else None
        return lambda: aten.convolution_backward(y, x, w, biases, *self.how, list(self.wanted))


def blocked(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.to_mkldnn(dtype)


class Written(TorchDispatchMode):
    """The convolutions of what is computed under it, and how often each is."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = Counter[Convolution]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func is aten.convolution.default:
            x, w, bias, *how = args
            self._add(x, w, out, how, (), bias is not None)
        elif func is aten.convolution_backward.default:
            y, x, w, biases, *how, wanted = args
            self._add(x, w, y, how, tuple(wanted), biases is not None and wanted[2])
        return out

    def _add(self, x: Tensor, w: Tensor, y: Tensor, how: list[Any], wanted: tuple[bool, ...], bias: bool) -> None:
        settled_how = tuple(tuple(value) if isinstance(value, list) else value for value in how)
        self.calls[Convolution(tuple(x.shape), tuple(w.shape), tuple(y.shape), x.dtype, settled_how, wanted, bias)] += 1


def shares(take: Steps) -> dict[str, float]:
    """Share of each kind of operator in the processor time of a turn."""
    with profile() as seen:
        take()
    events = seen.key_averages()
    total, kinds = sum(event.self_cpu_time_total for event in events), dict.fromkeys((*KINDS, "the rest"), 0.0)
    for event in events:
        name = event.key.split("#")[0].strip()
        kind = next((kind for kind, names in KINDS.items() if name in names), "the rest")
        kinds["optimizer" if name.startswith("Optimizer.") else kind] += event.self_cpu_time_total / total
    return kinds


def seconds(take: Callable[[], object]) -> float:
    began = time.process_time()
    take()
    return time.process_time() - began


def possible(call: Convolution, layout: str) -> Callable[[], object] | None:
    """Return the convolution alone, warmed up; None where PyTorch has none in this layout."""
    try:
        take = call.alone(layout)
        take()
    except RuntimeError:
        return None
    return take


class Measured(NamedTuple):
    """Processor seconds of a step, by turns."""

    ours: list[float]
    usual: list[float]
    alone: dict[tuple[Convolution, str], list[float]]


def measured(ours: Steps, usual: Steps, calls: Counter[Convolution], turns: int) -> Measured:
    """Take turns: the step, the usual loop, and each convolution in each layout, all but the first of two times."""
    found = {(call, layout): possible(call, layout) for call in calls for layout in LAYOUTS}
    takes = {key: take for key, take in found.items() if take is not None}
    times = Measured([], [], {key: [] for key in takes})
    for _ in range(turns):
        times.ours.append(seconds(ours) / STEPS)
        times.usual.append(seconds(usual) / STEPS)
        for key, take in takes.items():
            take()
            times.alone[key].append(seconds(take))
    return times


def report(times: Measured, calls: Counter[Convolution], operations: float, speed: float) -> None:
    """Print what the step and its convolutions take, and each divided by the usual loop."""
    print(f"the usual loop, fp32: {1000 * statistics.median(times.usual):.0f} ms a step")
    print(line("the step", times.ours, times.usual))
    for layout in (*LAYOUTS, "the best layout of each"):
        chosen = {call: fitting(times, call, layout) for call in calls}
        sums = [
            [
                sum(n * times.alone[call, chosen[call]][turn] for call, n in calls.items() if keep(call)) / STEPS
                for turn in range(len(times.usual))
            ]
            for keep in (lambda call: not call.wanted, lambda call: bool(call.wanted))
        ]
        both = [forward + backward for forward, backward in zip(*sums, strict=True)]
        forward, backward = (1000 * statistics.median(part) for part in sums)
        other = sum(layout in LAYOUTS and layout != of for of in chosen.values())
        note = f"; {other} of {len(chosen)} have none and count in their best" if other else ""
        parts = f" (forward {forward:.0f}, backward {backward:.0f}{note})"
        print(line(f"convolutions alone, {layout}", both, times.usual) + parts)
    product = operations / speed
    print(
        f"{operations / 1e9:.0f} GFLOP a step at the {speed / 1e9:.0f} GFLOP/s of a product of {SIDE} x {SIDE}: "
        f"{1000 * product:.0f} ms, {product / statistics.median(times.usual):.2f}"
    )


def fitting(times: Measured, call: Convolution, layout: str) -> str:
    """Return the layout, or the fastest of a convolution that has none in this one."""
    if (call, layout) in times.alone:
        return layout
    return min(
        (of for of in LAYOUTS if (call, of) in times.alone), key=lambda of: statistics.median(times.alone[call, of])
    )


def line(name: str, ours: list[float], usual: list[float]) -> str:
    ratios = sorted(a / b for a, b in zip(ours, usual, strict=True))
    spread = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
    return f"{name}: {1000 * statistics.median(ours):.0f} ms, {spread}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--net", default="resnet18")
    parser.add_argument("--work", default="client,synthesis")
    parser.add_argument("--precision", default="fp32,bf16")
    asked = parser.parse_args()
    print(f"# command: python {' '.join(sys.argv)}")
    print(
        f"# {processor()}, one thread, torch {torch.__version__}; {asked.net}, batches of {asked.batch}, "
        f"{asked.turns} turns"
    )
    full = Place(batch=asked.batch, net=NetSettings(name=asked.net))
    with settled(1), tempfile.TemporaryDirectory() as folder:
        works = {
            "client": (client_step, lambda: bare_client_loop(full)),
            "synthesis": (synthesis_step, lambda: usual_synthesis_loop(full, Path(folder))),
        }
        for work in asked.work.split(","):
            make, make_usual = works[work]
            usual = make_usual()
            for precision in asked.precision.split(","):
                print(f"\n## {work}, {precision}")
                study(make(of_form(full, precision, "contiguous")), usual, asked.turns, precision)


def study(ours: Steps, usual: Steps, turns: int, precision: str) -> None:
    for take in (ours, usual, ours):
        take()
    with Written() as written, FlopCounterMode(display=False) as counted:
        ours()
    named = {"the step": ours} | ({"the usual loop": usual} if precision == "fp32" else {})
    for name, take in named.items():
        print(f"{name}: " + ", ".join(f"{kind} {share:.1%}" for kind, share in shares(take).items() if share >= 0.0005))
    report(measured(ours, usual, written.calls, turns), written.calls, counted.get_total_flops() / STEPS, rate())


if __name__ == "__main__":
    main()
