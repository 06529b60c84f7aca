"""ZSKT: a generator looks for where student and teacher disagree, and the student agrees there.

Paper: Micaelli and Storkey, "Zero-shot Knowledge Transfer via Adversarial Belief Matching", NeurIPS 2019,
arXiv:1905.09768. Constants and architecture for CIFAR from github.com/zju-vipa/DataFree @ 9e79fa9.

    L   = - KL(T(x) || S(x))         one step of G,    x = (G(z) - mean) / std
    L_S =   KL(T(x) || S(x))         five steps of S, each on new x

T is the teacher, S the student, G the generator. No term asks for natural images or balanced classes.

Differs: the paper's student also matches the teacher's attention maps; as in the code above, ours does not.

Shapes: as in `fcil.synthesis.families.data_free`, which holds the loss;
`fcil.synthesis.families.generator_loop` holds the loop.
"""

from __future__ import annotations

from dataclasses import dataclass

from fcil.synthesis.families.data_free import AdversarialLoop
from fcil.types import Weight


@dataclass(frozen=True, kw_only=True)
class ZSKT(AdversarialLoop):
    """Disagreement alone, as a KL."""

    adv: Weight = 1.0
    """Weight of the disagreement with the student."""
