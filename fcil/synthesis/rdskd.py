"""RDSKD: certainty, balance and diversity without weights, for a generator trained before any student.

Paper: Han et al., "Robustness and Diversity Seeking Data-Free Knowledge Distillation", ICASSP 2021, arXiv:2011.03749.
Code: github.com/PengchaoHan/RDSKD @ 8512a9d, generator-train.py.

A batch has two halves, x = [x_1, x_2] = G(z), whose scale a batch norm at the end of G sets. T is the teacher, p its
predictions, q their mean over the batch:

    L    = exp(L_oh - c_oh) + exp(L_ie - c_ie) + L_ds
    L_oh = CE(T(x), argmax T(x))          L_ie = sum_k q_k log q_k
    L_ds = 1 / (|x_2 - x_1| / |p_2 - p_1|)                          Frobenius norms

c_oh and c_ie are the L_oh and L_ie of the second step of this episode, or of the last episode until that step is
done, and 0 at first: a rise above them costs exponentially, a fall hardly pays. So the episode matters
here: it is the code's epoch. The generator is MFCL's. No term needs a student, so there is none.

Shapes: as in `fcil.synthesis.families.generator_loop`, which holds the loop.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from fcil.nets import ImageGenerator
from fcil.nets.backbone import Shape
from fcil.synthesis.common.base import Recipe, SynthesisProblem
from fcil.synthesis.common.inner_loop import target_classes
from fcil.synthesis.common.losses import negative_entropy, sameness
from fcil.synthesis.families.generator_loop import GeneratorLoop, GeneratorReplica
from fcil.types import Count, Terms


@dataclass(frozen=True, kw_only=True)
class RDSKD(GeneratorLoop):
    """Exponential penalties of rises and a ratio of differences."""

    rounds: Count = 20
    """Episodes; each has new references for certainty and balance (`n_epochs`)."""
    steps: Count = 120
    """Steps of the generator in an episode."""
    batch_size: Annotated[int, Field(ge=2, multiple_of=2)] = 512
    """Samples per step of the generator: two halves that are compared for diversity."""
    latent: Count = 1000
    """Width of the noise (`latent_dim`; 100 for MNIST)."""
    width: Count = 128
    """Channels of the generator's stages; the last has half of them."""

    recipe: ClassVar[Recipe] = Recipe(
        learns="after", distiller={"kd": {"temperature": 10}}, optimizer={"name": "adam", "lr": 2e-3}
    )
    betas: ClassVar[tuple[float, float]] = (0.9, 0.999)

    def new_generator(self, shape: Shape) -> nn.Sequential:
        return ImageGenerator(shape, self.latent, self.width)

    def inputs(self, problem: SynthesisProblem, chain: GeneratorReplica, z: Tensor) -> Tensor:
        images: Tensor = chain.generator(z)  # as the nets want them: nothing is left to normalise
        return images.to(problem.mean)

    def alternate(self, problem: SynthesisProblem, chain: GeneratorReplica, step: int, rng: torch.Generator) -> Terms:
        found = super().alternate(problem, chain, step, rng)
        if step == 1:
            chain.memory["reference"] = chain.memory["measured"]
        return found

    def terms(self, problem: SynthesisProblem, chain: GeneratorReplica, x: Tensor) -> Terms:
        out, wanted = problem.teacher(x), target_classes(problem)
        among = out.logits[:, wanted]  # (B, classes asked for)
        answers = wanted[among.argmax(dim=1)]
        measured = torch.stack([F.cross_entropy(out.logits, answers), negative_entropy(among)])
        chain.memory["measured"] = measured.detach()
        certain, balanced = (measured - chain.memory.get("reference", torch.zeros_like(measured))).exp()
        terms = {"ce": certain, "balance": balanced, "diversity": sameness(x, out.logits)}
        return terms | problem.bounded(out.embedding, answers)
