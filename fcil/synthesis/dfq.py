"""DFQ: a generator of batches like the teacher's data, in equal shares, where the student disagrees.

Paper: Choi et al., "Data-Free Network Quantization With Adversarial Knowledge Distillation", CVPR Workshops 2020,
arXiv:2005.04136. Constants and architecture for CIFAR from github.com/zju-vipa/DataFree @ 9e79fa9.

    L   = sum_l ||V_l - v_l|| + ||M_l - m_l|| + CE(T(x), argmax T(x)) + 20 sum_k q_k log q_k - KL(T(x) || S(x))
    L_S = KL(T(x) || S(x))           ten steps of S to one of G, each on new x = (G(z) - mean) / std

T is the teacher, S the student, G the generator, m_l, v_l the statistics of layer l's input in this batch, M_l, V_l
T's running ones, q its mean prediction over the batch.

Differs: the paper is about quantised students and has several generators; as in the code above, only the loss is here.

Shapes: as in `fcil.synthesis.families.data_free`, which holds the loss;
`fcil.synthesis.families.generator_loop` holds the loop.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fcil.synthesis.families.data_free import AdversarialLoop
from fcil.types import Count, Weight


@dataclass(frozen=True, kw_only=True)
class DFQ(AdversarialLoop):
    """Batch-norm matching, certainty, balance and disagreement."""

    rounds: Count = 400
    """Episodes, after each of which training can be saved; the method itself has none."""
    bn: Weight = 1.0
    """Weight of batch-norm matching; without it the net needs no batch norm."""
    ce: Weight = 1.0
    """Weight of the cross-entropy with the teacher's own prediction (`oh`)."""
    balance: Weight = 20.0
    """Weight of the class balance, the negative entropy of the mean prediction."""
    adv: Weight = 1.0
    """Weight of the disagreement with the student; with 0 there is no student."""
    student_steps: Count = 10
    """Student steps to one of the generator, each on a new batch (`kd_steps`)."""

    needs: ClassVar[frozenset[str]] = frozenset({"batchnorm"})
