"""A NAYER that is watched at work."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fcil.synthesis import SynthesisProblem
from fcil.synthesis.nayer import NAYER, NoisyLayerReplica, Optimised
from fcil.types import Tensors, Terms


class Watched(NAYER):
    """NAYER whose chance is scripted, and which notes what happens.

    `tails` are the random labels of each inner loop, `noise` the weights of the noisy layers.
    """

    def watch(self, tails: list[Tensor] | None = None, noise: list[Tensors] | None = None) -> Watched:
        notes = {"tails": tails or [], "noise": noise or [], "found": [], "steps": [], "adversarial": [], "kept": 0}
        object.__setattr__(self, "notes", notes)
        return self

    def requested(self, problem: SynthesisProblem, rng: torch.Generator) -> Tensor:
        labels = super().requested(problem, rng)
        if self.notes["tails"]:
            tail = self.notes["tails"].pop(0)
            assert len(tail) == len(labels) % len(problem.labels)
            labels[len(labels) - len(tail) :] = tail
        return labels

    def optimise(
        self, problem: SynthesisProblem, chain: NoisyLayerReplica, labels: Tensor, **options: Any
    ) -> Optimised:
        if self.notes["noise"]:
            for name, weight in self.notes["noise"].pop(0).items():
                chain.generator.get_parameter(f"noisy.{name}").data.copy_(weight)
        self.notes["adversarial"].append(options["adversarial"])
        self.notes["steps"].append([])
        self.notes["labels"] = labels
        self.notes["at_start"] = {name: w.clone() for name, w in chain.generator.state_dict().items()}
        found = super().optimise(problem, chain, labels, **options)
        self.notes["found"].append((found, {name: w.clone() for name, w in chain.generator.state_dict().items()}))
        return found

    def terms(
        self, problem: SynthesisProblem, chain: NoisyLayerReplica, images: Tensor, labels: Tensor, **options: Any
    ) -> tuple[Terms, Tensors]:
        note = (images.detach().clone(), chain.student.training, chain.averages)
        self.notes["steps"][-1].append(note)
        return super().terms(problem, chain, images, labels, **options)
