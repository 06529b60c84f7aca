"""Try what could make NAYER's steps faster on a CPU, each beside the steps as they are.

    python tests/benchmarks/synthesis_attempts.py [--turns 5] [--batch 16] [--precision fp32] [--only NAME,NAME]

ResNet-18, one thread, a step each of generator and student (`synthesis_step` of tests/support/step_workloads.py). All
forms take turns in one process. A figure is the median over the turns of the processor seconds of a form divided by
those of the usual loop in fp32, and by those of the steps as they are. Beside it: whether the generator's weights
after the first four steps are equal to the bit, or how far they are, of what they moved. (The nets have random
weights and hardly ever agree on a label, so the student's answers, which count where they do, move nothing there.)
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import torch
from idle_round import processor
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from step_attempts import folded
from step_workloads import STEPS, Place, Repeating, Steps, of_form, synthesis_problem, usual_synthesis_loop

from fcil import losses
from fcil.federation.settings import settled
from fcil.nets import FeaturesAhead, Net
from fcil.nets.doubling import DoublingConv2d
from fcil.synthesis.common import student as lessons
from fcil.synthesis.nayer import NAYER, NoisyLayerReplica, Optimised


class Swapped(NAYER):
    """NAYER whose frozen student is another form of itself in the generator's steps."""

    form: Callable[[Net], Net]

    def optimise(self, problem: Any, chain: NoisyLayerReplica, labels: Tensor, **how: Any) -> Optimised:
        student = chain.student
        chain.student = type(self).form(student)
        try:
            return super().optimise(problem, chain, labels, **how)
        finally:
            chain.student = student


def half_weights(net: Net) -> Net:
    """Return a frozen net whose convolutions hold the weights in bf16 that autocast makes anew in every pass."""
    net = copy.deepcopy(net)
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.to(torch.bfloat16)
    return net


class Folded(Swapped):
    form = staticmethod(lambda net: folded(net, 16, blocked=False))


class Half(Swapped):
    form = staticmethod(half_weights)


class Inferring(FeaturesAhead):
    """The teacher's answers to the student's images, in inference mode."""

    def output(self, x: Tensor) -> Any:
        with torch.inference_mode():
            given = super().output(x)
        assert given.embedding is not None
        return given._replace(logits=given.logits.clone(), embedding=given.embedding.clone())


@contextmanager
def inferring() -> Iterator[None]:
    with mock.patch.object(lessons, "FeaturesAhead", Inferring):
        yield


@contextmanager
def one_pass() -> Iterator[None]:
    """Statistics of batch norm's inputs by `torch.var_mean`, as they were before."""

    def moments(x: Tensor) -> tuple[Tensor, Tensor]:
        var, mean = torch.var_mean(x, dim=[0, *range(2, x.dim())], correction=0)
        return mean, var

    with mock.patch.object(losses, "moments", moments):
        yield


@contextmanager
def apart() -> Iterator[None]:
    """Pixels repeated and then convolved in the generator, as they were before."""
    with mock.patch.object(DoublingConv2d, "forward", Repeating.forward):
        yield


class Loop:
    """Steps of NAYER in a form."""

    def __init__(
        self,
        place: Place,
        kind: type[NAYER] = NAYER,
        *,
        half: bool = False,
        around: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        sizes = {"batch_size": place.batch, "samples": 4 * place.batch, "student_batch": place.batch}
        self.synthesizer = kind(rounds=1000, steps=STEPS, warmup=0, student_steps=STEPS, **sizes)
        self.problem = synthesis_problem(place)
        if half:
            object.__setattr__(self.problem, "teacher", half_weights(self.problem.teacher))
        self.around = around
        self.chain, self.number = self.synthesizer.start(self.problem, 0), 4

    def __call__(self) -> None:
        self.number += 1
        with self.around():
            self.synthesizer.episode(self.problem, self.chain, self.number)

    def weights(self) -> Tensor:
        return torch.cat([t.detach().flatten() for t in self.chain.generator.parameters()])


def forms(place: Place, precision: Literal["fp32", "bf16"]) -> dict[str, Loop]:
    """Return the steps as they are, and every form of them in this arithmetic."""
    here = of_form(place, precision, "contiguous")
    found = {
        "as it is": Loop(here),
        "statistics by torch.var_mean": Loop(here, around=one_pass),
        "pixels repeated and then convolved": Loop(here, around=apart),
        "channels last": Loop(of_form(place, precision, "channels_last")),
        "student folded in the generator's steps": Loop(here, Folded),
        "teacher in inference mode in the student's steps": Loop(here, around=inferring),
    }
    if precision == "bf16":
        found["frozen weights in bf16, made once"] = Loop(here, Half, half=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--only", default="", help="names of forms, with commas between; all if empty")
    asked = parser.parse_args()
    print(f"# command: python {' '.join(sys.argv)}")
    print(f"# {processor()}, one thread, torch {torch.__version__}; batches of {asked.batch}, {asked.turns} turns")
    place = Place(batch=asked.batch)
    with settled(1), tempfile.TemporaryDirectory() as folder:
        loops = forms(place, asked.precision)
        if asked.only:
            loops = {name: loops[name] for name in ("as it is", *asked.only.split(","))}
        began, apart = loops["as it is"].weights(), {}
        for loop in loops.values():
            loop()
        moved = (loops["as it is"].weights() - began).norm()
        for name, loop in loops.items():
            apart[name] = float((loop.weights() - loops["as it is"].weights()).norm() / moved)
        every: dict[str, Steps] = {**loops, "the usual loop, fp32": usual_synthesis_loop(place, Path(folder))}
        every["the usual loop, fp32"]()
        report(turns(every, asked.turns), apart)


def turns(every: dict[str, Steps], count: int) -> dict[str, list[float]]:
    """Processor seconds of a step of each, turn by turn; who begins moves on, and every other turn goes back."""
    times: dict[str, list[float]] = {name: [] for name in every}
    names = list(every)
    for turn in range(count):
        order = names[turn % len(names) :] + names[: turn % len(names)]
        for name in order if turn % 2 else reversed(order):
            began = time.process_time()
            every[name]()
            times[name].append((time.process_time() - began) / STEPS)
    return times


def report(times: dict[str, list[float]], apart: dict[str, float]) -> None:
    print("| form | ms a step | of the usual loop, fp32 | least to most | of the steps as they are | weights |")
    print("|---|--:|--:|--:|--:|--:|")
    for name, found in times.items():
        usual, same = times["the usual loop, fp32"], times["as it is"]
        of_usual = sorted(a / b for a, b in zip(found, usual, strict=True))
        of_same = statistics.median(a / b for a, b in zip(found, same, strict=True))
        away = "" if name not in apart else f"{apart[name]:.0e}" if apart[name] else "equal to the bit"
        print(
            f"| {name} | {1000 * statistics.median(found):.0f} | {statistics.median(of_usual):.2f} "
            f"| {of_usual[0]:.2f} to {of_usual[-1]:.2f} | {of_same:.2f} | {away} |"
        )


if __name__ == "__main__":
    main()
