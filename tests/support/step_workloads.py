"""Steps that a LANDER run is made of, and the same work in loops written the usual way, for timings.

Shapes are those of CIFAR-100 in five tasks: images of 32x32 pixels, 40 classes seen of which 20 are old, ResNet-18,
text vectors of 512 numbers. Images are noise: no timing depends on what they show. Each builder returns a function
that takes `STEPS` steps.

The usual loops do the same arithmetic as the released code of LANDER's lineage: old net and student not frozen in
synthesis, so their weights' gradients are computed and dropped; hooks on batch norm stay on in every pass; samples are
written to and read from PNG files; each step reads its loss.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from fcil import Batch, Client
from fcil.data import Augment, MemoryImages, Shard
from fcil.losses import bounding
from fcil.nets import Net, NetSettings, NoisyGenerator, build_net, frozen
from fcil.nets.doubling import DoublingConv2d
from fcil.nets.net import MemoryFormat
from fcil.optimizer import OptimizerSettings
from fcil.synthesis import Bound, SynthesisProblem, create
from fcil.types import Task, Terms
from strategies.lander import LANDER

STEPS = 4
SHAPE, OLD, SEEN, TEXT = (3, 32, 32), 20, 40, 512
MEAN, STD = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)
Steps = Callable[[], object]


@dataclass(frozen=True)
class Place:
    """Device, arithmetic and sizes of a workload."""

    device: torch.device = torch.device("cpu")
    optimizer: OptimizerSettings = OptimizerSettings()
    batch: int = 32
    net: NetSettings = NetSettings()

    @property
    def bf16(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.optimizer.precision == "bf16")

    def build(self, classes: int, key: str) -> Net:
        return build_net(self.net, shape=SHAPE, num_classes=classes, text_width=TEXT, key=(key,)).to(self.device)

    def pixels(self, count: int) -> Tensor:
        return torch.randint(0, 256, (count, *SHAPE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))

    def anchors(self) -> Tensor:
        return F.normalize(torch.randn(SEEN, TEXT, generator=torch.Generator().manual_seed(1)), dim=1).to(self.device)


class WholeLANDER(LANDER):
    """LANDER with one backward pass a step, as any strategy has that changes its terms."""

    def local_loss(self, client: Client, batch: Batch) -> Terms:
        return super().local_loss(client, batch)


def client_step(place: Place, strategy: LANDER | None = None) -> Steps:
    """LANDER's client in its second task: as many synthetic images a step as real ones, and the old net's pass."""
    strategy = strategy or LANDER()
    count = place.batch * STEPS
    pixels, labels = place.pixels(count), torch.randint(OLD, SEEN, (count,))
    images = MemoryImages(pixels.to(place.device), labels.to(place.device))
    task_of = torch.full((count,), 2)
    rows = torch.arange(count, device=place.device)
    augment = Augment(padding=4, flip=True)
    shard = Shard(images, rows, labels, task_of, MEAN, STD, augment, place.device)
    pool = {"x": place.pixels(8 * place.batch).to(place.device), "y": torch.zeros(8 * place.batch, dtype=torch.int64)}
    net, old = place.build(SEEN, "net"), frozen(place.build(OLD, "old"))

    def take() -> object:
        client = Client(
            index=0,
            task=Task(2, 5, OLD, SEEN - OLD, tuple(map(str, range(SEEN)))),
            round=1,
            net=net,
            shard=shard,
            shared={"anchors": place.anchors(), "synthetic": pool},
            memory={},
            seed=0,
            lr=0.04,
            local_epochs=1,
            local_steps=STEPS,
            batch_size=place.batch,
            optimizer=place.optimizer,
            device=place.device,
            frozen_net={"teacher": old}.__getitem__,
            start=net.weights(),
        )
        return strategy.local_train(client)

    return take


def divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    log_p, q = F.log_softmax(student / temperature, 1), F.softmax(teacher / temperature, 1)
    return F.kl_div(log_p, q, reduction="batchmean")


def bare_client_loop(place: Place) -> Steps:
    """The passes of `client_step` and no more: no data, no augmentation, plain tensors already on the device."""
    net, old = place.build(SEEN, "net").train(), frozen(place.build(OLD, "old"))
    real, synthetic = (torch.randn(place.batch, *SHAPE, device=place.device) for _ in range(2))
    y, anchors = torch.randint(OLD, SEEN, (place.batch,), device=place.device), place.anchors()
    optimizer = torch.optim.SGD(net.parameters(), 0.04, momentum=0.9, weight_decay=5e-4)

    def take() -> None:
        for _ in range(STEPS):
            with place.bf16:
                out, student = net(real), net(synthetic)
                with torch.no_grad():
                    teacher = old(synthetic)
                loss = F.cross_entropy(out.logits[:, OLD:], y - OLD) + divergence(
                    student.logits[:, :OLD], teacher.logits, 2
                )
                loss = loss + bounding(out.embedding, anchors[y], 0.015, "batch")
                loss = loss + F.mse_loss(student.embedding, teacher.embedding)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()

    return take


def evaluation(place: Place) -> Steps:
    """Answers to `STEPS` batches of 256 test images."""
    net, pixels = place.build(SEEN, "net").eval(), torch.randn(256, *SHAPE, device=place.device)

    @torch.inference_mode()
    def take() -> Tensor:
        with place.bf16:
            return torch.stack([(net(pixels).logits.argmax(1) == 0).sum() for _ in range(STEPS)]).sum()

    return take


# Synthesis --------------------------------------------------------------------------------------


def synthesis_problem(place: Place) -> SynthesisProblem:
    """The task of a synthesizer after the second task: a teacher of 40 classes with text anchors."""
    return SynthesisProblem(
        teacher=frozen(place.build(SEEN, "teacher")),
        labels=tuple(range(SEEN)),
        shape=SHAPE,
        anchors=place.anchors(),
        bound=Bound(),
        mean=torch.tensor(MEAN, device=place.device),
        std=torch.tensor(STD, device=place.device),
        augment=Augment(padding=4, flip=True),
        key=(0,),
        precision=place.optimizer.precision,
    )


def synthesis_step(place: Place, name: str = "nayer", width: int = 64) -> Steps:
    """Generator steps of an episode after the warm-up, with as many steps of the student."""
    sizes = {"rounds": 1000, "steps": STEPS, "batch_size": place.batch, "samples": 4 * place.batch, "width": width}
    if name != "fast":
        sizes |= {"warmup": 0}
    synthesizer = create(name, **sizes, student_steps=STEPS, student_batch=place.batch)
    problem = synthesis_problem(place)
    chain, number = synthesizer.start(problem, 0), [4]  # the adversarial term is on from here

    def take() -> object:
        number[0] += 1
        return synthesizer.episode(problem, chain, number[0])

    return take


class _Hook:
    """Distance of a batch norm's input from its running statistics, taken in every pass."""

    def __init__(self, module: nn.BatchNorm2d) -> None:
        self.r = torch.zeros(())
        module.register_forward_hook(self)

    def __call__(self, module: nn.BatchNorm2d, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        x = inputs[0]
        mean, var = x.mean([0, 2, 3]), x.permute(1, 0, 2, 3).reshape(x.shape[1], -1).var(1, unbiased=False)
        self.r = torch.norm(module.running_var - var, 2) + torch.norm(module.running_mean - mean, 2)


class Repeating(DoublingConv2d):
    """Pixels repeated, then convolved, as everybody writes it."""

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(F.interpolate(x, scale_factor=2.0), self.weight, self.bias)


def usual_synthesis_loop(place: Place, folder: Path, width: int = 64) -> Steps:
    """The work of `synthesis_step` of NAYER, written the usual way."""
    teacher = place.build(SEEN, "teacher").eval()  # its weights ask for gradients
    student = copy.deepcopy(teacher)
    hooks = [_Hook(m) for m in teacher.modules() if isinstance(m, nn.BatchNorm2d)]
    anchors, labels = place.anchors(), torch.arange(place.batch, device=place.device) % SEEN
    made = NoisyGenerator(anchors, SHAPE, place.batch, 256, width).to(place.device)
    for layer in made.modules():
        if isinstance(layer, DoublingConv2d):
            layer.__class__ = Repeating
    sgd = torch.optim.SGD(student.parameters(), 0.1, momentum=0.9, weight_decay=2e-4)
    mean, std = (torch.tensor(v, device=place.device).view(-1, 1, 1) for v in (MEAN, STD))
    rng = torch.Generator().manual_seed(0)
    count = [0]

    def take() -> None:
        adam = torch.optim.Adam(made.parameters(), 2e-3, betas=(0.5, 0.999))
        made.redraw(rng)
        student.eval()
        best, lowest = None, float("inf")
        for _ in range(STEPS):
            with place.bf16:
                images = made(labels)
                x = (images - mean) / std
                out, other = teacher(x), student(x)
                bn = sum(h.r for h in hooks)
                ce = F.cross_entropy(out.logits, labels)
                mask = (other.logits.argmax(1) == out.logits.argmax(1)).float()
                target = F.softmax(out.logits.detach(), 1)
                apart = F.kl_div(F.log_softmax(other.logits, 1), target, reduction="none").sum(1)
                text = F.mse_loss(out.embedding, anchors[labels])
                loss = bn + 0.5 * ce - (apart * mask).mean() + text
            if loss.item() < lowest:
                lowest, best = loss.item(), images.detach()
            adam.zero_grad()
            loss.backward()
            adam.step()
        assert best is not None
        for image in best.float().cpu():
            count[0] = (count[0] + 1) % (4 * place.batch)
            levels = (image.permute(1, 2, 0).numpy() * 255).clip(0, 255).astype("uint8")
            Image.fromarray(levels).save(folder / f"{count[0]}.png")
        student.train()
        files = sorted(folder.iterdir())
        for step in range(STEPS):
            chosen = [files[(step * place.batch + i) % len(files)] for i in range(place.batch)]
            x = torch.stack([torch.from_numpy(np.array(Image.open(f))).permute(2, 0, 1).float() / 255 for f in chosen])
            x = (x.to(place.device) - mean) / std
            with place.bf16:
                with torch.no_grad():
                    target = teacher(x)
                out = student(x)
                loss = 400 * divergence(out.logits, target.logits, 20)
                loss = loss + 5 * F.mse_loss(out.embedding, target.embedding)
            sgd.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            sgd.step()
            loss.item()

    return take


def of_form(place: Place, precision: Literal["fp32", "bf16"], memory_format: MemoryFormat) -> Place:
    """Return the place with this arithmetic and layout."""
    optimizer, net = replace(place.optimizer, precision=precision), replace(place.net, memory_format=memory_format)
    return replace(place, optimizer=optimizer, net=net)
