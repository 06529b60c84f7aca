"""Optimizers that load no compiler, and the clients' one with its learning rate from round to round.

As in LANDER (@ 44d7acc, `main.py`, `methods/lander.py`): the rate is constant within a round, falls
over the rounds of a task and starts again at the next; every client begins every round with a new
optimizer, so momentum is not carried over, unless the settings say that its state is kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from inspect import unwrap
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.optim import Optimizer

from fcil.errors import TrainingError
from fcil.types import Count, Fraction, NonNegative, Positive, Tensors, Terms


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """Optimizer of the clients; the defaults are LANDER's for CIFAR-100."""

    name: Literal["sgd", "adam", "adamw", "radam"] = "sgd"
    """Update rule."""
    lr: Positive = 0.04
    """Learning rate in the first round of every task."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Share of the last step's direction that is kept (`sgd`), or the first beta (of the others)."""
    weight_decay: NonNegative = 5e-4
    """Weight decay of every trained parameter, biases and BatchNorm included."""
    schedule: Literal["constant", "cosine", "step", "exponential"] = "cosine"
    """Decay of the learning rate over the rounds of a task."""
    min_lr: NonNegative = 1e-3
    """Learning rate at which `cosine` would end, one round after the last."""
    milestones: tuple[Count | Fraction, ...] = (0.5, 0.75)
    """Times at which `step` falls: a fraction of the task's rounds (0.5), or a whole number of rounds passed (50)."""
    gamma: Fraction = 0.1
    """Factor of the learning rate at each milestone of `step`, or after each round of `exponential`."""
    state: Literal["fresh", "kept"] = "fresh"
    """Momentum and moments at the beginning of a round: none (`fresh`), as in the field's code, or `kept` by each
    client from its last round; a tensor that has grown since, such as the classifier at a new task, begins anew."""
    max_norm: Positive | None = None
    """Largest norm of a step's gradient over all trained parameters; a longer one is scaled down to it. Null: any."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Arithmetic of the nets in training and synthesis; weights, losses and statistics stay in fp32."""

    def __post_init__(self) -> None:
        if self.schedule == "cosine" and self.min_lr > self.lr:
            raise ValueError(f"min_lr: {self.min_lr:g} is above lr {self.lr:g}, so the cosine would rise; lower it")


def learning_rate(settings: OptimizerSettings, round: int, rounds: int) -> float:
    """Return the rate in round 1 .. `rounds` of a task; with t = round - 1 rounds passed:

    constant     lr
    cosine       min_lr + (lr - min_lr) (1 + cos(pi t / rounds)) / 2
    step         lr gamma^(number of milestones at or before t)
    exponential  lr gamma^t
    """
    passed = round - 1
    if settings.schedule == "cosine":
        span = settings.lr - settings.min_lr
        return settings.min_lr + 0.5 * span * (1 + math.cos(math.pi * passed / rounds))
    if settings.schedule == "exponential":
        return settings.lr * settings.gamma**passed
    if settings.schedule == "step":
        # 0.1 * 30 is slightly above 3: a milestone must not slip a round for that.
        starts = [m if isinstance(m, int) else m * rounds - 1e-9 for m in settings.milestones]
        return settings.lr * settings.gamma ** sum(start <= passed for start in starts)
    return settings.lr


def build_optimizer(settings: OptimizerSettings, parameters: Iterable[torch.nn.Parameter], lr: float) -> Optimizer:
    """Return a new, stateless optimizer for one client and one round, at the rate of that round.

    With `max_norm` a step begins by scaling its gradient g, of all parameters together, by min(1, max_norm / |g|)
    (Pascanu, Mikolov and Bengio, "On the difficulty of training recurrent neural networks", ICML 2013, algorithm 1).
    """
    trained = [p for p in parameters if p.requires_grad]
    optimizer = _unbounded(settings, trained, lr)
    if (most := settings.max_norm) is not None:
        optimizer.register_step_pre_hook(lambda *_: _shorten(trained, most))
    return optimizer


def _shorten(parameters: Sequence[torch.nn.Parameter], max_norm: float) -> None:
    torch.nn.utils.clip_grad_norm_(parameters, max_norm)


def _unbounded(settings: OptimizerSettings, trained: Sequence[torch.nn.Parameter], lr: float) -> Optimizer:
    decay = settings.weight_decay
    # Fused: one kernel for a parameter, and equal to the bit for any number of threads.
    if settings.name == "sgd":
        return SGD(trained, lr, settings.momentum, weight_decay=decay, fused=True)
    betas = (settings.momentum, 0.999)
    if settings.name == "radam":
        return RAdam(trained, lr, betas=betas, weight_decay=decay, foreach=False)  # it has no fused form
    kind = Adam if settings.name == "adam" else AdamW
    return kind(trained, lr, betas=betas, weight_decay=decay, fused=True)


def state_of(optimizer: Optimizer, names: Iterable[str]) -> dict[str, Tensors]:
    """Return the tensors that an optimizer remembers of each parameter, where there are any.

    Args:
        names: of its parameters, in their order.
    """
    parameters = (p for group in optimizer.param_groups for p in group["params"])
    tensors = {
        name: {key: t for key, t in optimizer.state.get(p, {}).items() if isinstance(t, torch.Tensor)}
        for name, p in zip(names, parameters, strict=True)
    }
    return {name: remembered for name, remembered in tensors.items() if remembered}


def restore_state(optimizer: Optimizer, names: Iterable[str], state: Mapping[str, Tensors]) -> None:
    """Let a new optimizer go on from what `state_of` returned of another; parameters of another shape begin anew.

    Args:
        names: of its parameters, in their order.
    """
    if not state:
        return
    example = next(iter(state.values()))
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    counts_there = bool(optimizer.defaults.get("fused"))  # steps are counted on the device
    for name, p in zip(names, parameters, strict=True):
        known = state.get(name, {})
        if any(key != "step" and t.shape != p.shape for key, t in known.items()) or not known:
            # Zeros, as all begin with: a fused step of SGD takes a buffer of each parameter, or of none.
            known = {key: torch.zeros_like(t if key == "step" else p) for key, t in example.items()}
        optimizer.state[p] = {
            key: t.detach().to("cpu" if key == "step" and not counts_there else p.device, copy=True)
            for key, t in known.items()
        }


# A step -------------------------------------------------------------------------------------------


class StepGradients:
    """Gradients of the steps of an optimizer, of which those of some terms may be added before the others exist.

    Args:
        loss: the function whose steps may be in parts; None: no step may.
    """

    def __init__(self, optimizer: Optimizer, loss: Callable[..., Terms] | None) -> None:
        self._optimizer, self._loss, self._begun = optimizer, loss, False

    def add(self, terms: Terms, loss: Callable[..., Terms]) -> Terms:
        """Add the gradients of some terms, and return the terms detached; or as they are, if it is another loss."""
        if loss is not self._loss:
            return terms
        self._backward(total_loss(terms))
        self._begun = True
        return {name: term.detach() for name, term in terms.items()}

    def finish(self, terms: Terms) -> Tensor:
        """Add the gradients of what is left of all terms of the step, and return their sum."""
        total = total_loss(terms)
        self._backward(total)
        self._begun = False
        return total

    def _backward(self, total: Tensor) -> None:
        if not self._begun:
            self._optimizer.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]


def total_loss(terms: Terms) -> Tensor:
    """The sum of the terms that `local_loss` returned.

    Raises:
        TrainingError: they are no named scalars with a gradient; says what was returned.
    """
    if not isinstance(terms, dict) or not terms:
        raise TrainingError(f"local_loss returned {_kind_of_loss(terms)}; {_LOSS}")
    for name, term in terms.items():
        if not isinstance(term, Tensor) or term.ndim or not term.is_floating_point():
            raise TrainingError(f'local_loss returned {{"{name}": {_kind_of_loss(term)}}}; {_LOSS}')
    total = torch.stack(list(terms.values())).sum()
    if not total.requires_grad:
        raise TrainingError(f"local_loss returned {', '.join(terms)} without a gradient; {_LOSS}")
    return total


_LOSS = 'expected a dict of named scalar tensors with a gradient, such as {"ce": F.cross_entropy(logits, y)}'


def _kind_of_loss(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {list(value.shape)} and type {str(value.dtype).removeprefix('torch.')}"
    return "None" if value is None else "an empty dict" if value == {} else f"a {type(value).__name__}"


# Without the compiler -----------------------------------------------------------------------------


class _Eager(Optimizer):
    """Methods of PyTorch's optimizers without what they have for `torch.compile`.

    That loads `torch._dynamo` at the first use of an optimizer: a second and 80 MB of every process.
    """

    add_param_group = unwrap(Optimizer.add_param_group)
    zero_grad = unwrap(Optimizer.zero_grad)
    state_dict = unwrap(Optimizer.state_dict)
    load_state_dict = unwrap(Optimizer.load_state_dict)


class SGD(_Eager, torch.optim.SGD):
    """`torch.optim.SGD`, equal to the bit, outside of `torch.compile`."""

    step = torch.no_grad()(unwrap(torch.optim.SGD.step))


class Adam(_Eager, torch.optim.Adam):
    """`torch.optim.Adam`, equal to the bit, outside of `torch.compile`."""

    step = torch.no_grad()(unwrap(torch.optim.Adam.step))


class AdamW(_Eager, torch.optim.AdamW):
    """`torch.optim.AdamW`, equal to the bit, outside of `torch.compile`."""

    step = torch.no_grad()(unwrap(torch.optim.AdamW.step))


class RAdam(_Eager, torch.optim.RAdam):
    """`torch.optim.RAdam`, equal to the bit, outside of `torch.compile`."""

    step = torch.no_grad()(unwrap(torch.optim.RAdam.step))
