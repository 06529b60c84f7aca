"""DAFL: a generator of samples that the teacher is sure of, in equal shares, without any student.

Paper: Chen et al., "Data-Free Learning of Student Networks", ICCV 2019, arXiv:1904.01186. Constants and architecture
for CIFAR from github.com/zju-vipa/DataFree @ 9e79fa9, which compares methods on equal terms.

    L  = CE(T(x), argmax T(x)) + 20 sum_k q_k log q_k - 0.001 mean |f|         x = (G(z) - mean) / std

T is the teacher, f the features that its classifier reads, q its mean prediction over a batch; large batches estimate
q well. No term needs a student, so there is none; the caller can train one on the samples.

Shapes: as in `fcil.synthesis.families.data_free`, which holds the loss;
`fcil.synthesis.families.generator_loop` holds the loop.
"""

from __future__ import annotations

from dataclasses import dataclass

from fcil.synthesis.families.data_free import AdversarialLoop
from fcil.types import Count, Weight


@dataclass(frozen=True, kw_only=True)
class DAFL(AdversarialLoop):
    """Certainty, balance and activation."""

    latent: Count = 512
    """Width of the noise (`nz`)."""
    ce: Weight = 1.0
    """Weight of the cross-entropy with the teacher's own prediction (`oh`)."""
    balance: Weight = 20.0
    """Weight of the class balance, the negative entropy of the mean prediction."""
    act: Weight = 1e-3
    """Weight of the mean absolute feature."""
