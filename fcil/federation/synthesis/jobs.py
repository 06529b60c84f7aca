"""Synthesis jobs as values: what a worker needs to build the problem and start a chain of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fcil.config import Where, dump, parse
from fcil.config.parts import parts_in
from fcil.data import Augment
from fcil.federation.context import RunContext
from fcil.nets import Net, NetSettings, frozen, net_of
from fcil.rng import Key
from fcil.synthesis import Bound, SynthesisProblem, Synthesizer
from fcil.types import Tensors


@dataclass(frozen=True)
class Job:
    """One chain of a synthesis, as values. Tensors are NumPy arrays, which Ray shares without a copy."""

    files: dict[str, str]  # text of each file of the user's own that the settings name, by its path
    synthesizer: dict[str, Any]
    chain: int
    net: dict[str, Any]
    arrays: dict[str, dict[str, Any]]  # weights of the teacher; anchors, mean and std under "extra"
    labels: tuple[int, ...]
    shape: tuple[int, ...]
    bound: dict[str, Any] | None
    augment: dict[str, Any]
    key: tuple[int | str, ...]
    precision: str
    device: str
    threads: int

    @classmethod
    def of(cls, synthesizer: Synthesizer, chain: int, net: NetSettings, problem: SynthesisProblem, threads: int) -> Job:
        """A chain for a problem, whose teacher is a net of these settings."""
        extra = {"mean": problem.mean, "std": problem.std}
        if problem.anchors is not None:
            extra["anchors"] = problem.anchors
        return cls(
            files={part.path: part.source for part in parts_in((synthesizer, net))},
            synthesizer=dump(synthesizer),
            chain=chain,
            net=dump(net),
            arrays={"weights": to_numpy(problem.teacher.weights()), "extra": to_numpy(extra)},
            labels=problem.labels,
            shape=problem.shape,
            bound=dump(problem.bound) if problem.bound is not None else None,
            augment=dump(problem.augment),
            key=problem.key,
            precision=problem.precision,
            device=str(problem.device),
            threads=threads,
        )

    @property
    def where(self) -> Where:
        """Return the place of these values, for error messages, with the files that came with them."""
        return Where("job", files=self.files.__getitem__)

    def problem(self) -> SynthesisProblem:
        """The inversion on this worker's device."""
        device = torch.device(self.device)
        tensors = {k: {n: torch.tensor(a, device=device) for n, a in v.items()} for k, v in self.arrays.items()}
        settings = parse(NetSettings, self.net, self.where)
        return SynthesisProblem(
            teacher=frozen(net_of(settings, tensors["weights"], self.shape)),
            labels=self.labels,
            shape=self.shape,
            anchors=tensors["extra"].get("anchors"),
            bound=None if self.bound is None else parse(Bound, self.bound, Where("job")),
            mean=tensors["extra"]["mean"],
            std=tensors["extra"]["std"],
            augment=parse(Augment, self.augment, Where("job")),
            key=self.key,
            precision=self.precision,  # type: ignore[arg-type]
        )


def to_numpy(tensors: Tensors) -> dict[str, Any]:
    """Arrays, which Ray shares among processes without a copy."""
    return {name: t.detach().cpu().numpy() for name, t in tensors.items()}


def synthesis_problem(
    context: RunContext,
    net: Net,
    labels: Sequence[int],
    anchors: Tensor | None,
    bound: Bound | None,
    key: tuple[Key, ...],
) -> SynthesisProblem:
    """The problem of inverting `net` in a run, on the net's device."""
    dataset, device = context.scenario.dataset, net.classifier.weight.device
    return SynthesisProblem(
        teacher=frozen(net),
        labels=tuple(labels),
        shape=dataset.shape,
        anchors=None if anchors is None else anchors[: net.num_classes].to(device),
        bound=bound,
        mean=torch.tensor(dataset.mean, device=device),
        std=torch.tensor(dataset.std, device=device),
        augment=dataset.augment.synthetic,
        key=key,
        precision=context.plan.optimizer.precision,
    )
