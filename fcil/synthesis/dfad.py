"""DFAD: student and generator compete over the mean absolute difference of logits.

Paper: Fang et al., "Data-Free Adversarial Distillation", arXiv:1912.11006. Code:
github.com/VainF/Data-Free-Adversarial-Distillation @ c161591, whose schedule for CIFAR is the default here.

    min_S max_G  mean |T(x) - S(x)|        over the logits, x = (G(z) - mean) / std

T is the teacher, S the student, G the generator. Five steps of S, each on new z, then one of G: 500 times 50 of these.

Differs: G, its Adam and the modes of the nets are those of DFAD in
github.com/zju-vipa/DataFree @ 9e79fa9: a sigmoid at the end of G, where the released code has tanh and a batch norm;
G in eval mode while S learns and S while G does, where it leaves both in train mode; a cosine for the rate of S.

Shapes: as in `fcil.synthesis.families.data_free`, which holds the loss;
`fcil.synthesis.families.generator_loop` holds the loop.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from fcil.synthesis.families.data_free import AdversarialLoop
from fcil.types import Count, NonNegative, Weight


@dataclass(frozen=True, kw_only=True)
class DFAD(AdversarialLoop):
    """Disagreement alone, as a difference of logits."""

    rounds: Count = 1250
    """Episodes, after each of which training can be saved; the method itself has none."""
    adv: Weight = 1.0
    """Weight of the disagreement with the student."""
    distance: Literal["kl", "l1"] = "l1"
    """Measure of the disagreement: KL of the predictions, or mean absolute difference of logits."""
    student_decay: NonNegative = 5e-4
    """Weight decay of the student."""

    student_first: ClassVar[bool] = True
