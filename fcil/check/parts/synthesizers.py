"""Laws of a synthesizer, which inverts a tiny net of four classes for three episodes at most."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fcil import rng
from fcil.check.contract import Advice, Check
from fcil.check.parts.case import PartCase, touched
from fcil.data import Augment
from fcil.io.state import flatten, unflatten
from fcil.nets import NetSettings, build_net, frozen
from fcil.synthesis import SynthesisProblem, Synthesizer
from fcil.synthesis.common.state_codec import restore, values
from fcil.types import Tensors

CLASSES, TEXT, SAMPLES, MOST = 4, 16, 16, 3


def method_of(case: PartCase) -> Synthesizer:
    """Return the method, cut to a few steps and samples."""
    method: Synthesizer = case.settings.smoke()
    return replace(method, samples=min(SAMPLES, method.samples), chains=1)


def problem_of(case: PartCase, labels: tuple[int, ...] = (0, 1, 2, 3)) -> SynthesisProblem:
    images = "images" in case.settings.makes
    shape = (1, 8, 8) if images else (2, 16)
    net = NetSettings(name="resnet8" if images else "fcn1d", width=4)
    teacher = build_net(net, shape=shape, num_classes=CLASSES, text_width=TEXT, key=("check", "teacher"))
    teacher.train()(torch.randn(32, *shape, generator=rng.generator("check", "statistics")))  # statistics of its own
    anchors = torch.nn.functional.normalize(torch.randn(CLASSES, TEXT, generator=rng.generator("check", "anchors")))
    mean, std = torch.full((shape[0],), 0.5 if images else 0.0), torch.full((shape[0],), 0.25 if images else 1.0)
    return case.settings.checked(  # type: ignore[no-any-return]
        SynthesisProblem(
            teacher=frozen(teacher), labels=labels, shape=shape, anchors=anchors, bound=None, mean=mean, std=std,
            augment=Augment(), key=("check", "synthesis"),
        )
    )  # fmt: skip


def played(case: PartCase, problem: SynthesisProblem, chain: int = 0) -> Any:
    """Return the state of a chain after its first episodes."""
    method = method_of(case)
    state = method.start(problem, chain)
    for number in range(1, min(MOST, method.episodes) + 1):
        method.episode(problem, state, number)
    return state


def pooled(case: PartCase, problem: SynthesisProblem | None = None, chain: int = 0) -> Tensors:
    problem = problem or problem_of(case)
    return method_of(case).pool(problem, played(case, problem, chain))


def check_episode(case: PartCase) -> str | None:
    """Episodes run on a tiny teacher, and return finite means of loss terms."""
    problem, method = problem_of(case), method_of(case)
    if method.episodes < 1:
        return f"there are {method.episodes} episodes; expected at least 1"
    state = method.start(problem, 0)
    for number in range(1, min(MOST, method.episodes) + 1):
        terms = method.episode(problem, state, number)
        if not isinstance(terms, dict) or not all(isinstance(term, float | int) for term in terms.values()):
            return f"episode {number} returned {terms!r}"[:200] + "; expected numbers by name"
        if bad := [name for name, term in terms.items() if not abs(term) < float("inf")]:
            return f'term "{bad[0]}" of episode {number} is {terms[bad[0]]}'
    return None


def check_pool(case: PartCase) -> str | None:
    """The pool has samples of the right type, shape and range, with labels that were asked for."""
    problem, method = problem_of(case, (1, 3)), method_of(case)
    state = played(case, problem)
    if not method.ready(state):
        return Advice(f"there are no samples after {min(MOST, method.episodes)} episodes, so none were looked at")
    pool = method.pool(problem, state)
    if not {"x", "y"} <= pool.keys():
        return f"it holds {', '.join(pool) or 'nothing'}; expected x and y"
    x, y, dtype = pool["x"], pool["y"], torch.uint8 if len(problem.shape) == 3 else torch.float32
    if x.dtype != dtype or x.shape[1:] != problem.shape:
        return f"x is {x.dtype} {list(x.shape)}; expected {dtype} {['N', *problem.shape]}"
    if y.shape != x.shape[:1] or y.dtype != torch.int64:
        return f"y is {y.dtype} {list(y.shape)}; expected torch.int64 [{len(x)}]"
    if not 0 < len(x) <= method.share(0):
        return f"it has {len(x)} samples; expected 1 to share(chain), which is {method.share(0)}"
    if strange := sorted(set(y.tolist()) - {1, 3}):
        return f"it has samples of class {strange[0]}; 1 and 3 were asked for"
    if x.is_floating_point() and not bool(torch.isfinite(x).all()):
        return "x holds NaN or infinity"
    return Advice("all its samples are one plain canvas") if bool((x == x.flatten()[0]).all()) else None


def check_repeat(case: PartCase) -> str | None:
    """The same key gives the same pool to the bit, and no global random stream is used or touched."""
    found, problem = touched(lambda _: pooled(case))
    if name := _other(*found):
        return f"{name} is another under another global seed; draw from fcil.rng.generator(*problem.key, ...)"
    return problem


def check_chains(case: PartCase) -> str | None:
    """Two chains make other samples."""
    problem = problem_of(case)
    if _other(pooled(case, problem, 0), pooled(case, problem, 1)) is None:
        return Advice("they make the same; name the chain in the key of its random streams")
    return None


def check_resume(case: PartCase) -> str | None:
    """A chain that is saved after each episode, and goes on elsewhere, equals one that was not, to the bit."""
    problem, method = problem_of(case), method_of(case)
    state = method.start(problem, 0)
    for number in range(1, min(MOST, method.episodes) + 1):
        method.episode(problem, state, number)
        tensors, scalars = flatten(values(state))
        state = method.start(problem, 0)
        restore(state, unflatten({name: tensor.clone() for name, tensor in tensors.items()}, scalars))
    name = _other(method.pool(problem, state), pooled(case, problem))
    return f"{name} is another; what must outlive an episode belongs in the state" if name else None


def check_teacher(case: PartCase) -> str | None:
    """The teacher is left as it was: weights, mode, gradients and hooks."""
    problem = problem_of(case)
    net, before = problem.teacher, problem.teacher.weights()
    pooled(case, problem)
    if changed := [name for name, tensor in net.weights().items() if not torch.equal(tensor, before[name])]:
        return f"{changed[0]} of the teacher changes"
    if net.training or any(module.training for module in net.modules()):
        return "the teacher is left in training mode"
    if any(p.requires_grad or p.grad is not None for p in net.parameters()):
        return "the teacher is left with gradients"
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    if any(getattr(module, kind) for module in net.modules() for kind in kinds):
        return "a hook is left on the teacher"
    return None


def _other(first: Tensors, second: Tensors) -> str | None:
    """Return the name of a tensor that is not the same in both pools."""
    same = partial(_equal, first, second)
    return next((name for name in {**first, **second} if not same(name)), None)


def _equal(first: Tensors, second: Tensors, name: str) -> bool:
    a, b = first.get(name), second.get(name)
    return isinstance(a, Tensor) and isinstance(b, Tensor) and a.shape == b.shape and torch.equal(a, b)


CHECKS = (
    Check("episode", check_episode),
    Check("pool", check_pool, ("episode",)),
    Check("teacher", check_teacher, ("episode",)),
    Check("repeat", check_repeat, ("episode", "pool")),
    Check("chains", check_chains, ("episode", "pool", "repeat")),
    Check("resume", check_resume, ("episode", "pool", "repeat")),
)
