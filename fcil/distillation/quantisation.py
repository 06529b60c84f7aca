"""Copies of a trained net in 8 bits or fewer, calibrated and fine-tuned on data-free samples.

Paper: Haroush et al., "The Knowledge Within: Methods for Data-Free Model Compression", CVPR 2020,
arXiv:1912.01274, for what is compared; there is no public code. torchao's export flow does the work.

A tensor t is replaced by

    q(t) = s (clip(round(t / s) + z, a, b) - z)

        weights        an s for each output channel that just holds its largest entry; z = 0, [a, b] = [-128, 127]
        activations    one s and z a tensor, of the range with the least error over the calibration
                       samples' activations, by histogram; [a, b] = [0, 255]

    k < 8 bits     [a, b] = [-2^(k-1), 2^(k-1) - 1] and [0, 2^k - 1]

for the inputs of convolutions and of linear layers, and of the sums at the end of residual blocks. Batch-norm is
folded into the convolutions first, so its statistics do not change. Fine-tuning changes the weights alone, with
a straight-through gradient of q and fixed activation ranges:

    L = T^2 KL(softmax(t / T) || softmax(s / T))        t, s logits of the net and of its int8 copy, no label is read

The copy keeps its weights as int8. Its arithmetic is that of int8 up to the order of sums: values of the grids above
are multiplied in single precision, unless torch compiles it for an x86 processor.

Ours, where the paper leaves it open: the widths of the grids and the quantised layers (torchao's for x86), Adam, its
rate and steps, and noise from N(0, 1) as it is, not clamped to the range of images.

Shapes: N samples, B batch, C classes.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, cast

import torch
from pydantic import Field
from rich.table import Table
from safetensors.torch import load_file
from torch import Tensor, nn

from fcil.config import dump
from fcil.console.tables import percent, simple_table
from fcil.data import Shard, normalise
from fcil.errors import ConfigError
from fcil.federation.context import Datasets
from fcil.federation.plan import Plan
from fcil.federation.settings import settle_arithmetic
from fcil.losses import kl_divergence
from fcil.nets import Net, frozen
from fcil.optimizer import Adam
from fcil.rng import Key, generator
from fcil.store import Run
from fcil.store.files import is_there, read_json, write_json
from fcil.store.weights import samples_digest
from fcil.types import Count, Index, Positive, Tensors

QUANTISED = "quantised.json"
"""File in a student's run folder: the teacher's loss of accuracy at eight bits."""
BATCH = 256
"""Test images per batch."""
MEANING = {
    "full_precision": "the net as it was trained",
    "real": "int8, calibrated on training examples",
    "synthetic": "int8, calibrated on synthetic samples",
    "noise": "int8, calibrated on Gaussian noise",
    "synthetic_fine_tuned": "int8, synthetic samples, then fine-tuned",
    "noise_fine_tuned": "int8, Gaussian noise, then fine-tuned",
}


@dataclass(frozen=True, kw_only=True)
class QuantiseSettings:
    """Quantisation of a net to eight bits or fewer."""

    samples: Count = 512
    """Calibration samples: of the pool, of the training images, and of noise, each as many as the smallest set has."""
    batch_size: Count = 64
    """Samples per step, in calibration and fine-tuning."""
    fine_tune: Index = 0
    """Steps of fine-tuning on the pool; 0: none."""
    bits: Annotated[int, Field(ge=2, le=8)] = 8
    """Width of the grids of weights and activations."""
    lr: Positive = 1e-5
    """Adam's rate in fine-tuning."""
    temperature: Positive = 1.0
    """Temperature of both nets in fine-tuning (`T`)."""


def check_installed() -> None:
    """Check that torchao is installed.

    Raises:
        ConfigError: it is not installed.
    """
    logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)  # reports at import what torchao has to change
    try:
        import torchao.quantization.pt2e.quantize_pt2e
        import torchao.quantization.pt2e.quantizer.x86_inductor_quantizer  # noqa: F401
    except ImportError:
        raise ConfigError("needs a package more; pip install 'fcil[quantise]'") from None


# One net ------------------------------------------------------------------------------------------


class Logits(nn.Module):
    """A net that returns its logits alone, (B, C)."""

    def __init__(self, net: Net) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.net(x).logits)


def quantised(
    net: Net,
    batches: Iterable[Tensor],
    lessons: Iterable[Tensor] = (),
    settings: QuantiseSettings | None = None,
) -> nn.Module:
    """Return an int8 copy of the net in evaluation mode, which maps images to logits; the net is not changed.

    Args:
        batches: normalised calibration images (B, channels, H, W); at least one batch.
        lessons: the same for the steps of fine-tuning; none: it is not fine-tuned.
        settings: bits, rate and temperature; values of fewer than 8 bits are kept as int8 all the same.
    """
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e

    batches, settings = list(batches), settings or QuantiseSettings()
    copied = prepared(Logits(frozen(net)), batches[0], settings.bits)
    grids: list[Any] = [module for module in copied.modules() if hasattr(module, "fake_quant_enabled")]
    for grid in grids:
        grid.disable_fake_quant()
    with torch.no_grad():
        for x in batches:
            copied(x)
    for grid in grids:
        grid.enable_fake_quant()
        grid.enable_observer(grid.is_per_channel)  # weights move, ranges of activations stay
    fine_tune(copied, Logits(frozen(net)), lessons, settings.lr, settings.temperature)
    return cast(nn.Module, convert_pt2e(copied))


def prepared(full: nn.Module, example: Tensor, bits: int) -> nn.Module:
    """Return the net's graph with batch-norm folded, and an observing and rounding module at each quantised place.

    The grids are those of torchao for x86. Modules that can do both replace the observers of its own preparation,
    so that a calibrated copy can be fine-tuned. The graph shares weights with `full`.
    """
    from torchao.quantization.pt2e import FakeQuantize, HistogramObserver, PerChannelMinMaxObserver
    from torchao.quantization.pt2e.quantize_pt2e import prepare_pt2e
    from torchao.quantization.pt2e.quantizer import QuantizationSpec
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    def grid(theirs: Any, observer: Any, low: int) -> Any:
        both = FakeQuantize.with_args(observer=observer, eps=2**-12)
        ends = {"quant_min": low, "quant_max": low + 2**bits - 1}
        return QuantizationSpec(**{**vars(theirs), **ends, "observer_or_fake_quant_ctr": both})

    default = x86.get_default_x86_inductor_quantization_config()
    activation = grid(default.input_activation, HistogramObserver, 0)
    weight = grid(default.weight, PerChannelMinMaxObserver, -(2 ** (bits - 1)))
    config = x86.QuantizationConfig(activation, activation, weight, default.bias)
    batch = torch.cat([example, example])  # a batch of one would fix the batch size
    graph = torch.export.export(full, (batch,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)).module()
    with torch.no_grad():
        copied = prepare_pt2e(graph, x86.X86InductorQuantizer().set_global(config))
    for module in copied.modules():
        if isinstance(module, HistogramObserver):
            module.dst_nbins = 2**bits  # the levels that its search for a range assumes
    return cast(nn.Module, copied)


def fine_tune(copied: nn.Module, full: nn.Module, lessons: Iterable[Tensor], lr: float, temperature: float) -> None:
    """Train the weights of a calibrated copy on the net's outputs, a step for each batch."""
    weights = [p.requires_grad_() for p in copied.parameters()]
    optimizer = Adam(weights, lr=lr)
    x = None
    for x in lessons:
        forget_weights(copied)
        with torch.no_grad():
            teacher = full(x)
        optimizer.zero_grad(set_to_none=True)
        kl_divergence(copied(x), teacher, temperature).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    if x is not None:  # the last step changed the weights once more
        forget_weights(copied)
        with torch.no_grad():
            copied(x)


def forget_weights(copied: nn.Module) -> None:
    """Reset the weight observers, so that ranges follow the current weights: an observer only ever widens its range."""
    for module in copied.modules():
        if getattr(module, "is_per_channel", False):
            module.activation_post_process.reset_min_max_vals()  # type: ignore[operator, union-attr]


# A comparison -------------------------------------------------------------------------------------


def compare(
    net: Net, pool: Tensor, train: Shard, test: Shard, settings: QuantiseSettings, key: tuple[Key, ...]
) -> dict[str, Any]:
    """Return the test accuracy of a net and of its int8 copies, by calibration data; see MEANING.

    Also the mean divergence of their outputs, KL(softmax t || softmax s), which shows what accuracy hides.
    Every fine-tuned copy is fine-tuned on the pool, whatever calibrated it.

    Args:
        net: on the CPU, where everything runs: int8 is for processors.
        pool: synthetic samples (N, channels, H, W), uint8.
        train: the real images for calibration, not augmented.
        key: names the streams that samples are drawn from.
    """
    count = min(settings.samples, len(pool), len(train))

    def picked(total: int, source: str) -> Tensor:
        return torch.randperm(total, generator=generator(*key, source))[:count]

    made = normalise(pool.cpu(), train.mean, train.std)
    samples = {
        "real": train.x(picked(len(train), "real")).cpu(),
        "synthetic": made[picked(len(made), "synthetic")],
        "noise": torch.randn(count, *made.shape[1:], generator=generator(*key, "noise")),
    }
    calibration = {name: torch.split(x, settings.batch_size) for name, x in samples.items()}
    found = {"full_precision": answers(Logits(net.eval()), test)}
    for name, batches in calibration.items():
        found[name] = answers(quantised(net, batches, settings=settings), test)
    for name in ("synthetic", "noise") if settings.fine_tune else ():
        taught = lessons(made, settings, generator(*key, "fine-tuning"))
        found[f"{name}_fine_tuned"] = answers(quantised(net, calibration[name], taught, settings), test)
    labels, full = test.labels.cpu(), found["full_precision"]
    return {
        "settings": dump(settings),
        "calibration_samples": count,
        "test_examples": len(test),
        "accuracy": {name: int((z.argmax(dim=1) == labels).sum()) / len(test) for name, z in found.items()},
        "divergence": {name: float(kl_divergence(z, full, 1.0)) for name, z in found.items()},
    }


def lessons(x: Tensor, settings: QuantiseSettings, rng: torch.Generator) -> Iterator[Tensor]:
    """Yield a batch for each step of fine-tuning: reshuffled sweeps over the samples without incomplete batches."""
    size, left = min(settings.batch_size, len(x)), settings.fine_tune
    while left:
        order = torch.randperm(len(x), generator=rng)
        for start in range(0, len(x) - size + 1, size)[:left]:
            yield x[order[start : start + size]]
            left -= 1


@torch.no_grad()
def answers(net: nn.Module, test: Shard) -> Tensor:
    """Return the logits (N, C) of all test images, in their order."""
    return torch.cat([net(batch.x.cpu()) for batch in test.batches(BATCH, augment=False, shuffle=False)])


# A run folder -------------------------------------------------------------------------------------


def quantise(
    run: Run, teacher: Plan, weights: Tensors, settings: QuantiseSettings, datasets: Datasets
) -> dict[str, Any]:
    """Return the result of `compare` with the pool of a run, also stored in its `quantised.json`.

    An earlier result for the same pool and teacher is read instead.

    Args:
        teacher: the plan that names its net and its data.
        weights: of the teacher.
    """
    path = run.path / QUANTISED
    known = read_json(path) if is_there(path) else {}
    of = samples_digest(run.path, weights)
    if known.get("settings") == dump(settings) and of in (None, known.get("of")):
        return known
    settle_arithmetic(teacher.resources.threads)
    context = datasets.open(teacher)
    net, scenario = context.trained_net(weights), context.scenario
    pool = load_file(run.folder.synthetic / "task1.safetensors")["x"]
    found = compare(net, pool, scenario.shard(1, 0), scenario.test(1), settings, (teacher.seed, "quantise"))
    write_json(path, found | {"of": of})
    return found


def quantised_table(found: dict[str, Any]) -> Table:
    """Return the accuracies of `compare`, and the loss of each."""
    full = found["accuracy"]["full_precision"]
    title = f"{found['calibration_samples']:,} samples calibrate; {found['test_examples']:,} test examples"
    bits = found["settings"]["bits"]
    table = simple_table(f"{bits} bits", f"{title}; divergence: KL of its answers from the net's")
    for name in ("net", "accuracy", "lost", "divergence"):
        table.add_column(name, justify="left" if name == "net" else "right")
    for name, value in found["accuracy"].items():
        own = name == "full_precision"
        lost, far = f"{100 * (full - value):.1f} pts", f"{found['divergence'][name]:.2g}"
        table.add_row(
            MEANING[name].replace("int8", f"int{bits}"), percent(value), "" if own else lost, "" if own else far
        )
    return table
